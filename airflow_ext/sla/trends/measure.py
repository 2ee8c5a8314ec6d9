"""Sends the gauges that stand in the ledger, once a minute from one replica."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from airflow_ext.sla import metrics
from airflow_ext.sla.ledger.models import PENDING, IncidentRow, OccurrenceRow, OutboxRow
from airflow_ext.sla.ledger.sql import table_of
from airflow_ext.sla.monitor.leases import acquire
from airflow_ext.sla.trends import views

B, I, O = table_of(OutboxRow), table_of(IncidentRow), table_of(OccurrenceRow)  # noqa: E741  as in the queries
LEASE = "metrics"
EVERY = timedelta(minutes=1)
_SEVERITIES = ("page", "ticket", "info")
_STATES = ("expected", "at_risk", "met", "missed", "recovered", "excused", "void")


class Measurer:
    """Sends the gauges when it is time and this replica's turn.

    :param holder: A name no other replica has.
    """

    def __init__(self, holder: str) -> None:
        self._holder = holder
        self._last: datetime | None = None

    def __call__(self, session: Session, now: datetime) -> bool:
        """Send them if a minute has gone by, and say whether they were sent; commits."""
        last = self._last
        if last is not None and last <= now < last + EVERY:
            return False
        self._last = now
        mine = acquire(session, LEASE, holder=self._holder, now=now, ttl=3 * EVERY)
        session.commit()
        if not mine:
            return False
        measure(session, now=now, since=last or now - EVERY)
        session.commit()
        return True


def measure(session: Session, *, now: datetime, since: datetime) -> None:
    """Send the gauges, and the timers of what happened since ``since``."""
    _outbox(session, now)
    _incidents(session, now, since)
    counts = Counter(
        {
            row.state: row.count
            for row in session.execute(
                select(O.c.state, func.count().label("count"))
                .where(O.c.due_at > now - timedelta(days=1), O.c.due_at <= now)
                .group_by(O.c.state)
            )
        }
    )
    for state in _STATES:
        metrics.gauge("sla.occurrences_by_state", counts[state], state=state)
    for item in views.promises(session):
        tags = {name: str(item[name]) for name in ("dag_id", "policy", "owner", "severity")}
        if item["lateness_seconds"] is not None:
            metrics.gauge("sla.lateness_seconds", item["lateness_seconds"], **tags)
        if item["budget"] is not None:
            metrics.gauge("sla.budget_remaining_ratio", item["budget"]["remaining"], **tags)
        for window, rate in item["burn"].items():
            if rate is not None:
                metrics.gauge("sla.burn_rate", rate, window=window, **tags)


def _outbox(session: Session, now: datetime) -> None:
    query = select(func.count(), func.min(B.c.created_at)).where(B.c.state == PENDING, B.c.not_before <= now)
    found: Any = session.execute(query).one()
    depth, oldest = found
    metrics.gauge("notify.outbox_depth", depth)
    metrics.gauge("notify.oldest_seconds", (now - oldest).total_seconds() if oldest else 0.0)


def _incidents(session: Session, now: datetime, since: datetime) -> None:
    opened: Counter[str] = Counter()
    unanswered: Counter[str] = Counter()
    query = select(I.c.severity, I.c.acknowledged_at, I.c.parent_id).where(I.c.resolved_at.is_(None))
    for row in session.execute(query):
        opened[row.severity] += 1
        unanswered[row.severity] += row.acknowledged_at is None and row.parent_id is None
    for severity in _SEVERITIES:
        metrics.gauge("incident.open", opened[severity], severity=severity)
        metrics.gauge("incident.unacknowledged", unanswered[severity], severity=severity)
    lag = session.execute(
        select(I.c.opened_at, O.c.tell_at)
        .join(O, O.c.id == I.c.occurrence_id)
        .where(I.c.opened_at > since, I.c.kind == "missed")
    ).all()
    longest = max(((row.opened_at - row.tell_at).total_seconds() for row in lag), default=0.0)
    metrics.gauge("sla.detection_lag_seconds", max(0.0, longest))
    for name, column in (("ack", I.c.acknowledged_at), ("recover", I.c.resolved_at)):
        ended = select(I.c.severity, I.c.opened_at, column.label("ended")).where(
            column > since, column <= now
        )
        for row in session.execute(ended.where(I.c.opened_at > now - timedelta(days=31))):
            metrics.timing(f"incident.time_to_{name}", row.ended - row.opened_at, severity=row.severity)
