"""Destination connections of the embedded engine, as the engine or dlt takes them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_ext.exceptions import InvalidError
from airflow_ext.hooks._sync_files import filesystem
from airflow_ext.hooks._sync_filesystems import secrets_within
from airflow_ext.hooks._sync_urls import sqlalchemy_url

if TYPE_CHECKING:
    from airflow.sdk import Connection

NAME, OPTIONS = "dlt_destination", "dlt_options"
"""Fields of a destination connection's extra: a destination of dlt, and what dlt takes for it beside the rest."""

_HARMLESS = {
    *(
        "host",
        "server_hostname",
        "database",
        "username",
        "port",
        "http_port",
        "secure",
        "driver",
        "drivername",
    ),
    *("project_id", "client_email", "token_uri", "region_name", "endpoint_url", "http_path", "catalog"),
    *("warehouse", "role", "authenticator", "client_id", "azure_storage_account_name", "connect_timeout"),
    *("private_key_path", "sslmode", "aws_profile", "type"),
}
"""Names in credentials whose values may show up in messages."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where rows go.

    :param kind: ``duckdb`` or ``postgres``, which the engine writes, or the name of a destination of dlt.
    :param url: Path or URL, where it is one.
    :param options: What dlt takes, credentials included.
    :param secrets: Values that must never show up in a message.
    """

    kind: str
    url: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def destination_of(connection: Connection) -> Destination:
    """Return the destination a connection means.

    :raises InvalidError: If its type is none, or it lacks something.
    """
    extra = connection.extra_dejson
    given = extra.get(OPTIONS) or {}
    if not isinstance(given, Mapping):
        raise _wrong(connection, f"{OPTIONS} in its extra must be an object, such as {{'location': 'EU'}}")
    name = extra.get(NAME)
    found: Destination
    if name:
        found = _named(connection, str(name), given)
    elif (make := _KINDS.get(str(connection.conn_type))) is not None:
        found = make(connection)
    else:
        raise _wrong(
            connection,
            f"a sync writes into {', '.join(sorted(_KINDS))}, or into any destination of dlt that {NAME} in the "
            f"connection's extra names, with its settings as {OPTIONS}",
        )
    if given and found.kind in ("duckdb", "postgres"):
        raise _wrong(connection, f"{OPTIONS} in its extra is for destinations that dlt writes")
    options = _over(found.options, given)
    # dlt takes the URL of files apart from the rest.
    url = str(options.pop("bucket_url", found.url)) if found.kind == "filesystem" else found.url
    passwords = [connection.password] if connection.password else []
    return Destination(
        kind=found.kind,
        url=url,
        options=options,
        secrets=(*passwords, *found.secrets, *secrets_within(options), *_unknown(options)),
    )


def _unknown(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what lies in credentials, and in objects beside them, under any name that is not known to be harmless."""
    for name, value in options.items():
        if name == "credentials" or not isinstance(value, str | int | float):
            yield from _texts(value, name)


def _texts(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, name)
    elif name not in _HARMLESS and value not in (None, True, False):
        yield str(value)
        with suppress(ValueError):
            if password := urlsplit(str(value)).password:
                yield from (password, unquote(password))


def _named(connection: Connection, name: str, given: Mapping[str, Any]) -> Destination:
    """Return a destination of dlt; the engine checks the name."""
    if name in ("duckdb", "postgres"):
        raise _wrong(connection, f"{name!r} in {NAME} is a connection type; make a connection of that type")
    url = str(given.get("bucket_url") or "")
    if name == "filesystem" and not url:
        raise _wrong(connection, f"for files give bucket_url in {OPTIONS}")
    return Destination(kind=name, url=url if name == "filesystem" else "")


def _wrong(connection: Connection, problem: str) -> InvalidError:
    return InvalidError(
        f"connection {connection.conn_id!r} of type {connection.conn_type!r} is no destination: {problem}"
    )


def _over(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others laid over them, object into object."""
    merged = dict(base)
    for name, value in given.items():
        below = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[name] = _over(below, value) if both else value  # type: ignore[arg-type]  # both are mappings
    return merged


def _need(connection: Connection, **values: Any) -> dict[str, Any]:
    """Return values by dlt's names once none is missing."""
    if missing := [name for name, value in values.items() if value in (None, "")]:
        raise _wrong(connection, f"it does not give {', '.join(missing)}")
    return values


def _filled(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "")}


def _extra(connection: Connection, *names: str) -> dict[str, Any]:
    return _filled(**{name: connection.extra_dejson.get(name) for name in names})


def _duckdb(connection: Connection) -> Destination:
    host = connection.host or ""
    if connection.password and not host:
        # As the provider for DuckDB has it: the token is the password, the database the schema.
        database = connection.schema or "my_db"
        return Destination(
            kind="motherduck",
            options={"credentials": {"database": database, "password": connection.password}},
        )
    if connection.password or not host or host == ":memory:" or host.startswith("md:"):
        raise _wrong(
            connection,
            "a sync writes into a DuckDB file, whose path stands in the host field; for MotherDuck leave the host empty, "
            "give the token as password and the database as schema (nothing is left of a database in memory)",
        )
    return Destination(kind="duckdb", url=str(Path(host).resolve()))


def _postgres(connection: Connection) -> Destination:
    url = sqlalchemy_url(connection).set(drivername="postgresql")
    return Destination(kind="postgres", url=url.render_as_string(hide_password=False))


def _by_sqlalchemy(connection: Connection) -> Destination:
    url = sqlalchemy_url(connection).render_as_string(hide_password=False)
    return Destination(kind="sqlalchemy", options={"credentials": url})


def _folder(connection: Connection) -> Destination:
    path = connection.extra_dejson.get("path")
    if not path:
        raise _wrong(connection, "give the folder for files as path in its extra")
    return Destination(kind="filesystem", url=str(Path(str(path)).resolve()))


def _bucket(connection: Connection) -> str:
    path = str(connection.extra_dejson.get("path") or "")
    if "://" not in path:
        raise _wrong(connection, "give the URL for files as path in its extra, such as s3://bucket/folder")
    return path


def _s3(connection: Connection) -> Destination:
    bucket = _bucket(connection)
    made = json.loads(filesystem(connection, "s3"))
    client = made.get("client_kwargs") or {}
    credentials = _filled(
        aws_access_key_id=made.get("key"),
        aws_secret_access_key=made.get("secret"),
        aws_session_token=made.get("token"),
        endpoint_url=made.get("endpoint_url") or client.get("endpoint_url"),
        region_name=client.get("region_name"),
    )
    return Destination(
        kind="filesystem", url=bucket, options={"credentials": credentials} if credentials else {}
    )


def _azure(connection: Connection) -> Destination:
    extra = connection.extra_dejson
    credentials = _filled(
        azure_storage_account_name=connection.login or extra.get("account_name"),
        azure_storage_account_key=connection.password or extra.get("account_key"),
        azure_storage_sas_token=extra.get("sas_token"),
    )
    return Destination(kind="filesystem", url=_bucket(connection), options={"credentials": credentials})


def _google(connection: Connection) -> Destination:
    login = _google_key(connection)
    credentials = {"credentials": login} if login else {}
    if connection.extra_dejson.get("path"):
        return Destination(kind="filesystem", url=_bucket(connection), options=credentials)
    project = _filled(project_id=connection.extra_dejson.get("project"))
    return Destination(kind="bigquery", options={**credentials, **project, **_extra(connection, "location")})


def _google_key(connection: Connection) -> dict[str, Any]:
    """Return the key of a service account; none of it is left to what the worker's environment has."""
    key, path = (connection.extra_dejson.get(name) for name in ("keyfile_dict", "key_path"))
    try:
        if path:
            key = Path(str(path)).read_text(encoding="utf-8")
        key = json.loads(key) if isinstance(key, str) and key else key
        if not key:
            return {}
        names = ("project_id", "client_email", "private_key", "token_uri")
        return _filled(**{name: key.get(name) for name in names})
    except (OSError, ValueError, AttributeError):
        raise _wrong(
            connection, "the key of its service account is no JSON object that can be read"
        ) from None


def _address(connection: Connection, port: int) -> dict[str, Any]:
    found = _need(
        connection,
        host=connection.host,
        database=connection.schema,
        username=connection.login,
        password=connection.password,
    )
    return {**found, "port": connection.port or port}


def _redshift(connection: Connection) -> Destination:
    return Destination(kind="redshift", options={"credentials": _address(connection, 5439)})


def _mssql(connection: Connection) -> Destination:
    credentials = _address(connection, 1433) | _extra(connection, "driver")
    return Destination(kind="mssql", options={"credentials": credentials})


def _clickhouse(connection: Connection) -> Destination:
    credentials = _need(connection, host=connection.host)
    secure = connection.extra_dejson.get("secure")
    return Destination(
        kind="clickhouse",
        options={
            "credentials": {
                **credentials,
                **_filled(
                    username=connection.login,
                    password=connection.password,
                    database=connection.schema,
                    port=connection.port,
                    secure=None if secure is None else int(str(secure).lower() in ("1", "true", "yes")),
                ),
                **_extra(connection, "http_port"),
            }
        },
    )


def _snowflake(connection: Connection) -> Destination:
    extra = connection.extra_dejson
    account, region = extra.get("account"), extra.get("region")
    if account and region and not str(account).endswith(f".{region}"):
        account = f"{account}.{region}"
    credentials = _need(connection, host=account, database=extra.get("database"), username=connection.login)
    credentials |= _extra(connection, "warehouse", "role", "authenticator", "token")
    key, path = extra.get("private_key_content"), extra.get("private_key_file")
    if key:
        with suppress(ValueError):  # Airflow takes a PEM in base64 too
            decoded = base64.b64decode(str(key), validate=True).decode("ascii")
            key = decoded if decoded.startswith("-") else key
    if key or path:
        credentials |= _filled(
            private_key=key, private_key_path=path, private_key_passphrase=connection.password
        )
    else:
        credentials |= _filled(password=connection.password)
    return Destination(kind="snowflake", options={"credentials": credentials})


def _databricks(connection: Connection) -> Destination:
    extra = connection.extra_dejson
    host = str(extra.get("host") or connection.host or "").removeprefix("https://").rstrip("/")
    credentials = _need(
        connection,
        server_hostname=host,
        http_path=extra.get("http_path"),
        catalog=extra.get("catalog"),
    )
    if extra.get("service_principal_oauth"):
        credentials |= _need(connection, client_id=connection.login, client_secret=connection.password)
    else:
        credentials |= _need(connection, access_token=extra.get("token") or connection.password)
    return Destination(kind="databricks", options={"credentials": credentials})


_KINDS: Mapping[str, Callable[[Connection], Destination]] = {
    "aws": _s3,
    "clickhouse": _clickhouse,
    "databricks": _databricks,
    "duckdb": _duckdb,
    "file": _folder,
    "fs": _folder,
    "gcpbigquery": _google,
    "google_cloud_platform": _google,
    "mssql": _mssql,
    "mysql": _by_sqlalchemy,
    "postgres": _postgres,
    "redshift": _redshift,
    "snowflake": _snowflake,
    "sqlite": _by_sqlalchemy,
    "wasb": _azure,
}
