"""Which misses have one cause: what broke because something upstream did is its child, and not told on its own.

Upstream of a DAG are the DAGs that make the assets it is scheduled on or reads, and of a promise about an asset those that
make it; contracts are assets. So it is known only where DAGs say what they make and use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, union, update
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import MET, RECOVERED, IncidentRow, OccurrenceRow, PolicyRow
from airflow_ext.sla.ledger.sql import among, chunks, table_of
from airflow_ext.sla.monitor.incidents import Broken, open_incidents, tell_opening
from airflow_ext.sla.monitor.tables import ASSET, FEEDS, MAKES, READS

I, O, P = table_of(IncidentRow), table_of(OccurrenceRow), table_of(PolicyRow)  # noqa: E741  as in the queries
WAITING = ("never_started", "queued", "late", "no_event", "stale", "too_few")
"""Causes that something upstream may have; the others are causes themselves."""
DEPTH = 5
ALONE = timedelta(minutes=15)
"""So long after what caused it is over, a miss that is still one is told on its own."""
_MOST = 500
_FORGOTTEN = timedelta(days=1)


def open_with_causes(
    session: Session, broken: Sequence[Broken], *, now: datetime, lag_limit: timedelta
) -> None:
    """Write incidents as :func:`open_incidents` does, those that have a cause upstream as children of its incident."""
    wanting = [item for item in broken if item.cause in WAITING and item.parent is None and item.over is None]
    above = upstream(session, {item.occurrence.dag_id for item in wanting}) if wanting else {}
    makers = makers_of(session, [item.occurrence for item in wanting])
    names_above = {name for some in above.values() for name in some}.union(*makers.values())
    known = _open(session, names_above, now=now)
    own = {id(item) for item in wanting}
    roots: dict[str, Broken | int] = dict(known)
    first, children = [], []

    def names_of(item: Broken) -> list[str]:
        if id(item) not in own:
            return []
        return [*makers.get(item.occurrence.policy_id, ()), *above.get(item.occurrence.dag_id, ())]

    # What is upstream has less upstream of it, so it comes first, whatever was due first or written first.
    for item in sorted(
        broken, key=lambda each: (len(names_of(each)), each.occurrence.due_at, each.occurrence.id)
    ):
        names = names_of(item)
        cause = next(
            (roots[name] for name in names if name in roots and name != item.occurrence.dag_id), None
        )
        if cause is None:
            first.append(item)
            roots.setdefault(item.occurrence.dag_id, item)
        else:
            children.append((item, cause))
            roots.setdefault(item.occurrence.dag_id, cause)
    open_incidents(session, first, now=now, lag_limit=lag_limit)
    numbers = _numbers(session, [cause for _, cause in children if isinstance(cause, Broken)])
    later = [
        replace(item, parent=cause if isinstance(cause, int) else numbers[cause.occurrence.id])
        for item, cause in children
    ]
    open_incidents(session, later, now=now, lag_limit=lag_limit)


def upstream(session: Session, dag_ids: Iterable[str]) -> dict[str, list[str]]:
    """Return what is upstream of DAGs, the nearest first."""
    found: dict[str, list[str]] = {name: [] for name in dag_ids}
    edges: dict[str, set[str]] = {}
    frontier = set(found)
    for _ in range(DEPTH):
        if not frontier:
            break
        edges |= {name: set() for name in frontier}
        for user, maker in _edges(session, frontier):
            edges[user].add(maker)
        frontier = {maker for name in frontier for maker in edges[name]} - set(edges)
    for name, names in found.items():
        level = [name]
        for _ in range(DEPTH):
            found_here = {maker for each in level for maker in edges.get(each, set())}
            level = sorted(found_here - set(names) - {name})
            names += level
    return found


def downstream(session: Session, dag_id: str) -> list[str]:
    """Return the DAGs that use what a DAG makes, the nearest first."""
    found: list[str] = []
    frontier = {dag_id}
    for _ in range(DEPTH):
        uses = union(
            select(FEEDS.c.dag_id, FEEDS.c.asset_id), select(READS.c.dag_id, READS.c.asset_id)
        ).subquery()
        query = (
            select(uses.c.dag_id)
            .join(MAKES, MAKES.c.asset_id == uses.c.asset_id)
            .where(MAKES.c.dag_id.in_(frontier))
            .distinct()
        )
        users: list[str] = list(session.scalars(query))
        frontier = set(users) - set(found) - {dag_id}
        if not frontier:
            break
        found += sorted(frontier)
    return found


def _edges(session: Session, dag_ids: Collection[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for some in chunks(sorted(dag_ids)):
        for uses in (FEEDS, READS):
            query = (
                select(uses.c.dag_id, MAKES.c.dag_id.label("maker"))
                .join(MAKES, MAKES.c.asset_id == uses.c.asset_id)
                .where(among(session, uses.c.dag_id, some), MAKES.c.dag_id != uses.c.dag_id)
                .distinct()
            )
            pairs += [(row.dag_id, row.maker) for row in session.execute(query)]
    return pairs


def makers_of(session: Session, rows: Iterable[Any]) -> dict[int, set[str]]:
    """Return the DAGs that make what promises about assets are about, by policy.

    :param rows: Occurrences, with ``policy_id`` and ``subject``.
    """
    ids = {row.policy_id for row in rows if row.subject == "asset"}
    found: dict[int, set[str]] = defaultdict(set)
    for some in chunks(sorted(ids)):
        query = (
            select(P.c.id, MAKES.c.dag_id)
            .join(ASSET, (ASSET.c.name == P.c.asset_name) | (ASSET.c.uri == P.c.asset_uri))
            .join(MAKES, MAKES.c.asset_id == ASSET.c.id)
            .where(among(session, P.c.id, some))
        )
        for row in session.execute(query):
            found[row.id].add(row.dag_id)
    return found


def _open(session: Session, dag_ids: Collection[str], *, now: datetime) -> dict[str, int]:
    """Return the oldest open incident of each DAG that still explains anything; of one that is a child, its parent.

    What was never repaired stays open. It explains nothing any more once the same promise has been kept at a later time,
    and no longer than a day if nobody looks after it: its policy is out of force, or the judge has given it up.
    """
    later = O.alias()
    kept_since = (
        select(later.c.id)
        .where(
            later.c.policy_id == I.c.policy_id,
            later.c.local_date >= O.c.local_date,
            later.c.due_at > O.c.due_at,
            later.c.state.in_((MET, RECOVERED)),
        )
        .exists()
    )
    looked_after = O.c.settled_at.is_(None) & P.c.retired_at.is_(None)
    found: dict[str, int] = {}
    for some in chunks(sorted(dag_ids)):
        query = (
            select(P.c.dag_id, I.c.id, I.c.parent_id)
            .join(P, P.c.id == I.c.policy_id)
            .join(O, O.c.id == I.c.occurrence_id)
            .where(I.c.resolved_at.is_(None), P.c.dag_id.in_(some), ~kept_since)
            .where(looked_after | (I.c.opened_at > now - _FORGOTTEN))
            .order_by(I.c.opened_at, I.c.id)
        )
        for row in session.execute(query):
            found.setdefault(row.dag_id, row.parent_id or row.id)
    return found


def _numbers(session: Session, broken: Sequence[Broken]) -> dict[int, int]:
    ids = [item.occurrence.id for item in broken]
    if not ids:
        return {}
    query = select(I.c.occurrence_id, I.c.id).where(among(session, I.c.occurrence_id, ids))
    return {row.occurrence_id: row.id for row in session.execute(query)}


def let_go(session: Session, *, now: datetime) -> int:
    """Tell on their own what is still missed although its cause is over, and return how many; the caller commits.

    At once if the cause was excused or withdrawn: then nobody works on it any more.
    """
    parent = I.alias()
    over = (parent.c.resolved_at <= now - ALONE) | parent.c.resolution.in_(("excused", "withdrawn"))
    query = (
        select(I.c.id)
        .join(parent, parent.c.id == I.c.parent_id)
        .where(I.c.resolved_at.is_(None), parent.c.resolved_at.is_not(None), over)
        .limit(_MOST)
    )
    ids: list[int] = list(session.scalars(query))
    if ids:
        session.execute(update(I).where(among(session, I.c.id, ids)).values(parent_id=None))
        tell_opening(session, ids, now=now)
    return len(ids)
