"""Syncs of the embedded engine on a running Airflow."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from airflow_ext.testing.local_airflow import LocalAirflow

pytestmark = pytest.mark.timeout(180)


def test_tables_and_files_arrive_and_tell_their_rows(airflow: LocalAirflow, tmp_path: Path) -> None:
    import duckdb

    with closing(sqlite3.connect(tmp_path / "shop.db")) as source:
        source.execute("CREATE TABLE orders (id INTEGER, day DATE)")
        source.execute("INSERT INTO orders VALUES (1, '2026-01-01'), (2, '2026-01-01')")
        source.commit()
    (tmp_path / "a.csv").write_text("id\n1\n")
    client = airflow.client
    client.create_connection("it_shop", "sqlite", host=str(tmp_path / "shop.db"))
    client.create_connection("it_landing", "fs", extra={"path": str(tmp_path)})
    client.create_connection("it_warehouse", "duckdb", host=str(tmp_path / "warehouse.duckdb"))
    for name, origin in (("it_embedded", "it_shop"), ("it_embedded_files", "it_landing")):
        ends = {"source_conn_id": origin, "destination_conn_id": "it_warehouse"}
        client.create_connection(name, "ext-dlt", extra=ends)
    client.wait_for_dags(["sync_embedded"])
    run = client.trigger("sync_embedded")
    client.wait_for_run("sync_embedded", run, state="success")
    assert client.xcom("sync_embedded", run, "orders")["tables"]["orders"]["rows"] == 2
    assert client.xcom("sync_embedded", run, "shops")["tables"]["shops"]["rows"] == 1
    (event,) = client.asset_events("sync/it_embedded/orders")
    assert event["extra"]["rows"] == 2
    assert "Table orders: 2 rows" in client.log("sync_embedded", run, "orders")
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as warehouse:
        assert warehouse.execute("SELECT count(*), sum(id) FROM raw.orders").fetchall() == [(2, 3)]
