"""How the DAGs of occurrences are, to say why nothing came of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from airflow_ext.sla.judge import DagState
from airflow_ext.sla.ledger.sql import chunks
from airflow_ext.sla.monitor.tables import DAG, IMPORT_ERROR, JOB


def scheduler_is_alive(session: Session, *, now: datetime, threshold: timedelta) -> bool:
    """Say whether any scheduler has sent a heartbeat lately.

    :param threshold: How old it may be.
    """
    query = select(func.max(JOB.c.latest_heartbeat)).where(
        JOB.c.job_type == "SchedulerJob", JOB.c.state == "running"
    )
    beat = session.scalar(query)
    return beat is not None and now - beat <= threshold


def read_states(session: Session, dag_ids: Iterable[str], *, scheduler_alive: bool) -> dict[str, DagState]:
    """Return the state of each DAG; one that has no row is not there.

    An import error counts if Airflow marks the DAG with it, or if there is one of the DAG's file: Airflow calls a DAG stale
    some time after its file stopped loading.
    """
    wanted = sorted(set(dag_ids))
    states = dict.fromkeys(wanted, DagState(there=False, scheduler_alive=scheduler_alive))
    error_of = and_(
        IMPORT_ERROR.c.bundle_name == DAG.c.bundle_name, IMPORT_ERROR.c.filename == DAG.c.relative_fileloc
    )
    for some in chunks(wanted):
        query = (
            select(
                DAG.c.dag_id,
                DAG.c.is_paused,
                DAG.c.is_stale,
                DAG.c.has_import_errors,
                func.count(IMPORT_ERROR.c.id).label("errors"),
            )
            .select_from(DAG.outerjoin(IMPORT_ERROR, error_of))
            .where(DAG.c.dag_id.in_(some))
            .group_by(DAG.c.dag_id, DAG.c.is_paused, DAG.c.is_stale, DAG.c.has_import_errors)
        )
        for row in session.execute(query):
            states[row.dag_id] = DagState(
                there=not row.is_stale,
                paused=bool(row.is_paused),
                import_error=bool(row.has_import_errors or row.errors),
                scheduler_alive=scheduler_alive,
            )
    return states
