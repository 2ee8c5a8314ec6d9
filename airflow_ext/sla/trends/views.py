"""What commands and routes show: promises, incidents, and the story of one incident, as plain JSON values."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, select, true
from sqlalchemy.orm import Session

from airflow_ext.sla.judge import CAUSES
from airflow_ext.sla.ledger.models import (
    OPEN_STATES,
    ActionRow,
    IncidentRow,
    OccurrenceRow,
    OutboxRow,
    PolicyRow,
    PolicyVersionRow,
    ReplicaRow,
)
from airflow_ext.sla.ledger.outbox import CALLBACK
from airflow_ext.sla.ledger.sql import among, table_of
from airflow_ext.sla.sender.background import look_up
from airflow_ext.sla.sender.entries import Definition, read_definition
from airflow_ext.sla.trends.history import budget_of, burn_rates, read, remark, suggest
from airflow_ext.sla.trends.suggest import written

I, O, P, V = (  # noqa: E741  as in the queries
    table_of(model) for model in (IncidentRow, OccurrenceRow, PolicyRow, PolicyVersionRow)
)
MOST = 1000
"""Rows of one answer."""


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


def allowed(column: ColumnElement[str], dag_ids: Collection[str] | None) -> ColumnElement[bool]:
    """Return the condition that a DAG is among those a user may see; ``None`` is all of them."""
    return true() if dag_ids is None else column.in_(list(dag_ids))


def dags(session: Session) -> list[str]:
    """Return the DAGs that have or had promises."""
    return list(session.scalars(select(P.c.dag_id).distinct().order_by(P.c.dag_id)))


def promises(
    session: Session, *, dag_ids: Collection[str] | None = None, most: int = MOST
) -> list[dict[str, Any]]:
    """Return the policies in force, with budget, burn and what is worth knowing.

    :param dag_ids: Only these DAGs; ``None`` for all.
    """
    query = (
        select(P.c.id, P.c.dag_id, P.c.name, P.c.owner, P.c.severity, V.c.definition)
        .join(V, V.c.id == P.c.version_id)
        .where(P.c.retired_at.is_(None), allowed(P.c.dag_id, dag_ids))
        .order_by(P.c.dag_id, P.c.name)
        .limit(most)
    )
    rows = session.execute(query).all()
    past = read(session, [row.id for row in rows])
    upcoming = _upcoming(session, [row.id for row in rows])
    return [_promise(row, read_definition(row.definition), past.get(row.id, []), upcoming) for row in rows]


def _promise(
    row: Any, definition: Definition, past: Sequence[Any], upcoming: Mapping[int, Any]
) -> dict[str, Any]:
    policy = definition.policy
    budget = budget_of(policy.budget, past)
    shift = suggest(past)
    coming = upcoming.get(row.id)
    return {
        "dag_id": row.dag_id,
        "policy": row.name,
        "promise": policy.promise,
        "about": policy.subject_name,
        "owner": row.owner,
        "severity": row.severity,
        "zone": policy.tz,
        "state": coming.state if coming is not None else "",
        "due": _iso(coming.due_at) if coming is not None else None,
        "counted": len(past),
        "missed": sum(not item.kept for item in past),
        "budget": None
        if budget is None
        else {
            "allowed": budget.allowed,
            "in": budget.among,
            "used": budget.used,
            "remaining": round(budget.remaining, 4),
        },
        "burn": {
            str(window): None if rate is None else round(rate, 2)
            for window, rate in burn_rates(policy.budget, past).items()
        },
        "remark": remark(past),
        "suggested": written(policy, shift),
        "suggested_shift_seconds": None if shift is None else shift.total_seconds(),
        "lateness_seconds": next((item.late.total_seconds() for item in past if item.late is not None), None),
    }


def _upcoming(session: Session, policy_ids: Sequence[int]) -> dict[int, Any]:
    """Return the open occurrence that is due next, or overdue, of each policy."""
    query = (
        select(O.c.policy_id, O.c.state, O.c.due_at)
        .where(O.c.state.in_(OPEN_STATES), O.c.settled_at.is_(None))
        .where(among(session, O.c.policy_id, policy_ids))
        .order_by(O.c.due_at.desc())
    )
    return {row.policy_id: row for row in session.execute(query)}


def incidents(
    session: Session,
    *,
    now: datetime,
    dag_ids: Collection[str] | None = None,
    everything: bool = False,
    days: int = 7,
    most: int = 200,
) -> list[dict[str, Any]]:
    """Return incidents, the newest first.

    :param everything: Also those that are over, of the last ``days``.
    """
    query = _incidents().where(allowed(P.c.dag_id, dag_ids)).order_by(I.c.opened_at.desc(), I.c.id.desc())
    query = (
        query.where(I.c.opened_at > now - timedelta(days=days))
        if everything
        else query.where(I.c.resolved_at.is_(None))
    )
    return [_incident(row) for row in session.execute(query.limit(most))]


def _incidents() -> Select[Any]:
    columns = (
        "id",
        "key",
        "kind",
        "cause",
        "severity",
        "owner",
        "run_id",
        "opened_at",
        "parent_id",
        "policy_id",
    )
    return (
        select(
            *(I.c[name] for name in columns),
            *(I.c[name] for name in ("acknowledged_at", "acknowledged_by", "snoozed_until", "resolved_at")),
            *(I.c[name] for name in ("resolution", "occurrence_id", "facts", "detected_late")),
            *(O.c[name] for name in ("state", "due_at", "done_at", "local_date", "slot", "version_id")),
            P.c.dag_id,
            P.c.name,
        )
        .join(O, O.c.id == I.c.occurrence_id)
        .join(P, P.c.id == O.c.policy_id)
    )


def _incident(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "key": row.key,
        "dag_id": row.dag_id,
        "policy": row.name,
        "kind": row.kind,
        "cause": row.cause,
        "cause_text": CAUSES.get(row.cause, ""),
        "severity": row.severity,
        "owner": row.owner,
        "run_id": row.run_id,
        "state": row.state,
        "due": _iso(row.due_at),
        "done": _iso(row.done_at),
        "opened": _iso(row.opened_at),
        "acknowledged": _iso(row.acknowledged_at),
        "acknowledged_by": row.acknowledged_by,
        "snoozed_until": _iso(row.snoozed_until),
        "resolved": _iso(row.resolved_at),
        "resolution": row.resolution,
        "caused_by": row.parent_id,
    }


def dag_of(session: Session, incident_id: int) -> str | None:
    """Return the DAG of an incident, ``None`` if there is no such incident."""
    query = select(P.c.dag_id).join(O, O.c.policy_id == P.c.id).join(I, I.c.occurrence_id == O.c.id)
    found: str | None = session.scalar(query.where(I.c.id == incident_id))
    return found


def explain(session: Session, incident_id: int) -> dict[str, Any] | None:
    """Return all that is known of one incident: the promise, what was seen, messages, what people did; ``None`` if there is none."""
    row = session.execute(_incidents().where(I.c.id == incident_id)).first()
    if row is None:
        return None
    text = session.scalar(select(V.c.definition).where(V.c.id == row.version_id))
    definition = read_definition(text) if text else None
    known = look_up(session, [incident_id]).get(incident_id)
    past = read(session, [row.policy_id]).get(row.policy_id, [])
    actions = session.scalars(
        select(ActionRow).where(ActionRow.occurrence_id == row.occurrence_id).order_by(ActionRow.id)
    )
    messages = session.scalars(
        select(OutboxRow).where(OutboxRow.incident_id == incident_id).order_by(OutboxRow.id)
    )
    return _incident(row) | {
        "promise": definition.policy.promise if definition else "",
        "zone": definition.policy.tz if definition else "UTC",
        "facts": json.loads(row.facts),
        "detected_late": row.detected_late,
        "last_good": _iso(known.last_good) if known else None,
        "changes": list(known.changes) if known else [],
        "affects": list(known.affected) if known else [],
        "remark": remark(past),
        "actions": [
            {
                "action": item.action,
                "who": item.who,
                "why": item.why,
                "at": _iso(item.at),
                "until": _iso(item.until),
            }
            for item in actions
        ],
        "messages": [_message(item, definition) for item in messages],
    }


def _message(row: OutboxRow, definition: Definition | None) -> dict[str, Any]:
    target = definition.target(row.step, row.channel) if definition else None
    label = target if isinstance(target, str) else target.label if target is not None else ""
    return {
        "kind": row.kind,
        "step": row.step,
        "channel": "callback" if row.channel == CALLBACK else label,
        "state": row.state,
        "tries": row.attempts,
        "sent": _iso(row.sent_at),
        "why": row.last_error,
        "next_try": _iso(row.not_before) if row.state == "pending" else None,
    }


def status(session: Session, *, now: datetime, dag_ids: Collection[str] | None = None) -> dict[str, Any]:
    """Return how things are: monitors, promises by state, incidents, messages that wait.

    :param dag_ids: Only these DAGs; ``None`` for all.
    """
    found = promises(session, dag_ids=dag_ids)
    opened = incidents(session, now=now, dag_ids=dag_ids, most=MOST)
    replicas = session.scalars(select(ReplicaRow).order_by(ReplicaRow.holder)).all()
    alive = [
        row for row in replicas if now - row.beat_at <= timedelta(seconds=max(30.0, 3 * row.tick_seconds))
    ]
    return {
        "monitors": len(alive),
        "last_beat": _iso(max((row.beat_at for row in replicas), default=None)),
        "lag_seconds": max((row.lag_seconds for row in alive), default=None),
        "promises": len(found),
        "late": sum(item["state"] == "missed" for item in found),
        "at_risk": sum(item["state"] == "at_risk" for item in found),
        "over_budget": sum(bool(item["budget"]) and item["budget"]["remaining"] < 0 for item in found),
        "incidents": len(opened),
        "unacknowledged": sum(item["acknowledged"] is None and item["caused_by"] is None for item in opened),
    }
