"""SQLAlchemy URLs of connections."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from airflow_ext.exceptions import InvalidError

if TYPE_CHECKING:
    import sqlalchemy as sa
    from airflow.sdk import Connection

DIALECTS = {"postgres": "postgresql", "sqlite": "sqlite", "mysql": "mysql", "mssql": "mssql"}
"""SQLAlchemy's names for connection types whose provider offers no SQLAlchemy URL or is not installed."""

MYSQL_DRIVERS = {
    "MySQLdb": "mysqldb",
    "pymysql": "pymysql",
    "mysql.connector": "mysqlconnector",
    "mariadb": "mariadbconnector",
}
"""By module, SQLAlchemy's names for drivers of MySQL and MariaDB, the one it takes by itself first."""

POSTGRES_OPTIONS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "application_name")
"""Fields of a PostgreSQL connection's extra that belong into the URL."""


def sqlalchemy_url(connection: Connection) -> sa.URL:
    """Return a connection's SQLAlchemy URL: its provider's own where there is one.

    :raises InvalidError: If SQLAlchemy has no dialect for its type.
    """
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
    if url.drivername == "mysql" and (driver := next(filter(_installed, MYSQL_DRIVERS), None)):
        url = url.set(drivername=f"mysql+{MYSQL_DRIVERS[driver]}")
    if backend == "postgresql":
        extra = connection.extra_dejson
        options = {name: str(extra[name]) for name in POSTGRES_OPTIONS if extra.get(name)}
        url = url.update_query_dict({k: v for k, v in options.items() if k not in url.query})
    return url


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package it lies in
        return False


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
