"""Writes the messages of later steps, once nobody has reacted for as long as a step says."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import PENDING, IncidentRow, OccurrenceRow, OutboxRow, PolicyVersionRow
from airflow_ext.sla.ledger.outbox import dedupe_key
from airflow_ext.sla.ledger.sql import add_new, among, chunks, table_of
from airflow_ext.sla.sender.entries import read_definition

B, I, O, V = (  # noqa: E741  as in the queries
    table_of(model) for model in (OutboxRow, IncidentRow, OccurrenceRow, PolicyVersionRow)
)


def escalate(session: Session, *, now: datetime) -> int:
    """Write what is due of the steps of open incidents, and return how many messages that is; the caller commits.

    An acknowledgement ends the steps, a snooze holds them up until it ends, children of another incident have none.
    """
    query = (
        select(I.c.id, I.c.key, I.c.opened_at, O.c.version_id)
        .join(O, O.c.id == I.c.occurrence_id)
        .where(
            I.c.resolved_at.is_(None),
            I.c.acknowledged_at.is_(None),
            I.c.parent_id.is_(None),
            or_(I.c.snoozed_until.is_(None), I.c.snoozed_until <= now),
        )
    )
    incidents = session.execute(query).all()
    definitions: dict[int, Any] = {}
    for some in chunks(sorted({row.version_id for row in incidents})):
        texts = select(V.c.id, V.c.definition).where(among(session, V.c.id, some))
        definitions |= {row.id: read_definition(row.definition) for row in session.execute(texts)}
    due: dict[int, list[int]] = {}
    for row in incidents:
        steps = definitions[row.version_id].steps if row.version_id in definitions else ()
        numbers = [n for n, step in enumerate(steps, start=1) if row.opened_at + step.after <= now]
        if numbers:
            due[row.id] = numbers
    written = _written(session, list(due))
    rows = [
        message(incident.id, incident.key, "open", number, channel, now)
        for incident in incidents
        for number in due.get(incident.id, ())
        if number not in written[incident.id]
        for channel in range(len(definitions[incident.version_id].steps[number - 1].channels))
    ]
    add_new(session, B, rows)
    return len(rows)


def _written(session: Session, incident_ids: list[int]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for some in chunks(incident_ids):
        query = select(B.c.incident_id, B.c.step).where(among(session, B.c.incident_id, some), B.c.step > 0)
        for row in session.execute(query):
            found[row.incident_id].add(row.step)
    return found


def message(incident_id: int, key: str, kind: str, step: int, channel: int, now: datetime) -> dict[str, Any]:
    """Return a new row of the outbox."""
    return {
        "incident_id": incident_id,
        "dedupe_key": dedupe_key(key, kind=kind, step=step, channel=channel),
        "kind": kind,
        "step": step,
        "channel": channel,
        "state": PENDING,
        "not_before": now,
        "attempts": 0,
        "last_error": "",
        "created_at": now,
    }
