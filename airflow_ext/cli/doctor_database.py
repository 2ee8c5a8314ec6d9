"""What ``doctor`` looks at in the metadata database: migrations, components, what SLAs need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from airflow_ext.cli import doctor_dbt, doctor_sla
from airflow_ext.cli.doctor_finding import Finding, fail, ok, warn

if TYPE_CHECKING:
    from airflow.models.deadline_alert import DeadlineAlert
    from sqlalchemy.orm import Session

_COMPONENTS = {
    "SchedulerJob": ("scheduler", "no run starts and no missed deadline is seen"),
    "DagProcessorJob": ("dag-processor", "changes of DAG files are not seen"),
    "TriggererJob": ("triggerer", "deferred tasks wait for ever and no missed SLA is told"),
}


def database() -> Iterator[Finding]:
    """The metadata database answers, is at the version of the code, and what is in it is well."""
    from airflow import settings
    from airflow.utils.db import check_migrations
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with settings.get_engine().connect() as connection:
            dialect = connection.dialect.name
            connection.execute(text("select 1"))
    except SQLAlchemyError as error:
        yield fail(
            f"the metadata database does not answer ({type(error).__name__})",
            "Check AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, the server and the network between.",
        )
        return
    try:
        check_migrations(1)
    except TimeoutError:
        yield fail(f"the metadata database ({dialect}) is not at this version", "Run: airflow db migrate.")
        return
    yield ok(f"metadata database ({dialect}) answers and is migrated")
    if dialect == "sqlite":
        yield warn("the metadata database is SQLite", "Good for a trial; use PostgreSQL for real work.")
    if dialect == "postgresql" and find_spec("asyncpg") is None:
        yield fail("PostgreSQL metadata needs asyncpg too", "pip install asyncpg.")
    yield from components()
    yield from deadlines()
    yield from dbt_groups()


def dbt_groups() -> Iterator[Finding]:
    """The triggerers can hold what dbt groups make wait."""
    with _session() as session:
        yield from doctor_dbt.groups(session)


def components() -> Iterator[Finding]:
    """Scheduler, dag-processor and triggerer have sent a heartbeat lately."""
    from airflow.jobs.job import most_recent_job

    with _session() as session:
        for job_type, (name, consequence) in _COMPONENTS.items():
            job = most_recent_job(job_type, session=session)
            if job is not None and job.is_alive():
                yield ok(f"{name} is alive")
            else:
                yield warn(f"no {name} is alive: {consequence}", f"Start one: airflow {name}.")


def deadlines() -> Iterator[Finding]:
    """What DAGs say about deadlines will work when it is needed."""
    from airflow_ext.sla.declare import CALLBACK_PATH, definitions

    promised = doctor_sla.definitions_in_force()
    queued: set[str] = set()
    with _session() as session:
        for dag_id, alert in _alerts(session):
            if alert.reference.get("reference_type") == "DagRunQueuedAtDeadline":
                queued.add(dag_id)
            data: Any = alert.callback_def.get("__data__", alert.callback_def)
            if data.get("path") == CALLBACK_PATH:
                promised += [(dag_id, definition) for definition in definitions(data["kwargs"])]
    yield from doctor_sla.channels(promised)
    if queued and Version(version("apache-airflow-core")) < Version("3.4"):
        yield warn(
            f"{len(queued)} DAGs have a deadline on DAGRUN_QUEUED_AT ({_some(queued)}): clearing one of their "
            "runs gives HTTP 500 in Airflow 3.3",
            "Use sla(within=...) instead, or upgrade to Airflow 3.4.",
        )


def _alerts(session: Session) -> Iterator[tuple[str, DeadlineAlert]]:
    """Yield what new runs get: deadlines of the newest version of each DAG that still exists."""
    from airflow.models.dag import DagModel
    from airflow.models.deadline_alert import DeadlineAlert
    from airflow.models.serialized_dag import SerializedDagModel
    from sqlalchemy import select

    query = (
        select(SerializedDagModel.dag_id)
        .join(DeadlineAlert, DeadlineAlert.serialized_dag_id == SerializedDagModel.id)
        .join(DagModel, DagModel.dag_id == SerializedDagModel.dag_id)
        .where(~DagModel.is_stale)
        .distinct()
    )
    dag_ids = list(session.scalars(query))
    for dag in SerializedDagModel.get_latest_serialized_dags(dag_ids=dag_ids, session=session):
        # Airflow leaves the rows of a DAG that has given up its deadlines without a run in between.
        if dag.data and dag.data["dag"].get("deadline"):
            yield from ((dag.dag_id, alert) for alert in dag.deadline_alerts)


def _some(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


def _session() -> AbstractContextManager[Session]:
    from airflow.utils.session import create_session

    return create_session()
