"""The tasks of a dbt group that end in the triggerer, and what they share with its build task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_ext.dbt.results import NodeBoard, describe
from airflow_ext.triggers.dbt import NODES_KEY, WAIT_LIMIT

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_ext.dbt.index import DbtNode
    from airflow_ext.operators.dbt import DbtGroupBuildOperator

_IN_TRIGGERER: Mapping[str, Any] = {
    "trigger_rule": "always",
    "retries": 0,
    "execution_timeout": None,
    "depends_on_past": False,
    "wait_for_downstream": False,
}
"""What holds for tasks of the group other than the build, whatever default_args say: a second try means a
user cleared the task, and the time limit of the trigger tells when a try began."""


class DbtNodeOperator(BaseOperator):
    """The task of one node. It starts and ends in the triggerer; on a worker it runs only if cleared alone.

    Made by :class:`DbtTaskGroup`. Retries, timeouts and trigger rules of ``default_args`` do not apply to it.

    :param build_task_id: The build task.
    :param unique_id: dbt's id of the node.
    """

    ui_color = "#ffb3a3"
    start_from_trigger = True

    def __init__(self, *, build_task_id: str, unique_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs, **_IN_TRIGGERER)
        self.build_task_id = build_task_id
        self.unique_id = unique_id
        self.start_trigger_args = _start(
            "airflow_ext.triggers.dbt.DbtNodeTrigger", build_task_id=build_task_id, unique_id=unique_id
        )
        self._builder: DbtGroupBuildOperator | None = None

    def execute(self, context: Context) -> None:
        """Settle from the build's result; ``dag.test()`` comes here, a scheduler never does."""
        _, payload = _finished_build(context, self.build_task_id)
        self.outlets = []
        outcome = payload.get("nodes", {}).get(self.unique_id)
        if outcome is None:
            raise AirflowFailException("the build task ended before this node was done")
        _settle(self, outcome["state"], describe(self.unique_id, outcome))

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> None:
        """Build this node with its tests on this worker."""
        if event is None or event.get("status") != "build":
            raise AirflowFailException(f"unexpected event of the node's trigger: {event!r}")
        builder = cast("DbtGroupBuildOperator", context["dag"].get_task(self.build_task_id))
        node = next(node for node in builder.project.index().nodes if node.unique_id == self.unique_id)
        self._builder = builder
        ids = [*([node.unique_id] if node.runs else []), *node.tests]
        board = builder.build_nodes(context, ids)
        outcome = board.outcomes(over=True).get(self.unique_id)
        if outcome is None:
            raise AirflowFailException("dbt ended without building this node: run airflow-ext dbt index")
        _settle(self, outcome["state"], describe(self.unique_id, outcome))
        if hooks := board.failed():
            raise AirflowFailException(board.explain(hooks))
        partition = builder.render_template(builder.partition, context)
        self.outlets = emit_nodes(context, board, board.built(), alias=builder.alias, partition=partition)

    def on_kill(self) -> None:
        """Stop dbt."""
        if self._builder is not None:
            self._builder.on_kill()


class DbtDoneOperator(BaseOperator):
    """The last task of a group: green only if the build and every node are. Ends in the triggerer.

    :param build_task_id: The build task.
    """

    ui_color = "#ffb3a3"
    start_from_trigger = True

    def __init__(self, *, build_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs, **_IN_TRIGGERER)
        self.build_task_id = build_task_id
        self.start_trigger_args = _start(
            "airflow_ext.triggers.dbt.DbtDoneTrigger", build_task_id=build_task_id
        )

    def execute(self, context: Context) -> None:
        """Settle from the build's result; ``dag.test()`` comes here, a scheduler never does."""
        state, payload = _finished_build(context, self.build_task_id)
        nodes = payload.get("nodes", {})
        failed = sorted(name for name, outcome in nodes.items() if outcome["state"] == "failed")
        if state == "failed":
            failed.append(self.build_task_id)
        _settle(self, "failed" if failed else "success", f"failed: {', '.join(failed) or 'nothing'}")


def _start(trigger: str, **arguments: str) -> Any:
    from airflow.triggers.base import StartTriggerArgs

    return StartTriggerArgs(
        trigger_cls=trigger, next_method="execute_complete", trigger_kwargs=arguments, timeout=WAIT_LIMIT
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


def _settle(operator: BaseOperator, state: str, text: str) -> None:
    if state == "failed":
        raise AirflowFailException(text)
    if state == "skipped":
        raise AirflowSkipException(text)
    operator.log.info("%s", text)


def emit_nodes(
    context: Context, board: NodeBoard, nodes: Sequence[DbtNode], *, alias: str, partition: str | None
) -> list[Any]:
    """Emit the events of built nodes and return the outlets to set; ``partition`` is the rendered argument."""
    from airflow_ext.events import Event, emit, partition_of

    if board.index is None:
        return []
    outcomes = board.outcomes(over=True)
    events = [
        Event(
            asset=Asset(name=node.asset),
            extra={
                field: value
                for field, value in outcomes[node.unique_id].items()
                if field in {"started", "seconds", "rows", "tests"}
            },
        )
        for node in nodes
    ]
    return list(emit(context, events, alias=alias, partition=partition_of(context, partition)))
