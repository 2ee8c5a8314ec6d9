"""File systems and APIs of connections, in a form that the engine's process can open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidError
from airflow_ext.hooks._sync_filesystems import SECRET_WORDS, dump_filesystem

if TYPE_CHECKING:
    from airflow.sdk import Connection

DATABASES = ("sqlite", "postgres", "mysql", "mssql", "duckdb")
"""Connection types that have no files."""


def file_source(connection: Connection, paths: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Return the folder of a connection and the file systems of some paths, by scheme.

    A file system is made as Airflow's ``ObjectStoragePath`` does, by the provider that has its scheme; of a scheme
    without one, by fsspec with the connection's extra ``storage_options``.

    :param connection: A connection of type ``fs`` (extra ``path``), or of the object store, such as ``aws``.
    :param paths: Paths and URLs.
    :raises InvalidError: If the connection's type has no files, nothing here reads a scheme, or a path lies outside of
        the folder.
    """
    paths = list(paths)
    base = str(connection.extra_dejson.get("path") or connection.extra_dejson.get("base_url") or "")
    for path in paths:
        if base and not _inside(path, base):
            raise InvalidError(
                f"path={path!r} lies outside of {base!r}, the path of connection {connection.conn_id!r}; give a path below "
                "that, or another connection"
            )
    schemes = {
        (path if "://" in path or path.startswith("/") else f"{base}/{path}").rpartition("://")[0] or "file"
        for path in paths
    }
    if connection.conn_type in DATABASES or (
        "file" in schemes and connection.conn_type not in ("fs", "file")
    ):
        raise InvalidError(
            f"source_conn_id={connection.conn_id!r} has the type {connection.conn_type!r}, which has no files at "
            f"{', '.join(map(repr, paths))}: SyncFiles reads a connection of type 'fs' with path in its extra, or one of an "
            "object store with its URL as path, such as 's3://bucket/orders/*.csv'"
        )
    return base, {scheme: filesystem(connection, scheme) for scheme in schemes}


def api_source(connection: Connection) -> dict[str, Any]:
    """Return an HTTP connection as dlt's REST client takes it.

    :param connection: Of type ``http``: host with or without scheme, port, and what logs in.
    :raises InvalidError: If it has no host or is of another type.
    """
    if connection.conn_type != "http" or not connection.host:
        raise InvalidError(
            f"connection {connection.conn_id!r} has the type {connection.conn_type!r}: SyncApi reads an 'http' connection "
            "with a host"
        )
    host = (
        connection.host if "://" in connection.host else f"{connection.schema or 'https'}://{connection.host}"
    )
    scheme, _, rest = host.partition("://")
    server, slash, path = rest.partition("/")
    if connection.port and ":" not in server:
        server = f"{server}:{connection.port}"
    extra = connection.extra_dejson
    told: dict[str, Any] = {"base_url": f"{scheme}://{server}{slash}{path}"}
    if token := extra.get("token"):
        told["auth"] = {"type": "bearer", "token": str(token)}
    elif api_key := extra.get("api_key"):
        name = str(extra.get("api_key_name") or "X-API-Key")
        told["auth"] = {"type": "api_key", "name": name, "api_key": str(api_key), "location": "header"}
    elif connection.login:
        told["auth"] = {
            "type": "http_basic",
            "username": connection.login,
            "password": connection.password or "",
        }
    return told


def secret_options(connection: Connection) -> tuple[str, ...]:
    """Return the values of a connection's extra that must never show up in a message."""
    extra = connection.extra_dejson
    options = {**extra, **(extra.get("storage_options") or {})}
    return tuple(
        value
        for name, value in options.items()
        if isinstance(value, str) and any(word in name.lower() for word in SECRET_WORDS)
    )


def _inside(path: str, base: str) -> bool:
    """Tell whether a path lies under a folder; another store than the folder's is none of its business."""
    if "://" not in path and not path.startswith("/"):
        return True
    (scheme, there), (of_base, folder) = _split(path), _split(base)
    return scheme != of_base or there.startswith(folder.rstrip("/") + "/")


def _split(path: str) -> tuple[str, str]:
    """Return the scheme, of chained ones the last, which tells the store, and the rest."""
    scheme, _, rest = path.rpartition("://")
    scheme = scheme.rpartition("::")[2]
    return "file" if scheme in ("", "local") else scheme, rest


def filesystem(connection: Connection, scheme: str) -> str:
    """Return the file system of a scheme as fsspec writes it as JSON, with the connection's credentials.

    :raises InvalidError: If nothing here has that scheme, or an option cannot travel.
    """
    import fsspec
    from airflow.sdk.io import get_fs, has_fs

    options: dict[str, Any] = connection.extra_dejson.get("storage_options") or {}
    where = f"connection {connection.conn_id!r}"
    try:
        if scheme == "file":
            made = fsspec.filesystem("file")
        elif has_fs(scheme):
            made = get_fs(scheme, connection.conn_id, options or None)
        else:
            made = fsspec.filesystem(scheme, **options)
    except (ImportError, ValueError) as error:
        raise InvalidError(
            f"{where}: files of {scheme}:// cannot be read here ({error}); install the provider or fsspec package for it"
        ) from None
    try:
        return dump_filesystem(made)
    except InvalidError as error:
        raise InvalidError(f"{where}: files of {scheme}:// cannot be read: {error}") from None
