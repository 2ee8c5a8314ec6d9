"""What helps to understand a miss: the last good run, what has changed since, what else it broke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    and_,
    func,
    or_,
    select,
    union,
)
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import (
    MET,
    RECOVERED,
    ActionRow,
    IncidentRow,
    OccurrenceRow,
    PolicyRow,
)
from airflow_ext.sla.ledger.sql import among, table_of
from airflow_ext.sla.monitor.causes import downstream
from airflow_ext.sla.monitor.tables import ASSET, ASSET_EVENT, DAG_VERSION, FEEDS, READS
from airflow_ext.sla.monitor.tables import DAG_RUN as R

I, O, P = (table_of(model) for model in (IncidentRow, OccurrenceRow, PolicyRow))  # noqa: E741  as in the queries
_MOST_AFFECTED = 200
_MOST_CONTRACTS = 20
_CONTRACT = "contract/"


@dataclass(frozen=True)
class Background:
    """What is known beside the incident itself.

    :param last_good: When the promise was last done before.
    :param changes: What has changed since, in words.
    :param affected: DAGs and policies whose incidents this one caused, and those that use what the DAG makes.
    :param note: Who excused it, and why.
    """

    last_good: datetime | None = None
    changes: tuple[str, ...] = ()
    affected: tuple[str, ...] = ()
    note: str = ""


def look_up(session: Session, incident_ids: Sequence[int]) -> dict[int, Background]:
    """Return the background of incidents; meant for the few that are told one by one."""
    query = (
        select(
            I.c.id,
            I.c.policy_id,
            I.c.resolution,
            O.c.id.label("occurrence_id"),
            O.c.due_at,
            P.c.dag_id,
            P.c.subject,
        )
        .join(O, O.c.id == I.c.occurrence_id)
        .join(P, P.c.id == O.c.policy_id)
        .where(among(session, I.c.id, incident_ids))
    )
    return {row.id: _background(session, row) for row in session.execute(query).all()}


def _background(session: Session, row: Any) -> Background:
    good = session.scalar(
        select(func.max(O.c.done_at)).where(
            O.c.policy_id == row.policy_id, O.c.state.in_((MET, RECOVERED)), O.c.due_at < row.due_at
        )
    )
    if good is None and row.subject == "run":
        good = session.scalar(
            select(func.max(R.c.end_date)).where(
                R.c.dag_id == row.dag_id, R.c.state == "success", R.c.end_date < row.due_at
            )
        )
    return Background(
        last_good=good,
        changes=tuple(_versions(session, row.dag_id, good) + _contracts(session, row.dag_id, good))
        if good
        else (),
        affected=tuple(_affected(session, row)),
        note=_note(session, row.occurrence_id) if row.resolution == "excused" else "",
    )


def _affected(session: Session, row: Any) -> list[str]:
    children = (
        select(P.c.dag_id, P.c.name)
        .join(I, I.c.policy_id == P.c.id)
        .where(I.c.parent_id == row.id)
        .order_by(P.c.dag_id)
        .limit(_MOST_AFFECTED)
    )
    coming = (
        select(P.c.dag_id, P.c.name)
        .where(P.c.dag_id.in_(downstream(session, row.dag_id)), P.c.retired_at.is_(None))
        .order_by(P.c.dag_id, P.c.name)
        .limit(_MOST_AFFECTED)
    )
    found = [*session.execute(children), *session.execute(coming)]
    return list(dict.fromkeys(f"{each.dag_id} ({each.name})" for each in found))[:_MOST_AFFECTED]


def _note(session: Session, occurrence_id: int) -> str:
    query = select(ActionRow).where(ActionRow.occurrence_id == occurrence_id, ActionRow.action == "excuse")
    found = session.scalars(query.order_by(ActionRow.id.desc()).limit(1)).first()
    return f"{found.who}: {found.why}" if found is not None else ""


def _versions(session: Session, dag_id: str, since: datetime) -> list[str]:
    query = (
        select(DAG_VERSION.c.version_number, DAG_VERSION.c.bundle_version, DAG_VERSION.c.created_at)
        .where(DAG_VERSION.c.dag_id == dag_id)
        .order_by(DAG_VERSION.c.version_number.desc())
        .limit(50)
    )
    rows = session.execute(query).all()
    new = [row for row in rows if row.created_at > since]
    old = next((row for row in rows if row.created_at <= since), None)
    if not new:
        return []
    bundle = f" (bundle {new[0].bundle_version[:12]})" if new[0].bundle_version else ""
    before = f"from version {old.version_number} " if old is not None else ""
    return [f"the DAG, {before}to version {new[0].version_number}{bundle}"]


def _contracts(session: Session, dag_id: str, since: datetime) -> list[str]:
    """Say which contracts that the DAG waits for or reads have another version than then."""
    used = union(
        select(FEEDS.c.asset_id).where(FEEDS.c.dag_id == dag_id),
        select(READS.c.asset_id).where(READS.c.dag_id == dag_id),
    ).subquery()
    query = (
        select(ASSET.c.id, ASSET.c.name)
        .where(ASSET.c.id.in_(select(used.c.asset_id)), ASSET.c.name.startswith(_CONTRACT, autoescape=True))
        .order_by(ASSET.c.name)
        .limit(_MOST_CONTRACTS)
    )
    changes = []
    for asset in session.execute(query).all():
        then = _version_at(session, asset.id, ASSET_EVENT.c.timestamp <= since)
        now = _version_at(session, asset.id, ASSET_EVENT.c.timestamp > since)
        if then and now and then != now:
            name = asset.name.removeprefix(_CONTRACT).rpartition("/v")[0]
            changes.append(f"contract {name}, from {then} to {now}")
    return changes


def _version_at(session: Session, asset_id: int, when: Any) -> str:
    query = (
        select(ASSET_EVENT.c.extra)
        .where(and_(ASSET_EVENT.c.asset_id == asset_id, when), or_(ASSET_EVENT.c.extra.is_not(None)))
        .order_by(ASSET_EVENT.c.timestamp.desc(), ASSET_EVENT.c.id.desc())
        .limit(1)
    )
    extra = session.scalar(query)
    version = extra.get("version") if isinstance(extra, dict) else None
    return str(version)[:40] if version else ""
