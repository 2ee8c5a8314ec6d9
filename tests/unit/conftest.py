"""Shared by the unit tests."""

from __future__ import annotations

import os

import pytest

from airflow_ext.cli.dbt import index
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
