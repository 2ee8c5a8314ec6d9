"""Writes down ahead what is expected, so that what never comes is missed."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, cast, func, literal, null, select, true, union_all, update
from sqlalchemy.orm import Session

from airflow_ext.sla.clock import parse_zone
from airflow_ext.sla.expected import Expected, Ticks, occurrences
from airflow_ext.sla.ledger.models import (
    EXCUSED,
    EXPECTED,
    MarkRow,
    OccurrenceRow,
    PolicyRow,
    PolicyVersionRow,
)
from airflow_ext.sla.ledger.sql import add_new, among, insert_new, table_of
from airflow_ext.sla.monitor.facts import R, _type_counts
from airflow_ext.sla.monitor.incidents import read_version, versions_of
from airflow_ext.sla.monitor.timetables import ticks_of
from airflow_ext.sla.policy import Policy, run_slot

log = logging.getLogger(__name__)
O, P, V, M = (table_of(model) for model in (OccurrenceRow, PolicyRow, PolicyVersionRow, MarkRow))  # noqa: E741
_MANY = 8
_AT_ONCE = 30
_CATCH_UP = timedelta(days=7)
_MOST_AT_ONCE = 12_000
_RUNS = "dag_run"
_FIELDS = [
    *("local_date", "slot", "due_at", "tell_at", "watch_from", "window_start", "window_end"),
    *("other_start", "other_end", "state", "cause", "next_check_at", "settled_at", "created_at"),
]


def materialise(
    session: Session, *, now: datetime, horizon: timedelta, most: int = _MOST_AT_ONCE
) -> tuple[int, bool]:
    """Write the occurrences of policies in force up to ``now + horizon``; the caller commits.

    Policies whose occurrences fall on the same times share the work: one statement for many of them.

    :param most: About as many occurrences are written, so that judging never has to wait for long.
    :returns: Occurrences written, and whether there are more to write.
    """
    end = now + horizon
    ready = (P.c.materialised_until >= end - horizon / 4) & P.c.materialised_until.is_not(None)
    query = (
        select(P.c.id, P.c.rule, P.c.version_id, P.c.materialised_until, P.c.schedule)
        .where(P.c.retired_at.is_(None), P.c.version_id.is_not(None), ~func.coalesce(ready, False))
        .order_by(P.c.id)
        .limit(most)
    )
    groups: dict[tuple[str, datetime], list[Any]] = defaultdict(list)
    found = session.execute(query).all()
    for row in found:
        start = max(row.materialised_until or now, now - _CATCH_UP)
        groups[row.rule, start].append(row)
    written, more = 0, len(found) == most
    done: list[int] = []
    single: list[dict[str, Any]] = []
    versions = versions_of(session, {rows[0].version_id for rows in groups.values()})
    for (_, start), waiting in groups.items():
        if written >= most:
            more = True
            break
        policy = versions[waiting[0].version_id].policy
        try:
            ticks: Ticks | None = ticks_of(waiting[0].schedule) if waiting[0].schedule else None
            values = [_values(item, now) for item in occurrences(policy, start=start, end=end, ticks=ticks)]
        except (
            Exception
        ):  # a timetable is code of users: one that breaks must not keep all others from being watched
            log.exception(
                "SLA %s, promised by %d DAGs: when it is due cannot be worked out, so nobody watches it; see their schedule",
                policy.name,
                len(waiting),
            )
            continue
        rows = waiting[: max(1, (most - written) // max(1, len(values)))]
        more |= len(rows) < len(waiting)
        written += len(values) * len(rows)
        done += [row.id for row in rows]
        if len(rows) < _MANY:
            single += [
                {"policy_id": row.id, "version_id": row.version_id, **value}
                for row in rows
                for value in values
            ]
        else:
            _insert_for_all(session, [row.id for row in rows], values)
    add_new(session, O, single)
    session.execute(update(P).where(among(session, P.c.id, done)).values(materialised_until=end))
    return written, more


def _values(item: Expected, now: datetime) -> dict[str, Any]:
    excused = bool(item.excuse)
    return {
        **{name: getattr(item, name) for name in _FIELDS[:9]},
        "state": EXCUSED if excused else EXPECTED,
        "cause": item.excuse,
        "next_check_at": None
        if excused
        else max(item.watch_from, now)  # what has begun before it was written is not looked at too late
        if item.slot.startswith("fresh")
        else item.tell_at,
        "settled_at": now if excused else None,
        "created_at": now,
    }


def _insert_for_all(session: Session, policy_ids: Sequence[int], values: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(values), _AT_ONCE):
        some = values[start : start + _AT_ONCE]
        lines = [select(*(_given(name, value[name]).label(name) for name in _FIELDS)) for value in some]
        each = (union_all(*lines) if len(lines) > 1 else lines[0]).subquery("each")
        query = select(P.c.id, P.c.version_id, *(each.c[name] for name in _FIELDS)).where(
            among(session, P.c.id, policy_ids)
        )
        session.execute(
            insert_new(session, O).from_select(
                ["policy_id", "version_id", *_FIELDS], query.select_from(P.join(each, true()))
            )
        )


def _given(name: str, value: Any) -> ColumnElement[Any]:
    # PostgreSQL takes a NULL without a type in a UNION for a text.
    return cast(null(), O.c[name].type) if value is None else literal(value, type_=O.c[name].type)


def has_policies_per_run(session: Session) -> bool:
    """Say whether any policy in force makes an occurrence of each run."""
    query = select(P.c.id).where(P.c.retired_at.is_(None), P.c.since.in_(("queue", "start")))
    return session.execute(query.limit(1)).first() is not None


def materialise_runs(session: Session, *, now: datetime) -> int:
    """Write an occurrence for each new run of a ``within`` that counts from its queue or start; the caller commits.

    New are runs that were created since the last look, and all that are not over.

    :returns: Occurrences that were looked at for writing.
    """
    mark = session.execute(select(M.c.number, M.c.at).where(M.c.name == _RUNS)).first()
    newest = session.scalar(select(func.max(R.c.id))) or 0
    base = (
        select(
            P.c.id,
            P.c.version_id,
            P.c.since,
            V.c.definition,
            R.c.run_id,
            R.c.queued_at,
            R.c.start_date,
            R.c.run_after,
        )
        .join(V, V.c.id == P.c.version_id)
        .join(R, R.c.dag_id == P.c.dag_id)
        .where(P.c.retired_at.is_(None), P.c.since.in_(("queue", "start")), _type_counts(R.c.run_type))
    )
    found = list(session.execute(base.where(R.c.state.in_(("queued", "running")))))
    if mark is not None:
        # Ids are given before they are committed: look back a little over those already seen.
        found += session.execute(
            base.where(R.c.id > mark.number - 200, R.c.queued_at >= mark.at - timedelta(hours=1))
        )
    rows = {}
    for row in found:
        policy = read_version(row.definition).policy
        begin = row.start_date if row.since == "start" else row.queued_at or row.start_date
        if begin is not None and policy.within is not None:
            rows[row.id, row.run_id] = {
                "policy_id": row.id,
                "version_id": row.version_id,
                **_of_run(policy, row.run_id, begin, begin + policy.within, now),
            }
    add_new(session, O, list(rows.values()))
    _set_mark(session, newest, now=now)
    return len(rows)


def _of_run(policy: Policy, run_id: str, begin: datetime, due: datetime, now: datetime) -> dict[str, Any]:
    tell_at = due + policy.grace
    return {
        "local_date": due.astimezone(parse_zone(policy.tz)).date(),
        "slot": run_slot(run_id),
        "bound_run": run_id,
        "due_at": due,
        "tell_at": tell_at,
        "watch_from": begin,
        "window_start": begin,
        "window_end": due,
        "other_start": begin,
        "other_end": due,
        "state": EXPECTED,
        "cause": "",
        "next_check_at": tell_at,
        "created_at": now,
    }


def _set_mark(session: Session, number: int, *, now: datetime) -> None:
    add_new(session, M, [{"name": _RUNS, "number": number, "at": now}])
    session.execute(update(M).where(M.c.name == _RUNS).values(number=number, at=now))
