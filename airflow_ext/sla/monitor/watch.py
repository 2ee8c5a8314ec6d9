"""Knows what has ended since the last look without reading what ended before: Airflow has no index for that.

Runs are few while they are not over, and have an index then; new ones have the highest ids. So a run has ended if it was
not over at the last look and is now, or if it is new and over. What slips through (a clear and another end between two
looks, an id that was committed late) is found by a sweep, which goes through all policies a part at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, all_, bindparam, func, or_, select, union_all
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import PolicyRow
from airflow_ext.sla.ledger.sql import among, table_of
from airflow_ext.sla.monitor.tables import ASSET, ASSET_EVENT, DAG_RUN

P, R, E = table_of(PolicyRow), DAG_RUN, ASSET_EVENT
_SWEEP = timedelta(minutes=1)
_COMMITTED_LATE = 200
"""Ids are given before they are committed: so many are looked at again."""
_IN_TURN = 500


class Watch:
    """What one replica has seen of runs and events; lives as long as the process.

    :param batch: DAGs whose policies are looked at in one look; the rest is for the next.
    :param sweep: Policies of one part of the sweep.
    """

    def __init__(self, *, batch: int, sweep: int) -> None:
        self._batch, self._part = batch, sweep
        self._unfinished: dict[int, str] = {}
        self._newest: int | None = None
        self._seen: set[int] = set()
        self._event: int | None = None
        self._ended: dict[str, None] = {}
        self._tasks: list[str] = []
        self._after = 0
        self._round = 0
        self._swept: datetime | None = None
        self._has_tasks = self._has_assets = False

    def news(self, session: Session, *, now: datetime) -> list[int]:
        """Return the policies that something may have ended for since the last look."""
        found: set[int] = set()
        if self._round == 0 or self._swept is None or not self._swept <= now < self._swept + _SWEEP:
            self._swept = now
            found = self._sweep(session)
        self._look_at_runs(session)
        dags = [name for name, _ in zip(self._ended, range(self._batch), strict=False)]
        for name in dags:
            del self._ended[name]
        found |= _policies(session, dags)
        if self._has_tasks:
            found |= _policies(session, self._in_turn(), subject="task")
        if self._has_assets:
            found |= self._of_assets(session)
        return sorted(found)

    @property
    def more(self) -> bool:
        """Whether more has ended than one look takes."""
        return bool(self._ended)

    def _look_at_runs(self, session: Session) -> None:
        # One query for each state: each has its own index of few rows.
        states = (select(R.c.id, R.c.dag_id).where(R.c.state == state) for state in ("running", "queued"))
        unfinished = {row.id: row.dag_id for row in session.execute(union_all(*states))}
        first = self._newest is None
        newest = self._newest or session.scalar(select(func.max(R.c.id))) or 0
        near = newest - _COMMITTED_LATE
        self._seen = {number for number in self._seen if number > near}
        query = select(R.c.id, R.c.dag_id).where(R.c.id > near).order_by(R.c.id)
        recent = session.execute(
            _without(session, query, self._seen).limit(self._batch + _COMMITTED_LATE)
        ).all()
        ended = [name for number, name in self._unfinished.items() if number not in unfinished]
        if not first:
            known = self._seen | self._unfinished.keys() | unfinished.keys()
            ended += [row.dag_id for row in recent if row.id not in known]
        self._ended |= dict.fromkeys(ended)
        self._seen |= {row.id for row in recent}
        self._newest = max(self._seen, default=newest)
        self._unfinished = unfinished

    def _in_turn(self) -> list[str]:
        """Return some of the DAGs that have a run: their tasks end before it does."""
        if not self._tasks:
            self._tasks = sorted(set(self._unfinished.values()))
        some, self._tasks = self._tasks[:_IN_TURN], self._tasks[_IN_TURN:]
        return some

    def _of_assets(self, session: Session) -> set[int]:
        if self._event is None:
            self._event = session.scalar(select(func.max(E.c.id))) or 0
        after = self._event - _COMMITTED_LATE
        query = select(func.max(E.c.id).label("newest"), ASSET.c.name, ASSET.c.uri)
        query = query.join(ASSET, ASSET.c.id == E.c.asset_id).where(E.c.id > after)
        rows = session.execute(query.group_by(ASSET.c.name, ASSET.c.uri)).all()
        if not rows:
            return set()
        self._event = max([self._event, *(row.newest for row in rows)])
        named = or_(
            P.c.asset_name.in_([row.name for row in rows]), P.c.asset_uri.in_([row.uri for row in rows])
        )
        found: Sequence[int] = list(
            session.scalars(select(P.c.id).where(P.c.subject == "asset", P.c.retired_at.is_(None), named))
        )
        return set(found)

    def _sweep(self, session: Session) -> set[int]:
        about = select(_any_about("task"), _any_about("asset"))
        self._has_tasks, self._has_assets = session.execute(about).one()
        query = select(P.c.id).where(P.c.id > self._after, P.c.retired_at.is_(None)).order_by(P.c.id)
        found: list[int] = list(session.scalars(query.limit(self._part)))
        if len(found) < self._part:
            self._after, self._round = 0, self._round + 1
        else:
            self._after = found[-1]
        return set(found)


def _policies(session: Session, dag_ids: Iterable[str], *, subject: str = "") -> set[int]:
    names = list(dag_ids)
    if not names:
        return set()
    query = select(P.c.id).where(among(session, P.c.dag_id, names), P.c.retired_at.is_(None))
    found: list[int] = list(session.scalars(query.where(P.c.subject == subject) if subject else query))
    return set(found)


def _without(session: Session, query: Select[Any], seen: set[int]) -> Select[Any]:
    """Leave out of a query, where that is cheap, the runs that were there at the last look."""
    if session.get_bind().dialect.name != "postgresql" or not seen:
        return query
    return query.where(R.c.id != all_(bindparam(None, sorted(seen), type_=ARRAY(R.c.id.type))))


def _any_about(subject: str) -> ColumnElement[bool]:
    return select(P.c.id).where(P.c.subject == subject, P.c.retired_at.is_(None)).exists()
