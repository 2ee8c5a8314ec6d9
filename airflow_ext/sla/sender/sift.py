"""Decides which messages are still worth telling."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import FAILED, PENDING, SENT, SUPPRESSED, IncidentRow, OutboxRow
from airflow_ext.sla.ledger.sql import add_new, table_of
from airflow_ext.sla.sender.entries import Entry
from airflow_ext.sla.sender.escalate import message

B, I = table_of(OutboxRow), table_of(IncidentRow)  # noqa: E741  as in the queries
_LOOK_BACK = timedelta(hours=1)
_ORDER = timedelta(seconds=15)
_MANY = 5000


@dataclass
class Sifted:
    """Messages by what is to be done with them.

    :param tell: To be told now.
    :param settled: Not told any more: state and reason with the messages.
    :param later: Not before a time.
    """

    tell: list[Entry] = field(default_factory=list)
    settled: list[tuple[Entry, str, str]] = field(default_factory=list)
    later: list[tuple[Entry, datetime]] = field(default_factory=list)


def sift(session: Session, entries: Sequence[Entry], *, now: datetime) -> Sifted:
    """Take out children, duplicates, what is over or acknowledged, and answers to what was not told."""
    found = Sifted()
    seen: set[Any] = set()
    ongoing = _ongoing_digests(session) if any(_digest_of(entry) for entry in entries) else set()
    for entry in entries:
        row = entry.row
        same = (row.incident_id, row.kind, row.step, entry.target)
        if entry.target is None:
            found.settled.append((entry, FAILED, "the policy has no such channel"))
        elif row.parent_id is not None:
            found.settled.append((entry, SUPPRESSED, "child"))
        elif same in seen:
            found.settled.append((entry, SUPPRESSED, "duplicate"))
        elif why := _moot(entry, ongoing):
            found.settled.append((entry, SUPPRESSED, why))
        elif later := _not_before(entry, now):
            found.later.append((entry, later))
        else:
            seen.add(same)
            found.tell.append(entry)
    return found


def _moot(entry: Entry, ongoing: set[str]) -> str:
    """Return why a message need not be told, empty if it has to be."""
    row, partner = entry.row, entry.partner
    if not entry.over:
        if row.resolved_at is not None and (row.step or row.resolution != "recovered"):
            return "over"
        return "acknowledged" if row.step and row.acknowledged_at is not None else ""
    if partner is None or partner.state not in (PENDING, SENT):
        return "not_told"
    if partner.state == PENDING:
        return ""
    keyed = entry.thread.get("keyed")
    if not keyed and row.resolved_at is not None and partner.sent_at >= row.resolved_at:
        return "told_already"
    return "digest_goes_on" if _digest_of(entry) in ongoing else ""


def _not_before(entry: Entry, now: datetime) -> datetime | None:
    row = entry.row
    if entry.over:
        return now + _ORDER if entry.partner.state == PENDING else None
    held = row.step and row.snoozed_until is not None and row.snoozed_until > now
    return row.snoozed_until if held else None


def _digest_of(entry: Entry) -> str:
    return entry.thread.get("digest", "") if entry.over else ""


def _ongoing_digests(session: Session) -> set[str]:
    query = (
        select(B.c.thread_ref)
        .join(I, I.c.id == B.c.incident_id)
        .where(I.c.resolved_at.is_(None), B.c.kind == "open", B.c.thread_ref.is_not(None))
        .distinct()
    )
    found: Any = session.scalars(query)
    return {str(json.loads(text).get("digest", "")) for text in found if text}


def add_answers(session: Session, *, now: datetime) -> int:
    """Write the answers that nobody has written: to steps, and to incidents that were over when they were opened.

    The caller commits.
    """
    answer = B.alias()
    there = (
        select(answer.c.id)
        .where(
            answer.c.incident_id == B.c.incident_id,
            answer.c.kind == "resolve",
            answer.c.step == B.c.step,
            answer.c.channel == B.c.channel,
        )
        .exists()
    )
    query = (
        select(B.c.incident_id, I.c.key, B.c.step, B.c.channel)
        .join(I, I.c.id == B.c.incident_id)
        .where(I.c.resolved_at > now - _LOOK_BACK, B.c.kind == "open", B.c.state == SENT, ~there)
        .limit(_MANY)
    )
    rows = [
        message(row.incident_id, row.key, "resolve", row.step, row.channel, now)
        for row in session.execute(query)
    ]
    add_new(session, B, rows)
    return len(rows)
