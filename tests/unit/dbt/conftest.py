"""A small real dbt project on DuckDB, indexed once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from airflow_ext.cli.dbt import index

SHOP = Path(__file__).parents[2] / "integration" / "dags" / "dbt_shop"


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the index cache of each test to itself."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.setenv("SHOP_DUCKDB", str(tmp_path / "shop.duckdb"))
    return tmp_path / "airflow"


@pytest.fixture(scope="session")
def indexed_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with its manifest; shared, not to be changed."""
    folder = tmp_path_factory.mktemp("shop") / "shop"
    shutil.copytree(SHOP, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(folder.parent / "airflow"))
        index(folder)
    return folder


@pytest.fixture
def shop(indexed_shop: Path, tmp_path: Path) -> Path:
    """Return a project with its manifest that belongs to one test."""
    folder = tmp_path / "shop"
    shutil.copytree(indexed_shop, folder)
    return folder
