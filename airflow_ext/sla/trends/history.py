"""How a promise has been kept: budget, burn, streaks, and what deadline its history would bear."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import MET, MISSED, RECOVERED, OccurrenceRow
from airflow_ext.sla.ledger.sql import among, chunks, table_of

O = table_of(OccurrenceRow)  # noqa: E741  as in the queries
COUNTED = (MET, MISSED, RECOVERED)
"""States that count: what is excused or void does not, what is open is not known yet."""
WINDOWS = (3, 10, 30)
LEAST = {3: 3, 10: 5, 30: 10}
"""So many occurrences are needed before a window says anything."""
KEPT = 400
_LONG = 10
_FEW_FOR_SUGGESTION = 10


@dataclass(frozen=True)
class Past:
    """One settled occurrence.

    :param kept: Whether it was done in time, with grace.
    :param late: How long after it was due it was done, negative if before; ``None`` if it was not done.
    """

    due: datetime
    kept: bool
    late: timedelta | None = None


@dataclass(frozen=True)
class Budget:
    """An error budget: so many misses in so many occurrences.

    :param used: Misses among the last ``among``, or among all if there are fewer.
    """

    allowed: int
    among: int
    used: int

    @property
    def remaining(self) -> float:
        """What is left, as a part of it: 1 is all, 0 none, below 0 it is overdrawn."""
        if self.allowed:
            return 1 - self.used / self.allowed
        return -float(self.used) if self.used else 1.0

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.used} of {self.allowed} in {self.among} used"


def read(session: Session, policy_ids: Iterable[int], *, most: int = KEPT) -> dict[int, list[Past]]:
    """Return the last settled occurrences of policies, the newest first.

    :param most: Occurrences of each policy.
    """
    found: dict[int, list[Past]] = defaultdict(list)
    for some in chunks(sorted(set(policy_ids)), 500):
        rank = func.row_number().over(partition_by=O.c.policy_id, order_by=O.c.due_at.desc())
        inner = (
            select(O.c.policy_id, O.c.due_at, O.c.state, O.c.done_at, rank.label("rank"))
            .where(among(session, O.c.policy_id, some), O.c.state.in_(COUNTED))
            .subquery()
        )
        query = select(inner).where(inner.c.rank <= most).order_by(inner.c.policy_id, inner.c.rank)
        for row in session.execute(query):
            late = row.done_at - row.due_at if row.done_at is not None else None
            found[row.policy_id].append(Past(row.due_at, row.state == MET, late))
    return dict(found)


def budget_of(text: str, past: Sequence[Past]) -> Budget | None:
    """Return how much of a budget such as ``3 in 30`` is used, ``None`` if there is no budget."""
    if not text:
        return None
    allowed, _, count = text.partition(" in ")
    return Budget(int(allowed), int(count), _misses(past[: int(count)]))


def burn_rates(text: str, past: Sequence[Past]) -> Mapping[int, float | None]:
    """Return how fast the budget burns: misses of the last 3, 10 and 30 against what it allows in so many.

    1 uses it up exactly, 5 five times as fast. ``None`` where there are too few occurrences to say, no budget, or one of 0.
    """
    budget = budget_of(text, past)
    rates: dict[int, float | None] = {}
    for window in WINDOWS:
        some = past[:window]
        enough = len(some) >= LEAST[window] and budget is not None and budget.allowed > 0
        rates[window] = (
            _misses(some) / len(some) / (budget.allowed / budget.among) if enough and budget else None
        )
    return rates


def remark(past: Sequence[Past]) -> str:
    """Return the one thing worth knowing about a history, in words; empty if there is none."""
    if not past:
        return "no history yet"
    streak = next((number for number, item in enumerate(past[1:]) if not item.kept), len(past) - 1)
    if not past[0].kept and streak >= _LONG:
        return f"first failure after {streak} good runs"
    for window in (5, *WINDOWS[1:]):
        missed = _misses(past[:window])
        if len(past) >= window and missed >= 2 and missed * 5 >= window:
            return f"missed {missed} of the last {window}"
    if not past[0].kept:
        return f"missed the last one, {_misses(past)} of {len(past)} in all"
    good = streak + 1
    return f"kept {good} times in a row" if good >= 2 else "kept the last one"


def suggest(
    past: Sequence[Past], *, share: float = 0.95, step: timedelta = timedelta(minutes=5)
) -> timedelta | None:
    """Return by how much a deadline would have to move so that a share of the history is in time.

    What was never done counts as not in time wherever the deadline is. Rounded up to ``step``.

    :returns: Negative if it could be earlier; ``None`` if there are fewer than 10 occurrences, or too many were never done.
    """
    if len(past) < _FEW_FOR_SUGGESTION:
        return None
    lates = sorted(item.late for item in past if item.late is not None)
    needed = math.ceil(share * len(past))
    if needed > len(lates):
        return None
    return math.ceil(lates[needed - 1] / step) * step


def _misses(past: Sequence[Past]) -> int:
    return sum(not item.kept for item in past)
