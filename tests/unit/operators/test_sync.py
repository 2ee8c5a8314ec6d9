"""SyncOperator with real engine processes: SQLite as source, DuckDB as destination."""

from __future__ import annotations

import json
import re
import secrets
import signal
import sqlite3
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_ext.exceptions import SyncFailedError
from airflow_ext.operators._sync_embedded import run_name
from airflow_ext.operators.sync import SyncFiles, SyncOperator, SyncTable, SyncWait


@pytest.fixture(autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what worker processes compile: most of a small sync is importing."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.getbasetemp() / "bytecode"))


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str, **fields: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three connections, a source with two tables; returns the folder of both files."""
    with sqlite3.connect(tmp_path / "shop.db") as source:
        source.execute("CREATE TABLE orders (id INTEGER, day DATE)")
        source.execute("CREATE TABLE shops (id INTEGER)")
        source.execute("INSERT INTO orders VALUES (1, '2013-01-01'), (2, '2013-01-01'), (3, '2013-01-02')")
    source.close()
    connect(monkeypatch, "shop", conn_type="sqlite", host=str(tmp_path / "shop.db"))
    connect(monkeypatch, "warehouse", conn_type="duckdb", host=str(tmp_path / "warehouse.duckdb"))
    extra = {"source_conn_id": "shop", "destination_conn_id": "warehouse"}
    connect(monkeypatch, "ext_dlt_default", conn_type="ext-dlt", extra=extra)
    return tmp_path


ORDERS = SyncTable("orders", mode="window", cursor="day")
SHOPS = SyncTable("shops", mode="replace")
DAY = {"window_start": "2013-01-01", "window_end": "2013-01-02"}


def make(tables: list[SyncTable], **arguments: Any) -> SyncOperator:
    with DAG("ingest", schedule=None):
        return SyncOperator(task_id="load", tables=tables, **arguments)


def context(
    *,
    partition_key: str | None = None,
    run_type: str = "scheduled",
    dag_id: str = "ingest",
    map_index: int = -1,
) -> Any:
    return {
        "ti": SimpleNamespace(dag_id=dag_id, task_id="load", map_index=map_index, run_id="one"),
        "dag_run": SimpleNamespace(partition_key=partition_key, run_type=run_type),
        "outlet_events": OutletEventAccessors(),
    }


def keys(run: Any, asset: Asset) -> list[str]:
    return list(run["outlet_events"][asset].partition_keys)


def test_assets_are_known_when_the_dag_is_parsed() -> None:
    own = SyncTable("shops", mode="replace", asset="raw/shops")
    task = make([ORDERS, own], **DAY, sync_conn_id="shop_to_raw", outlets=[Asset("mine")])
    assert {name: asset.name for name, asset in task.assets.items()} == {
        "orders": "sync/shop_to_raw/orders",
        "shops": "raw/shops",
    }
    assert [outlet.name for outlet in task.outlets] == [
        *["mine", "sync/shop_to_raw/orders", "raw/shops", "sync/ingest/load"]
    ]


def test_a_run_loads_tables_and_emits_an_event_for_each(
    pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = context()
    task = make([ORDERS, SHOPS], **DAY, partition="2013-01-01", pipelines_folder=pair / "state")
    result = task.execute(run)
    assert json.loads(json.dumps(result)) == result
    assert "Table orders: 2 rows into 'raw' of 'warehouse'" in capsys.readouterr().out
    assert result["backend"] == "dlt"
    assert {name: table["rows"] for name, table in result["tables"].items()} == {"orders": 2, "shops": 0}
    assert (result["finished_pending"], result["link"]) == ([], None)
    asset = task.assets["orders"]
    assert run["outlet_events"][asset].extra == {
        "rows": 2,
        "schema_changes": [{"kind": "table_added"}],
        "run_id": result["run_id"],
        "backend": "dlt",
    }
    assert keys(run, asset) == ["2013-01-01"]
    assert AssetAlias("sync/ingest/load") in task.outlets
    assert (pair / "state" / f"{run_name(run)}.lock").is_file()

    import duckdb

    with duckdb.connect(str(pair / "warehouse.duckdb")) as warehouse:  # the file is free again
        assert warehouse.execute("SELECT count(*) FROM raw.orders").fetchone() == (2,)


@pytest.mark.parametrize(
    ("partition", "key", "expected"),
    [
        pytest.param(None, None, [], id="none, not the window"),
        pytest.param("None", None, [], id="rendered to nothing"),
        pytest.param(None, "2013-01-01T00:00:00", ["2013-01-01T00:00:00"], id="run's own key"),
        pytest.param("day one", "other", ["day one"], id="argument"),
    ],
)
def test_the_partition_is_the_argument_or_the_runs_key(
    pair: Path, partition: str | None, key: str | None, expected: list[str]
) -> None:
    task = make([ORDERS], **DAY, partition=partition, pipelines_folder=pair / "state")
    run = context(partition_key=key)
    task.execute(run)
    assert keys(run, task.assets["orders"]) == expected


def test_a_mapped_task_with_declared_outlets_fires_what_it_loaded(pair: Path) -> None:
    declared = [Asset(f"sync/ext_dlt_default/{name}") for name in ("orders", "shops")]
    with DAG("ingest", schedule=None):
        mapped = SyncOperator.partial(
            task_id="load",
            pipelines_folder=pair / "state",
            outlets=[Asset("mine"), *declared, AssetAlias("sync/ingest/load")],
        ).expand(tables=[[SyncTable("orders", mode="replace")], [SHOPS]])
    assert [outlet.name for outlet in mapped.partial_kwargs["outlets"]] == [
        *["mine", "sync/ext_dlt_default/orders", "sync/ext_dlt_default/shops", "sync/ingest/load"]
    ]
    task = mapped.unmap({"tables": [SHOPS]})
    task.execute(context(map_index=1))
    assert {outlet.name for outlet in task.outlets} == {
        *["mine", "sync/ext_dlt_default/shops", "sync/ingest/load"]
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("eu-shop", "g.load", -1), ("eu_shop", "g_load", -1), id="punctuation"),
        pytest.param(("a__b", "c", -1), ("a", "b__c", -1), id="where the dag id ends"),
        pytest.param(("\u65e5", "\u672c", -1), ("\u672c", "\u65e5", -1), id="no ASCII letter"),
        pytest.param(("d" * 250, "t", -1), ("d" * 250, "u", -1), id="long"),
        pytest.param(("a", "load", 1), ("a", "load", 2), id="map index"),
    ],
)
def test_each_task_has_a_folder_of_its_own(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    names = [
        run_name(cast("Any", {"ti": SimpleNamespace(dag_id=dag, task_id=task, map_index=index)}))
        for dag, task, index in (one, one, other)
    ]
    assert names[0] == names[1] != names[2]
    for name in names:
        assert re.fullmatch(r"\w{1,60}", name, re.ASCII)


def test_ids_without_ascii_letters_or_with_digits_first_run(pair: Path) -> None:
    for dag_id in ("\u65e5\u672c", "2013"):
        make([SHOPS], pipelines_folder=pair / "state").execute(context(dag_id=dag_id))


def test_files_of_a_connection_are_loaded_and_tables_become_files(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pair / "landing").mkdir()
    (pair / "landing" / "a.csv").write_text("id\n1\n2\n")
    connect(monkeypatch, "landing", conn_type="fs", extra={"path": str(pair / "landing")})
    connect(monkeypatch, "lake", conn_type="fs", extra={"path": str(pair / "lake")})
    for name, source, destination in (("in", "landing", "warehouse"), ("out", "shop", "lake")):
        extra = {"source_conn_id": source, "destination_conn_id": destination}
        connect(monkeypatch, name, conn_type="ext-dlt", extra=extra)
    folder = pair / "state"
    arrived = make([SyncFiles("a", path="*.csv")], sync_conn_id="in", pipelines_folder=folder)
    assert arrived.execute(context())["tables"]["a"]["rows"] == 2
    left = make([SyncTable("orders", mode="replace")], sync_conn_id="out", pipelines_folder=folder)
    assert left.execute(context())["tables"]["orders"]["rows"] == 3
    assert len(list((pair / "lake" / "raw" / "orders").glob("*.parquet"))) == 1
    mixed = make([SyncFiles("a", path="*.csv"), SyncTable("b", mode="replace")], sync_conn_id="in")
    with pytest.raises(AirflowFailException, match="different sources; load them in two tasks"):
        mixed.execute(context())


def test_the_state_lies_under_airflows_home(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(pair / "home"))
    make([SHOPS]).execute(run := context())
    assert (pair / "home" / "airflow-ext" / "dlt" / f"{run_name(run)}.lock").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"tables": []}, "give at least one.*or sync=", id="no tables"),
        pytest.param({"tables": ["orders"]}, "give SyncTable objects", id="names"),
        pytest.param({"tables": SHOPS}, r"give a list of tables, such as \[SyncTable", id="no list"),
        pytest.param({"tables": [SHOPS, SyncTable("Shops", mode="append")]}, "stands twice", id="twice"),
        pytest.param(
            {"tables": [SHOPS], "waiting": SyncWait(timeout=3)}, "about runs of a vendor", id="waiting"
        ),
        pytest.param({"tables": [SHOPS], "waiting": {"timeout": 3}}, "give a SyncWait", id="no SyncWait"),
        pytest.param(
            {
                "tables": [SyncTable("orders", primary_key="id")],
                "window_start": "{{ ds }}",
                "window_end": "{{ ds }}",
            },
            "table 'orders': mode='merge' without cursor=",
            id="merge in a window",
        ),
        pytest.param({"tables": [ORDERS]}, "needs window_start= and window_end=", id="window missing"),
        pytest.param(
            {"tables": [SHOPS], "window_start": "{{ ds }}"}, "give both or none", id="half a window"
        ),
    ],
)
def test_wrong_arguments_fail_when_the_dag_is_parsed(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        make(**arguments)


def test_a_window_that_rendered_to_nothing_fails_before_anything_starts(pair: Path) -> None:
    task = make([ORDERS], window_start="", window_end="")
    with pytest.raises(ValueError, match="rendered to nothing"):
        task.execute(context())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        pytest.param({"conn_type": "fivetran"}, "connection type 'fivetran'.*'ext-dlt'", id="type"),
        pytest.param({"conn_type": "ext-dlt"}, "source_conn_id is missing", id="no source"),
        pytest.param(
            {
                "conn_type": "ext-dlt",
                "extra": {"source_conn_id": "shop", "destination_conn_id": "warehouse", "backend": "pandas"},
            },
            "backend='pandas'.*auto, connectorx, pyarrow",
            id="reader",
        ),
        pytest.param(
            {
                "conn_type": "ext-dlt",
                "extra": {"source_conn_id": "shop", "destination_conn_id": "warehouse", "chunk_row": 5},
            },
            "'chunk_row' in the extra of connection 'ext_dlt_default' is unknown.*chunk_rows, parallel",
            id="unknown field",
        ),
        pytest.param(
            {"conn_type": "ext-dlt", "extra": {"source_conn_id": "shop", "destination_conn_id": "api"}},
            "connection 'api' of type 'http' is no destination: a sync writes into aws,",
            id="destination",
        ),
        pytest.param(
            {"conn_type": "ext-dlt", "extra": {"source_conn_id": "srcc", "destination_conn_id": "shop"}},
            "source_conn_id='srcc' in the extra of connection 'ext_dlt_default': no connection of this id",
            id="undefined source",
        ),
    ],
)
def test_a_wrong_connection_is_told_and_not_retried(
    pair: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], told: str
) -> None:
    connect(monkeypatch, "api", conn_type="http", host="127.0.0.1")
    connect(monkeypatch, "ext_dlt_default", **fields)
    with pytest.raises(AirflowFailException, match=told) as raised:
        make([SHOPS]).execute(context())
    assert raised.value.__cause__ is None


def test_an_unknown_table_is_not_retried_and_a_broken_source_is(pair: Path) -> None:
    folder = pair / "state"
    with pytest.raises(AirflowFailException, match="table 'nope' does not exist"):
        make([SyncTable("nope", mode="append")], pipelines_folder=folder).execute(context())
    wrong = SyncTable("orders", mode="append", where="idd = 1")
    with pytest.raises(AirflowFailException, match="where='idd = 1' of table 'orders': no such column: idd"):
        make([wrong], pipelines_folder=folder).execute(context())
    broken = SyncTable("orders", mode="append", where="json(id || 'x') IS NOT NULL")
    task, run = make([broken], pipelines_folder=folder), context()
    with pytest.raises(SyncFailedError, match="table 'orders': malformed JSON") as caught:
        task.execute(run)
    assert (caught.value.table, caught.value.status) == ("orders", "failed")
    assert not run["outlet_events"][task.assets["orders"]].extra


def test_a_secret_in_an_unreachable_sources_url_is_not_told(
    pair: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = secrets.token_urlsafe(12)
    fields = {"host": "127.0.0.1", "port": 1, "login": "me", "password": secret, "schema": "x"}
    connect(monkeypatch, "shop", conn_type="postgres", **fields)
    with pytest.raises(SyncFailedError) as caught:
        make([SHOPS], pipelines_folder=pair / "state").execute(context())
    assert secret not in f"{caught.value!r}{caught.value.__cause__!r}{caplog.text}"


def test_killing_the_task_cancels_the_sync(pair: Path) -> None:
    task = make([ORDERS], **DAY, pipelines_folder=pair / "state")
    before = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())

    def kill() -> None:
        end = time.monotonic() + 30
        while task._running is None and time.monotonic() < end:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(SyncFailedError, match="cancelled") as caught:
            task.execute(context())
    finally:
        killer.join()
        signal.signal(signal.SIGTERM, before)
    assert caught.value.status == "cancelled"
    assert task._running is None
