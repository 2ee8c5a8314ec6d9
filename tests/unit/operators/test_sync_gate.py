"""SchemaGate with the embedded engine: what was refused is refused until it is as before or allowed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import AirflowFailException

from airflow_ext.exceptions import SyncFailedError
from airflow_ext.operators.sync import SchemaGate, SyncFiles, SyncOperator, SyncTable
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.sync.remote import TaskState, context


@pytest.fixture(autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what worker processes compile: most of a small sync is importing."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.getbasetemp() / "bytecode"))


@pytest.fixture
def state() -> Iterator[AssetStateServer]:
    with AssetStateServer().serving() as server:
        yield server


class Shop:
    """A source with a table and a folder of files, and tasks that load them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sql("CREATE TABLE orders (id INTEGER, total INTEGER)")
        (folder / "landing").mkdir()

    def sql(self, statement: str) -> None:
        with closing(sqlite3.connect(self.folder / "shop.db")) as source:
            source.execute(statement)
            source.commit()

    def load(self, gate: SchemaGate | None, table: SyncTable | None = None, conn: str = "both") -> Any:
        table = table or SyncTable("orders", mode="replace")
        with DAG("ingest", schedule=None):
            task = SyncOperator(
                task_id="load",
                sync_conn_id=conn,
                tables=[table],
                schema_gate=gate,
                pipelines_folder=self.folder / "state",
            )
        return task.execute(context(TaskState()))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    landing = {"path": str(tmp_path / "landing")}
    for name, fields in (
        ("shop", {"conn_type": "sqlite", "host": str(tmp_path / "shop.db")}),
        ("landing", {"conn_type": "fs", "extra": landing}),
        ("lake", {"conn_type": "fs", "extra": {"path": str(tmp_path / "lake")}}),
        ("warehouse", {"conn_type": "duckdb", "host": str(tmp_path / "warehouse.duckdb")}),
        ("both", {"source_conn_id": "shop", "destination_conn_id": "warehouse"}),
        ("files", {"source_conn_id": "landing", "destination_conn_id": "warehouse"}),
        ("out", {"source_conn_id": "landing", "destination_conn_id": "lake"}),
    ):
        document = fields if "conn_type" in fields else {"conn_type": "ext-dlt", "extra": fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(document))
    return Shop(tmp_path)


def test_what_was_refused_is_refused_until_it_is_allowed_for_a_run(
    shop: Shop, state: AssetStateServer
) -> None:
    shop.load(SchemaGate())
    shop.sql("ALTER TABLE orders DROP COLUMN total")
    for _ in range(2):
        with pytest.raises(AirflowFailException, match="orders: column removed total"):
            shop.load(SchemaGate())
    allowed = shop.load(SchemaGate(column_removed="allow"))
    assert allowed["tables"]["orders"]["schema_changes"] == [{"kind": "column_removed", "column": "total"}]
    assert shop.load(SchemaGate())["tables"]["orders"]["schema_changes"] == []

    shop.sql("ALTER TABLE orders ADD COLUMN total TEXT")
    shop.load(SchemaGate(column_added="quarantine"))
    assert shop.load(SchemaGate(column_added="quarantine"))["quarantined"] == ["orders"]
    shop.sql("ALTER TABLE orders DROP COLUMN total")
    assert "quarantined" not in shop.load(SchemaGate(column_added="quarantine"))


def test_a_gate_that_comes_with_the_change_compares_with_the_load_before(
    shop: Shop, state: AssetStateServer
) -> None:
    shop.load(None)
    assert state.values == {}
    shop.sql("ALTER TABLE orders DROP COLUMN total")
    for _ in range(2):
        with pytest.raises(AirflowFailException, match="orders: column removed total"):
            shop.load(SchemaGate())


@pytest.mark.parametrize("conn", ["files", "out"])
def test_refused_files_are_refused_also_when_nothing_new_has_come(
    shop: Shop, state: AssetStateServer, conn: str
) -> None:
    files = SyncFiles("orders", path="*.csv")
    (shop.folder / "landing" / "1.csv").write_text("id,total\n1,2\n")
    shop.load(SchemaGate(), files, conn)
    (shop.folder / "landing" / "2.csv").write_text("id,late\n3,x\n")
    for _ in range(2):
        with pytest.raises(AirflowFailException, match="orders: column added late"):
            shop.load(SchemaGate(column_added="fail"), files, conn)
    (shop.folder / "landing" / "3.csv").write_text("id,total\n4,5\n")
    assert shop.load(SchemaGate(), files, conn)["tables"]["orders"]["rows"] == 1


def test_the_asset_that_holds_the_schema_is_named_and_a_lost_state_is_told(
    shop: Shop, state: AssetStateServer
) -> None:
    with DAG("ingest", schedule=None):
        tables = [SyncTable("orders", mode="replace")]
        gated = SyncOperator(task_id="load", sync_conn_id="both", tables=tables, schema_gate=SchemaGate())
        plain = SyncOperator(task_id="plain", sync_conn_id="both", tables=tables)
    assert (gated.inlets, plain.inlets) == ([Asset("sync/both")], [])
    state.unknown_assets.add("sync/both")
    with pytest.raises(SyncFailedError, match=r"needs partial\(inlets=\[Asset\('sync/both'\)\]\)"):
        shop.load(SchemaGate())
