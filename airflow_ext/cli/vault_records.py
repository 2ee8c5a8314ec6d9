"""The ids of leases that tasks wrote down, from Airflow's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoredRecord:
    """One session of leases.

    :param name: Its task.
    :param running: Whether a try of that task is running now.
    :param record: What the task wrote down.
    """

    name: str
    running: bool
    record: Mapping[str, Any]


def stored_records() -> list[StoredRecord]:
    """Return all sessions that are written down."""
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from airflow_ext.secrets._vault_leases import STATE_KEY

    found = []
    with create_session() as session:
        rows = session.execute(
            select(TaskStateStoreModel, TaskInstance.state, TaskInstance.try_number)
            .join(
                TaskInstance,
                (TaskInstance.dag_id == TaskStateStoreModel.dag_id)
                & (TaskInstance.run_id == TaskStateStoreModel.run_id)
                & (TaskInstance.task_id == TaskStateStoreModel.task_id)
                & (TaskInstance.map_index == TaskStateStoreModel.map_index),
                isouter=True,
            )
            .where(TaskStateStoreModel.key == STATE_KEY)
        )
        for stored, state, try_number in rows:
            value = json.loads(stored.value)
            for record in value.get("sessions") or [] if isinstance(value, Mapping) else []:
                name = f"{stored.dag_id}/{stored.run_id}/{stored.task_id}"
                name += f"[{stored.map_index}]" if stored.map_index >= 0 else ""
                owner = record.get("owner") or {}
                running = state == "running" and str(owner.get("try_number")) == str(try_number)
                found.append(StoredRecord(name, running, record))
    return found
