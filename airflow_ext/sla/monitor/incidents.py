"""Writes what broke, what is over, and the messages about it: always in the transaction of the judgement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from airflow_ext.sla.judge import Fact
from airflow_ext.sla.ledger.models import (
    PENDING,
    IncidentRow,
    OccurrenceRow,
    OutboxRow,
    PolicyRow,
    PolicyVersionRow,
)
from airflow_ext.sla.ledger.outbox import CALLBACK, dedupe_key
from airflow_ext.sla.ledger.sql import add_new, among, table_of
from airflow_ext.sla.policy import Policy

I, B, O = table_of(IncidentRow), table_of(OutboxRow), table_of(OccurrenceRow)  # noqa: E741  as in the queries


@dataclass(frozen=True)
class Broken:
    """An occurrence to open an incident for.

    :param kind: ``missed``, ``failed_before_due``, or ``at_risk``: likely to be missed.
    :param parent: Incident that caused it; then nothing is told.
    :param over: When it was done after all, if it already is.
    :param forecast: Grounds of a guess, where it is one.
    """

    occurrence: Any
    kind: str
    cause: str
    fact: Fact
    parent: int | None = None
    over: datetime | None = None
    forecast: str = ""


@dataclass(frozen=True)
class Version:
    """What of a policy's version is needed for messages."""

    policy: Policy
    channels: tuple[int, ...]


@lru_cache(maxsize=20_000)
def read_version(definition: str) -> Version:
    """Read the definition of a policy's version."""
    data = json.loads(definition)
    channels = tuple(range(len(json.loads(data["channels"]))))
    if data.get("callback"):
        channels = (*channels, CALLBACK)
    return Version(Policy.from_flat(data), channels)


def versions_of(session: Session, version_ids: set[int]) -> dict[int, Version]:
    """Return versions by their id."""
    query = select(PolicyVersionRow.id, PolicyVersionRow.definition)
    query = query.where(among(session, table_of(PolicyVersionRow).c.id, version_ids))
    return {row.id: read_version(row.definition) for row in session.execute(query)}


def open_incidents(
    session: Session, broken: Sequence[Broken], *, now: datetime, lag_limit: timedelta
) -> None:
    """Write an incident for each, and a message to each channel of its policy.

    :param lag_limit: What is seen later than this after it should have been told was detected late.
    """
    if not broken:
        return
    versions = versions_of(session, {item.occurrence.version_id for item in broken})
    add_new(session, I, [_incident(item, versions, now, lag_limit) for item in broken])
    query = select(I.c.id, I.c.occurrence_id, I.c.key).where(
        among(session, I.c.occurrence_id, [item.occurrence.id for item in broken])
    )
    written = {row.occurrence_id: row for row in session.execute(query)}
    rows = []
    for item in broken:
        if item.parent is None:
            incident = written[item.occurrence.id]
            rows += _messages(
                incident.id, incident.key, "open", versions[item.occurrence.version_id].channels, now
            )
    add_new(session, B, rows)


def _incident(
    item: Broken, versions: dict[int, Version], now: datetime, lag_limit: timedelta
) -> dict[str, Any]:
    row, fact = item.occurrence, item.fact
    policy = versions[row.version_id].policy
    lag = max(now - row.tell_at, timedelta(0))
    return {
        "occurrence_id": row.id,
        "policy_id": row.policy_id,
        "parent_id": item.parent,
        "key": policy.key_of(dag_id=row.dag_id, day=row.local_date, slot=row.slot),
        "kind": item.kind,
        "cause": item.cause,
        "severity": row.severity,
        "owner": row.owner,
        "run_id": fact.run_id,
        "facts": json.dumps(
            {
                "state": fact.state,
                "run_type": fact.run_type,
                "started": _iso(fact.started),
                "ended": _iso(fact.ended),
                "logical_date": _iso(fact.logical_date),
                "detection_lag": lag.total_seconds(),
                **({"forecast": item.forecast} if item.forecast else {}),
            }
        ),
        "opened_at": now,
        "detected_late": lag > lag_limit,
        "acknowledged_at": None,
        "acknowledged_by": "",
        "snoozed_until": None,
        "resolved_at": now if item.over else None,
        "resolution": "recovered" if item.over else "",
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


def _messages(
    incident_id: int, key: str, kind: str, channels: Sequence[int], now: datetime
) -> list[dict[str, Any]]:
    return [
        {
            "incident_id": incident_id,
            "dedupe_key": dedupe_key(key, kind=kind, step=0, channel=channel),
            "kind": kind,
            "step": 0,
            "channel": channel,
            "state": PENDING,
            "not_before": now,
            "attempts": 0,
            "last_error": "",
            "created_at": now,
        }
        for channel in channels
    ]


def resolve(session: Session, occurrence_ids: Sequence[int], *, now: datetime, resolution: str) -> int:
    """End the open incidents of occurrences, tell the channels that were told of them, and return how many there were.

    :param resolution: ``recovered``, ``met``, ``withdrawn``, ``excused``.
    """
    if not occurrence_ids:
        return 0
    query = (
        select(I.c.id, I.c.key, I.c.parent_id, PolicyVersionRow.definition)
        .join(O, O.c.id == I.c.occurrence_id)
        .join(PolicyVersionRow, PolicyVersionRow.id == O.c.version_id)
        .where(I.c.resolved_at.is_(None), among(session, I.c.occurrence_id, occurrence_ids))
    )
    found = session.execute(query).all()
    if not found:
        return 0
    session.execute(
        update(I)
        .where(among(session, I.c.id, [row.id for row in found]))
        .values(resolved_at=now, resolution=resolution)
    )
    rows: list[dict[str, Any]] = []
    for row in found:
        if row.parent_id is None:
            rows += _messages(row.id, row.key, "resolve", read_version(row.definition).channels, now)
    add_new(session, B, rows)
    return len(found)


def tell_opening(session: Session, incident_ids: Sequence[int], *, now: datetime) -> None:
    """Write the first messages of incidents that had none."""
    query = (
        select(I.c.id, I.c.key, PolicyVersionRow.definition)
        .join(O, O.c.id == I.c.occurrence_id)
        .join(PolicyVersionRow, PolicyVersionRow.id == O.c.version_id)
        .where(among(session, I.c.id, incident_ids))
    )
    rows: list[dict[str, Any]] = []
    for row in session.execute(query):
        rows += _messages(row.id, row.key, "open", read_version(row.definition).channels, now)
    add_new(session, B, rows)


def turn_into(session: Session, occurrence_ids: Sequence[int], *, kind: str, cause: str) -> None:
    """What was told before it was due has become worse, a miss mostly; nobody is told a second time."""
    if occurrence_ids:
        changed = update(I).where(among(session, I.c.occurrence_id, occurrence_ids))
        session.execute(changed.values(kind=kind, cause=cause))


def with_incident(session: Session, occurrence_ids: Sequence[int]) -> set[int]:
    """Return those occurrences that have an incident."""
    return set(
        session.scalars(select(I.c.occurrence_id).where(among(session, I.c.occurrence_id, occurrence_ids)))
    )


def paused_acknowledged(session: Session, policy_ids: set[int]) -> set[int]:
    """Return the policies whose newest incident is about a pause and was acknowledged, or excused since."""
    if not policy_ids:
        return set()
    newest: dict[int, Any] = {}
    query = (
        select(I.c.policy_id, I.c.cause, I.c.acknowledged_at)
        .where(I.c.policy_id.in_(policy_ids))
        .order_by(I.c.opened_at)
    )
    for row in session.execute(query):
        newest[row.policy_id] = row
    return {key for key, row in newest.items() if row.cause == "paused" and row.acknowledged_at is not None}


JOINED = [
    *(O.c[name] for name in ("id", "policy_id", "version_id", "local_date", "slot", "due_at", "tell_at")),
    *(
        O.c[name]
        for name in ("watch_from", "window_start", "window_end", "bound_run", "state", "cause", "done_at")
    ),
    *(
        table_of(PolicyRow).c[name]
        for name in ("dag_id", "kind", "subject", "severity", "owner", "on_paused", "on_failure", "source")
    ),
]
"""Columns of an occurrence with those of its policy that a judgement needs."""
