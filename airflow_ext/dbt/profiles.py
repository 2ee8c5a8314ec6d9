"""A ``profiles.yml`` made from an Airflow connection, without a value in it.

The file holds ``env_var()`` references only; the values are variables of dbt's process, secrets among
them under ``DBT_ENV_SECRET_`` names, which dbt itself keeps out of its logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from airflow_ext.exceptions import InvalidProjectError

DEFAULT_TARGET = "airflow"
DEFAULT_THREADS = 4
_PREFIX = "AIRFLOW_EXT_DBT_"
_SECRET_PREFIX = f"DBT_ENV_SECRET_{_PREFIX}"


class ConnectionLike(Protocol):
    """What is read of an Airflow connection."""

    conn_id: str
    conn_type: str | None
    host: str | None
    port: int | None
    login: str | None
    password: str | None
    schema: str | None

    @property
    def extra_dejson(self) -> dict[str, Any]:
        """The connection's extra as a dict."""


@dataclass(frozen=True)
class Profile:
    """A profile and the variables it refers to.

    :param text: Content of ``profiles.yml``; no values.
    :param env: The values, secrets included: for dbt's environment, nowhere else.
    """

    text: str
    env: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Profile(env={sorted(self.env)})"


def profile_name(project_dir: Path) -> str:
    """Return the name of the profile that a project asks for.

    :param project_dir: Folder with ``dbt_project.yml``.
    :raises InvalidProjectError: If the file is missing, is not YAML or names neither profile nor project.
    """
    import yaml

    path = project_dir / "dbt_project.yml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidProjectError(
            f"{project_dir} is no dbt project: it has no dbt_project.yml", source=str(project_dir)
        ) from None
    except yaml.YAMLError as exc:
        raise InvalidProjectError(f"{path} is not YAML: {exc}", source=str(path)) from exc
    name = (content.get("profile") or content.get("name")) if isinstance(content, dict) else None
    if not isinstance(name, str):
        raise InvalidProjectError(f"{path} has neither 'profile' nor 'name'", source=str(path))
    return name


def profile_from_connection(
    connection: ConnectionLike, *, name: str, target: str | None = None, schema: str | None = None
) -> Profile:
    """Make a profile from a connection of type ``postgres`` or ``duckdb``.

    :param connection: The connection; a DuckDB one has the file's path as host.
    :param name: Profile that the project asks for.
    :param target: Name of its target; ``None`` means ``airflow``.
    :param schema: Schema to build into; ``None`` means ``public`` (PostgreSQL) or ``main`` (DuckDB).
    :raises InvalidProjectError: If the connection's type is another or it lacks something.
    """
    adapter = connection.conn_type or ""
    fields = _FIELDS.get(adapter)
    if fields is None:
        raise InvalidProjectError(
            f"connection {connection.conn_id!r} has type {connection.conn_type!r}; profiles are made from "
            f"{' and '.join(sorted(_FIELDS))} connections, for others give profiles_dir=",
            source=connection.conn_id,
        )
    return _profile(adapter, fields(connection, schema), name=name, target=target)


def placeholder_profile(adapter: str, *, name: str, target: str | None = None) -> Profile:
    """Make a profile that is enough to parse a project: parsing connects to nothing.

    :param adapter: ``postgres`` or ``duckdb``.
    :param name: Profile that the project asks for.
    :param target: Name of its target; ``None`` means ``airflow``.
    :raises InvalidProjectError: If the adapter is another.
    """
    fields: dict[str, dict[str, Any]] = {
        "postgres": {"host": "-", "port": 5432, "user": "-", "password": "-", "dbname": "-", "schema": "-"},
        "duckdb": {"path": ":memory:", "schema": "main"},
    }
    if adapter not in fields:
        raise InvalidProjectError(
            f"adapter={adapter!r}: known are {' and '.join(sorted(fields))}; for others give a profiles folder"
        )
    return _profile(adapter, fields[adapter], name=name, target=target)


def _profile(adapter: str, fields: Mapping[str, Any], *, name: str, target: str | None) -> Profile:
    import yaml

    env: dict[str, str] = {}
    output: dict[str, Any] = {"type": adapter, "threads": DEFAULT_THREADS}
    for field, value in fields.items():
        if value is None:
            continue
        variable = f"{_SECRET_PREFIX if field == 'password' else _PREFIX}{field.upper()}"
        env[variable] = str(value)
        as_number = " | as_number" if isinstance(value, int) else ""
        output[field] = f"{{{{ env_var('{variable}'){as_number} }}}}"
    target = target or DEFAULT_TARGET
    text = yaml.safe_dump({name: {"target": target, "outputs": {target: output}}}, sort_keys=False)
    return Profile(text=text, env=env)


def _postgres(connection: ConnectionLike, schema: str | None) -> dict[str, Any]:
    fields = {
        "host": connection.host,
        "port": connection.port or 5432,
        "user": connection.login,
        "password": connection.password,
        "dbname": connection.schema,
        "schema": schema or "public",
        "sslmode": connection.extra_dejson.get("sslmode"),
    }
    asked = {"host": "host", "user": "login", "password": "password", "dbname": "database (schema)"}
    missing = [label for field, label in asked.items() if not fields[field]]
    if missing:
        raise InvalidProjectError(
            f"connection {connection.conn_id!r} lacks {', '.join(missing)}, which dbt's postgres adapter needs",
            source=connection.conn_id,
        )
    return fields


def _duckdb(connection: ConnectionLike, schema: str | None) -> dict[str, Any]:
    if not connection.host:
        raise InvalidProjectError(
            f"connection {connection.conn_id!r} lacks a host: for DuckDB that is the path of the file",
            source=connection.conn_id,
        )
    return {"path": connection.host, "schema": schema or "main"}


_FIELDS: dict[str, Callable[[ConnectionLike, str | None], dict[str, Any]]] = {
    "duckdb": _duckdb,
    "postgres": _postgres,
}
