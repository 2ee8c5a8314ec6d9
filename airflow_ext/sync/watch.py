"""When waiting for a run ends: pure decisions over statuses and a clock that is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from airflow_ext.sync.model import RunStatus, SyncStatus


class Outcome(StrEnum):
    """Why waiting ended; the first three are those of the run itself."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    NOT_STARTED = "not_started"
    STUCK = "stuck"
    TOO_OFTEN = "rescheduled_too_often"
    UNAVAILABLE = "unavailable"
    DENIED = "denied"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long to wait; all in seconds, points in time since 1970.

    :param deadline: When waiting ends whatever happens; ``None`` never.
    :param start_by: When the run must have begun; ``None`` never.
    :param stuck_after: How long a running run may show no change; ``None`` for ever.
    :param vanished_after: How long a run that had begun may be waiting again: somebody has stopped it.
    :param max_reschedules: How often the vendor may put the run off.
    :param outage: How long the vendor may be unreachable, beyond what it asks to wait itself.
    :param denied: How long it may refuse the key, which may just be exchanged.
    """

    deadline: float | None = None
    start_by: float | None = None
    stuck_after: float | None = None
    vanished_after: float = 60.0
    max_reschedules: int = 10
    outage: float = 600.0
    denied: float = 60.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Limits:
        """Read what :meth:`to_dict` wrote."""
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to do after a look.

    :param outcome: Waiting has ended so; ``None`` goes on.
    :param detail: More about it, for the message.
    :param go_on: The vendor is to be told to go on with a rescheduled run.
    """

    outcome: Outcome | None = None
    detail: str = ""
    go_on: bool = False


class Watch:
    """Waits for one run.

    :param limits: How long.
    :param manual: The vendor does not go on with a rescheduled run by itself.
    :param grace: Seconds after the vendor's own time before it is told to go on.
    """

    def __init__(self, limits: Limits, *, manual: bool, grace: float = 5.0) -> None:
        self.status = RunStatus(status=SyncStatus.PENDING)
        self._limits = limits
        self._manual = manual
        self._grace = grace
        self._progress: tuple[str, str] | None = None
        self._progressed = 0.0
        self._began = False
        self._reschedules: set[str] = set()
        self._told: str | None = None
        self._failing: tuple[Outcome, float, str] | None = None
        self._told_to_wait = 0.0

    def see(self, status: RunStatus, now: float) -> Step:
        """Take note of a status."""
        self._failing = None
        self._told_to_wait = 0.0
        progress = (str(status.status), status.progress)
        if progress != self._progress:
            self._progress, self._progressed = progress, now
        self._began = self._began or status.status is SyncStatus.RUNNING
        self.status = status
        if status.status.ended:
            return Step(outcome=Outcome(str(status.status)), detail=status.reason)
        return self.tick(now)

    def fail(self, outcome: Outcome, detail: str, now: float, *, retry_after: float = 0.0) -> Step:
        """Take note of a look that brought nothing.

        :param outcome: ``UNAVAILABLE`` or ``DENIED``.
        :param retry_after: Seconds after which the vendor wants to be asked again. So long it is no outage; of
            several such answers in a row the longest counts, so that a storm of them ends.
        """
        self._told_to_wait = max(self._told_to_wait, retry_after)
        since = now if self._failing is None or self._failing[0] is not outcome else self._failing[1]
        self._failing = (outcome, since, detail)
        return self.tick(now)

    def tick(self, now: float) -> Step:
        """Look at the clock alone."""
        limits, status = self._limits, self.status.status
        if limits.deadline is not None and now >= limits.deadline:
            return Step(outcome=Outcome.TIMED_OUT)
        if self._failing is not None:
            outcome, _, detail = self._failing
            return Step(outcome=outcome, detail=detail) if now >= self._patience() else Step()
        if status is SyncStatus.PENDING and self._began:
            if now < self._progressed + limits.vanished_after:
                return Step()
            told = "it had begun and stopped without an end; somebody has paused and resumed the sync"
            return Step(outcome=Outcome.CANCELLED, detail=told)
        if status is SyncStatus.PENDING and limits.start_by is not None and now >= limits.start_by:
            return Step(outcome=Outcome.NOT_STARTED)
        still = limits.stuck_after is not None and status is SyncStatus.RUNNING
        if still and limits.stuck_after is not None and now - self._progressed >= limits.stuck_after:
            return Step(outcome=Outcome.STUCK, detail=f"nothing has changed for {limits.stuck_after:g} s")
        return self._rescheduled(self.status, now) or Step()

    def pause(self, now: float, *, most: float = 30.0) -> float:
        """Return the seconds until the clock alone may change something.

        :param most: The longest answer.
        """
        limits = self._limits
        points = [limits.deadline]
        match self.status.status:
            case SyncStatus.PENDING if self._began:
                points.append(self._progressed + limits.vanished_after)
            case SyncStatus.PENDING:
                points.append(limits.start_by)
            case SyncStatus.RUNNING if limits.stuck_after is not None:
                points.append(self._progressed + limits.stuck_after)
            case SyncStatus.RESCHEDULED if self._manual and self._told != self.status.rescheduled_for:
                points.append(_seconds(self.status.rescheduled_for or "") + self._grace)
        if self._failing is not None:
            points.append(self._patience())
        soonest = min((point for point in points if point is not None), default=now + most)
        return min(max(soonest - now, 0.0), most)

    def _patience(self) -> float:
        assert self._failing is not None  # noqa: S101  # asked only then
        outcome, since, _ = self._failing
        if outcome is Outcome.DENIED:
            return since + self._limits.denied
        return since + self._told_to_wait + self._limits.outage

    def _rescheduled(self, status: RunStatus, now: float) -> Step | None:
        if status.status is not SyncStatus.RESCHEDULED:
            return None
        until = status.rescheduled_for or ""
        self._reschedules.add(until)
        if len(self._reschedules) > self._limits.max_reschedules:
            return Step(outcome=Outcome.TOO_OFTEN, detail=f"{len(self._reschedules)} times")
        if not self._manual or self._told == until or now < _seconds(until) + self._grace:
            return None
        self._told = until
        return Step(go_on=True)


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
