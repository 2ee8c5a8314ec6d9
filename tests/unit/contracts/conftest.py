"""Databases to judge on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.testing.postgres import LocalPostgres
from tests.unit.contracts.shops import Shop


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    with LocalPostgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


def connect(kind: str, folder: Path) -> Any:
    """Open a new file of DuckDB or SQLite."""
    if kind == "sqlite":
        return sqlite3.connect(folder / "shop.sqlite", check_same_thread=False)
    import duckdb

    return duckdb.connect(str(folder / "warehouse.duckdb"))


@pytest.fixture(params=["duckdb", "sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    if request.param == "postgres":
        server: LocalPostgres = request.getfixturevalue("postgres")
        connection = server.connect()
        connection.autocommit = False
        with closing(connection.cursor()) as cursor:
            cursor.execute("DROP SCHEMA IF EXISTS shop CASCADE")
        connection.commit()
    else:
        connection = connect(request.param, tmp_path)
    with closing(connection):
        made = Shop(connection, request.param)
        made.fill()
        yield made
