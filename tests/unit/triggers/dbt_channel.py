"""A stand-in for the triggerer's channel to Airflow, and triggers of a dbt group that run on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import GetTaskStates, GetXCom, TaskStatesResult, XComResult
from airflow.triggers.base import TriggerEvent

from airflow_ext.triggers import _dbt_reader
from airflow_ext.triggers.dbt import NODES_KEY, WAIT_LIMIT, DbtNodeTrigger

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LINE = ["model.p.m", "success", "2026-01-01T00:00:00Z", 0.5, 3, None]
GOOD = {"state": "success", "nodes": [LINE]}
BAD = {"state": "failed", "nodes": [LINE], "failures": [{"id": "m", "status": "error", "message": "boom"}]}
SKIPPED = {"state": "skipped", "nodes": [LINE]}


class Channel:
    """Answers what a triggerer's supervisor would."""

    def __init__(self) -> None:
        self.states: dict[str, str | None] = {"g.build": "running"}
        self.payload: dict[str, Any] | None = None
        self.batches: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.on_ask: Callable[[int], None] = lambda _: None

    async def asend(self, message: Any) -> Any:
        self.asked.append(type(message).__name__)
        self.on_ask(len(self.asked))
        if isinstance(message, GetTaskStates):
            assert message.run_ids == ["run"], "states are asked for one run only"
            assert len("&task_ids=".join(map(quote, message.task_ids or ()))) < 65_536, "too long for a URL"
            found = {name: self.states[name] for name in message.task_ids or () if name in self.states}
            return TaskStatesResult(task_states={"run": found})
        assert isinstance(message, GetXCom)
        assert message.key == NODES_KEY
        if message.task_id == "g.build":
            return XComResult(key=NODES_KEY, value=self.payload)
        return XComResult(key=NODES_KEY, value=self.batches.get(message.task_id))

    def tell(self, *, ended: bool = False, last: bool = True, at: float = 10.0, **nodes: Any) -> None:
        self.payload = {"try": 1, "last": last, "ended": ended, "started": at, "at": at, "units": nodes}


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Channel:
    channel = Channel()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", channel, raising=False)
    monkeypatch.setattr(_dbt_reader, "POLL", 0.001)
    monkeypatch.setattr(_dbt_reader, "CALM", 0.0)
    return channel


def started(trigger: Any, *, task_id: str = "g.m", attempt: int = 1, task: Any = None) -> Any:
    # The setter looks up template fields of a real task, which a stand-in does not have.
    run = SimpleNamespace(start_date=BEGIN - timedelta(seconds=5))
    trigger._task_instance = SimpleNamespace(
        dag_id="dag",
        run_id="run",
        task_id=task_id,
        try_number=attempt,
        task=task,
        _ti_context_from_server=SimpleNamespace(dag_run=run),
    )
    trigger.timeout_after = BEGIN + WAIT_LIMIT
    return trigger


def node(**more: Any) -> Any:
    return started(DbtNodeTrigger(build_task_id="g.build", unit="m"), **more)


async def event_of(trigger: Any) -> TriggerEvent:
    events: list[TriggerEvent] = [event async for event in trigger.run()]
    assert len(events) == 1
    return events[0]


def end(trigger: Any) -> TriggerEvent:
    return asyncio.run(asyncio.wait_for(event_of(trigger), timeout=10))


def tree(**upstream: set[str]) -> Any:
    tasks = {
        f"g.{name}": SimpleNamespace(
            upstream_task_ids=above,
            start_trigger_args=None
            if name == "build"
            else SimpleNamespace(
                trigger_kwargs={
                    "__var": {"build_task_id": "g.build"}
                    | ({} if name in ("announce", "done") else {"unit": name}),
                    "__type": "dict",
                }
            ),
        )
        for name, above in upstream.items()
    }
    for task in tasks.values():
        # Each trigger has a DAG of its own.
        task.dag = SimpleNamespace(task_dict=dict(tasks), task_group=SimpleNamespace(children={}))
    return tasks
