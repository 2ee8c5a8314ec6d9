"""Where things lie on a time axis from which long times between two runs of dbt are cut.

A retry comes minutes after the first try and a cleared node days after the build: on a plain axis both would
be hairlines at the ends of nothing. Idle times within a run stay: tests ran then, which have no bars of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CUT = 0.15
"""A time between runs is cut if it is longer than this share of all busy time."""
CUT_SECONDS = 2.0
"""Shorter times are never cut."""
GAP = 0.03
"""Share of the busy time that a cut takes on the axis."""


@dataclass(frozen=True)
class Break:
    """A cut.

    :param at: Its middle, in percent of the axis.
    :param seconds: What was cut.
    """

    at: float
    seconds: float


class Timeline:
    """Lay intervals on an axis from 0 to 100 percent.

    :param intervals: Pairs of begin and end, seconds since 1970.
    :param seams: When runs of dbt began; the axis is cut before these only.
    """

    def __init__(self, intervals: Iterable[tuple[float, float]], seams: Iterable[float] = ()) -> None:
        self._stretches = _stretches(sorted(intervals), sorted(seams))
        busy = sum(end - begin for begin, end in self._stretches)
        self._gap = busy * GAP
        self._length = busy + self._gap * max(0, len(self._stretches) - 1)

    def __bool__(self) -> bool:
        return self._length > 0

    @property
    def begin(self) -> float:
        """When the first interval begins."""
        return self._stretches[0][0]

    @property
    def end(self) -> float:
        """When the last interval ends."""
        return self._stretches[-1][1]

    @property
    def breaks(self) -> list[Break]:
        """The cuts."""
        found = []
        for (_, end), (begin, _) in zip(self._stretches, self._stretches[1:], strict=False):
            found.append(Break(self._position(end) + 50 * self._gap / self._length, begin - end))
        return found

    def place(self, begin: float, end: float) -> tuple[float, float]:
        """Return left edge and width of one of the intervals, in percent."""
        left = self._position(begin)
        return left, self._position(end) - left

    def _position(self, moment: float) -> float:
        passed = 0.0
        for begin, end in self._stretches:
            if moment <= end:
                return 100 * (passed + max(0.0, moment - begin)) / self._length
            passed += end - begin + self._gap
        return 100.0


def _stretches(intervals: list[tuple[float, float]], seams: list[float]) -> list[tuple[float, float]]:
    """Return the times between cuts."""
    busy: list[tuple[float, float]] = []
    for begin, end in intervals:
        if busy and begin <= busy[-1][1]:
            busy[-1] = (busy[-1][0], max(end, busy[-1][1]))
        else:
            busy.append((begin, end))
    limit = max(CUT_SECONDS, CUT * sum(end - begin for begin, end in busy))
    joined = busy[:1]
    for begin, end in busy[1:]:
        seam = any(joined[-1][1] <= seam <= begin for seam in seams)
        if not seam or begin - joined[-1][1] <= limit:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined
