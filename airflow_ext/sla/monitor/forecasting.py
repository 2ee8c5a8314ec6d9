"""Looks ahead: which occurrences are likely to be missed, from how long their runs usually take.

The nearest in time come first, and a look is bounded: histories are read a few at a time and kept for an hour.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from airflow_ext.sla.forecast import FORECASTS, KEPT, LEAST, Forecast, running, usual_time, waiting
from airflow_ext.sla.judge import Fact
from airflow_ext.sla.ledger.models import AT_RISK, EXPECTED, OccurrenceRow, PolicyRow
from airflow_ext.sla.ledger.sql import among, chunks, table_of
from airflow_ext.sla.monitor.facts import R, read_facts
from airflow_ext.sla.monitor.incidents import JOINED, Broken, open_incidents, versions_of, with_incident
from airflow_ext.sla.monitor.tables import FEEDS, MAKES
from airflow_ext.sla.policy import Policy

O, P = table_of(OccurrenceRow), table_of(PolicyRow)  # noqa: E741  as in the queries
HORIZON = timedelta(hours=6)
MOST = 700
READING = 0.05
"""Seconds for reading histories in one look; the rest is read in the next."""
_KEEP = timedelta(hours=1)
_QUIET_AGAIN = 0.5
_HOUR = timedelta(hours=1)
History = list[tuple[str, timedelta]]


class Histories:
    """How long the good runs of DAGs took, with their types, read when first asked for and kept for an hour.

    ``cursor`` is where the last look ended, if there was more than it may look at.
    """

    def __init__(self) -> None:
        self.cursor: tuple[datetime, int] | None = None
        self._known: dict[str, tuple[datetime, History]] = {}

    def read(self, session: Session, dag_ids: Iterable[str], *, now: datetime) -> None:
        """Read what is not known, as far as the time of one look goes."""
        begin = time.monotonic()
        self._known = {name: item for name, item in self._known.items() if now - item[0] < _KEEP}
        for dag_id in dag_ids:
            if dag_id in self._known:
                continue
            query = (
                select(R.c.run_type, R.c.start_date, R.c.end_date)
                .where(R.c.dag_id == dag_id, R.c.state == "success", R.c.run_type != "backfill")
                .where(R.c.start_date.is_not(None), R.c.end_date.is_not(None))
                .order_by(R.c.run_after.desc())
                .limit(KEPT)
            )
            found = [(row.run_type, row.end_date - row.start_date) for row in session.execute(query)]
            self._known[dag_id] = (now, found)
            if time.monotonic() - begin > READING:
                return

    def of(self, dag_id: str, run_types: Collection[str] | None = None) -> list[timedelta]:
        """Return how long good runs took."""
        _, found = self._known.get(dag_id, (None, []))
        return [took for run_type, took in found if run_types is None or run_type in run_types]


def look_ahead(
    session: Session, *, now: datetime, histories: Histories, lag_limit: timedelta
) -> dict[str, int]:
    """Set what is likely to be missed ``at_risk``, tell it where the policy wants that, and count; the caller commits.

    A quiet risk that has gone goes back to ``expected``; one that was told stays until it is judged.
    """
    guess = and_(O.c.state == AT_RISK, O.c.cause.in_(FORECASTS))
    # Of what is not settled little has begun, but much is due within the horizon: a planner cannot know that.
    begun = select(O.c.id).where(O.c.watch_from <= now, O.c.settled_at.is_(None)).cte("begun")
    begun = begun.prefix_with("MATERIALIZED", dialect="postgresql")
    query = (
        select(*JOINED, O.c.next_check_at, O.c.other_end)
        .join(P, P.c.id == O.c.policy_id)
        .join(begun, begun.c.id == O.c.id)
        .where(O.c.next_check_at > now, O.c.next_check_at <= now + HORIZON)
        .where(or_(O.c.state == EXPECTED, guess), P.c.kind.in_(("by", "within")), P.c.subject == "run")
        .order_by(O.c.next_check_at, O.c.id)
        .limit(MOST)
        .with_for_update(of=O, skip_locked=True)
    )
    if histories.cursor is not None:
        when, number = histories.cursor
        after = and_(O.c.next_check_at == when, O.c.id > number)
        query = query.where(or_(O.c.next_check_at > when, after))
    rows = session.execute(query).all()
    histories.cursor = (rows[-1].next_check_at, rows[-1].id) if len(rows) == MOST else None
    if not rows:
        return {}
    facts = read_facts(session, rows)
    histories.read(session, dict.fromkeys(row.dag_id for row in rows), now=now)
    versions = versions_of(session, {row.version_id for row in rows})
    silent = [row for row in rows if facts.get(row.id, Fact()).state in ("", "queued")]
    begins = _feeding(session, silent, histories=histories, now=now)
    found = []
    for row in rows:
        fact, policy = facts.get(row.id, Fact()), versions[row.version_id].policy
        past = histories.of(row.dag_id, policy.run_types)
        guessed = _guess(row, fact, past, begin=begins.get(row.dag_id, now), now=now)
        if guessed is not None:
            found.append((row, fact, policy, guessed))
    return _write(session, found, now=now, lag_limit=lag_limit)


def _guess(
    row: Any, fact: Fact, past: Sequence[timedelta], *, begin: datetime, now: datetime
) -> Forecast | None:
    if fact.state == "running" and fact.started is not None:
        return running(started=fact.started, past=past, limit=row.tell_at, now=now)
    if fact.state in ("", "queued"):
        return waiting(past=past, limit=row.tell_at, begin=max(begin, now), now=now)
    return None


def _feeding(
    session: Session, rows: Sequence[Any], *, histories: Histories, now: datetime
) -> dict[str, datetime]:
    """Return when DAGs that wait for assets can start at the earliest: when the slowest of what feeds them is done."""
    waits = {row.dag_id: row.watch_from for row in rows}
    feeders: dict[str, set[str]] = defaultdict(set)
    for some in chunks(sorted(waits)):
        query = (
            select(FEEDS.c.dag_id, MAKES.c.dag_id.label("feeder"))
            .join(MAKES, MAKES.c.asset_id == FEEDS.c.asset_id)
            .where(FEEDS.c.dag_id.in_(some), MAKES.c.dag_id != FEEDS.c.dag_id)
            .distinct()
        )
        for row in session.execute(query):
            feeders[row.dag_id].add(row.feeder)
    names = sorted({name for some in feeders.values() for name in some})
    histories.read(session, names, now=now)
    newest: dict[str, Any] = {}
    since = min((waits[dag_id] for dag_id in feeders), default=now)
    for some in chunks(names):
        runs = select(R.c.dag_id, R.c.state, R.c.start_date, R.c.end_date, R.c.run_after).where(
            R.c.dag_id.in_(some), R.c.run_after >= since - timedelta(days=1), R.c.run_type != "backfill"
        )
        for row in session.execute(runs.order_by(R.c.run_after)):
            newest[row.dag_id] = row
    begins: dict[str, datetime] = {}
    for dag_id, feeding in feeders.items():
        etas = [_done(newest.get(name), histories.of(name), since=waits[dag_id], now=now) for name in feeding]
        begins[dag_id] = max((eta for eta in etas if eta is not None), default=now)
    return begins


def _done(run: Any, past: Sequence[timedelta], *, since: datetime, now: datetime) -> datetime | None:
    """Return when what feeds a DAG is likely to be done; ``None`` if that is not known, or it is done."""
    if len(past) < LEAST or (run is not None and run.state == "success" and run.end_date >= since):
        return None
    begin: datetime = now
    if run is not None and run.state == "running" and run.start_date is not None:
        begin = run.start_date
    return max(now, begin + usual_time(past))


def _write(
    session: Session,
    found: Sequence[tuple[Any, Fact, Policy, Forecast]],
    *,
    now: datetime,
    lag_limit: timedelta,
) -> dict[str, int]:
    risen: dict[str, list[int]] = defaultdict(list)
    gone: list[int] = []
    told: list[Broken] = []
    for row, fact, policy, forecast in found:
        if forecast.likely and row.cause != forecast.cause:
            risen[forecast.cause].append(row.id)
        if forecast.likely and row.state == EXPECTED and policy.on_risk == "tell":
            told.append(Broken(row, AT_RISK, forecast.cause, fact, forecast=forecast.text))
        if row.state == AT_RISK and forecast.share < _QUIET_AGAIN:
            gone.append(row.id)
    for cause, ids in risen.items():
        session.execute(update(O).where(among(session, O.c.id, ids)).values(state=AT_RISK, cause=cause))
    open_incidents(session, told, now=now, lag_limit=lag_limit)
    quiet = set(gone) - with_incident(session, gone) if gone else set()
    if quiet:
        session.execute(update(O).where(among(session, O.c.id, quiet)).values(state=EXPECTED, cause=""))
    new = sum(row.state == EXPECTED and forecast.likely for row, _, _, forecast in found)
    return {AT_RISK: new} if new else {}
