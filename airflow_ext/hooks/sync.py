"""Connections of syncs: which backend a connection means, and where the embedded engine reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_ext.exceptions import InvalidError
from airflow_ext.hooks._sync_destinations import destination_of
from airflow_ext.hooks._sync_files import api_source, file_source, secret_options
from airflow_ext.hooks._sync_filesystems import secrets_of
from airflow_ext.hooks._sync_urls import sqlalchemy_url
from airflow_ext.hooks.sync_vendors import connection_type
from airflow_ext.sync.api import SyncApi
from airflow_ext.sync.backend import SyncBackend
from airflow_ext.sync.dlt_backend import DltBackend
from airflow_ext.sync.dlt_job import DltPair
from airflow_ext.sync.files import SyncFiles
from airflow_ext.sync.scrub import scrub
from airflow_ext.sync.sql_source import READERS
from airflow_ext.sync.tables import SyncTable

if TYPE_CHECKING:
    from airflow.sdk import Connection

DEFAULT_CHUNK_ROWS = 100_000

NOT_SQL = ("fs", "file", "http", "aws", "google_cloud_platform", "wasb", "adls", "ftp", "sftp")
"""Connection types of sources that are read as files or as an API."""

NUMBERS = {"chunk_rows": DEFAULT_CHUNK_ROWS, "parallel": 2, "lock_seconds": 300}


def get_backend(sync_conn_id: str, *, folder: Path, tables: Sequence[SyncTable] = ()) -> SyncBackend:
    """Return the embedded engine of a connection.

    :param sync_conn_id: The connection.
    :param folder: Where the embedded engine keeps state and load packages.
    :param tables: What will be loaded; it decides what the source connection is.
    :raises InvalidError: If it has another type; :func:`get_remote_backend` takes those of vendors.
    """
    connection = _defined(sync_conn_id, f"sync_conn_id={sync_conn_id!r}")
    if connection_type(connection) != DltHook.conn_type:
        raise InvalidError(
            f"sync_conn_id={sync_conn_id!r} has the connection type {connection.conn_type!r}; a sync of tables runs on "
            f"{DltHook.conn_type!r}, which names a source and a destination connection. A vendor's sync needs sync="
        )
    return DltBackend(DltHook(sync_conn_id).get_conn(tables), folder=folder)


@dataclass(frozen=True, kw_only=True)
class DltSettings:
    """The fields of an ``ext-dlt`` connection.

    :param source_conn_id: Connection of the SQL database to read.
    :param destination_conn_id: Connection to write to; :mod:`airflow_ext.hooks._sync_destinations` knows the types.
    :param dataset: Schema in the destination.
    :param backend: Reader of the source: ``auto``, ``connectorx`` or ``pyarrow``.
    :param chunk_rows: Rows per batch.
    :param parallel: Tables at a time.
    :param lock_seconds: How long to wait for another writer of the destination.
    """

    source_conn_id: str
    destination_conn_id: str
    dataset: str = "raw"
    backend: str = "auto"
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    parallel: int = 2
    lock_seconds: int = 300


class DltHook(BaseHook):
    """Turns an ``ext-dlt`` connection into a source, a destination and the engine between them.

    :param sync_conn_id: The connection.
    """

    conn_name_attr = "sync_conn_id"
    default_conn_name = "ext_dlt_default"
    conn_type = "ext-dlt"
    hook_name = "Embedded sync (dlt)"

    def __init__(self, sync_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.sync_conn_id = sync_conn_id

    @property
    def settings(self) -> DltSettings:
        """The connection's fields, checked.

        :raises InvalidError: If one is missing or wrong.
        """
        extra = _defined(self.sync_conn_id, f"sync_conn_id={self.sync_conn_id!r}").extra_dejson
        where = f"extra of connection {self.sync_conn_id!r}"
        known = [field.name for field in fields(DltSettings)]
        if unknown := sorted(set(extra).difference(known)):
            raise InvalidError(f"{unknown[0]!r} in the {where} is unknown; it may have {', '.join(known)}")
        for name in ("source_conn_id", "destination_conn_id"):
            if not extra.get(name):
                raise InvalidError(f"{name} is missing in the {where}: give the id of a connection")
        backend = extra.get("backend") or "auto"
        if backend not in READERS:
            raise InvalidError(f"backend={backend!r} in the {where}: use one of {', '.join(READERS)}")
        numbers = {name: _number(extra, name, default, where) for name, default in NUMBERS.items()}
        return DltSettings(
            source_conn_id=str(extra["source_conn_id"]),
            destination_conn_id=str(extra["destination_conn_id"]),
            dataset=str(extra.get("dataset") or "raw"),
            backend=str(backend),
            **numbers,
        )

    def get_conn(self, tables: Sequence[SyncTable] = ()) -> DltPair:
        """Return source and destination with their credentials.

        :param tables: What will be loaded; of :class:`~airflow_ext.sync.files.SyncFiles` the source connection is one
            of a file system, of :class:`~airflow_ext.sync.api.SyncApi` one of type ``http``.

        :raises InvalidError: If one of the three connections cannot be used.
        """
        settings = self.settings
        of = f"in the extra of connection {self.sync_conn_id!r}"
        source = _defined(settings.source_conn_id, f"source_conn_id={settings.source_conn_id!r} {of}")
        destination = _defined(
            settings.destination_conn_id, f"destination_conn_id={settings.destination_conn_id!r} {of}"
        )
        target = destination_of(destination)
        fields = _source_fields(source, tables)
        return DltPair(
            **fields,
            source_id=settings.source_conn_id,
            parallel=settings.parallel,
            lock_seconds=settings.lock_seconds,
            destination=target.kind,
            destination_url=target.url,
            destination_options=target.options,
            dataset=settings.dataset,
            reader=settings.backend,
            chunk_rows=settings.chunk_rows,
            secrets=(
                *([str(source.password)] if source.password else []),
                *target.secrets,
                *secret_options(source),
                *secrets_of(fields.get("filesystems", {})),
            ),
        )

    def test_connection(self) -> tuple[bool, str]:
        """Open source and destination and say what happened."""
        import sqlalchemy as sa

        secrets: tuple[str, ...] = ()
        step = "connection"
        try:
            source_id = self.settings.source_conn_id
            source = _defined(source_id, f"source_conn_id={source_id!r}")
            if source.conn_type in NOT_SQL:
                return (
                    True,
                    "The source is no database: what reads it is known once a task names files or an API",
                )
            pair = self.get_conn()
            secrets = pair.secrets
            step = "source"
            _select_one(pair.source_url)
            step = "destination"
            if pair.destination == "duckdb":
                _open_duckdb(Path(pair.destination_url))
            elif pair.destination == "postgres":
                _select_one(pair.destination_url)
            elif pair.destination == "filesystem" and "://" not in pair.destination_url:
                Path(pair.destination_url).mkdir(parents=True, exist_ok=True)
            elif (server := pair.destination_options.get("credentials")) and _is_server(server):
                _select_one(server)
            else:
                return True, f"The source answers; dlt opens {pair.destination!r} when rows are loaded"
        except (InvalidError, OSError, sa.exc.SQLAlchemyError, ImportError) as error:
            reason = str(getattr(error, "orig", None) or error).strip()
            return False, scrub(f"{step}: {reason}", secrets)
        return True, f"Source and destination answer; tables go to {pair.dataset!r}"


def _defined(conn_id: str, where: str) -> Connection:
    """Return a connection.

    :param where: Who names it, for messages.
    :raises InvalidError: If there is none of this id.
    """
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise InvalidError(f"{where}: no connection of this id is defined") from None


def _source_fields(source: Connection, tables: Sequence[SyncTable]) -> dict[str, Any]:
    """Return what the engine needs of a source, by the kind of tables."""
    kinds = {type(table) for table in tables}
    if len(kinds) > 1:
        raise InvalidError(
            f"tables: {', '.join(sorted(kind.__name__ for kind in kinds))} have different sources; load them in two tasks"
        )
    if kinds == {SyncFiles}:
        paths = [table.path for table in tables if isinstance(table, SyncFiles)]
        base, filesystems = file_source(source, paths)
        return {"source_url": "", "base": base, "filesystems": filesystems}
    if kinds == {SyncApi}:
        return {"source_url": "", "api": api_source(source)}
    return {"source_url": sqlalchemy_url(source).render_as_string(hide_password=False)}


def _number(extra: Mapping[str, Any], name: str, default: int, where: str) -> int:
    value = extra.get(name) or default
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise InvalidError(f"{name}={value!r} in the {where}: give a number above 0, such as {default}")
    return number


def _is_server(credentials: Any) -> bool:
    """Tell whether credentials are a URL that can be opened without making a file."""
    import sqlalchemy as sa

    if not isinstance(credentials, str):
        return False
    try:
        return sa.make_url(credentials).get_backend_name() not in ("sqlite", "duckdb")
    except sa.exc.ArgumentError:
        return False


def _select_one(url: str) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    finally:
        engine.dispose()


def _open_duckdb(path: Path) -> None:
    import duckdb

    if not path.exists():
        parent: Any = next((folder for folder in path.parents if folder.exists()), path.parent)
        if not parent.is_dir():
            raise InvalidError(f"{parent} is no folder, so {path} cannot be made")
        return
    try:
        duckdb.connect(str(path), read_only=True).close()
    except duckdb.Error as error:
        raise InvalidError(f"{path}: {error}") from None
