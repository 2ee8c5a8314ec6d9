"""Judges occurrences that are due for a look, thousands in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from airflow_ext.sla.forecast import FORECASTS
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
from airflow_ext.sla.ledger.sql import among, chunks, set_each, table_of
from airflow_ext.sla.monitor import periodic
from airflow_ext.sla.monitor.causes import makers_of, open_with_causes
from airflow_ext.sla.monitor.dags import read_states, scheduler_is_alive
from airflow_ext.sla.monitor.facts import read_facts
from airflow_ext.sla.monitor.incidents import (
    JOINED,
    Broken,
    open_incidents,
    paused_acknowledged,
    resolve,
    turn_into,
    with_incident,
)
from airflow_ext.sla.monitor.verdicts import breached

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
    :param sweep: Policies that are gone through once a minute for what has ended unseen.
    :param lag_limit: What is told later than this after its time was detected late.
    :param scheduler_threshold: How old the newest heartbeat of a scheduler may be.
    """

    batch: int = 2000
    sweep: int = 1000
    lag_limit: timedelta = timedelta(seconds=20)
    scheduler_threshold: timedelta = timedelta(seconds=30)


def judge_due(session: Session, *, now: datetime, limits: Limits) -> Tally:
    """Judge what is due for a look, oldest first, at most a batch; the caller commits.

    Rows that another replica looks at are left to it.
    """
    query = _looked_at().where(O.c.next_check_at <= now).order_by(O.c.next_check_at).limit(limits.batch)
    rows = session.execute(query).all()
    tally = Tally(looked=len(rows))
    if rows:
        tally.lag = now - rows[0].next_check_at
        _judge(session, rows, now=now, limits=limits, tally=tally)
    return tally


def look_early(session: Session, policy_ids: Sequence[int], *, now: datetime, limits: Limits) -> Tally:
    """Settle what is done before it is due, and see what failed before it is due; the caller commits.

    Seen early, a good end counts also if the run is cleared or deleted later.

    :param policy_ids: Policies of which something has ended.
    """
    tally = Tally()
    query = _looked_at().where(
        among(session, O.c.policy_id, policy_ids),
        O.c.settled_at.is_(None),
        _is_open(),
        O.c.watch_from <= now,
        O.c.next_check_at > now,
        P.c.kind.in_(_ONE_ENDED),
    )
    rows = session.execute(query).all() if policy_ids else []
    if rows:
        facts = read_facts(session, rows)
        ended = [row for row in rows if row.id in facts and _early_news(row, facts[row.id])]
        _judge(session, ended, now=now, limits=limits, tally=tally, known=facts)
    return tally


def _early_news(row: Any, fact: Fact) -> bool:
    if fact.state == "success":
        return fact.ended is not None and fact.ended <= row.tell_at
    return fact.state == "failed" and row.on_failure == "tell"


def _is_open() -> Any:
    """Return the condition that nothing is known yet of an occurrence but a guess."""
    return or_(O.c.state == EXPECTED, and_(O.c.state == AT_RISK, O.c.cause.in_(FORECASTS)))


def _looked_at() -> Select[Any]:
    """Return a query of what a look needs of every occurrence; of most, it needs no more."""
    columns = ("id", "policy_id", "state", "next_check_at", "tell_at", "bound_run")
    times = ("watch_from", "window_end", "other_end")
    query = select(*(O.c[name] for name in (*columns, *times)), P.c.kind, P.c.subject, P.c.on_failure)
    return query.join(P, P.c.id == O.c.policy_id).with_for_update(of=O, skip_locked=True)


def _settle(
    session: Session, done: Sequence[tuple[Any, Fact]], *, now: datetime, limits: Limits, tally: Tally
) -> None:
    """Set what has ended well to ``met`` or ``recovered``, and end its incident."""
    for state, cause in ((MET, ""), (RECOVERED, "late")):
        some = [(row, fact) for row, fact in done if ((fact.ended or now) <= row.tell_at) == (state == MET)]
        set_each(
            session,
            O,
            [{"id": row.id, "done_at": fact.ended or now, "run_id": fact.run_id} for row, fact in some],
            same={
                "state": state,
                "cause": cause,
                "judged_at": now,
                "settled_at": now,
                "next_check_at": None,
            },
        )
        tally.states[state] += len(some)
        told = [row.id for row, _ in some if row.state != EXPECTED]
        resolve(session, told, now=now, resolution=state)
        if state == RECOVERED:
            # A guess that it will be late is not told unless the policy wants that.
            known = with_incident(session, [row.id for row, _ in some if row.state == AT_RISK])
            turn_into(session, sorted(known), kind="missed", cause=cause)
            silent = {
                row.id: fact
                for row, fact in some
                if row.state == EXPECTED or (row.state == AT_RISK and row.id not in known)
            }
            _tell_as_over(session, silent, now=now, limits=limits)


def _tell_as_over(session: Session, facts: dict[int, Fact], *, now: datetime, limits: Limits) -> None:
    """Tell once of what ended too late, and was over before anybody looked."""
    if not facts:
        return
    query = select(*JOINED).join(P, P.c.id == O.c.policy_id).where(among(session, O.c.id, facts))
    broken = []
    for row in session.execute(query):
        fact = Fact(state="success", run_id=facts[row.id].run_id, ended=row.done_at)
        broken.append(Broken(row, "missed", "late", fact, over=row.done_at))
    open_incidents(session, broken, now=now, lag_limit=limits.lag_limit)


def _judge(
    session: Session,
    rows: Sequence[Any],
    *,
    now: datetime,
    limits: Limits,
    tally: Tally,
    known: dict[int, Fact] | None = None,
) -> None:
    """Judge occurrences.

    :param known: Their facts, if they are read already.
    """
    if known is None:
        known = read_facts(session, [row for row in rows if row.kind in _ONE_ENDED])
    done = [(row, known[row.id]) for row in rows if row.id in known and known[row.id].state == "success"]
    _settle(session, done, now=now, limits=limits, tally=tally)
    settled = {row.id for row, _ in done}
    ids = [row.id for row in rows if row.id not in settled]
    if not ids:
        return
    query = select(*JOINED).join(P, P.c.id == O.c.policy_id)
    left = session.execute(
        query.where(among(session, O.c.id, ids), O.c.state.in_(OPEN_STATES), O.c.next_check_at.is_not(None))
    ).all()
    world = _World(session, left, now=now, limits=limits)
    outcomes = [(row, known.get(row.id, Fact()), world) for row in left if row.kind in _ONE_ENDED]
    decisions = [(row, fact, _decide(row, fact, world, now)) for row, fact, world in outcomes]
    decisions = _name_breaches(session, decisions)
    _apply(session, decisions, now=now, limits=limits, tally=tally)
    rest = [row for row in left if row.kind not in _ONE_ENDED]
    gone = {row.policy_id for row, _, decision in decisions if decision.cause == "dag_gone" and decision.tell}
    if rest:
        gone |= periodic.judge(session, rest, now=now, limits=limits, tally=tally, state_of=world.state_of)
    # A DAG that is gone is told once: then its policies are kept no more, until it is back.
    retire(session, gone, why="dag_gone", now=now)


class _World:
    """What is read once for all occurrences of a look."""

    def __init__(self, session: Session, rows: Sequence[Any], *, now: datetime, limits: Limits) -> None:
        alive = scheduler_is_alive(session, now=now, threshold=limits.scheduler_threshold) if rows else True
        self._makers = makers_of(session, rows)
        names = {row.dag_id for row in rows}.union(*self._makers.values())
        self._dags = read_states(session, names, scheduler_alive=alive)
        asking = {row.policy_id for row in rows if row.on_paused == "excuse_after_ack"}
        self.acknowledged = paused_acknowledged(session, asking)

    def state_of(self, row: Any) -> DagState:
        """Return how the DAG of an occurrence is; for data that other DAGs make, how those are."""
        own = self._dags.get(row.dag_id, DagState())
        makers = self._makers.get(row.policy_id, set())
        if not makers or row.dag_id in makers:
            return own
        states = [self._dags.get(name, DagState()) for name in makers]
        return DagState(
            there=own.there,
            paused=all(state.paused for state in states),
            import_error=any(state.import_error for state in states),
            scheduler_alive=own.scheduler_alive,
        )


def _decide(row: Any, fact: Fact, world: _World, now: datetime) -> Decision:
    return decide(
        state=EXPECTED if row.state == AT_RISK and row.cause in FORECASTS else row.state,
        tell_at=row.tell_at,
        bound=row.bound_run is not None,
        on_paused=row.on_paused,
        on_failure=row.on_failure,
        paused_acknowledged=row.policy_id in world.acknowledged,
        about_data=row.subject == "asset",
        fact=fact,
        dag=world.state_of(row),
        now=now,
    )


def _name_breaches(
    session: Session, decisions: list[tuple[Any, Fact, Decision]]
) -> list[tuple[Any, Fact, Decision]]:
    """Say of contracts without an event whether they were judged and do not hold: whatever else is, that is the cause."""
    silent = [
        row.id
        for row, fact, decision in decisions
        if row.subject == "asset" and not fact.state and decision.state == MISSED
    ]
    broken = breached(session, silent) if silent else set()
    return [
        (row, fact, replace(decision, cause="breached") if row.id in broken else decision)
        for row, fact, decision in decisions
    ]


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
    told = with_incident(session, risen) if risen else set()
    broken += [
        Broken(row, decision.tell, decision.cause, fact)
        for row, fact, decision in decisions
        if row.id in set(risen) - told
    ]
    open_with_causes(session, broken, now=now, lag_limit=limits.lag_limit)
    turned: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, _, decision in decisions:
        if row.id in told:
            turned[decision.tell, decision.cause].append(row.id)
    for (kind, cause), ids in turned.items():
        turn_into(session, ids, kind=kind, cause=cause)
    for state in {state for _, state in over}:
        resolve(session, [number for number, each in over if each == state], now=now, resolution=state)


def retire(session: Session, policy_ids: set[int], *, why: str, now: datetime) -> None:
    """Take policies out of force and drop what they still expect; what was told stays as it is."""
    if not policy_ids:
        return
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
