"""End the unit tasks of a dbt group in the triggerer, from what the build task tells.

All of a run are fed by one reader: per half second it asks for the build task's state and, while that
runs, for the one XCom that holds the nodes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from airflow.triggers.base import (
    BaseTrigger,
    TaskFailedEvent,
    TaskSkippedEvent,
    TaskSuccessEvent,
    TriggerEvent,
)

from airflow_ext.dbt.results import Outcome, describe
from airflow_ext.triggers import _dbt_reader as reader
from airflow_ext.triggers._dbt_batch import ClearedReading, ClearedView, Decision, UnitTask, decide
from airflow_ext.triggers._dbt_reader import (
    ENDED,
    FINISHED,
    NODES_KEY,
    BuildReading,
    BuildView,
    SharedReader,
    read_states,
)

__all__ = ["NODES_KEY", "WAIT_LIMIT", "DbtDoneTrigger", "DbtNodeTrigger"]

WAIT_LIMIT = timedelta(days=7)
"""How long a task of a group waits for its build; also tells a trigger when its task instance began."""


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
        return SharedReader.views(("build", *subject), BuildReading(*subject), interval=reader.POLL)

    def _since(self) -> float:
        """Return when this try of the task began, 0 for the first one, to which all results belong."""
        if self._ti.try_number <= 1 or self.timeout_after is None:
            return 0.0
        return float((self.timeout_after - WAIT_LIMIT).timestamp())

    def _cleared_alone(self, view: BuildView) -> bool:
        """Tell whether the build was over before this try began: a user cleared the task without the build."""
        return view.state in ENDED and self._ti.try_number > 1 and view.payload.get("at", 0.0) < self._since()

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
        async with aclosing(self._views()) as views:
            async for view in views:
                if self._cleared_alone(view):
                    break
                event = self._event(view)
                if event is not None:
                    yield event
                    return
        self.log.info("%s was cleared without its build", self.unit)
        subject = (self._ti.dag_id, self._ti.run_id)
        shared = SharedReader[ClearedView].views(
            ("cleared", *subject, self.build_task_id),
            ClearedReading(*subject, tasks),
            interval=2 * reader.POLL,
        )
        async with aclosing(shared) as cleared_views:
            async for cleared in cleared_views:
                decision = decide(self._ti.task_id, tasks, cleared, since=self._since(), now=time.time())
                event = self._decided(decision)
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
                "the build task failed before this was done; its log has the reason, and clearing it goes on from there"
            )
        if view.state == "success":
            return self._failed(
                "dbt ended without building this: the manifest that draws the DAG is not of this project's "
                "state; make it anew with airflow-ext dbt index"
            )
        return None

    def _outcome(self, view: BuildView) -> Outcome | None:
        """Return the unit's outcome if it can no longer change."""
        outcome: Outcome | None = view.payload.get("units", {}).get(self.unit)
        if outcome is None or view.state in ENDED:
            return outcome
        stale = view.payload["ended"] and view.state == "running"
        if stale or view.payload["started"] < self._since():
            # A task that has begun anew clears its old XCom a moment later.
            return None
        final = outcome["state"] == "success" or (view.payload["last"] and view.state == "running")
        return outcome if final else None

    def _decided(self, decision: Decision) -> TriggerEvent | None:
        if decision.action == "skip":
            return self._skipped(f"not built again: {decision.by} did not succeed")
        if decision.action == "build":
            return TriggerEvent({"status": "build", "units": list(decision.units)})
        if decision.action == "emit":
            return TriggerEvent({"status": "emit", "leader": decision.by})
        if decision.outcome is not None:
            self.log.info("Built by %s", decision.by)
            return self._settled(decision.outcome)  # type: ignore[arg-type]  # as the XCom has it
        return None

    def _settled(self, outcome: Outcome) -> TriggerEvent:
        text = describe(self.unit, outcome)
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
        names = sorted(self._take_unit_tasks())
        async with aclosing(self._views()) as views:
            async for view in views:
                alone = self._cleared_alone(view)
                if alone or view.state in FINISHED or view.state == "missing":
                    break
        # What follows the group, and whoever looks at a run that is over, shall find every state settled.
        states = await self._all_ended(names) if view.state in ENDED else {}
        failed = [name for name, state in states.items() if state == "failed"]
        if not alone:
            units = view.payload.get("units", {})
            failed = failed or [name for name in units if units[name]["state"] == "failed"]
        yield self._event(view, failed)

    @property
    def _needs_unit_tasks(self) -> bool:
        return True

    async def _all_ended(self, names: list[str]) -> dict[str, str]:
        """Wait until every unit task is finished and return their states."""
        while names:
            states = await read_states(self._ti.dag_id, self._ti.run_id, names)
            if all(state in FINISHED for state in states.values()):
                return states
            await asyncio.sleep(reader.POLL)
        return {}

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
