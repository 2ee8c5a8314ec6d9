"""The verdict store of this Airflow, or the one that several share."""

from __future__ import annotations

import copy
import json
import sqlite3
import time
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.configuration import conf
from airflow.sdk.execution_time.context import AssetStateStoreAccessor

from airflow_ext.contracts.sql_store import DIALECTS, SqlVerdictStore
from airflow_ext.contracts.store import AssetVerdictStore, VerdictStore
from airflow_ext.exceptions import InvalidError

if TYPE_CHECKING:
    from airflow.sdk import Connection

SECTION, OPTION = "airflow_ext", "verdict_store_conn_id"
CONNECT_SECONDS = 10
"""A server that takes connections and never answers would hold its reader for ever; ``connect_timeout`` in the
connection's extra is another.
"""
LOOK_UP_EVERY = 300.0
"""Seconds for which a trigger remembers a connection; a refused one is looked up again at once."""


def verdict_store(store_conn_id: str | None = None) -> VerdictStore:
    """Return a store of verdicts.

    It works in tasks and, by its ``a...`` methods, in triggers. Without a connection verdicts are kept in the
    state of the contracts' assets; an asset has state only while a parsed DAG names it as inlet, outlet or
    schedule.

    :param store_conn_id: Connection of a PostgreSQL or SQLite database that keeps the verdicts. ``None`` means
        ``[airflow_ext] verdict_store_conn_id``; without that, or if empty, the asset state.
    """
    conn_id = conf.get(SECTION, OPTION, fallback="") if store_conn_id is None else store_conn_id
    if conn_id:
        return SqlVerdictStore(ConnectionOpener(conn_id))
    return AssetVerdictStore(lambda name: AssetStateStoreAccessor(name=name))


class ConnectionOpener:
    """Opens the database of an Airflow connection.

    :param conn_id: Its id.
    """

    def __init__(self, conn_id: str) -> None:
        self.name = conn_id
        self._known: Connection | None = None
        self._until = 0.0

    async def aprepare(self) -> None:
        """Look the connection up from a trigger, whose threads cannot."""
        if self._known is None or time.monotonic() >= self._until:
            self._known = await BaseHook.aget_connection(self.name)
            self._until = time.monotonic() + LOOK_UP_EVERY

    def forget(self) -> None:
        """Look it up anew next time."""
        self._known = None

    def open(self) -> tuple[Any, str]:
        """Return a new connection and its dialect.

        :raises InvalidError: If it is neither PostgreSQL nor SQLite.
        """
        found = self._known or BaseHook.get_connection(self.name)
        match found.conn_type:
            case "postgres":
                patient = _giving_up(found)
                return patient.get_hook(hook_params={"connection": patient}).get_conn(), "postgres"
            case "sqlite":
                path = found.host or found.schema or ":memory:"
                return sqlite3.connect(path, timeout=30, isolation_level=None), "sqlite"
        raise InvalidError(
            f"store_conn_id={self.name!r} is of type {found.conn_type!r}; verdicts can be kept in "
            f"{' or '.join(DIALECTS)}"
        )


def _giving_up(found: Connection) -> Connection:
    """Return a connection that does not wait for ever for a server that hangs."""
    extra = found.extra_dejson
    if "connect_timeout" in extra:
        return found
    changed = copy.copy(found)
    changed.extra = json.dumps({**extra, "connect_timeout": CONNECT_SECONDS})
    return changed
