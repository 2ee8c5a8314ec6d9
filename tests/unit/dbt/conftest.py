"""Small real dbt projects on DuckDB, indexed once, and an object store in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.io import attach
from airflow.sdk.io.store import _STORE_CACHE
from fsspec.implementations.memory import MemoryFileSystem

from airflow_ext.cli.dbt import index
from tests.paths import ROOT

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


@pytest.fixture
def flights(tmp_path: Path) -> Path:
    """Return the demo's project, without a manifest."""
    folder = tmp_path / "flights"
    ignored = shutil.ignore_patterns("target", "logs")
    shutil.copytree(ROOT / "dags" / "dbt" / "flights", folder, ignore=ignored)
    return folder


class Shelf(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """An object store that counts what it is asked and can be switched off."""

    cachable = False
    asked = 0
    opened = 0
    down = False

    def info(self, path: str, **kwargs: Any) -> Any:
        """Tell of a file, like a store that is asked over the network."""
        self.asked += 1
        if self.down:
            raise TimeoutError("no answer")
        return super().info(path, **kwargs)

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """Open a file."""
        self.opened += 1
        if self.down:
            raise TimeoutError("no answer")
        return super().open(path, mode, **kwargs)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """Attach a store for ``memory://``."""
    store = Shelf()
    attach("memory", fs=store)
    try:
        yield store
    finally:
        _STORE_CACHE.pop("memory")
        store.store.clear()
        store.pseudo_dirs[:] = [""]
