"""End the unit tasks of a dbt group in the triggerer, from what the build task tells.

All of a run are fed by one reader: per half second it asks for the build task's state and, while that
runs, for the one XCom that holds the nodes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from airflow.triggers.base import (
    BaseTrigger,
    TaskFailedEvent,
    TaskSkippedEvent,
    TaskSuccessEvent,
    TriggerEvent,
)

from airflow_ext.dbt.telling import describe
from airflow_ext.triggers import _dbt_reader as reader
from airflow_ext.triggers._dbt_batch import (
    TRIES,
    ClearedReading,
    ClearedView,
    Decision,
    Try,
    UnitTask,
    decide,
)
from airflow_ext.triggers._dbt_fresh import Freshness
from airflow_ext.triggers._dbt_reader import (
    ENDED,
    FINISHED,
    NODES_KEY,
    BuildReading,
    BuildView,
    SharedReader,
    read_states,
)
from airflow_ext.triggers._dbt_turn import DbtTurnTrigger

if TYPE_CHECKING:
    from airflow_ext.dbt.results import Outcome

__all__ = [
    "NODES_KEY",
    "WAIT_LIMIT",
    "DbtAnnounceTrigger",
    "DbtDoneTrigger",
    "DbtNodeTrigger",
    "DbtTurnTrigger",
]

WAIT_LIMIT = timedelta(days=7)
"""How long a task of a group waits for its build; also tells a trigger when its task instance began."""


def _is_final(view: BuildView, outcome: Mapping[str, Any]) -> bool:
    """Tell whether an outcome can no longer change."""
    if view.state in ENDED:
        return True
    if view.payload["ended"] and view.state == "running":
        # A task that has begun anew clears its old XCom a moment later.
        return False
    return bool(outcome["state"] == "success" or (view.payload["last"] and view.state == "running"))


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

    def _views(self) -> AsyncGenerator[BuildView]:
        subject = (self._ti.dag_id, self._ti.run_id, self.build_task_id)
        return SharedReader.views(
            ("build", *subject),
            BuildReading(*subject),
            interval=reader.POLL,
            busy=lambda view: view.state == "running",
        )

    async def _finished_build(self) -> BuildView:
        async with aclosing(self._views()) as views:
            async for view in views:
                if view.state in FINISHED or view.state == "missing":
                    return view
        raise AssertionError("views never end")

    async def _all_ended(self, names: list[str]) -> dict[str, str]:
        """Wait until every unit task is finished and return their states."""
        run = (self._ti.dag_id, self._ti.run_id)
        shared = SharedReader[dict[str, str]].views(
            ("ended", *run, *names),
            partial(read_states, *run, names),
            interval=reader.POLL,
            busy=lambda _: False,
        )
        async with aclosing(shared) as views:
            async for states in views:
                if all(state in FINISHED for state in states.values()):
                    return states
        raise AssertionError("views never end")

    def _this_try(self) -> Try:
        """Return this try of the task; all results belong to the first one."""
        since = 0.0
        if self._ti.try_number > 1 and self.timeout_after is not None:
            since = float((self.timeout_after - WAIT_LIMIT).timestamp())
        told = getattr(self._ti, "_ti_context_from_server", None)
        start = getattr(getattr(told, "dag_run", None), "start_date", None)
        return Try(self._ti.try_number, since, None if start is None else float(start.timestamp()))

    def _take_unit_tasks(self) -> dict[str, UnitTask]:
        """Return the unit tasks of the group by id, and let go of the DAG.

        Airflow gives each trigger a DAG of its own: with 300 nodes they would fill a gigabyte while they wait.
        """
        dag = getattr(self._ti.task, "dag", None)
        if dag is None:
            return {}
        tasks = self._unit_tasks(dag) if self._needs_unit_tasks else {}
        dag.task_dict.clear()
        dag.task_group.children.clear()
        return tasks

    @property
    def _needs_unit_tasks(self) -> bool:
        return bool(self._ti.try_number > 1)

    def _unit_tasks(self, dag: Any) -> dict[str, UnitTask]:
        labels = {}
        for name, task in dag.task_dict.items():
            start = getattr(task, "start_trigger_args", None)
            arguments = (start.trigger_kwargs if start is not None else None) or {}
            # The triggerer's tasks keep them as they were serialized.
            arguments = arguments.get("__var", arguments)
            if arguments.get("build_task_id") == self.build_task_id and "unit" in arguments:
                labels[name] = arguments["unit"]
        return {
            name: UnitTask(label, frozenset(labels).intersection(dag.task_dict[name].upstream_task_ids))
            for name, label in labels.items()
        }


class DbtNodeTrigger(_BuildTrigger):
    """End the task of one unit as dbt ended it.

    :param build_task_id: The build task.
    :param unit: Label of the unit.
    """

    def __init__(self, *, build_task_id: str, unit: str) -> None:
        super().__init__(build_task_id=build_task_id)
        self.unit = unit

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        arguments = {"build_task_id": self.build_task_id, "unit": self.unit}
        return "airflow_ext.triggers.dbt.DbtNodeTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the unit and yield how it ended.

        A plain event means that there is work for a worker: the task was cleared without its build.
        """
        tasks = self._take_unit_tasks()
        mine = self._this_try()
        me = (self._ti.dag_id, self._ti.run_id, self._ti.task_id)
        TRIES[me] = mine.number
        try:
            event = await self._built(mine) or await self._built_when_cleared(mine, tasks)
        finally:
            # The trigger of the next try may have begun already.
            if TRIES.get(me) == mine.number:
                del TRIES[me]
        yield event

    async def _built(self, mine: Try) -> TriggerEvent | None:
        """Return how the build ended the unit, ``None`` if the task was cleared without it."""
        fresh = Freshness(self.unit, run=mine.run, since=mine.since if mine.number > 1 else None)
        async with aclosing(self._views()) as views:
            async for view in views:
                outcome = fresh.outcome(view, now=time.time())
                if fresh.cleared_alone(view):
                    break
                event = self._event(view, outcome)
                if event is not None:
                    return event
        self.log.info("%s was cleared without its build", self.unit)
        return None

    async def _built_when_cleared(self, mine: Try, tasks: dict[str, UnitTask]) -> TriggerEvent:
        subject = (self._ti.dag_id, self._ti.run_id)
        shared = SharedReader[ClearedView].views(
            ("cleared", *subject, self.build_task_id),
            ClearedReading(*subject, tasks),
            interval=2 * reader.POLL,
        )
        begun = time.monotonic()
        async with aclosing(shared) as cleared_views:
            async for cleared in cleared_views:
                waited = time.monotonic() - begun
                decision = decide(self._ti.task_id, tasks, cleared, mine=mine, waited=waited)
                event = self._decided(decision, tasks)
                if event is not None:
                    return event
        raise AssertionError("views never end")

    def _event(self, view: BuildView, outcome: Mapping[str, Any] | None) -> TriggerEvent | None:
        if view.state == "skipped":
            return self._skipped("the build task was skipped")
        if view.state == "upstream_failed":
            return self._skipped("the build task was not started because a task before it failed")
        if view.state in {"removed", "missing"}:
            return self._failed("the build task is no longer there")
        if outcome is not None and _is_final(view, outcome):
            return self._settled(outcome)
        if view.state == "failed":
            return self._failed(
                "the build task failed before this was done; its log has the reason. Clearing this task builds it and what "
                "is cleared with it, clearing the build task builds everything"
            )
        if view.state == "success":
            return self._failed(
                "dbt ended without building this: the manifest that draws the DAG is not of this project's "
                "state; make it anew with airflow-ext dbt index"
            )
        return None

    def _decided(self, decision: Decision, tasks: Mapping[str, UnitTask]) -> TriggerEvent | None:
        if decision.action == "skip":
            return self._skipped(f"not built again: {decision.by} did not succeed")
        if decision.action == "build":
            run = (self._ti.dag_id, self._ti.run_id)
            labels = {tasks[name].label: TRIES[key] for name in tasks if (key := (*run, name)) in TRIES}
            tries = {label: labels[label] for label in decision.units if label in labels}
            return TriggerEvent({"status": "build", "units": list(decision.units), "tries": tries})
        if decision.action == "emit":
            return TriggerEvent({"status": "emit", "leader": decision.by})
        if decision.outcome is not None:
            self.log.info("Built by %s", decision.by)
            return self._settled(decision.outcome)
        return None

    def _settled(self, outcome: Mapping[str, Any]) -> TriggerEvent:
        text = describe(self.unit, cast("Outcome", outcome))  # as the XCom has it
        if outcome["state"] == "failed":
            return self._failed(text)
        if outcome["state"] == "skipped":
            return self._skipped(text)
        self.log.log(logging.WARNING if outcome.get("warnings") else logging.INFO, "%s", text)
        return TaskSuccessEvent()

    def _failed(self, reason: str) -> TriggerEvent:
        # The event itself carries no text; the trigger's log is the task's log.
        self.log.error("%s", reason)
        return TaskFailedEvent()

    def _skipped(self, reason: str) -> TriggerEvent:
        self.log.info("%s", reason)
        return TaskSkippedEvent()


class DbtAnnounceTrigger(_BuildTrigger):
    """Send the task that announces what others could not to a worker, if there may be something.

    :param build_task_id: The build task.
    """

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        return "airflow_ext.triggers.dbt.DbtAnnounceTrigger", {"build_task_id": self.build_task_id}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the build, and after a clear for all nodes; yield the tasks that ended badly."""
        tasks = self._take_unit_tasks()
        view = await self._finished_build()
        left = [self.build_task_id] if view.state == "failed" else []
        if tasks and view.state in ENDED:
            # What the build itself made it announces, but a cleared task builds for itself.
            states = await self._all_ended(sorted(tasks))
            left += [name for name, state in states.items() if state in {"failed", "skipped"}]
        if left:
            yield TriggerEvent({"unannounced": left, "since": self._this_try().since})
        elif view.state in ENDED:
            self.log.info("Who built it has announced it")
            yield TaskSuccessEvent()
        else:
            self.log.info("The build task is %s", view.state)
            yield TaskSkippedEvent()


class DbtDoneTrigger(_BuildTrigger):
    """End the last task of a group: green only if everything is.

    Airflow judges a run by its last tasks alone, and below a failed node these are skipped.

    :param build_task_id: The build task.
    :param announce_task_id: The task that announces what others could not, if there is one.
    """

    def __init__(self, *, build_task_id: str, announce_task_id: str | None = None) -> None:
        super().__init__(build_task_id=build_task_id)
        self.announce_task_id = announce_task_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        arguments = {"build_task_id": self.build_task_id, "announce_task_id": self.announce_task_id}
        return "airflow_ext.triggers.dbt.DbtDoneTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the build and yield the group's end."""
        tasks = self._take_unit_tasks()
        view = await self._finished_build()
        # What follows the group, and whoever looks at a run that is over, shall find every state settled.
        announce = [self.announce_task_id] if self.announce_task_id else []
        states = await self._all_ended([*sorted(tasks), *announce]) if tasks and view.state in ENDED else {}
        failed = {name for name, state in states.items() if state == "failed"}
        shown = {task.label for name, task in tasks.items() if name in states}
        # Tasks that are there have the last word: a user may have cleared or marked them since.
        for label, outcome in view.payload.get("units", {}).items():
            if label not in shown and outcome["state"] == "failed":
                failed.add(f"{self._prefix}{label}")
        yield self._event(view, failed)

    @property
    def _prefix(self) -> str:
        group, dot, _ = self.build_task_id.rpartition(".")
        return group + dot

    @property
    def _needs_unit_tasks(self) -> bool:
        return True

    def _event(self, view: BuildView, failed: set[str]) -> TriggerEvent:
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
