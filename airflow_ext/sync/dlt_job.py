"""What the embedded engine is told, in a form that travels through a pipe and never prints a secret."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from airflow_ext.sync.api import SyncApi
from airflow_ext.sync.files import SyncFiles
from airflow_ext.sync.tables import SyncTable, Window


@dataclass(frozen=True, kw_only=True)
class DltPair:
    """A source, a destination and how rows travel between them.

    :param source_id: Id of the source connection, for messages.
    :param source_url: SQLAlchemy URL of the source, password included.
    :param destination: ``duckdb`` or ``postgres``, which the engine writes itself, or another one by dlt's name:
        ``filesystem`` (Parquet), ``snowflake``, ...
    :param destination_url: Path of the DuckDB file, URL of the PostgreSQL database, or folder or URL of the files.
    :param destination_options: For those that dlt writes, what dlt takes beside it, credentials included.
    :param dataset: Schema in the destination.
    :param reader: ``connectorx``, ``pyarrow`` or ``auto`` for the faster one that reads all of this source.
    :param chunk_rows: Rows per Arrow batch; memory grows with it.
    :param filesystems: For files as source, by scheme, each as fsspec writes it as JSON, credentials included.
    :param base: Folder or URL under which paths of files without a scheme lie.
    :param api: For an HTTP API as source, ``base_url`` and what logs in, as dlt's REST client takes it.
    :param parallel: Tables that are loaded at a time.
    :param lock_seconds: How long to wait for another writer that holds the destination.
    :param secrets: Values that must never show up in a message.
    """

    source_url: str = field(repr=False)
    destination: str
    destination_url: str = field(default="", repr=False)
    destination_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    dataset: str = "raw"
    reader: str = "auto"
    chunk_rows: int = 100_000
    filesystems: Mapping[str, str] = field(default_factory=dict, repr=False)
    base: str = ""
    api: Mapping[str, Any] = field(default_factory=dict, repr=False)
    parallel: int = 2
    lock_seconds: float = 300
    secrets: tuple[str, ...] = field(default=(), repr=False)
    source_id: str = ""


@dataclass(frozen=True, kw_only=True)
class DltJob:
    """One run of the embedded engine.

    :param pair: Where from and where to.
    :param name: Name of the dlt pipeline; cursors are kept under it.
    :param folder: Folder that holds one folder per pipeline.
    :param tables: Tables to load.
    :param window: Range of cursor values, or ``None``.
    :param key: What the author of a task gives as ``state_key=`` to go on from these cursors.
    :param run: What the tries of one run have in common; empty if there is nothing.
    """

    pair: DltPair
    name: str
    folder: Path
    tables: tuple[SyncTable, ...]
    window: Window | None = None
    run: str = ""
    key: str = ""

    @property
    def direct(self) -> bool:
        """Whether dlt is not needed for it."""
        direct = self.pair.destination in ("duckdb", "postgres")
        return direct and not any(isinstance(table, SyncApi) for table in self.tables)

    def dump(self) -> bytes:
        """Return one line of JSON; it holds the credentials and belongs into a pipe only."""
        value: dict[str, Any] = {
            "pair": asdict(self.pair),
            "name": self.name,
            "folder": str(self.folder),
            "tables": [table.to_dict() for table in self.tables],
            "window": asdict(self.window) if self.window else None,
            "run": self.run,
            "key": self.key,
        }
        return json.dumps(value).encode() + b"\n"

    @classmethod
    def load(cls, line: bytes) -> DltJob:
        """Read what :meth:`dump` wrote."""
        value = json.loads(line)
        return cls(
            pair=DltPair(**(value["pair"] | {"secrets": tuple(value["pair"]["secrets"])})),
            name=value["name"],
            folder=Path(value["folder"]),
            tables=tuple(_table(table) for table in value["tables"]),
            window=Window(**value["window"]) if value["window"] else None,
            run=value["run"],
            key=value["key"],
        )


def _table(value: dict[str, Any]) -> SyncTable:
    kind = value.pop("kind", "")
    kinds: dict[str, type[SyncTable]] = {"files": SyncFiles, "api": SyncApi}
    return kinds.get(kind, SyncTable).from_dict(value)


def request_key(job: DltJob, table: SyncTable) -> str | None:
    """Return what the tries of one append share: table and window, or table and run if it has none.

    Appending is the one mode that a second load does not repair. Tables that continue from their last
    cursor value need no memory: what was loaded lies before that value. Of files each is known by itself.
    """
    if table.mode != "append" or isinstance(table, SyncFiles):
        return None
    if table.cursor:
        if job.window is None:
            return None
        which = [job.window.start, job.window.end]
    elif job.run:
        which = [job.run]
    else:
        return None
    return hashlib.sha256(json.dumps([job.name, table.to_dict(), which], sort_keys=True).encode()).hexdigest()
