"""Judges occurrences that are due for a look, thousands in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, case, delete, select, update
from sqlalchemy.orm import Session

from airflow_ext.sla.judge import DagState, Decision, Fact, decide
from airflow_ext.sla.ledger.models import (
    AT_RISK,
    EXPECTED,
    MET,
    MISSED,
    OPEN_STATES,
    RECOVERED,
    OccurrenceRow,
    PolicyRow,
)
from airflow_ext.sla.ledger.sql import among, chunks, table_of
from airflow_ext.sla.monitor import periodic
from airflow_ext.sla.monitor.dags import read_states, scheduler_is_alive
from airflow_ext.sla.monitor.facts import best, read_facts
from airflow_ext.sla.monitor.incidents import JOINED, Broken, open_incidents, paused_acknowledged, resolve

O, P = table_of(OccurrenceRow), table_of(PolicyRow)  # noqa: E741  as in the queries
_ONE_ENDED = ("by", "within")


@dataclass
class Tally:
    """What one look came to.

    :param looked: Occurrences looked at.
    :param lag: How far behind the oldest of them was.
    :param states: How many became what.
    """

    looked: int = 0
    lag: timedelta = timedelta(0)
    states: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True)
class Limits:
    """How a look is bounded.

    :param batch: Occurrences in one transaction.
    :param lag_limit: What is told later than this after its time was detected late.
    :param scheduler_threshold: How old the newest heartbeat of a scheduler may be.
    """

    batch: int = 4000
    lag_limit: timedelta = timedelta(seconds=20)
    scheduler_threshold: timedelta = timedelta(seconds=30)


def judge_due(session: Session, *, now: datetime, limits: Limits) -> Tally:
    """Judge what is due for a look, oldest first, at most a batch; the caller commits.

    Rows that another replica looks at are left to it.
    """
    query = (
        select(O.c.id, O.c.next_check_at)
        .where(O.c.next_check_at <= now)
        .order_by(O.c.next_check_at)
        .limit(limits.batch)
        .with_for_update(skip_locked=True)
    )
    found = session.execute(query).all()
    tally = Tally(looked=len(found))
    if found:
        tally.lag = now - found[0].next_check_at
        _judge(session, [row.id for row in found], now=now, limits=limits, tally=tally)
    return tally


def look_early(session: Session, *, now: datetime, limits: Limits) -> Tally:
    """Settle what is done before it is due, and see what failed before it is due; the caller commits.

    Seen early, a good end counts also if the run is cleared or deleted later.
    """
    tally = Tally()
    watched = _watched(session, now)
    if watched is None:
        return tally
    since, subjects = watched

    def chosen(query: Select[Any]) -> Select[Any]:
        return query.where(
            O.c.state == EXPECTED, O.c.watch_from <= now, O.c.next_check_at > now, P.c.kind.in_(_ONE_ENDED)
        )

    facts = best(chosen, since=since, subjects=subjects)
    done = (facts.c.state == "success") & (facts.c.ended <= O.c.tell_at)
    tally.states[MET] += _settle(session, facts, done, now=now)
    failing = (
        select(O.c.id)
        .join(facts, facts.c.id == O.c.id)
        .join(P, P.c.id == O.c.policy_id)
        .where(facts.c.state == "failed", P.c.on_failure == "tell", O.c.state == EXPECTED)
        .limit(limits.batch)
        .with_for_update(of=O, skip_locked=True)
    )
    ids: list[int] = list(session.scalars(failing))
    if ids:
        _judge(session, ids, now=now, limits=limits, tally=tally)
    return tally


def _watched(session: Session, now: datetime) -> tuple[datetime, set[str]] | None:
    query = (
        select(O.c.watch_from, P.c.subject)
        .join(P, P.c.id == O.c.policy_id)
        .where(O.c.state == EXPECTED, O.c.watch_from <= now, P.c.kind.in_(_ONE_ENDED))
        .order_by(O.c.watch_from)
        .limit(1)
    )
    first = session.execute(query).first()
    if first is None:
        return None
    subjects: list[str] = list(
        session.scalars(select(P.c.subject).where(P.c.retired_at.is_(None)).distinct())
    )
    return first.watch_from, set(subjects) | {first.subject}


def _settle(session: Session, facts: Any, condition: Any, *, now: datetime) -> int:
    """Set what has ended well to ``met`` or ``recovered``, in one statement."""
    in_time = facts.c.ended <= O.c.tell_at
    result: Any = session.execute(
        update(O)
        .where(O.c.id == facts.c.id, condition)
        .values(
            state=case((in_time, MET), else_=RECOVERED),
            cause=case((in_time, ""), else_="late"),
            done_at=facts.c.ended,
            run_id=facts.c.run_id,
            judged_at=now,
            settled_at=now,
            next_check_at=None,
        )
        .execution_options(synchronize_session=False)
    )
    return int(result.rowcount)


def _judge(session: Session, ids: Sequence[int], *, now: datetime, limits: Limits, tally: Tally) -> None:
    scope = session.execute(
        select(P.c.kind, P.c.subject, O.c.bound_run.is_not(None).label("bound"), _first(O.c.watch_from))
        .join(O, O.c.policy_id == P.c.id)
        .where(among(session, O.c.id, ids))
        .group_by(P.c.kind, P.c.subject, O.c.bound_run.is_not(None))
    ).all()
    once = [row for row in scope if row.kind in _ONE_ENDED]

    def chosen(query: Select[Any]) -> Select[Any]:
        return query.where(among(session, O.c.id, ids), P.c.kind.in_(_ONE_ENDED))

    facts = None
    if once:
        facts = best(
            chosen,
            since=min(row.first for row in once),
            subjects={row.subject for row in once},
            bound=any(row.bound for row in once),
        )
        settled = _settle(session, facts, facts.c.state == "success", now=now)
        _after_settling(session, ids, now=now, limits=limits, tally=tally)
        if settled == len(ids):
            return
    query = select(*JOINED).join(P, P.c.id == O.c.policy_id)
    left = session.execute(
        query.where(among(session, O.c.id, ids), O.c.state.in_(OPEN_STATES), O.c.next_check_at.is_not(None))
    ).all()
    known = read_facts(session, facts) if facts is not None else {}
    world = _World(session, left, now=now, limits=limits)
    outcomes = [(row, known.get(row.id, Fact()), world) for row in left if row.kind in _ONE_ENDED]
    decisions = [(row, fact, _decide(row, fact, world, now)) for row, fact, world in outcomes]
    _apply(session, decisions, now=now, limits=limits, tally=tally)
    rest = [row for row in left if row.kind not in _ONE_ENDED]
    if rest:
        periodic.judge(session, rest, now=now, limits=limits, tally=tally, dags=world.dags)
    _retire_gone(session, decisions, now=now)


def _first(column: Any) -> Any:
    from sqlalchemy import func

    return func.min(column).label("first")


class _World:
    """What is read once for all occurrences of a look."""

    def __init__(self, session: Session, rows: Sequence[Any], *, now: datetime, limits: Limits) -> None:
        alive = scheduler_is_alive(session, now=now, threshold=limits.scheduler_threshold) if rows else True
        self.dags = read_states(session, {row.dag_id for row in rows}, scheduler_alive=alive)
        asking = {row.policy_id for row in rows if row.on_paused == "excuse_after_ack"}
        self.acknowledged = paused_acknowledged(session, asking)


def _decide(row: Any, fact: Fact, world: _World, now: datetime) -> Decision:
    return decide(
        state=row.state,
        tell_at=row.tell_at,
        bound=row.bound_run is not None,
        on_paused=row.on_paused,
        on_failure=row.on_failure,
        paused_acknowledged=row.policy_id in world.acknowledged,
        about_data=row.subject == "asset",
        fact=fact,
        dag=world.dags.get(row.dag_id, DagState()),
        now=now,
    )


def _apply(
    session: Session,
    decisions: Sequence[tuple[Any, Fact, Decision]],
    *,
    now: datetime,
    limits: Limits,
    tally: Tally,
) -> None:
    alike: dict[tuple[str, str, datetime | None], list[int]] = defaultdict(list)
    broken, over, risen = [], [], []
    for row, fact, decision in decisions:
        alike[decision.state, decision.cause, decision.next_check].append(row.id)
        if row.state != decision.state:
            tally.states[decision.state] += 1
        if decision.tell and row.state == AT_RISK:
            risen.append(row.id)  # told when it failed; not a second time
        elif decision.tell:
            broken.append(Broken(row, decision.tell, decision.cause, fact))
        elif decision.next_check is None and decision.state != MISSED:
            over.append((row.id, decision.state))
    for (state, cause, next_check), ids in alike.items():
        values: dict[str, Any] = {
            "state": state,
            "cause": cause,
            "next_check_at": next_check,
            "judged_at": now,
        }
        if next_check is None:
            values["settled_at"] = now
        for some in chunks(ids, 5000):
            session.execute(update(O).where(among(session, O.c.id, some)).values(values))
    open_incidents(session, broken, now=now, lag_limit=limits.lag_limit)
    periodic.turn_into_missed(session, risen)
    for state in {state for _, state in over}:
        resolve(session, [number for number, each in over if each == state], now=now, resolution=state)


def _after_settling(
    session: Session, ids: Sequence[int], *, now: datetime, limits: Limits, tally: Tally
) -> None:
    query = select(*JOINED, O.c.run_id).join(P, P.c.id == O.c.policy_id)
    query = query.where(among(session, O.c.id, ids), O.c.settled_at == now)
    late = session.execute(query.where(O.c.state == RECOVERED)).all()
    resolved = resolve(session, [row.id for row in late], now=now, resolution="recovered")
    if len(late) > resolved:
        # Too late, and over before anybody looked: told once, as over.
        known = periodic.with_incident(session, [row.id for row in late])
        open_incidents(
            session,
            [
                Broken(
                    row,
                    "missed",
                    "late",
                    Fact(state="success", run_id=row.run_id, ended=row.done_at),
                    over=row.done_at,
                )
                for row in late
                if row.id not in known
            ],
            now=now,
            lag_limit=limits.lag_limit,
        )
    met: list[int] = list(
        session.scalars(
            select(O.c.id).where(among(session, O.c.id, ids), O.c.settled_at == now, O.c.state == MET)
        )
    )
    resolve(session, met, now=now, resolution="met")
    tally.states[MET] += len(met)
    tally.states[RECOVERED] += len(late)


def _retire_gone(session: Session, decisions: Sequence[tuple[Any, Fact, Decision]], *, now: datetime) -> None:
    """A DAG that is gone is told once: then its policies are kept no more, until it is back."""
    gone = {row.policy_id for row, _, decision in decisions if decision.cause == "dag_gone" and decision.tell}
    if gone:
        retire(session, gone, why="dag_gone", now=now)


def retire(session: Session, policy_ids: set[int], *, why: str, now: datetime) -> None:
    """Take policies out of force and drop what they still expect; what was told stays as it is."""
    session.execute(
        update(P)
        .where(P.c.id.in_(policy_ids), P.c.retired_at.is_(None))
        .values(retired_at=now, retired_why=why, materialised_until=None)
    )
    session.execute(delete(O).where(O.c.policy_id.in_(policy_ids), O.c.state == EXPECTED, O.c.tell_at > now))
    at_risk: list[int] = list(
        session.scalars(
            select(O.c.id).where(O.c.policy_id.in_(policy_ids), O.c.state == AT_RISK, O.c.tell_at > now)
        )
    )
    session.execute(
        update(O)
        .where(among(session, O.c.id, at_risk))
        .values(state="void", cause="withdrawn", next_check_at=None, settled_at=now)
    )
    resolve(session, at_risk, now=now, resolution="withdrawn")
