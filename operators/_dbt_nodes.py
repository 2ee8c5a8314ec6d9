"""The tasks of a dbt group that end in the triggerer, and what they share with its build task."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_ext.dbt.results import NodeBoard
from airflow_ext.dbt.telling import describe
from airflow_ext.operators._dbt_events import emit_nodes, good_in, loose_in
from airflow_ext.operators._dbt_turns import in_turn
from airflow_ext.triggers.dbt import NODES_KEY, WAIT_LIMIT

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_ext.dbt.results import Outcome
    from airflow_ext.operators._dbt_group import DbtGroupBuildOperator

_IN_TRIGGERER: Mapping[str, Any] = {
    "trigger_rule": "always",
    "retries": 0,
    "execution_timeout": None,
    "depends_on_past": False,
    "wait_for_downstream": False,
}
"""What holds for tasks of the group other than the build, whatever default_args say: a second try means a
user cleared the task, and the time limit of the trigger tells when a try began."""
_ANNOUNCED_KEY = "dbt_announced"
"""Of what a task built that failed: when that began, by its id."""


class DbtNodeOperator(BaseOperator):
    """The task of one unit: a node, a test, a folder. It starts and ends in the triggerer; on a worker it runs
    only if it was cleared without its build.

    Made by :class:`DbtTaskGroup`. Retries, timeouts and trigger rules of ``default_args`` do not apply to it.

    :param build_task_id: The build task.
    :param unit: Label of the unit.
    """

    # No colour: each attribute that is not Airflow's default is in the serialized DAG once per node.
    start_from_trigger = True

    def __init__(self, *, build_task_id: str, unit: str, **kwargs: Any) -> None:
        super().__init__(**kwargs, **_IN_TRIGGERER)
        self.build_task_id = build_task_id
        self.unit = unit
        self.start_trigger_args = _start(
            "airflow_ext.triggers.dbt.DbtNodeTrigger", build_task_id=build_task_id, unit=unit
        )
        self._builder: DbtGroupBuildOperator | None = None

    def execute(self, context: Context) -> None:
        """Settle from the build's result; ``dag.test()`` comes here, a scheduler never does."""
        _, payload = _finished_build(context, self.build_task_id)
        self.outlets = []
        _settle(self, payload.get("units", {}).get(self.unit), "the build task ended before this was done")

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> None:
        """Build this unit, and what was cleared with it, on this worker in one run of dbt.

        The event's status may also be ``emit``: the task that built this one has itself failed, so that it could not
        emit the events of the others.
        """
        status = (event or {}).get("status")
        builder = cast("DbtGroupBuildOperator", context["dag"].get_task(self.build_task_id))
        self._builder = builder
        if event is not None and status == "build":
            with in_turn(context, builder, defer=False):
                self._build(context, builder, asked=list(event["units"]), tries=event.get("tries", {}))
        elif event is not None and status == "emit":
            payload = context["ti"].xcom_pull(task_ids=event["leader"], key=NODES_KEY)
            builder.render_template_fields(context)
            self.outlets = emit_nodes(context, builder, good_in(builder, payload))
            outcome = payload["units"][self.unit]
            self.log.info("Built by %s\n%s", event["leader"], describe(self.unit, outcome))
        else:
            raise AirflowFailException(f"unexpected event of the task's trigger: {event!r}")

    def _build(
        self,
        context: Context,
        builder: DbtGroupBuildOperator,
        *,
        asked: list[str],
        tries: Mapping[str, int],
    ) -> None:
        from airflow_ext.operators._dbt_group import push_nodes

        if len(asked) > 1:
            self.log.info("Cleared together and built in one run of dbt: %s", ", ".join(asked))
        started = time.time()
        found: dict[str, Outcome] = {}

        def publish(board: NodeBoard, outcomes: Mapping[str, Outcome], over: bool) -> None:
            found.update(outcomes)
            push_nodes(
                context,
                outcomes,
                started=started,
                last=True,
                ended=over,
                more={
                    "asked": asked,
                    "tries": dict(tries),
                    "loose": loose_in(board, outcomes),
                    "green": over and ends_well(board, outcomes),
                },
            )

        def ends_well(board: NodeBoard, outcomes: Mapping[str, Outcome]) -> bool:
            own = outcomes.get(self.unit)
            return own is not None and own["state"] == "success" and not board.uncovered_failures()

        board = builder.build_units(context, asked, publish=publish)
        self.outlets = emit_nodes(context, builder, board.good())
        _settle(
            self,
            found.get(self.unit),
            "dbt ended without building this: the manifest that draws the DAG is not of this project's state; "
            "make it anew with airflow-ext dbt index",
        )
        if hooks := board.uncovered_failures():
            raise AirflowFailException(board.explain(hooks))

    def on_kill(self) -> None:
        """Stop dbt."""
        if self._builder is not None:
            self._builder.on_kill()


class DbtAnnounceOperator(BaseOperator):
    """Emit the events that a task which failed could not emit: of what a build made before it broke, or a folder in
    which a node failed again. Ends in the triggerer if there are none; runs on a worker otherwise.

    Airflow registers no events of a task that is red, so that somebody else has to be green.

    :param build_task_id: The build task.
    """

    ui_color = "#ffb3a3"
    start_from_trigger = True

    def __init__(self, *, build_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs, **_IN_TRIGGERER)
        self.build_task_id = build_task_id
        self.start_trigger_args = _start(
            "airflow_ext.triggers.dbt.DbtAnnounceTrigger", build_task_id=build_task_id
        )

    def execute(self, context: Context) -> None:
        """Emit what the build could not; ``dag.test()`` comes here, a scheduler never does."""
        state, _ = _finished_build(context, self.build_task_id)
        self._announce(context, [self.build_task_id] if state == "failed" else [], since=0.0)

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> None:
        """Emit what tasks could not that ended badly.

        :param event: ``unannounced`` are the tasks that may have left something, ``since`` is when this was cleared.
        """
        if event is None or "unannounced" not in event:
            raise AirflowFailException(f"unexpected event of the task's trigger: {event!r}")
        self._announce(context, list(event["unannounced"]), since=float(event.get("since", 0.0)))

    def _announce(self, context: Context, names: list[str], *, since: float) -> None:
        builder = cast("DbtGroupBuildOperator", context["dag"].get_task(self.build_task_id))
        store = context["task_state_store"]
        before = store.get(_ANNOUNCED_KEY)
        announced = dict(before) if isinstance(before, dict) else {}
        good: dict[str, dict[str, Any]] = {}
        build = context["ti"].xcom_pull(task_ids=self.build_task_id, key=NODES_KEY) if names else None
        build = build if isinstance(build, dict) else {}
        # What was cleared with a task that broke, and is green, was built once more and has told of itself.
        units = {name: getattr(context["dag"].task_dict.get(name), "unit", "") for name in names}
        green = {unit.label for unit in builder.units}.difference(units.values())
        for name in names:
            is_build = name == self.build_task_id
            payload = build if is_build else context["ti"].xcom_pull(task_ids=name, key=NODES_KEY)
            if not isinstance(payload, dict) or not payload or announced.get(name) == payload["started"]:
                continue
            if is_build:
                # Who came to its end emitted, unless it was marked failed before. What is from before the clear
                # did: the task failed once more before it could clear its XCom.
                left = not payload["ended"] or not _is_older(payload, context, since)
            else:
                # A unit's XCom stays when its task is cleared; what it tells the build may have built anew since.
                late = payload["started"] < build.get("started", 0.0)
                left = not late and _is_left_to_announce(payload, units[name])
            if left:
                good |= good_in(builder, payload, without=green.intersection(payload.get("asked", ())))
                announced[name] = payload["started"]
        builder.render_template_fields(context)
        self.outlets = emit_nodes(context, builder, good)
        store.set(_ANNOUNCED_KEY, announced)
        if good:
            self.log.info(
                "Announced in the stead of %s, which did not end well: %s",
                ", ".join(name for name in names if name in announced),
                ", ".join(sorted(good)),
            )
        else:
            self.log.info("Nothing is left to announce of what %s built", ", ".join(names))


class DbtDoneOperator(BaseOperator):
    """The last task of a group: green only if the build and everything else is. Ends in the triggerer.

    :param build_task_id: The build task.
    :param announce_task_id: The task that emits what others could not, if there is one.
    """

    ui_color = "#ffb3a3"
    start_from_trigger = True

    def __init__(self, *, build_task_id: str, announce_task_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs, **_IN_TRIGGERER)
        self.build_task_id = build_task_id
        self.start_trigger_args = _start(
            "airflow_ext.triggers.dbt.DbtDoneTrigger",
            build_task_id=build_task_id,
            announce_task_id=announce_task_id,
        )

    def execute(self, context: Context) -> None:
        """Settle from the build's result; ``dag.test()`` comes here, a scheduler never does."""
        state, payload = _finished_build(context, self.build_task_id)
        units = payload.get("units", {})
        failed = sorted(name for name, outcome in units.items() if outcome["state"] == "failed")
        if state == "failed":
            failed.append(self.build_task_id)
        if failed:
            raise AirflowFailException(f"failed: {', '.join(failed)}")


def _is_older(payload: Mapping[str, Any], context: Context, since: float) -> bool:
    """Tell whether an XCom was written before a clear, as the start of the run or else the time says."""
    run = getattr(context["dag_run"], "start_date", None)
    if run is not None and payload.get("run") is not None and payload["run"] < run.timestamp():
        return True
    return float(payload["at"]) < since


def _is_left_to_announce(payload: Mapping[str, Any], unit: str) -> bool:
    """Tell whether what a cleared task built has not been announced by itself or by one that was cleared with it."""
    others = (payload["units"].get(one, {}).get("state") for one in payload.get("asked", ()) if one != unit)
    return "asked" in payload and not payload.get("green", True) and "success" not in others


def _start(path: str, **arguments: Any) -> Any:
    from airflow.triggers.base import StartTriggerArgs

    return StartTriggerArgs(
        trigger_cls=path,
        trigger_kwargs=arguments,
        next_method="execute_complete",
        next_kwargs=None,
        timeout=WAIT_LIMIT,
    )


def _finished_build(context: Context, build_task_id: str) -> tuple[str, dict[str, Any]]:
    """Return the build's state and result, or come back later if there is none yet."""
    from airflow.sdk.exceptions import AirflowRescheduleException
    from airflow.sdk.timezone import utcnow

    ti = context["ti"]
    run_id = context["dag_run"].run_id
    states = ti.get_task_states(dag_id=ti.dag_id, task_ids=[build_task_id], run_ids=[run_id])
    state = str(states.get(run_id, {}).get(build_task_id))
    if state in {"skipped", "upstream_failed"}:
        raise AirflowSkipException(f"the build task is {state}")
    if state not in {"success", "failed"}:
        raise AirflowRescheduleException(utcnow() + timedelta(seconds=1))
    payload: dict[str, Any] = ti.xcom_pull(task_ids=build_task_id, key=NODES_KEY) or {}
    return state, payload


def _settle(operator: DbtNodeOperator, outcome: Outcome | None, missing: str) -> None:
    if outcome is None:
        raise AirflowFailException(missing)
    text = describe(operator.unit, outcome)
    if outcome["state"] == "failed":
        raise AirflowFailException(text)
    if outcome["state"] == "skipped":
        raise AirflowSkipException(text)
    operator.log.log(logging.WARNING if outcome.get("warnings") else logging.INFO, "%s", text)
