"""A real PostgreSQL as source, real DuckDB files as destinations, real worker processes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.sync.backend import SyncRequest
from airflow_ext.sync.dlt_backend import DltBackend
from airflow_ext.sync.dlt_job import DltPair
from airflow_ext.sync.model import RunStatus, SyncStatus
from airflow_ext.sync.tables import SyncTable, Window
from airflow_ext.testing.postgres import LocalPostgres

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    with LocalPostgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what worker processes compile: most of a small sync is importing."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.getbasetemp() / "bytecode"))


class Source:
    """One database of the server, for one test."""

    def __init__(self, server: LocalPostgres) -> None:
        self.server = server
        self.name = f"source{next(_numbers)}"
        server.create_database(self.name)

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def __call__(self, *statements: str) -> list[tuple[Any, ...]]:
        return [self.server.execute(statement, database=self.name) for statement in statements][-1]


@pytest.fixture
def source(server: LocalPostgres) -> Source:
    return Source(server)


class Syncs:
    """Runs syncs from the test's source into the test's DuckDB file, or back into PostgreSQL."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.source = source
        self.folder = folder / "pipelines"
        self.file = folder / "warehouse.duckdb"
        self.messages: list[tuple[str, str]] = []

    def backend(self, *, to_postgres: bool = False, files: Path | None = None, **pair: Any) -> DltBackend:
        where = ("postgres", self.source.url) if to_postgres else ("duckdb", str(self.file))
        destination, url = where if files is None else ("filesystem", str(files))
        destination = pair.pop("destination", destination)
        return DltBackend(
            DltPair(
                source_url=pair.pop("source_url", self.source.url),
                destination=destination,
                destination_url=url,
                secrets=(self.source.server.password, *pair.pop("secrets", ())),
                **pair,
            ),
            folder=self.folder,
        )

    def __call__(
        self,
        *tables: SyncTable,
        window: tuple[str, str] | None = None,
        name: str = "job",
        run: str = "",
        **pair: Any,
    ) -> RunStatus:
        backend = self.backend(**pair)
        request = SyncRequest(
            name=name,
            tables=tables,
            window=Window(start=window[0], end=window[1]) if window else None,
            run=run,
        )

        async def drive() -> RunStatus:
            handle = await backend.start(request)
            while True:
                status = await backend.poll(handle, wait=60)
                self.messages += status.messages
                if status.status.ended:
                    ended = 0 if status.status is SyncStatus.SUCCEEDED else 1
                    assert backend._runs[handle["run"]]._process.returncode == ended
                    return status

        return asyncio.run(drive())

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        import duckdb

        with duckdb.connect(str(self.file), read_only=True) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture
def syncs(source: Source, tmp_path: Path) -> Syncs:
    return Syncs(source, tmp_path)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for something another process does."""
    import time

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "it did not happen within 30 seconds"
            time.sleep(0.05)

    return wait


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    """A folder for files that are loaded."""
    folder = tmp_path / "landing"
    folder.mkdir()
    return folder


@pytest.fixture
def local(landing: Path) -> dict[str, Any]:
    """What makes that folder the source of a pair."""
    import fsspec

    return {
        "source_url": "",
        "base": str(landing),
        "filesystems": {"file": fsspec.filesystem("file").to_json()},
    }
