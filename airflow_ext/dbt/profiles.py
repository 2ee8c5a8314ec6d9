"""A ``profiles.yml`` made from an Airflow connection, without a value in it.

The file holds ``env_var()`` references only; the values are variables of dbt's process, secrets among
them under ``DBT_ENV_SECRET_`` names, which dbt itself keeps out of its logs. dbt substitutes those after it has
rendered the file, so a secret may hold anything, and it stays text whatever it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_ext.dbt import profile_clouds as clouds
from airflow_ext.dbt import profile_databases as databases
from airflow_ext.dbt.profile_fields import ConnectionLike, ConnectionReader, Secret, merged
from airflow_ext.exceptions import InvalidProjectError

DEFAULT_TARGET = "airflow"
DEFAULT_THREADS = 4
_PREFIX = "AIRFLOW_EXT_DBT_"
_SECRET_PREFIX = f"DBT_ENV_SECRET_{_PREFIX}"


@dataclass(frozen=True)
class _Adapter:
    """One adapter of dbt.

    :param conn_types: Types of Airflow connections that it is used for.
    :param fields: Reads its settings from a connection, for a schema.
    :param placeholder: Settings that are enough to parse a project.
    """

    conn_types: tuple[str, ...]
    fields: Callable[[ConnectionReader, str | None], dict[str, Any]]
    placeholder: Mapping[str, Any]


# A placeholder is no secret: dbt would strike each "-" out of what it says.
_LOGIN: Mapping[str, Any] = {"host": "-", "user": "-", "password": "-", "schema": "-"}

_ADAPTERS: Mapping[str, _Adapter] = {
    "postgres": _Adapter(("postgres",), databases.postgres, {**_LOGIN, "port": 5432, "dbname": "-"}),
    "redshift": _Adapter(("redshift",), clouds.redshift, {**_LOGIN, "port": 5439, "dbname": "-"}),
    "snowflake": _Adapter(
        ("snowflake",),
        clouds.snowflake,
        {"account": "-", "user": "-", "password": "-", "database": "-", "schema": "-"},
    ),
    "bigquery": _Adapter(
        ("google_cloud_platform", "gcpbigquery"),
        clouds.bigquery,
        {"method": "oauth", "project": "-", "dataset": "-"},
    ),
    "databricks": _Adapter(
        ("databricks",),
        clouds.databricks,
        {"host": "-", "http_path": "-", "token": "-", "catalog": "-", "schema": "-"},
    ),
    "duckdb": _Adapter(("duckdb",), databases.duckdb, {"path": ":memory:", "schema": "main"}),
    "trino": _Adapter(
        ("trino",),
        databases.trino,
        {"method": "none", "host": "-", "port": 8080, "user": "-", "catalog": "-", "schema": "-"},
    ),
    "clickhouse": _Adapter(("clickhouse",), databases.clickhouse, _LOGIN),
    "sqlserver": _Adapter(
        ("mssql",),
        databases.sqlserver,
        {
            "driver": "-",
            "server": "-",
            "port": 1433,
            "database": "-",
            "schema": "-",
            "user": "-",
            "password": "-",
        },
    ),
    "mysql": _Adapter(
        ("mysql",),
        databases.mysql,
        {"server": "-", "port": 3306, "username": "-", "password": "-", "schema": "-"},
    ),
    "athena": _Adapter(
        ("aws", "athena"),
        clouds.athena,
        {"region_name": "-", "s3_staging_dir": "s3://-/", "database": "awsdatacatalog", "schema": "-"},
    ),
    "spark": _Adapter(
        ("spark",),
        databases.spark,
        {"method": "thrift", "host": "-", "port": 10000, "user": "-", "schema": "-"},
    ),
}

ADAPTERS = tuple(_ADAPTERS)
"""Names of the adapters that profiles are made for."""

_BY_CONN_TYPE = {conn_type: name for name, adapter in _ADAPTERS.items() for conn_type in adapter.conn_types}


@dataclass(frozen=True)
class Profile:
    """A profile and the variables it refers to.

    :param text: Content of ``profiles.yml``; no values.
    :param env: The values, secrets included: for dbt's environment, nowhere else.
    :param adapter: Name of dbt's adapter.
    :param package: What to install for it, as pip knows it.
    """

    text: str
    env: Mapping[str, str]
    adapter: str
    package: str

    def __repr__(self) -> str:
        return f"Profile(adapter={self.adapter!r}, env={sorted(self.env)})"


def adapter_of(conn_type: str | None) -> str | None:
    """Return the name of the adapter for a type of connection; ``None`` if there is none.

    :param conn_type: Type of an Airflow connection, such as ``google_cloud_platform``.
    """
    return _BY_CONN_TYPE.get(conn_type or "")


def profile_name(project_dir: Path) -> str:
    """Return the name of the profile that a project asks for.

    :param project_dir: Folder with ``dbt_project.yml``.
    :raises InvalidProjectError: If the file is missing, cannot be read, is not YAML or names neither profile nor project.
    """
    import yaml

    path = project_dir / "dbt_project.yml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidProjectError(
            f"{project_dir} is no dbt project: it has no dbt_project.yml", source=str(project_dir)
        ) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidProjectError(f"{path} cannot be read: {exc}", source=str(path)) from exc
    except yaml.YAMLError as exc:
        raise InvalidProjectError(f"{path} is not YAML: {exc}", source=str(path)) from exc
    name = (content.get("profile") or content.get("name")) if isinstance(content, dict) else None
    if not isinstance(name, str):
        raise InvalidProjectError(f"{path} has neither 'profile' nor 'name'", source=str(path))
    return name


def profile_from_connection(
    connection: ConnectionLike, *, name: str, target: str | None = None, schema: str | None = None
) -> Profile:
    """Make a profile from a connection, whose type decides the adapter.

    :param connection: The connection.
    :param name: Profile that the project asks for.
    :param target: Name of its target; ``None`` means ``airflow``.
    :param schema: Schema to build into (BigQuery: the dataset); ``None`` means the adapter's default, which
        some read from the connection.
    :raises InvalidProjectError: If no profile can be made from a connection of this type, or it lacks
        something, or asks for what dbt does not offer.
    """
    adapter = adapter_of(connection.conn_type)
    if adapter is None:
        raise InvalidProjectError(
            f"connection {connection.conn_id!r} has type {connection.conn_type!r}; profiles are made from "
            f"{', '.join(_BY_CONN_TYPE)} connections, for others give profiles_dir=",
            source=connection.conn_id,
        )
    reader = ConnectionReader(connection, adapter=adapter)
    fields = _ADAPTERS[adapter].fields(reader, schema)
    reader.finish()
    return _profile(adapter, merged(fields, reader.settings()), name=name, target=target)


def placeholder_profile(adapter: str, *, name: str, target: str | None = None) -> Profile:
    """Make a profile that is enough to parse a project: parsing connects to nothing.

    :param adapter: One of :data:`ADAPTERS`.
    :param name: Profile that the project asks for.
    :param target: Name of its target; ``None`` means ``airflow``.
    :raises InvalidProjectError: If the adapter is another.
    """
    if adapter not in _ADAPTERS:
        raise InvalidProjectError(
            f"adapter={adapter!r}: known are {', '.join(ADAPTERS)}; for others give a profiles folder"
        )
    return _profile(adapter, _ADAPTERS[adapter].placeholder, name=name, target=target)


def _profile(adapter: str, fields: Mapping[str, Any], *, name: str, target: str | None) -> Profile:
    import yaml

    env: dict[str, str] = {}
    output = {"type": adapter, "threads": DEFAULT_THREADS, **_references(fields, (), env)}
    target = target or DEFAULT_TARGET
    text = yaml.safe_dump(
        {name: {"target": target, "outputs": {target: output}}}, sort_keys=False, width=4096
    )
    return Profile(text=text, env=env, adapter=adapter, package=_package(adapter, fields))


def _package(adapter: str, fields: Mapping[str, Any]) -> str:
    package = f"dbt-{adapter}"
    if adapter == "spark":
        return f"{package}[{databases.SPARK_EXTRAS.get(fields.get('method', ''), 'all')}]"
    if adapter == "sqlserver":
        return f"{package}[{'pyodbc' if fields.get('authentication', 'sql') == 'sql' else 'azure,pyodbc'}]"
    return package


def _references(value: Any, path: tuple[str, ...], env: dict[str, str]) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {
            name: _references(item, (*path, str(name)), env)
            for name, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_references(item, (*path, str(number)), env) for number, item in enumerate(value)]
    variable = _SECRET_PREFIX if isinstance(value, Secret) else _PREFIX
    variable += re.sub(r"[^A-Z0-9]+", "_", "_".join(path).upper()).strip("_")
    while variable in env:
        variable += "_"
    env[variable] = str(value)
    as_type = (
        " | as_bool" if isinstance(value, bool) else " | as_number" if isinstance(value, int | float) else ""
    )
    return f"{{{{ env_var('{variable}'){as_type} }}}}"
