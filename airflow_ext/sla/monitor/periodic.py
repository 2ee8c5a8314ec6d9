"""Judges ``fresh`` and ``every``: promises about how often, which have no one good end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from airflow_ext.sla.judge import DagState, Fact, cause_of
from airflow_ext.sla.ledger.models import (
    EXPECTED,
    MET,
    MISSED,
    RECOVERED,
    IncidentRow,
    OccurrenceRow,
    PolicyRow,
)
from airflow_ext.sla.ledger.sql import add_new, among, set_each, table_of
from airflow_ext.sla.monitor.causes import open_with_causes
from airflow_ext.sla.monitor.facts import completions, publications
from airflow_ext.sla.monitor.incidents import Broken, resolve, versions_of
from airflow_ext.sla.monitor.verdicts import breached
from airflow_ext.sla.policy import Policy

if TYPE_CHECKING:
    from airflow_ext.sla.monitor.judging import Limits, Tally

O, I, P = table_of(OccurrenceRow), table_of(IncidentRow), table_of(PolicyRow)  # noqa: E741  as in the queries
StateOf = Callable[[Any], DagState]
"""Says how the DAG of an occurrence is, or those that make its data."""
_AGAIN = timedelta(seconds=30)
_NEWEST = timedelta(days=31)
"""So far back the newest partition is looked for, beside which others are repairs."""


def judge(
    session: Session,
    rows: Sequence[Any],
    *,
    now: datetime,
    limits: Limits,
    tally: Tally,
    state_of: StateOf,
) -> set[int]:
    """Judge occurrences of ``fresh`` and ``every``.

    :param rows: Columns :data:`airflow_ext.sla.monitor.incidents.JOINED`.
    :returns: Policies that were missed because their DAG is gone.
    """
    versions = versions_of(session, {row.version_id for row in rows})
    ids = [row.id for row in rows]
    oldest = min(row.window_start - (versions[row.version_id].policy.fresh or timedelta(0)) for row in rows)

    def chosen(query: Select[Any]) -> Select[Any]:
        return query.where(among(session, O.c.id, ids))

    ends: dict[int, list[datetime]] = {}
    for subject in {row.subject for row in rows}:
        ends |= completions(session, chosen, subject=subject, since=oldest)
    ends |= _published(session, rows, versions, since=oldest)
    begun = {
        row.id: row.created_at
        for row in session.execute(
            select(P.c.id, P.c.created_at).where(P.c.id.in_({row.policy_id for row in rows}))
        )
    }
    work = _Work(session, now=now, limits=limits, tally=tally, state_of=state_of)
    work.breached = breached(session, [row.id for row in rows if row.subject == "asset"])
    for row in rows:
        policy = versions[row.version_id].policy
        times = ends.get(row.id, [])
        if policy.kind == "every":
            work.every(row, policy, times)
        else:
            work.fresh(row, policy, times, begun[row.policy_id])
    work.finish()
    return {item.occurrence.policy_id for item in work.broken if item.cause == "dag_gone"}


def _published(
    session: Session, rows: Sequence[Any], versions: Mapping[int, Any], *, since: datetime
) -> dict[int, list[datetime]]:
    """Return when contracts went on: what repairs a partition older than the newest so far makes nothing fresh."""
    rules = {row.id: rule for row in rows if (rule := versions[row.version_id].policy.partitions) is not None}
    if not rules:
        return {}

    def chosen(query: Select[Any]) -> Select[Any]:
        return query.where(among(session, O.c.id, list(rules)))

    found: dict[int, list[datetime]] = {number: [] for number in rules}
    for number, events in publications(session, chosen, since=since - _NEWEST).items():
        newest: datetime | None = None
        for moment, key in events:
            if not rules[number].fits(key):
                continue
            begin = rules[number].bounds(key)[0]
            if newest is None or begin >= newest:
                newest = begin
                found[number].append(moment)
    return found


class _Work:
    def __init__(
        self, session: Session, *, now: datetime, limits: Limits, tally: Tally, state_of: StateOf
    ) -> None:
        self.session, self.now, self.limits, self.tally, self.state_of = session, now, limits, tally, state_of
        self.broken: list[Broken] = []
        self.recovered: list[int] = []
        self.kept: list[Any] = []
        self.more: list[dict[str, Any]] = []
        self.breached: set[int] = set()
        self.updates: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)

    def every(self, row: Any, policy: Policy, times: list[datetime]) -> None:
        count = sum(row.window_start <= moment < row.window_end + policy.grace for moment in times)
        if count >= policy.at_least:
            self._end(row, MET, "", done_at=times[-1])
            self.kept.append(row)
        elif self.now >= row.tell_at:
            cause = self._cause(row, "too_few")
            self._end(row, MISSED, cause)
            self.broken.append(Broken(row, "missed", cause, Fact()))
        else:
            self._again(row, row.state, row.cause, row.tell_at)

    def fresh(self, row: Any, policy: Policy, times: list[datetime], begun: datetime) -> None:
        """Walk from one good end to the next; the first gap that is too long is the miss."""
        age = policy.fresh or timedelta(0)
        if row.state == MISSED:
            after = [moment for moment in times if moment > row.due_at]
            if after:
                self._end(row, RECOVERED, "stale", done_at=after[0])
                self.recovered.append(row.id)
                self._next_episode(row, after[0])
            else:
                self._again(row, MISSED, row.cause, self.now + _AGAIN)
            return
        last = max((moment for moment in times if moment <= row.window_start), default=None)
        basis = last or max(begun, row.window_start - age)
        for moment in [*(each for each in times if each > basis), None]:
            limit = basis + age
            if limit + policy.grace >= row.window_end:
                break  # fresh to the end of this date
            if (moment or self.now) > limit + policy.grace:
                self._stale(row, limit, limit + policy.grace)
                return
            if moment is None:
                break
            basis = moment
        limit = basis + age + policy.grace
        if self.now >= row.window_end and limit >= row.window_end:
            self._end(row, MET, "", done_at=basis)
        else:
            self._again(row, EXPECTED, "", min(limit, row.window_end))

    def _stale(self, row: Any, limit: datetime, tell_at: datetime) -> None:
        cause = self._cause(row, "stale")
        parent = self._open_before(row)
        due_at = max(limit, row.window_start)
        self._update(
            row,
            state=MISSED,
            cause=cause,
            due_at=due_at,
            tell_at=max(tell_at, row.window_start),
            next_check_at=self.now + _AGAIN,
        )
        self.tally.states[MISSED] += 1
        self.broken.append(Broken(row, "missed", cause, Fact(ended=None), parent=parent))

    def _open_before(self, row: Any) -> int | None:
        """Yesterday's staleness that goes on is one story: it is not told anew at midnight."""
        self._write()
        query = (
            select(I.c.id)
            .join(O, O.c.id == I.c.occurrence_id)
            .where(
                O.c.policy_id == row.policy_id,
                O.c.state == MISSED,
                O.c.id != row.id,
                I.c.resolved_at.is_(None),
            )
            .order_by(I.c.opened_at)
            .limit(1)
        )
        return self.session.scalar(query)

    def _next_episode(self, row: Any, begin: datetime) -> None:
        if begin >= row.window_end:
            return
        word, _, number = row.slot.rpartition("-")
        self.more.append(
            {
                **{
                    name: getattr(row, name)
                    for name in ("policy_id", "version_id", "local_date", "window_end")
                },
                "slot": f"{word}-{int(number) + 1}",
                "due_at": row.window_end,
                "tell_at": row.window_end,
                "watch_from": begin,
                "window_start": begin,
                "other_start": begin,
                "other_end": row.window_end,
                "state": EXPECTED,
                "cause": "",
                "next_check_at": self.now,
                "created_at": self.now,
            }
        )

    def _cause(self, row: Any, otherwise: str) -> str:
        found = cause_of(Fact(), self.state_of(row), about_data=True)
        if row.id in self.breached:
            return "breached"
        return otherwise if found == "no_event" else found

    def _end(self, row: Any, state: str, cause: str, *, done_at: datetime | None = None) -> None:
        self._update(row, state=state, cause=cause, done_at=done_at, next_check_at=None, settled_at=self.now)
        self.tally.states[state] += 1

    def _again(self, row: Any, state: str, cause: str, when: datetime) -> None:
        self._update(row, state=state, cause=cause, next_check_at=when)

    def _update(self, row: Any, **values: Any) -> None:
        self.updates[tuple(sorted(values))].append({"id": row.id, **values})

    def _write(self) -> None:
        for rows in self.updates.values():
            set_each(self.session, O, rows, same={"judged_at": self.now})
        self.updates.clear()

    def _missed_before(self) -> list[int]:
        """A window cannot be repaired: that it comes often enough again is what ends the incidents of those before."""
        if not self.kept:
            return []
        query = (
            select(O.c.id, O.c.policy_id, O.c.due_at)
            .join(I, I.c.occurrence_id == O.c.id)
            .where(among(self.session, I.c.policy_id, {row.policy_id for row in self.kept}))
            .where(I.c.resolved_at.is_(None), O.c.state == MISSED)
        )
        until: dict[int, datetime] = {}
        for row in self.kept:
            until[row.policy_id] = max(row.due_at, until.get(row.policy_id, row.due_at))
        return [row.id for row in self.session.execute(query) if row.due_at < until[row.policy_id]]

    def finish(self) -> None:
        self._write()
        open_with_causes(self.session, self.broken, now=self.now, lag_limit=self.limits.lag_limit)
        self.recovered += self._missed_before()
        resolve(self.session, self.recovered, now=self.now, resolution="recovered")
        add_new(self.session, O, self.more)
