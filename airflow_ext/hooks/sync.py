"""Connections of syncs: which backend a connection means, and where the embedded engine reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import BaseHook

from airflow_ext.exceptions import InvalidError
from airflow_ext.hooks._sync_files import api_source, file_source, secret_options
from airflow_ext.hooks._sync_filesystems import secrets_of
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
    import sqlalchemy as sa
    from airflow.sdk import Connection

DEFAULT_CHUNK_ROWS = 100_000

NOT_SQL = ("fs", "file", "http", "aws", "google_cloud_platform", "wasb", "adls", "ftp", "sftp")
"""Connection types of sources that are read as files or as an API."""

NUMBERS = {"chunk_rows": DEFAULT_CHUNK_ROWS, "parallel": 2, "lock_seconds": 300}

DIALECTS = {"postgres": "postgresql", "sqlite": "sqlite", "mysql": "mysql", "mssql": "mssql"}
"""SQLAlchemy's names for connection types whose provider offers no SQLAlchemy URL or is not installed."""

POSTGRES_OPTIONS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "application_name")
"""Fields of a PostgreSQL connection's extra that belong into the URL."""


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
    :param destination_conn_id: Connection of the DuckDB file or PostgreSQL database to write.
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
        kind, where = _destination(destination)
        fields = _source_fields(source, tables)
        return DltPair(
            **fields,
            source_id=settings.source_conn_id,
            parallel=settings.parallel,
            lock_seconds=settings.lock_seconds,
            destination=kind,
            destination_url=where,
            dataset=settings.dataset,
            reader=settings.backend,
            chunk_rows=settings.chunk_rows,
            secrets=(
                *(str(c.password) for c in (source, destination) if c.password),
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
            elif pair.destination == "files":
                Path(pair.destination_url).mkdir(parents=True, exist_ok=True)
            else:
                _select_one(pair.destination_url)
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
    return {"source_url": _sqlalchemy_url(source).render_as_string(hide_password=False)}


def _number(extra: Mapping[str, Any], name: str, default: int, where: str) -> int:
    value = extra.get(name) or default
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise InvalidError(f"{name}={value!r} in the {where}: give a number above 0, such as {default}")
    return number


def _sqlalchemy_url(connection: Connection) -> sa.URL:
    """Return a connection's SQLAlchemy URL: its provider's own where there is one."""
    import sqlalchemy as sa
    from airflow.sdk.exceptions import AirflowException

    conn_type = str(connection.conn_type)
    url: sa.URL | None = None
    # No provider for the type, or one without SQLAlchemy.
    with suppress(AirflowException, ImportError, NotImplementedError, AttributeError):
        url = cast("sa.URL", connection.get_hook().sqlalchemy_url)
    if url is None:
        url = _url_from_fields(connection, DIALECTS.get(conn_type, conn_type))
    try:
        backend = url.get_backend_name()
        url.get_dialect()
    except sa.exc.ArgumentError:
        raise InvalidError(
            f"connection {connection.conn_id!r} has the type {conn_type!r}, which SQLAlchemy has no dialect "
            "for; a sync's source is a SQL database"
        ) from None
    if backend == "postgresql":
        extra = connection.extra_dejson
        options = {name: str(extra[name]) for name in POSTGRES_OPTIONS if extra.get(name)}
        url = url.update_query_dict({k: v for k, v in options.items() if k not in url.query})
    return url


def _url_from_fields(connection: Connection, dialect: str) -> sa.URL:
    import sqlalchemy as sa

    if dialect == "sqlite":
        return sa.URL.create(
            "sqlite", database=str(Path(connection.host or connection.schema or "").resolve())
        )
    return sa.URL.create(
        dialect,
        username=connection.login or None,
        password=connection.password or None,
        host=connection.host or None,
        port=connection.port,
        database=connection.schema or None,
    )


def _destination(connection: Connection) -> tuple[str, str]:
    """Return the kind of a destination and where it is."""
    if connection.conn_type == "duckdb":
        if connection.password or not connection.host or connection.host == ":memory:":
            raise InvalidError(
                f"connection {connection.conn_id!r}: a sync writes into a DuckDB file; put its path into the "
                "host field and leave the password empty (MotherDuck and memory are no destinations)"
            )
        return "duckdb", str(Path(connection.host).resolve())
    if connection.conn_type == "postgres":
        url = _sqlalchemy_url(connection).set(drivername="postgresql")
        return "postgres", url.render_as_string(hide_password=False)
    if connection.conn_type in ("fs", "file"):
        path = connection.extra_dejson.get("path")
        if not path:
            raise InvalidError(
                f"connection {connection.conn_id!r}: give the folder for files as path in its extra"
            )
        return "files", str(Path(str(path)).resolve())
    raise InvalidError(
        f"connection {connection.conn_id!r} has the type {connection.conn_type!r}; a sync writes into "
        "'duckdb', 'postgres' or files ('fs')"
    )


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
