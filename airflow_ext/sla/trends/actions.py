"""What people do about an incident: acknowledge, snooze, excuse. Who and why is kept."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.ledger.models import (
    EXCUSED,
    OPEN_STATES,
    RECOVERED,
    ActionRow,
    IncidentRow,
    OccurrenceRow,
)
from airflow_ext.sla.ledger.sql import add_new
from airflow_ext.sla.sender.escalate import B, message

_LONGEST = timedelta(days=31)
_LONGEST_WHY = 2000
_LONGEST_WHO = 250


def acknowledge(session: Session, incident: IncidentRow, *, who: str, why: str, now: datetime) -> None:
    """Note that somebody takes care: later steps are not told. Once is enough; the first one stays. The caller commits.

    :raises InvalidError: If it is over, or nobody or no reason is named.
    """
    _check_open(incident, "acknowledge")
    if incident.acknowledged_at is None:
        incident.acknowledged_at, incident.acknowledged_by = now, who[:_LONGEST_WHO]
    _note(session, incident, "ack", who, why, now)


def snooze(
    session: Session, incident: IncidentRow, *, who: str, why: str, until: datetime, now: datetime
) -> None:
    """Hold up later steps until a time; the caller commits.

    :raises InvalidError: If it is over, or the time is past or more than 31 days away.
    """
    _check_open(incident, "snooze")
    if not now < until <= now + _LONGEST:
        raise InvalidError(f"until={until.isoformat()}: between now and 31 days from now")
    incident.snoozed_until = until
    _note(session, incident, "snooze", who, why, now, until=until)


def excuse(session: Session, incident: IncidentRow, *, who: str, why: str, now: datetime) -> None:
    """Let a miss count for nothing, tell the channels that it is over; the caller commits.

    :raises InvalidError: If it is excused already, or settled in another way.
    """
    occurrence = session.get_one(OccurrenceRow, incident.occurrence_id)
    if occurrence.state not in (*OPEN_STATES, RECOVERED):
        raise InvalidError(
            f"incident {incident.id}: its occurrence is {occurrence.state}, it cannot be excused"
        )
    _note(session, incident, "excuse", who, why, now)
    session.execute(
        update(OccurrenceRow)
        .where(OccurrenceRow.id == occurrence.id)
        .values(state=EXCUSED, cause="excused", judged_at=now, settled_at=now, next_check_at=None)
    )
    if incident.resolved_at is not None:
        return
    incident.resolved_at, incident.resolution = now, "excused"
    if incident.parent_id is None:
        told = select(B.c.step, B.c.channel).where(B.c.incident_id == incident.id, B.c.kind == "open")
        add_new(
            session,
            B,
            [
                message(incident.id, incident.key, "resolve", row.step, row.channel, now)
                for row in session.execute(told)
            ],
        )


def _check_open(incident: IncidentRow, verb: str) -> None:
    if incident.resolved_at is not None:
        raise InvalidError(
            f"incident {incident.id} is over ({incident.resolution}): there is nothing to {verb}"
        )


def _note(
    session: Session,
    incident: IncidentRow,
    action: str,
    who: str,
    why: str,
    now: datetime,
    *,
    until: datetime | None = None,
) -> None:
    if not who.strip():
        raise InvalidError("who= is empty: an action has the name of a person")
    if not why.strip():
        raise InvalidError("why= is empty: say why, others will want to know")
    if len(why) > _LONGEST_WHY:
        raise InvalidError(f"why= has {len(why)} characters: at most {_LONGEST_WHY}")
    session.add(
        ActionRow(
            occurrence_id=incident.occurrence_id,
            incident_id=incident.id,
            action=action,
            who=who.strip()[:_LONGEST_WHO],
            why=why.strip(),
            until=until,
            at=now,
        )
    )
