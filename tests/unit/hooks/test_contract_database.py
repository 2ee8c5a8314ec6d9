"""Contracts are judged through the user's own hook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_ext.contracts.catalog import look_at
from airflow_ext.contracts.sql import Sql
from airflow_ext.exceptions import InvalidError, UnavailableError
from airflow_ext.hooks.contract_database import contract_database
from airflow_ext.testing.postgres import LocalPostgres


def test_postgres_through_its_hook_only_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalPostgres(tmp_path / "postgres") as server:
        server.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        uri = f"postgres://{server.user}:{server.password}@127.0.0.1:{server.port}/postgres"
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", uri)
        with contract_database("shop") as database:
            found = look_at(database, "public.orders", with_key=True)
            assert found is not None
            assert (list(found.columns), found.key) == (["id"], ("id",))
            with pytest.raises(Exception, match="ReadOnlySqlTransaction"):
                database.rows(Sql("DELETE FROM orders"))


def test_duckdb_through_its_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.duckdb"
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "duckdb", "host": str(path)}))
    with contract_database("shop") as database:
        assert database.rows(Sql("SELECT 1")) == [(1,)]
        assert look_at(database, "orders") is None
    path.unlink()
    path.mkdir()
    with pytest.raises(UnavailableError, match="'shop' cannot be opened"), contract_database("shop"):
        pass


def test_what_cannot_be_judged_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FILES", json.dumps({"conn_type": "fs"}))
    with (
        pytest.raises(InvalidError, match=r"of type 'fs'.*duckdb, postgres, sqlite"),
        contract_database("files"),
    ):
        pass
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps({"conn_type": "databricks", "host": "x"}))
    with (
        pytest.raises(InvalidError, match="need apache-airflow-providers-databricks"),
        contract_database("lake"),
    ):
        pass
