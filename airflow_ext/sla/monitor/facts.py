"""What Airflow's tables say about occurrences: one query for any number of them.

Each query ranks all that belongs to an occurrence and keeps the row that says most: the first good end, else what runs,
else what waits, else the last failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Select,
    and_,
    case,
    func,
    literal,
    null,
    or_,
    select,
    text,
    union_all,
)
from sqlalchemy.orm import Session

from airflow_ext.sla.expected import PARTITION
from airflow_ext.sla.judge import Fact
from airflow_ext.sla.ledger.models import OccurrenceRow, PolicyRow, PolicyTaskRow
from airflow_ext.sla.ledger.sql import among, table_of
from airflow_ext.sla.monitor.tables import ASSET, ASSET_EVENT, DAG_RUN, TASK_INSTANCE

O, P, T = table_of(OccurrenceRow), table_of(PolicyRow), table_of(PolicyTaskRow)  # noqa: E741  as in the queries
R, TI, E = DAG_RUN, TASK_INSTANCE, ASSET_EVENT
_RANKS = {"success": 0, "running": 1, "queued": 2}
_SLACK = timedelta(days=1)
Chosen = Callable[[Select[Any]], Select[Any]]
"""Adds to a query which occurrences are asked for."""
Columns = Callable[[Any], list[Any]]
"""Gives the columns of a query about runs from those of the batch."""
_MANY = 20
"""With more occurrences than this, whatever the planner believes, runs are not looked up for each of them."""


def _type_counts(
    run_type: ColumnElement[Any], types: ColumnElement[Any] = P.c.run_types
) -> ColumnElement[bool]:
    return types.like(literal("%,").concat(run_type).concat(",%"))


@dataclass(frozen=True)
class _Batch:
    """Occurrences asked for, and the stretch of time their windows are in.

    :param table: What of them and of their policies decides which runs are theirs; read once.
    """

    table: CTE
    begin: datetime
    end: datetime


def _batch(session: Session, rows: Sequence[Any]) -> _Batch:
    columns = ("id", "window_start", "window_end", "other_start", "other_end", "bound_run")
    query = (
        select(*(O.c[name] for name in columns), P.c.id.label("policy_id"), P.c.dag_id, P.c.run_types)
        .join(P, P.c.id == O.c.policy_id)
        .where(among(session, O.c.id, [row.id for row in rows]))
        .where(among(session, P.c.id, {row.policy_id for row in rows}))
    )
    return _Batch(
        query.cte("batch").prefix_with("MATERIALIZED", dialect="postgresql"),
        begin=min(row.watch_from for row in rows),
        end=max(max(row.window_end, row.other_end) for row in rows),
    )


def _scheduled(columns: Columns, batch: _Batch) -> Select[Any]:
    b = batch.table.c
    return _of_dag(columns, batch).where(
        b.bound_run.is_(None),
        R.c.run_type == "scheduled",
        _type_counts(R.c.run_type, b.run_types),
        R.c.run_after >= batch.begin,
        R.c.run_after < batch.end,
        R.c.run_after >= b.window_start,
        R.c.run_after < b.window_end,
    )


def _others(columns: Columns, batch: _Batch) -> Select[Any]:
    b = batch.table.c
    anchor = func.coalesce(R.c.data_interval_end, R.c.logical_date, R.c.run_after)
    return _of_dag(columns, batch).where(
        b.bound_run.is_(None),
        R.c.run_type != "scheduled",
        _type_counts(R.c.run_type, b.run_types),
        R.c.run_after >= batch.begin - _SLACK,
        anchor >= b.other_start,
        anchor < b.other_end,
    )


def _bound(columns: Columns, batch: _Batch) -> Select[Any]:
    b = batch.table.c
    return _of_dag(columns, batch).where(b.bound_run.is_not(None), R.c.run_id == b.bound_run)


def _of_dag(columns: Columns, batch: _Batch) -> Select[Any]:
    b = batch.table.c
    return select(*columns(b)).select_from(batch.table.join(R, R.c.dag_id == b.dag_id))


def _run_columns(batch: Any) -> list[Any]:
    return [
        batch.id,
        R.c.state.label("state"),
        R.c.run_id.label("run_id"),
        R.c.run_type.label("run_type"),
        R.c.start_date.label("started"),
        R.c.end_date.label("ended"),
        R.c.logical_date.label("logical_date"),
        R.c.id.label("number"),
    ]


def _ends_of_runs(columns: Columns, batch: _Batch, *, bound: bool) -> list[Select[Any]]:
    return [make(columns, batch) for make in (_scheduled, _others, *((_bound,) if bound else ()))]


def _ends_of_tasks(batch: _Batch, *, bound: bool) -> list[Select[Any]]:
    def columns(b: Any) -> list[Any]:
        return [*_run_columns(b), b.policy_id, R.c.dag_id]

    runs = union_all(*_ends_of_runs(columns, batch, bound=bound)).cte("runs")
    runs = runs.prefix_with("MATERIALIZED", dialect="postgresql")
    r = runs.c

    def counted(*states: str) -> ColumnElement[Any]:
        return func.sum(case((TI.c.state.in_(states), 1), else_=0))

    # A task that has ended for now but will be tried again is not over: it has another state.
    state = case(
        (counted("success", "skipped") == func.count(), "success"),
        (counted("failed", "upstream_failed") > 0, "failed"),
        (counted("running", "deferred", "up_for_retry", "up_for_reschedule", "restarting") > 0, "running"),
        else_="queued",
    )
    query = (
        select(
            r.id,
            state.label("state"),
            r.run_id,
            r.run_type,
            func.min(TI.c.start_date).label("started"),
            func.max(func.coalesce(TI.c.end_date, r.ended)).label("ended"),
            r.logical_date,
            r.number,
        )
        .select_from(runs)
        .join(T, T.c.policy_id == r.policy_id)
        .join(TI, and_(TI.c.dag_id == r.dag_id, TI.c.run_id == r.run_id, TI.c.task_id == T.c.task_id))
        .where(or_(TI.c.state.is_(None), TI.c.state != "removed"))
        .group_by(r.id, r.number, r.run_id, r.run_type, r.logical_date)
    )
    return [query]


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
        # A publication of a contract is an event with its partition, beside one without for plain consumers.
        .where(or_(P.c.asset_name.not_like("contract/%"), E.c.partition_key.is_not(None)))
    )
    if windowed:
        slot = literal(PARTITION).concat(E.c.partition_key)
        query = query.where(E.c.timestamp >= O.c.other_start, E.c.timestamp < O.c.other_end)
        query = query.where(or_(O.c.slot.not_like(f"{PARTITION}%"), O.c.slot == slot))
    return chosen(query)


def read_facts(session: Session, rows: Sequence[Any]) -> dict[int, Fact]:
    """Return of each occurrence the run, task or event that says most; those of which there is nothing are left out.

    :param rows: ``id``, ``policy_id``, ``subject``, ``bound_run``, ``watch_from``, ``window_end`` and ``other_end`` of each.
    """
    found: dict[int, Fact] = {}
    for subject in {row.subject for row in rows}:
        some = [row for row in rows if row.subject == subject]
        found |= _read_best(
            session, _parts(session, some, subject), many=subject == "run" and len(some) > _MANY
        )
    return found


def _parts(session: Session, rows: Sequence[Any], subject: str) -> list[Select[Any]]:
    if subject == "asset":
        ids = [row.id for row in rows]
        return [_events(lambda query: query.where(among(session, O.c.id, ids)))]
    batch, bound = _batch(session, rows), any(row.bound_run is not None for row in rows)
    if subject == "task":
        return _ends_of_tasks(batch, bound=bound)
    return _ends_of_runs(_run_columns, batch, bound=bound)


def _read_best(session: Session, parts: Sequence[Select[Any]], *, many: bool) -> dict[int, Fact]:
    found = (union_all(*parts) if len(parts) > 1 else parts[0]).subquery("found")
    f = found.c
    rank = case(*((f.state == state, number) for state, number in _RANKS.items()), else_=len(_RANKS))
    order = func.row_number().over(
        partition_by=f.id,
        order_by=[rank, case((f.state == "success", f.ended), else_=None), f.number.desc()],
    )
    ranked = select(found, order.label("place")).subquery("ranked")
    # What only a message needs is not read of what has ended well.
    more = (
        case((ranked.c.state != "success", ranked.c[name]), else_=None).label(name)
        for name in ("started", "logical_date")
    )
    columns = [*(ranked.c[name] for name in ("id", "state", "run_id", "run_type", "ended")), *more]
    # Runs of the last minutes are in no statistics yet: the planner would take them for few and go through the batch for each.
    hash_only = many and session.get_bind().dialect.name == "postgresql"
    if hash_only:
        session.execute(text("SET LOCAL enable_nestloop = off"))
    rows = session.execute(select(*columns).where(ranked.c.place == 1)).all()
    if hash_only:
        session.execute(text("SET LOCAL enable_nestloop = on"))
    return {
        row.id: Fact(
            row.state or "queued", row.run_id, row.run_type, row.started, row.ended, row.logical_date
        )
        for row in rows
    }


def publications(
    session: Session, chosen: Chosen, *, since: datetime
) -> dict[int, list[tuple[datetime, str]]]:
    """Return when which partition of its contract was found to hold, for each occurrence, in order."""
    query = _events(chosen, windowed=False).where(E.c.timestamp >= since)
    query = query.with_only_columns(O.c.id, E.c.timestamp, E.c.partition_key).order_by(E.c.timestamp, E.c.id)
    found: dict[int, list[tuple[datetime, str]]] = {}
    for row in session.execute(query):
        found.setdefault(row.id, []).append((row.timestamp, row.partition_key))
    return found


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
