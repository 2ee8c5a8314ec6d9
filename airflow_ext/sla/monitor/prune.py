"""Deletes what is older than it has to be, a batch at a time."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import (
    ActionRow,
    IncidentRow,
    OccurrenceRow,
    OutboxRow,
    PolicyRow,
    PolicyTaskRow,
    PolicyVersionRow,
)
from airflow_ext.sla.ledger.sql import among, table_of

O, I, B, A, P, V, T = (  # noqa: E741  as in the queries
    table_of(model)
    for model in (
        OccurrenceRow,
        IncidentRow,
        OutboxRow,
        ActionRow,
        PolicyRow,
        PolicyVersionRow,
        PolicyTaskRow,
    )
)


def prune(session: Session, *, now: datetime, retention: timedelta, batch: int = 5000) -> int:
    """Delete settled occurrences older than ``retention`` with all that hangs on them; the caller commits.

    Policies that are out of force for as long go once nothing refers to them.

    :returns: Occurrences deleted; as many as ``batch`` means there may be more.
    """
    before = now - retention
    query = select(O.c.id).where(O.c.settled_at < before).order_by(O.c.settled_at).limit(batch)
    ids: list[int] = list(session.scalars(query))
    if ids:
        incidents: list[int] = list(
            session.scalars(select(I.c.id).where(among(session, I.c.occurrence_id, ids)))
        )
        session.execute(delete(B).where(among(session, B.c.incident_id, incidents)))
        session.execute(delete(I).where(among(session, I.c.id, incidents)))
        session.execute(delete(A).where(among(session, A.c.occurrence_id, ids)))
        session.execute(delete(O).where(among(session, O.c.id, ids)))
    if len(ids) < batch:
        _policies(session, before)
    return len(ids)


def _policies(session: Session, before: datetime) -> None:
    query = select(P.c.id).where(
        P.c.retired_at < before, ~select(O.c.id).where(O.c.policy_id == P.c.id).exists()
    )
    ids: list[int] = list(session.scalars(query.limit(1000)))
    for table, column in ((T, T.c.policy_id), (V, V.c.policy_id), (P, P.c.id)):
        if ids:
            session.execute(delete(table).where(among(session, column, ids)))
