"""Publishing a contract."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_ext.contracts import Contract, Status
from airflow_ext.exceptions import ContractNotMetError, StoreUnavailableError, UnavailableError
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.operators.contract import ContractPublishOperator
from tests.paths import ROOT
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.contracts.samples import contract

DEMO = ROOT / "dags" / "contracts" / "daily_delays.odcs.yaml"
ASSET = "contract/daily_delays/v1"
DAY = "2013-01-05"
CARRIERS = ["9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "MQ", "UA", "US", "VX"]


def connect(path: str) -> Any:
    import duckdb

    return duckdb.connect(path)


@pytest.fixture
def server() -> Iterator[AssetStateServer]:
    with AssetStateServer().serving() as server:
        yield server


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    path = tmp_path / "warehouse.duckdb"
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = json.dumps({"conn_type": "duckdb", "host": str(path)})
    with connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA marts")
        connection.execute(
            "CREATE TABLE marts.daily_delays (flight_date DATE, carrier VARCHAR, carrier_name VARCHAR, "
            "flights HUGEINT, cancelled BIGINT, mean_dep_delay DOUBLE, mean_arr_delay DOUBLE, "
            "worst_arr_delay DOUBLE, delayed_share DOUBLE)"
        )
        for carrier in CARRIERS:
            connection.execute(
                "INSERT INTO marts.daily_delays VALUES (?, ?, 'name', 70, 1, 5.0, -2.5, NULL, 0.2)",
                [DAY, carrier],
            )
    return path


def context(**values: Any) -> Any:
    ti = SimpleNamespace(
        dag_id="flights_marts",
        run_id="manual__1",
        task_id="publish",
        map_index=None,
        try_number=1,
        log_url="http://airflow/dags/flights_marts",
    )
    run = SimpleNamespace(partition_key=None, run_type="scheduled")
    start = datetime(2013, 1, 5, 5, tzinfo=UTC)  # midnight in New York, the contract's zone
    return {
        "ti": ti,
        "dag_run": run,
        "data_interval_start": start,
        "outlet_events": OutletEventAccessors(),
        **values,
    }


def operator(**changes: Any) -> ContractPublishOperator:
    return ContractPublishOperator(**{"task_id": "publish", "contract": DEMO, **changes})


def test_a_contract_that_holds_is_published(server: AssetStateServer, warehouse: Path) -> None:
    task = operator()
    run = context()
    verdict = task.execute(run)
    assert (verdict["status"], verdict["partition"], verdict["seq"], verdict["rows"]) == ("PASS", DAY, 1, 12)
    assert verdict["run"]["dag_id"] == "flights_marts"
    stored = verdict_store().verdict(ASSET, DAY)
    assert stored is not None
    assert stored.to_dict() == verdict
    events = run["outlet_events"]
    accessor = events[task.contract.asset]
    assert accessor.partition_keys == {DAY}
    assert accessor.extra == {
        "contract": "daily_delays",
        "version": "1.0.0",
        "partition": DAY,
        "status": "PASS",
        "seq": 1,
    }
    assert [outlet.name for outlet in task.outlets] == [ASSET, f"{ASSET}/unkeyed"]


def test_outlets_of_the_author_survive_whenever_they_were_added(
    server: AssetStateServer, warehouse: Path
) -> None:
    task = operator(outlets=[Asset("early")])
    task.outlets = [*task.outlets, Asset("late")]
    task.execute(context())
    assert [outlet.name for outlet in task.outlets] == ["early", "late", ASSET, f"{ASSET}/unkeyed"]


def test_a_mapped_publisher_keeps_the_outlets_it_is_given() -> None:
    own = [Asset(ASSET), AssetAlias(f"{ASSET}/unkeyed")]
    with DAG("mapped", schedule=None):
        mapped = ContractPublishOperator.partial(task_id="publish", contract=DEMO, outlets=own).expand(
            partition=[DAY]
        )
    assert mapped.outlets == own
    assert operator(outlets=own).outlets == own


def test_the_verdict_is_json(server: AssetStateServer, warehouse: Path) -> None:
    verdict = operator().execute(context())
    assert json.loads(json.dumps(verdict)) == verdict


def test_the_database_is_free_again_afterwards(server: AssetStateServer, warehouse: Path) -> None:
    operator().execute(context())
    with connect(str(warehouse)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER)")


def test_a_breach_is_stored_first_and_fails_without_retry(
    server: AssetStateServer, warehouse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(str(warehouse)) as connection:
        connection.execute("DELETE FROM marts.daily_delays WHERE carrier > 'B'")
    run = context()
    with pytest.raises(AirflowFailException) as caught:
        operator().execute(run)
    assert isinstance(caught.value.__cause__, ContractNotMetError)
    assert "enough carriers: expected rows >= 10, actual 3" in str(caught.value)
    assert "enough flights: expected result >= 600, actual 210" in str(caught.value)
    stored = verdict_store().verdict(ASSET, DAY)
    assert stored is not None
    assert stored.status is Status.BREACHED
    assert len(run["outlet_events"]) == 0
    assert "severity  rule" in capsys.readouterr().out


def test_a_breach_may_skip(server: AssetStateServer, warehouse: Path) -> None:
    with pytest.raises(AirflowSkipException, match="rows >= 10, actual 0"):
        operator(on_breach="skip", partition="2013-01-06").execute(context())
    assert verdict_store().head(ASSET).entries["2013-01-06"].status is Status.BREACHED


def test_a_repaired_partition_gets_a_higher_number(server: AssetStateServer, warehouse: Path) -> None:
    with connect(str(warehouse)) as connection:
        connection.execute("CREATE TABLE kept AS FROM marts.daily_delays")
        connection.execute("DELETE FROM marts.daily_delays")
    with pytest.raises(AirflowFailException):
        operator().execute(context())
    with connect(str(warehouse)) as connection:
        connection.execute("INSERT INTO marts.daily_delays FROM kept")
    assert operator().execute(context())["seq"] == 2


def test_a_bad_partition_may_be_set_aside(server: AssetStateServer, warehouse: Path) -> None:
    with pytest.raises(AirflowFailException, match="is QUARANTINED for partition 2013-01-06"):
        operator(quarantine="partition", partition="2013-01-06").execute(context())
    stored = verdict_store().verdict(ASSET, "2013-01-06")
    assert stored is not None
    assert stored.quarantine is not None
    assert (stored.status, stored.quarantine.what) == (Status.QUARANTINED, "partition")


def test_verdicts_may_be_kept_in_a_database_and_without_events(
    server: AssetStateServer, warehouse: Path, tmp_path: Path
) -> None:
    os.environ["AIRFLOW_CONN_VERDICTS"] = json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "v.db")})
    run = context()
    task = operator(store_conn_id="verdicts", emit_event=False, outlets=[Asset("other")])
    task.execute(run)
    assert server.values == {}
    assert verdict_store("verdicts").head(ASSET).entries[DAY].status is Status.PASS
    assert [outlet.name for outlet in task.outlets] == ["other"]
    assert len(run["outlet_events"]) == 0


def test_in_a_partitioned_run_its_key_counts(server: AssetStateServer, warehouse: Path) -> None:
    run = SimpleNamespace(partition_key="2013-01-05T00:00:00", run_type="scheduled")
    values = {"dag_run": run, "partition_key": run.partition_key}
    made = context(**values)
    del made["data_interval_start"]
    assert operator().execute(made)["partition"] == DAY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"partition": "05.01.2013"}, "does not fit the partition format", id="partition"),
        pytest.param({"conn_id": "files"}, "is of type 'fs'.*duckdb, postgres, sqlite", id="no-database"),
        pytest.param(
            {"contract": contract(customProperties=None)},
            "the contract names no connection",
            id="no-connection",
        ),
    ],
)
def test_what_its_author_must_change_is_not_retried(
    server: AssetStateServer, warehouse: Path, changes: dict[str, Any], message: str
) -> None:
    os.environ["AIRFLOW_CONN_FILES"] = json.dumps({"conn_type": "fs"})
    with pytest.raises(AirflowFailException, match=message):
        operator(**changes).execute(context())
    assert server.values == {}


def test_a_database_that_does_not_answer_is_retried_and_nothing_is_published(
    server: AssetStateServer, tmp_path: Path
) -> None:
    folder = str(tmp_path / "nowhere" / "x.duckdb")
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = json.dumps({"conn_type": "duckdb", "host": folder})
    with pytest.raises(UnavailableError, match="connection 'warehouse' cannot be opened"):
        operator().execute(context())
    assert server.values == {}


def test_a_store_that_does_not_answer_is_retried(server: AssetStateServer, warehouse: Path) -> None:
    server.down = True
    run = context()
    with pytest.raises(StoreUnavailableError):
        operator().execute(run)
    assert len(run["outlet_events"]) == 0


def test_arguments() -> None:
    from_path = operator(contract=str(DEMO))
    assert from_path.contract == Contract.from_file(DEMO)
    assert [outlet.name for outlet in from_path.outlets] == [ASSET, f"{ASSET}/unkeyed"]
    with pytest.raises(ValueError, match="on_breach='ignore': use one of fail, skip"):
        operator(on_breach="ignore")
    with pytest.raises(ValueError, match="quarantine='all'"):
        operator(quarantine="all")
