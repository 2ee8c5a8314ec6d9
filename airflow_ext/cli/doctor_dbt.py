"""What ``doctor`` looks at of dbt groups: whether the triggerers can hold the tasks that wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_ext.cli.doctor_finding import Finding, ok, warn

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_TRIGGERS = "airflow_ext.triggers.dbt."
_AT_ONCE = 50


def groups(session: Session) -> Iterator[Finding]:
    """The waiting tasks of a DAG's runs fit into the triggerers that are alive.

    :param session: Session of the metadata database.
    """
    from airflow.configuration import conf

    dags = list(_waiting(session))
    if not dags:
        return
    capacity = conf.getint("triggerer", "capacity") * max(_triggerers(session), 1)
    crowded = False
    for dag_id, tasks, runs in dags:
        if tasks * runs > capacity:
            crowded = True
            yield warn(
                f"{runs} runs of {dag_id} at once have {tasks * runs} waiting tasks of dbt groups, "
                f"but all triggerers together hold {capacity}: others then wait for a place",
                f"Set max_active_runs={max(capacity // tasks, 1)} or less on the DAG, or raise "
                "AIRFLOW__TRIGGERER__CAPACITY, start another triggerer, or show folders (granularity=).",
            )
    if not crowded:
        yield ok(
            f"the waiting tasks of {len(dags)} DAGs with dbt groups fit into the triggerers ({capacity})"
        )


def _triggerers(session: Session) -> int:
    from airflow.jobs.job import Job, JobState
    from sqlalchemy import select

    query = select(Job).where(Job.job_type == "TriggererJob", Job.state == JobState.RUNNING)
    return sum(job.is_alive() for job in session.scalars(query))


def _waiting(session: Session) -> Iterator[tuple[str, int, int]]:
    """Yield DAG, number of its tasks that wait in the triggerer, and how many runs it may have at once."""
    from airflow.models.dag import DagModel
    from airflow.models.serialized_dag import SerializedDagModel
    from sqlalchemy import Text, cast, or_, select

    written = SerializedDagModel.__table__.c
    query = (
        select(DagModel.dag_id, DagModel.max_active_runs)
        .join(SerializedDagModel, SerializedDagModel.dag_id == DagModel.dag_id)
        .where(
            ~DagModel.is_stale,
            or_(
                cast(written.data, Text).contains(_TRIGGERS),
                written.data_compressed.is_not(None),
            ),
        )
        .distinct()
    )
    found = {dag_id: runs or 1 for dag_id, runs in session.execute(query)}
    names = sorted(found)
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        for dag in SerializedDagModel.get_latest_serialized_dags(dag_ids=some, session=session):
            tasks = sum(
                _waits(task["__var"]) for task in (dag.data or {"dag": {"tasks": []}})["dag"]["tasks"]
            )
            if tasks:
                yield dag.dag_id, tasks, found[dag.dag_id]
        session.expunge_all()


def _waits(task: dict[str, dict[str, str]]) -> bool:
    return str((task.get("start_trigger_args") or {}).get("trigger_cls", "")).startswith(_TRIGGERS)
