"""What Airflow's tables say about occurrences: one query for any number of them.

Each query ranks all that belongs to an occurrence and keeps the row that says most: the first good end, else what runs,
else what waits, else the last failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, null, or_, select, union_all
from sqlalchemy.orm import Session

from airflow_ext.sla.judge import Fact
from airflow_ext.sla.ledger.models import OccurrenceRow, PolicyRow, PolicyTaskRow
from airflow_ext.sla.ledger.sql import table_of
from airflow_ext.sla.monitor.tables import ASSET, ASSET_EVENT, DAG_RUN, TASK_INSTANCE

O, P, T = table_of(OccurrenceRow), table_of(PolicyRow), table_of(PolicyTaskRow)  # noqa: E741  as in the queries
R, TI, E = DAG_RUN, TASK_INSTANCE, ASSET_EVENT
_RANKS = {"success": 0, "running": 1, "queued": 2}
_SLACK = timedelta(days=1)
Chosen = Callable[[Select[Any]], Select[Any]]
"""Adds to a query which occurrences are asked for."""


def _type_counts(run_type: ColumnElement[Any]) -> ColumnElement[bool]:
    return P.c.run_types.like(literal("%,").concat(run_type).concat(",%"))


def _in_window() -> ColumnElement[bool]:
    anchor = func.coalesce(R.c.data_interval_end, R.c.logical_date, R.c.run_after)
    scheduled = and_(
        R.c.run_type == "scheduled", R.c.run_after >= O.c.window_start, R.c.run_after < O.c.window_end
    )
    other = and_(R.c.run_type != "scheduled", anchor >= O.c.other_start, anchor < O.c.other_end)
    return or_(scheduled, other)


def _matching(columns: list[Any], chosen: Chosen, *, bound: bool, since: datetime | None) -> Select[Any]:
    """Return occurrences with each run that belongs to them.

    :param since: No run before it can belong to one; it keeps the scan short.
    """
    query = select(*columns).select_from(O).join(P, P.c.id == O.c.policy_id).join(R, R.c.dag_id == P.c.dag_id)
    if bound:
        query = query.where(O.c.bound_run.is_not(None), R.c.run_id == O.c.bound_run)
    else:
        query = query.where(O.c.bound_run.is_(None), _type_counts(R.c.run_type), _in_window())
        if since is not None:
            query = query.where(R.c.run_after >= since - _SLACK)
    return chosen(query)


_RUN_COLUMNS = [
    O.c.id.label("id"),
    R.c.state.label("state"),
    R.c.run_id.label("run_id"),
    R.c.run_type.label("run_type"),
    R.c.start_date.label("started"),
    R.c.end_date.label("ended"),
    R.c.logical_date.label("logical_date"),
    R.c.id.label("number"),
]


def _runs(chosen: Chosen, *, bound: bool, since: datetime | None) -> Select[Any]:
    return _matching(_RUN_COLUMNS, chosen, bound=bound, since=since).where(P.c.subject == "run")


def _tasks(chosen: Chosen, *, bound: bool, since: datetime | None) -> Select[Any]:
    def counted(*states: str) -> ColumnElement[Any]:
        return func.sum(case((TI.c.state.in_(states), 1), else_=0))

    # A task that has ended for now but will be tried again is not over: it has another state.
    state = case(
        (counted("success", "skipped") == func.count(), "success"),
        (counted("failed", "upstream_failed") > 0, "failed"),
        (counted("running", "deferred", "up_for_retry", "up_for_reschedule", "restarting") > 0, "running"),
        else_="queued",
    )
    columns = [
        O.c.id.label("id"),
        state.label("state"),
        R.c.run_id.label("run_id"),
        R.c.run_type.label("run_type"),
        func.min(TI.c.start_date).label("started"),
        func.max(func.coalesce(TI.c.end_date, R.c.end_date)).label("ended"),
        R.c.logical_date.label("logical_date"),
        R.c.id.label("number"),
    ]
    query = _matching(columns, chosen, bound=bound, since=since).where(P.c.subject == "task")
    query = query.join(T, T.c.policy_id == P.c.id).join(
        TI, and_(TI.c.dag_id == R.c.dag_id, TI.c.run_id == R.c.run_id, TI.c.task_id == T.c.task_id)
    )
    query = query.where(or_(TI.c.state.is_(None), TI.c.state != "removed"))
    return query.group_by(O.c.id, R.c.id, R.c.run_id, R.c.run_type, R.c.logical_date)


def _events(chosen: Chosen, *, windowed: bool = True) -> Select[Any]:
    query = (
        select(
            O.c.id.label("id"),
            literal("success").label("state"),
            E.c.source_run_id.label("run_id"),
            func.coalesce(R.c.run_type, "").label("run_type"),
            null().label("started"),
            E.c.timestamp.label("ended"),
            R.c.logical_date.label("logical_date"),
            E.c.id.label("number"),
        )
        .select_from(O)
        .join(P, P.c.id == O.c.policy_id)
        .join(
            ASSET,
            and_(
                or_(P.c.asset_name == "", ASSET.c.name == P.c.asset_name),
                or_(P.c.asset_uri == "", ASSET.c.uri == P.c.asset_uri),
            ),
        )
        .join(E, E.c.asset_id == ASSET.c.id)
        .outerjoin(R, and_(R.c.dag_id == E.c.source_dag_id, R.c.run_id == E.c.source_run_id))
        .where(P.c.subject == "asset", or_(R.c.run_type.is_(None), _type_counts(R.c.run_type)))
    )
    if windowed:
        query = query.where(E.c.timestamp >= O.c.other_start, E.c.timestamp < O.c.other_end)
    return chosen(query)


def best(chosen: Chosen, *, since: datetime | None, subjects: Iterable[str], bound: bool = True) -> Any:
    """Return a subquery with at most one row for each occurrence, the one that says most.

    :param since: See the earliest ``watch_from`` asked for.
    :param subjects: Subjects among the occurrences: what is not there is not looked for.
    :param bound: Whether some are about one run each.
    """
    wanted = set(subjects)
    parts: list[Select[Any]] = []
    for subject, query in (("run", _runs), ("task", _tasks)):
        if subject in wanted:
            parts.append(query(chosen, bound=False, since=since))
            if bound:
                parts.append(query(chosen, bound=True, since=None))
    if "asset" in wanted:
        parts.append(_events(chosen))
    found = (union_all(*parts) if len(parts) > 1 else parts[0]).subquery("found")
    f = found.c
    rank = case(*((f.state == state, number) for state, number in _RANKS.items()), else_=len(_RANKS))
    order = func.row_number().over(
        partition_by=f.id,
        order_by=[rank, case((f.state == "success", f.ended), else_=None), f.number.desc()],
    )
    ranked = select(found, order.label("place")).subquery("ranked")
    return select(ranked).where(ranked.c.place == 1).subquery("facts")


def read_facts(session: Session, facts: Any) -> dict[int, Fact]:
    """Run a query of :func:`best` and return its rows by the occurrence's id."""
    columns = [
        facts.c[name] for name in ("id", "state", "run_id", "run_type", "started", "ended", "logical_date")
    ]
    return {
        row.id: Fact(
            state=row.state or "queued",
            run_id=row.run_id,
            run_type=row.run_type,
            started=row.started,
            ended=row.ended,
            logical_date=row.logical_date,
        )
        for row in session.execute(select(*columns))
    }


def completions(
    session: Session, chosen: Chosen, *, subject: str, since: datetime
) -> dict[int, list[datetime]]:
    """Return when whatever each occurrence is about ended well, since a moment, in order; for ``fresh`` and ``every``.

    The windows of the occurrences are not looked at.
    """
    if subject == "asset":
        query = _events(chosen, windowed=False).where(E.c.timestamp >= since)
    else:
        query = (
            select(O.c.id.label("id"), R.c.end_date.label("ended"), R.c.state.label("state"))
            .select_from(O)
            .join(P, P.c.id == O.c.policy_id)
            .join(R, R.c.dag_id == P.c.dag_id)
            .where(_type_counts(R.c.run_type), R.c.run_after >= since - _SLACK)
        )
        if subject == "task":
            done = case((TI.c.state.in_(("success", "skipped")), 1), else_=0)
            query = (
                query.with_only_columns(O.c.id.label("id"), func.max(TI.c.end_date).label("ended"))
                .join(T, T.c.policy_id == P.c.id)
                .join(
                    TI,
                    and_(TI.c.dag_id == R.c.dag_id, TI.c.run_id == R.c.run_id, TI.c.task_id == T.c.task_id),
                )
                .where(or_(TI.c.state.is_(None), TI.c.state != "removed"))
                .group_by(O.c.id, R.c.id)
                .having(func.sum(done) == func.count())
            )
        else:
            query = query.where(R.c.state == "success", R.c.end_date >= since)
        query = chosen(query.where(P.c.subject == subject))
    found: dict[int, list[datetime]] = {}
    for row in session.execute(query):
        if row.ended is not None:
            found.setdefault(row.id, []).append(row.ended)
    return {number: sorted(times) for number, times in found.items()}
