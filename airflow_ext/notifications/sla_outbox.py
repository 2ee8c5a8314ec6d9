"""Sends what the monitor has put into the outbox, each message until it is told or given up."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from airflow_ext.notifications.sla import TRY_TIMEOUT, Teller, _base_url, _function_teller, _notifier_teller
from airflow_ext.sla.channel import channels_from_json
from airflow_ext.sla.event import SlaEvent
from airflow_ext.sla.ledger.models import (
    FAILED,
    PENDING,
    SENT,
    IncidentRow,
    OccurrenceRow,
    OutboxRow,
    PolicyRow,
    PolicyVersionRow,
)
from airflow_ext.sla.ledger.outbox import CALLBACK
from airflow_ext.sla.policy import Policy

log = logging.getLogger(__name__)
BATCH = 20
TRIES = 12
"""Tries of one message; with the waits between them they last some hours."""
_CLAIM = timedelta(seconds=TRY_TIMEOUT) + timedelta(minutes=1)
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=5), timedelta(minutes=30)


class OutboxSender:
    """Takes pending messages, at most :data:`BATCH` at a time, and tells their channels.

    A message is claimed and committed before it is sent, so several senders share the work, and one that dies leaves its
    messages to the others: at least once, with the same key.

    :param sessions: Gives a session on the metadata database.
    :param holder: A name no other sender has.
    """

    def __init__(self, *, sessions: Callable[[], AbstractContextManager[Session]], holder: str) -> None:
        self._sessions, self._holder = sessions, holder

    def __call__(self, now: datetime) -> int:
        """Send one batch and return how many messages were taken."""
        taken = self._claim(now)
        if taken:
            asyncio.run(self._tell_all(taken))
        return len(taken)

    def _claim(self, now: datetime) -> list[int]:
        with self._sessions() as session:
            free = or_(OutboxRow.claimed_until.is_(None), OutboxRow.claimed_until < now)
            query = (
                select(OutboxRow.id)
                .where(OutboxRow.state == PENDING, OutboxRow.not_before <= now, free)
                .order_by(OutboxRow.not_before, OutboxRow.id)
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            )
            ids = list(session.scalars(query))
            session.execute(
                update(OutboxRow)
                .where(OutboxRow.id.in_(ids))
                .values(claimed_by=self._holder, claimed_until=now + _CLAIM * max(1, len(ids)))
            )
            session.commit()
            return ids

    async def _tell_all(self, ids: list[int]) -> None:
        for number in ids:
            with self._sessions() as session:
                prepared = _prepare(session, number)
            error = ""
            if prepared is not None:
                key, teller = prepared
                error = await _tell(key, teller)
            with self._sessions() as session:
                self._note(session, number, error)
                session.commit()

    def _note(self, session: Session, number: int, error: str) -> None:
        row = session.get(OutboxRow, number)
        if row is None or row.claimed_by != self._holder:
            return
        now = datetime.now(UTC)
        row.attempts += 1
        row.claimed_by = row.claimed_until = None
        row.last_error = error
        if not error:
            row.state, row.sent_at = SENT, now
        elif row.attempts >= TRIES:
            row.state = FAILED
            log.error("SLA message %s is given up after %s tries: %s", row.dedupe_key, row.attempts, error)
        else:
            row.not_before = now + min(_FIRST_WAIT * 2 ** (row.attempts - 1), _LONGEST_WAIT)


async def _tell(key: str, teller: Teller) -> str:
    try:
        async with asyncio.timeout(TRY_TIMEOUT):
            await teller()
    except Exception as error:  # noqa: BLE001 - notifiers raise anything; the next message must be sent
        # Airflow's log masks what it has read from connections, also in this text; the ledger gets only the class.
        log.warning("SLA message %s: %s: %s", key, type(error).__name__, error)
        return type(error).__name__
    log.info("SLA message %s is told", key)
    return ""


def _prepare(session: Session, number: int) -> tuple[str, Teller] | None:
    row = session.execute(
        select(OutboxRow, IncidentRow, OccurrenceRow, PolicyRow, PolicyVersionRow.definition)
        .join(IncidentRow, IncidentRow.id == OutboxRow.incident_id)
        .join(OccurrenceRow, OccurrenceRow.id == IncidentRow.occurrence_id)
        .join(PolicyRow, PolicyRow.id == OccurrenceRow.policy_id)
        .join(PolicyVersionRow, PolicyVersionRow.id == OccurrenceRow.version_id)
        .where(OutboxRow.id == number)
    ).first()
    if row is None:
        return None
    message, incident, occurrence, policy, text = row
    definition = json.loads(text)
    event = make_event(
        message=message,
        incident=incident,
        occurrence=occurrence,
        dag_id=policy.dag_id,
        policy=Policy.from_flat(definition),
        base_url=_base_url(),
        now=datetime.now(UTC),
    )
    if message.channel == CALLBACK:
        return message.dedupe_key, _function_teller(definition["callback"], event)
    channel = channels_from_json(definition["channels"])[message.channel]
    return message.dedupe_key, _notifier_teller(channel, event, {})


def make_event(
    *,
    message: OutboxRow,
    incident: IncidentRow,
    occurrence: OccurrenceRow,
    dag_id: str,
    policy: Policy,
    base_url: str,
    now: datetime,
) -> SlaEvent:
    """Return the event that a message of the outbox is about.

    :param policy: The version the occurrence was judged by.
    :param base_url: Address of the Airflow UI.
    :param now: When it is told.
    """
    facts: dict[str, Any] = json.loads(incident.facts)
    over = message.kind == "resolve"
    run_id = (occurrence.run_id if over else None) or incident.run_id or ""
    url = f"{base_url.rstrip('/')}/dags/{quote(dag_id, safe='')}"
    if run_id:
        url += f"/runs/{quote(run_id, safe='')}"
    lag = timedelta(seconds=float(facts.get("detection_lag", 0)))
    return SlaEvent(
        key=incident.key,
        policy=policy.name,
        promise=policy.promise,
        severity=incident.severity,
        owner=incident.owner,
        dag_id=dag_id,
        run_id=run_id,
        run_type=str(facts.get("run_type", "")),
        due=occurrence.due_at,
        zone=policy.tz,
        told_at=now,
        state="success" if over and occurrence.done_at else str(facts.get("state", "")),
        logical_date=_time(facts.get("logical_date")),
        started=_time(facts.get("started")),
        ended=occurrence.done_at or _time(facts.get("ended")),
        url=url,
        deadline_id=message.dedupe_key,
        kind="resolved" if over else incident.kind,
        cause=incident.resolution if over else incident.cause,
        subject_name=policy.subject_name,
        incident_id=incident.id,
        step=message.step,
        detected_late=lag if incident.detected_late else None,
    )


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
