"""The database of an Airflow connection, through its own common-sql hook, for the judge of contracts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_ext.contracts.sql import DIALECTS, Database
from airflow_ext.exceptions import InvalidError, UnavailableError

if TYPE_CHECKING:
    from airflow.sdk import Connection

_OTHER_HOOKS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "databricks": (
        "airflow.providers.databricks.hooks.databricks_sql.DatabricksSqlHook", "databricks_conn_id", {},
    ),
    "gcpbigquery": (
        "airflow.providers.google.cloud.hooks.bigquery.BigQueryHook", "gcp_conn_id", {"use_legacy_sql": False},
    ),
    "google_cloud_platform": (
        "airflow.providers.google.cloud.hooks.bigquery.BigQueryHook", "gcp_conn_id", {"use_legacy_sql": False},
    ),
}  # fmt: skip
"""Connection types whose usual hook runs no SQL, and the hook that does with its arguments."""


@contextmanager
def contract_database(conn_id: str) -> Iterator[Database]:
    """Open the database of a connection to judge contracts on it; it is closed at the end.

    :raises InvalidError: If no contract can be judged on a connection of this type, or its provider is missing.
    :raises UnavailableError: If it cannot be opened.
    """
    connection = BaseHook.get_connection(conn_id)
    kind = connection.conn_type or ""
    if kind not in DIALECTS:
        raise InvalidError(
            f"conn_id={conn_id!r} is of type {connection.conn_type!r}; contracts can be judged on "
            f"{', '.join(DIALECTS)}"
        )
    hook = _hook(connection, conn_id)
    try:
        opened = hook.get_conn()
    except Exception as exc:
        raise UnavailableError(
            f"The database of connection {conn_id!r} cannot be opened: {type(exc).__name__}",
            service=conn_id,
        ) from exc
    with closing(opened), Database(opened, kind, hook=hook) as database:
        yield database


def _hook(connection: Connection, conn_id: str) -> Any:
    kind = connection.conn_type or ""
    if kind not in _OTHER_HOOKS:
        return connection.get_hook()
    path, argument, further = _OTHER_HOOKS[kind]
    module, _, name = path.rpartition(".")
    try:
        made = getattr(import_module(module), name)
    except ImportError:
        package = module.split(".")[2]
        raise InvalidError(
            f"conn_id={conn_id!r}: contracts on {kind} need apache-airflow-providers-{package}"
        ) from None
    return made(**{argument: conn_id}, **further)
