"""Connections, task state and time for tests of syncs at vendors: real local servers, real Airflow messages."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_ext.testing.airbyte import LocalAirbyte
from airflow_ext.testing.fivetran import LocalFivetran, Tables
from airflow_ext.testing.hightouch import LocalHightouch

PG: Tables = {"public": {"orders": {"id": {"is_primary_key": True}, "total": {}}, "Customers": {"id": {}}}}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return seconds since 1970."""
        return self.now


class TaskState:
    """Airflow's task state of one task instance, shared by its tries."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        """Read a key."""
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any) -> None:
        """Write a key."""
        self.values[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.values.pop(key, None)


def fivetran_connection(server: LocalFivetran, **extra: Any) -> str:
    """Return a connection to a local server as JSON."""
    fields = {"login": server.api_key, "password": server.api_secret, "host": server.url, "extra": extra}
    return json.dumps({"conn_type": "ext-fivetran", **fields})


def airbyte_connection(server: LocalAirbyte) -> str:
    """Return a connection to a local server as JSON."""
    fields = {"login": server.client_id, "password": server.client_secret, "host": server.url + server.base}
    return json.dumps({"conn_type": "ext-airbyte", **fields})


def hightouch_connection(server: LocalHightouch, **extra: Any) -> str:
    """Return a connection to a local server as JSON."""
    fields = {"password": server.api_key, "host": server.url + server.base, "extra": extra}
    return json.dumps({"conn_type": "ext-hightouch", **fields})


def context(state: TaskState, *, try_number: int = 1, **run: Any) -> Any:
    """Return what a running task gets."""
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(
        dag_id="ingest",
        task_id="load",
        map_index=-1,
        run_id="one",
        try_number=try_number,
        pushed=pushed,
        get_first_reschedule_date=lambda _: None,
        xcom_push=lambda key, value: pushed.update({key: value}),
    )
    return {
        "ti": ti,
        "dag_run": SimpleNamespace(**{"partition_key": None, "run_type": "scheduled"} | run),
        "outlet_events": OutletEventAccessors(),
        "task_state_store": state,
    }
