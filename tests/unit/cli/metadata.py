"""A metadata database of SQLite for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from airflow import settings


@contextmanager
def sqlite_metadata(folder: Path) -> Iterator[None]:
    """Let Airflow's sessions go to an empty database below a folder, and put everything back after it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("engine", "Session", "NonScopedSession", "async_engine", "AsyncSession"):
            patch.setattr(settings, name, getattr(settings, name))  # as they are set below, and put back
        path = folder / "airflow.db"
        patch.setattr(settings, "SQL_ALCHEMY_CONN", f"sqlite:///{path}")
        patch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", f"sqlite+aiosqlite:///{path}")
        settings.configure_orm()
        yield
        settings.get_engine().dispose()
