"""End the node tasks of a dbt group in the triggerer, from what the build task tells.

All node tasks of a run are fed by one reader: per half second it asks for the build task's state and, while that
runs, for the one XCom that holds the nodes. The order matters: a state read first can never be newer than
the nodes read after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

from airflow.triggers.base import (
    BaseTrigger,
    TaskFailedEvent,
    TaskSkippedEvent,
    TaskSuccessEvent,
    TriggerEvent,
)

from airflow_ext.dbt.results import Outcome, describe
from airflow_ext.exceptions import StoreUnavailableError

NODES_KEY = "airflow_ext_dbt_nodes"
"""XCom of the build task: ``{"try", "last", "ended", "started", "at", "nodes"}``."""

WAIT_LIMIT = timedelta(days=7)
"""How long a node task waits for its build; also tells a trigger when its task instance began."""

POLL = 0.5
ASK_TIMEOUT = 30.0
PATIENCE = 60
"""Reads that may fail in a row, and half of the reads that may not find the build task."""

ENDED = frozenset({"success", "failed"})
FINISHED = ENDED | {"skipped", "upstream_failed", "removed"}


@dataclass(frozen=True)
class BuildView:
    """What was read of a build task.

    :param state: State of its task instance; ``none`` before it is scheduled, ``missing`` when there is
        no such task instance.
    :param payload: Its XCom, empty when there is none.
    """

    state: str
    payload: dict[str, Any] = field(default_factory=dict)


async def _ask(message: Any) -> Any:
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    return await asyncio.wait_for(SUPERVISOR_COMMS.asend(message), timeout=ASK_TIMEOUT)


async def read_states(dag_id: str, run_id: str, task_ids: list[str]) -> dict[str, str]:
    """Return the states of some tasks of one run; tasks that have no instance are left out."""
    from airflow.sdk.execution_time.comms import GetTaskStates

    answer = await _ask(GetTaskStates(dag_id=dag_id, task_ids=task_ids, run_ids=[run_id]))
    found = getattr(answer, "task_states", None)
    if found is None:
        raise StoreUnavailableError(f"Airflow did not answer with task states: {answer!r}", service="Airflow")
    return {name: str(state or "none") for name, state in found.get(run_id, {}).items()}


async def read_build(dag_id: str, run_id: str, build_task_id: str) -> BuildView:
    """Return state and nodes of a build task."""
    states = await read_states(dag_id, run_id, [build_task_id])
    state = states.get(build_task_id, "missing")
    if state not in {"running", "up_for_retry", *ENDED}:
        # What is there is of an earlier run of the task, if of any.
        return BuildView(state)
    from airflow.sdk.execution_time.xcom import XCom

    read = XCom.aget_one(key=NODES_KEY, dag_id=dag_id, task_id=build_task_id, run_id=run_id)
    payload = await asyncio.wait_for(read, timeout=ASK_TIMEOUT)
    return BuildView(state, payload if isinstance(payload, dict) else {})


class _SharedReader:
    """One poll loop for everybody who waits for the same build task of the same run."""

    _all: ClassVar[dict[tuple[int, str, str, str], _SharedReader]] = {}

    def __init__(self, dag_id: str, run_id: str, build_task_id: str) -> None:
        self._subject = (dag_id, run_id, build_task_id)
        self._waiters = 0
        self._view: BuildView | None = None
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def views(cls, dag_id: str, run_id: str, build_task_id: str) -> AsyncIterator[BuildView]:
        """Yield the present view and every change of it.

        :raises StoreUnavailableError: If Airflow cannot be read for long.
        """
        key = (id(asyncio.get_running_loop()), dag_id, run_id, build_task_id)
        reader = cls._all.get(key)
        if reader is None:
            reader = cls._all[key] = cls(dag_id, run_id, build_task_id)
        reader._waiters += 1
        if reader._task is None:
            reader._task = asyncio.create_task(reader._poll())
        try:
            seen: BuildView | None = None
            while True:
                async with reader._changed:
                    while reader._view is seen and not reader._task.done():
                        await reader._changed.wait()
                if reader._view is seen or reader._view is None:
                    reader._task.result()
                    raise StoreUnavailableError("the reader of the build task ended", service="Airflow")
                seen = reader._view
                yield seen
        finally:
            reader._waiters -= 1
            if reader._waiters == 0:
                cls._all.pop(key, None)
                reader._task.cancel()

    async def _poll(self) -> None:
        try:
            failures = absent = 0
            while True:
                try:
                    view = await read_build(*self._subject)
                except Exception as exc:  # whatever it was, it is tried again, then told
                    failures += 1
                    if failures >= PATIENCE:
                        raise StoreUnavailableError(
                            f"the build task could not be read {failures} times: {exc!r}", service="Airflow"
                        ) from exc
                    await asyncio.sleep(POLL * min(failures, 10))
                    continue
                failures = 0
                absent = absent + 1 if view.state == "missing" else 0
                if view != self._view and (view.state != "missing" or absent > 2 * PATIENCE):
                    async with self._changed:
                        self._view = view
                        self._changed.notify_all()
                await asyncio.sleep(POLL)
        finally:
            async with self._changed:
                self._changed.notify_all()


class _BuildTrigger(BaseTrigger):
    """What node and done triggers share: waiting, and knowing whether results are of this try."""

    timeout_after: Any = None  # set by the triggerer: the instant at which the wait is over

    def __init__(self, *, build_task_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's triggers are not typed
        self.build_task_id = build_task_id

    @property
    def _ti(self) -> Any:
        # The triggerer sets one before it calls run(); it is of a class that is not public.
        return self.task_instance

    def _views(self) -> AsyncIterator[BuildView]:
        return _SharedReader.views(self._ti.dag_id, self._ti.run_id, self.build_task_id)

    def _since(self) -> float:
        """Return when this try of the task began, 0 for the first one, to which all results belong."""
        if self._ti.try_number <= 1 or self.timeout_after is None:
            return 0.0
        return float((self.timeout_after - WAIT_LIMIT).timestamp())

    def _cleared_alone(self, view: BuildView) -> bool:
        """Tell whether the build was over before this try began: a user cleared the task without the build."""
        return view.state in ENDED and self._ti.try_number > 1 and view.payload.get("at", 0.0) < self._since()

    async def _upstream_ended(self, *, transitive: bool) -> dict[str, str]:
        """Wait until the tasks above this one within its group are finished and return their states."""
        task = self._ti.task
        prefix = self._ti.task_id.rpartition(".")[0] + "."
        above, fresh = set(), set(task.upstream_task_ids)
        while fresh:
            above |= fresh
            parents = {up for name in fresh for up in task.dag.task_dict[name].upstream_task_ids}
            fresh = parents - above if transitive else set()
        names = sorted(name for name in above if name.startswith(prefix) and name != self.build_task_id)
        while names:
            states = await read_states(self._ti.dag_id, self._ti.run_id, names)
            if all(state in FINISHED for state in states.values()):
                return states
            await asyncio.sleep(2 * POLL)
        return {}


class DbtNodeTrigger(_BuildTrigger):
    """End the task of one node as dbt ended the node.

    :param build_task_id: The build task.
    :param unique_id: dbt's id of the node.
    """

    def __init__(self, *, build_task_id: str, unique_id: str) -> None:
        super().__init__(build_task_id=build_task_id)
        self.unique_id = unique_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        arguments = {"build_task_id": self.build_task_id, "unique_id": self.unique_id}
        return "airflow_ext.triggers.dbt.DbtNodeTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the node and yield how it ended.

        A plain event means that the node is to be built on a worker: its task was cleared alone.
        """
        async for view in self._views():
            if self._cleared_alone(view):
                yield await self._build_again()
                return
            event = self._event(view)
            if event is not None:
                yield event
                return

    def _event(self, view: BuildView) -> TriggerEvent | None:
        if view.state == "skipped":
            return self._skipped("the build task was skipped")
        if view.state == "upstream_failed":
            return self._skipped("the build task was not started because a task before it failed")
        if view.state in {"removed", "missing"}:
            return self._failed("the build task is no longer there")
        outcome = self._outcome(view)
        if outcome is not None:
            return self._settled(outcome)
        if view.state == "failed":
            return self._failed(
                "the build task failed before this node was done; its log has the reason, and clearing it goes on from there"
            )
        if view.state == "success":
            return self._failed(
                "dbt ended without building this node: the manifest that draws the DAG is not of this project's "
                "state; make it anew with airflow-ext dbt index"
            )
        return None

    def _outcome(self, view: BuildView) -> Outcome | None:
        """Return the node's outcome if it can no longer change."""
        outcome: Outcome | None = view.payload.get("nodes", {}).get(self.unique_id)
        if outcome is None or view.state in ENDED:
            return outcome
        stale = view.payload["ended"] and view.state == "running"
        if stale or view.payload["started"] < self._since():
            # A task that has begun anew clears its old XCom a moment later.
            return None
        final = outcome["state"] == "success" or (view.payload["last"] and view.state == "running")
        return outcome if final else None

    async def _build_again(self) -> TriggerEvent:
        above = await self._upstream_ended(transitive=False)
        bad = sorted(name for name, state in above.items() if state != "success")
        if bad:
            return self._skipped(f"not built again: {', '.join(bad)} did not succeed")
        self.log.info("%s was cleared without its build: it is built alone on a worker", self.unique_id)
        return TriggerEvent({"status": "build", "unique_id": self.unique_id})

    def _settled(self, outcome: Outcome) -> TriggerEvent:
        text = describe(self.unique_id, outcome)
        if outcome["state"] == "failed":
            return self._failed(text)
        if outcome["state"] == "skipped":
            return self._skipped(text)
        self.log.info("%s", text)
        return TaskSuccessEvent()

    def _failed(self, reason: str) -> TriggerEvent:
        # The event itself carries no text; the trigger's log is the task's log.
        self.log.error("%s", reason)
        return TaskFailedEvent()

    def _skipped(self, reason: str) -> TriggerEvent:
        self.log.info("%s", reason)
        return TaskSkippedEvent()


class DbtDoneTrigger(_BuildTrigger):
    """End the last task of a group: green only if everything is.

    Airflow judges a run by its last tasks alone, and below a failed node these are skipped.

    :param build_task_id: The build task.
    """

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        return "airflow_ext.triggers.dbt.DbtDoneTrigger", {"build_task_id": self.build_task_id}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the build and yield the group's end."""
        async for view in self._views():
            if self._cleared_alone(view):
                states = await self._upstream_ended(transitive=True)
                yield self._event(view, [name for name, state in states.items() if state == "failed"])
                return
            if view.state in FINISHED or view.state == "missing":
                nodes = view.payload.get("nodes", {})
                yield self._event(view, [name for name in nodes if nodes[name]["state"] == "failed"])
                return

    def _event(self, view: BuildView, failed: list[str]) -> TriggerEvent:
        if view.state == "skipped":
            self.log.info("The build task was skipped")
            return TaskSkippedEvent()
        if failed:
            self.log.error("Failed: %s", ", ".join(sorted(failed)))
            return TaskFailedEvent()
        if view.state != "success":
            self.log.error("The build task %s is %s", self.build_task_id, view.state)
            return TaskFailedEvent()
        self.log.info("Everything was built")
        return TaskSuccessEvent()
