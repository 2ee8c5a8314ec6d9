"""Shared by all tests: an Airflow home that is nobody's, and a clean environment per test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT, WORK

# Airflow writes into its home when it is first imported, so this comes before any such import.
_HOME = tempfile.mkdtemp(prefix="airflow-home-")
os.environ["AIRFLOW_HOME"] = _HOME
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(ROOT / "dags")
os.environ["DO_NOT_TRACK"] = "1"
for _name in [name for name in os.environ if name.startswith(("AIRFLOW_CONN_", "AIRFLOW_VAR_", "DBT_"))]:
    del os.environ[_name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder and run the fast ones first."""
    order = {"unit": 0, "packaging": 1, "integration": 2, "e2e": 3}

    def room(item: pytest.Item) -> str:
        relative = item.path.relative_to(ROOT / "tests")
        return relative.parts[0] if relative.parts[0] in order else "unit"

    for item in items:
        if (name := room(item)) != "unit":
            item.add_marker(name)
    items.sort(key=lambda item: order[room(item)])


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _clean_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def work() -> Path:
    """A folder of the checkout for what tests leave to look at; not under version control."""
    WORK.mkdir(exist_ok=True)
    return WORK
