"""Shared by the unit tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from airflow_ext.cli.dbt import index
from airflow_ext.testing.postgres import LocalPostgres
from tests.paths import ROOT


@pytest.fixture(scope="session")
def flights_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The index of the demo's dbt project, without which its DAG does not load."""
    environment = dict(os.environ)
    os.environ["AIRFLOW_HOME"] = str(tmp_path_factory.mktemp("index"))
    try:
        index(ROOT / "dags" / "dbt" / "flights", adapter="duckdb")
    finally:
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    """A PostgreSQL server for what must be seen in a real database."""
    with LocalPostgres(tmp_path_factory.mktemp("postgres"), settings={"max_connections": "200"}) as server:
        yield server
