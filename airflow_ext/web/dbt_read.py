"""Read from Airflow's metadata what the page of a dbt run shows.

This runs in the api-server only, after it was settled that the user may see the run, its tasks and XComs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.common.dagbag import get_dag_for_run_or_latest_version
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.serialization.serialized_objects import BaseSerialization
from fastapi import HTTPException  # noqa: TID253  # only the first request imports this
from sqlalchemy import select

from airflow_ext.triggers._dbt_reader import FINISHED, NODES_KEY
from airflow_ext.web.dbt_nodes import Payload, read
from airflow_ext.web.links import BUILD, DONE, NODE

if TYPE_CHECKING:
    from airflow.models.dagbag import DBDagBag
    from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Group:
    """The tasks of one dbt group.

    :param build: Id of its build task.
    :param unit: Label of the unit whose task was asked for; ``None`` for the build and the last task, which
        stand for all.
    :param tasks: Ids of the unit tasks by label.
    """

    build: str
    unit: str | None
    tasks: dict[str, str]


@dataclass(frozen=True)
class Story:
    """What is known of a group in one run.

    :param run_state: State of the run.
    :param states: States of the group's task instances by task id.
    :param tries: Their tries by task id.
    :param build: What the build task told.
    :param others: What cleared tasks told that built without it, by task id.
    :param unreadable: The build task told something, but not in a way that can be read here.
    """

    group: Group
    run_state: str
    states: dict[str, str]
    tries: dict[str, int] = field(default_factory=dict)
    build: Payload | None = None
    others: dict[str, Payload] = field(default_factory=dict)
    unreadable: bool = False

    @property
    def build_state(self) -> str:
        """State of the build task."""
        return self.states.get(self.group.build, "none")

    def moving(self, task_ids: Collection[str]) -> bool:
        """Tell whether any of some tasks is still to end in this run."""
        return self.run_state in {"queued", "running"} and any(
            self.states.get(name, "none") not in FINISHED for name in task_ids
        )

    def cleared(self) -> set[str]:
        """Return the unit tasks that are to be built again without the build."""
        # They start with the build, or before it, and never retry.
        if self.build_state not in FINISHED:
            return set()
        return {
            name
            for name in self.group.tasks.values()
            if self.moving([name]) and (self.tries.get(name, 0) > 1 or self.states.get(name) == "none")
        }


def read_story(session: Session, dag_bag: DBDagBag, *, dag_id: str, run_id: str, task_id: str) -> Story:
    """Return what is known of the group of a task.

    :raises HTTPException: 404, if there is no such DAG, run or task, or it is not of a dbt group.
    """
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    if run is None:
        raise HTTPException(404, f"There is no run {run_id!r} of a DAG {dag_id!r}.")
    dag = get_dag_for_run_or_latest_version(dag_bag, run, dag_id, session)
    group = _group(dag, task_id)
    if group is None:
        known = "is not one of a DbtTaskGroup" if task_id in dag.task_dict else "is not in this run"
        raise HTTPException(
            404, f"The task {task_id!r} of {dag_id!r} {known}, so there is nothing of dbt to show."
        )
    members = {group.build, task_id, *group.tasks.values()}
    instances = session.execute(
        select(TaskInstance.task_id, TaskInstance.state, TaskInstance.try_number).where(
            TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id
        )
    ).all()
    entries = session.execute(
        XComModel.get_many(run_id=run_id, key=NODES_KEY, dag_ids=dag_id, map_indexes=-1).with_only_columns(
            XComModel.task_id, XComModel.value
        )
    )
    # Whatever it is, it is read as data: nothing in it is made into an object of its choice.
    told = {str(name): read(value) for name, value in entries if name in members}
    unreadable = group.build in told and told[group.build] is None
    build = told.pop(group.build, None)
    return Story(
        group=group,
        run_state=str(run.state),
        states={name: str(state or "none") for name, state, _ in instances if name in members},
        tries={name: number for name, _, number in instances if name in members},
        build=build,
        others={name: one for name, one in told.items() if one is not None and one.asked},
        unreadable=unreadable,
    )


def _group(dag: Any, task_id: str) -> Group | None:
    task = dag.task_dict.get(task_id)
    build: str | None = None
    if task is not None:
        build = task_id if _is(task, BUILD) else _arguments(task).get("build_task_id")
    if build is None:
        return None
    tasks = {}
    for name, other in dag.task_dict.items():
        arguments = _arguments(other) if _is(other, NODE) else {}
        if arguments.get("build_task_id") == build:
            tasks[arguments["unit"]] = name
    return Group(build=build, unit=_arguments(task).get("unit"), tasks=tasks)


def _is(task: Any, named: type) -> bool:
    return (task.task_type, task._task_module) == (named.__name__, named.__module__)  # noqa: SLF001  # as Airflow does


def _arguments(task: Any) -> dict[str, Any]:
    """Return the trigger's arguments of a task of a dbt group, nothing for others."""
    if not (_is(task, NODE) or _is(task, DONE)) or task.start_trigger_args is None:
        return {}
    arguments = BaseSerialization.deserialize(task.start_trigger_args.trigger_kwargs)
    return arguments if isinstance(arguments, dict) else {}
