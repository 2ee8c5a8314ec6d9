"""Whose turn it is, when several runs of a DAG want to build into the same target."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_ext.operators._dbt_build import DbtNodesOperator

TURN_POLL = 5.0
"""Seconds between two looks at what other runs do."""
YIELD_TIME = 20.0
"""Seconds that a build which started at the same time has to refuse itself."""
_LOOKS_PER_LINE = 60
"""Looks between two lines of the log while a task waits."""


def refuse_second(context: Context, operator: DbtNodesOperator, *, sleep: Callable[[float], None]) -> None:
    """Fail if another run of the task is running dbt; of two that start together the one with the smaller run id wins.

    :param context: Context of the task.
    :param operator: The task.
    :param sleep: Sleeps for some seconds.
    :raises AirflowFailException: Names the other run.
    """
    own = str(context["dag_run"].run_id)
    others = _running(context, operator)
    # One that began before this stays; one that began with this and comes after it refuses itself.
    for _ in range(int(YIELD_TIME / TURN_POLL)):
        if not others or min(others) < own:
            break
        sleep(TURN_POLL)
        others = _running(context, operator)
    if others:
        raise AirflowFailException(_refusal(operator, others))


def await_turn(context: Context, builder: DbtNodesOperator, *, sleep: Callable[[float], None]) -> None:
    """Do for a task that was cleared without its build what ``on_running`` says.

    :param context: Context of the cleared task.
    :param builder: The build task of its group.
    :param sleep: Sleeps for some seconds.
    :raises AirflowFailException: With ``fail``, if the build of another run is running; names that run.
    """
    looks = 0
    while builder.on_running != "allow" and (others := _running(context, builder)):
        if builder.on_running == "fail":
            raise AirflowFailException(_refusal(builder, others))
        if looks % _LOOKS_PER_LINE == 0:
            builder.log.info(
                "Waiting until the build of %s is over (on_running='wait')", ", ".join(sorted(others))
            )
        looks += 1
        sleep(TURN_POLL)


def _running(context: Context, operator: DbtNodesOperator) -> list[str]:
    """Return the other runs of the DAG in which a task is running."""
    ti = context["ti"]
    what: dict[str, Any] = {"dag_id": operator.dag_id, "task_ids": [operator.task_id]}
    own = str(context["dag_run"].run_id)
    # Counted first: the states come for every run there ever was.
    if ti.get_ti_count(**what, states=["running"]) <= ti.get_ti_count(
        **what, run_ids=[own], states=["running"]
    ):
        return []
    states = ti.get_task_states(**what)
    return [
        run_id
        for run_id, found in states.items()
        if run_id != own and found.get(operator.task_id) == "running"
    ]


def _refusal(operator: DbtNodesOperator, others: list[str]) -> str:
    return (
        f"on_running='fail': {operator.dag_id}.{operator.task_id} is running dbt in {', '.join(sorted(others))}; "
        "clear this task when that has ended, or use on_running='wait'"
    )
