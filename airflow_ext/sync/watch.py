"""When waiting for a run ends: pure decisions over statuses and a clock that is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from airflow_ext.exceptions import SyncUnavailableError
from airflow_ext.sync.model import RunStatus, SyncStatus

TELL_AGAIN = 5.0
"""Seconds after which a vendor that did not take it is told first again to go on."""

TELL_AT_MOST = 120.0
"""Longest time between two such tries, unless the vendor itself asks for more."""

TAKEN = 300.0
"""Seconds in which something must come of it, once the vendor has taken it."""


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


@dataclass(frozen=True, kw_only=True)
class Failing:
    """A question that brings nothing, asked again and again.

    :param outcome: ``UNAVAILABLE`` or ``DENIED``.
    :param since: When it began.
    :param detail: The last answer, for the message.
    :param told_to_wait: Seconds after which the vendor wants to be asked again. So long it is no outage; of
        several such answers in a row the longest counts, so that a storm of them ends.
    """

    outcome: Outcome
    since: float
    detail: str
    told_to_wait: float = 0.0

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Failing:
        """Read what :func:`dataclasses.asdict` wrote."""
        return cls(**{**value, "outcome": Outcome(value["outcome"])})

    def ends(self, limits: Limits) -> float:
        """Return when it has lasted too long."""
        if self.outcome is Outcome.DENIED:
            return self.since + limits.denied
        return self.since + self.told_to_wait + limits.outage


def failing(
    before: Failing | None, outcome: Outcome, detail: str, now: float, *, retry_after: float = 0.0
) -> Failing:
    """Return what fails, since when: also before, if it was the same.

    :param retry_after: Seconds after which the vendor wants to be asked again.
    """
    same = before is not None and before.outcome is outcome
    return Failing(
        outcome=outcome,
        since=before.since if before is not None and same else now,
        detail=detail,
        told_to_wait=max(retry_after, before.told_to_wait if before is not None else 0.0),
    )


class Watch:
    """Waits for one run.

    :param limits: How long.
    :param manual: The vendor does not go on with a rescheduled run by itself.
    :param grace: Seconds after the vendor's own time before it is told to go on.
    :param kept: What another watch of the same run knew, from :meth:`to_dict`.
    """

    def __init__(
        self, limits: Limits, *, manual: bool, grace: float = 5.0, kept: Mapping[str, Any] | None = None
    ) -> None:
        self.status = RunStatus(status=SyncStatus.PENDING)
        self._limits = limits
        self._manual = manual
        self._grace = grace
        self._progress: tuple[str, str] | None = None
        self._progressed = 0.0
        self._began = False
        self._reschedules: set[str] = set()
        self._until: str | None = None
        self._tell_at = 0.0
        self._untold: Failing | None = None
        self._failing: Failing | None = None
        if kept:
            self._restore(kept)

    def to_dict(self) -> dict[str, Any]:
        """Return what is known of the run, as plain JSON, for a watch that goes on."""
        return {
            "status": self.status.to_dict(),
            "progress": None if self._progress is None else list(self._progress),
            "progressed": self._progressed,
            "began": self._began,
            "reschedules": sorted(self._reschedules),
            "until": self._until,
            "tell_at": self._tell_at,
            "untold": None if self._untold is None else asdict(self._untold),
            "failing": None if self._failing is None else asdict(self._failing),
        }

    def _restore(self, kept: Mapping[str, Any]) -> None:
        self.status = RunStatus.from_dict(kept["status"])
        progress, failing, untold = kept["progress"], kept["failing"], kept["untold"]
        self._progress = None if progress is None else (progress[0], progress[1])
        self._progressed = kept["progressed"]
        self._began = kept["began"]
        self._reschedules = set(kept["reschedules"])
        self._until, self._tell_at = kept["until"], kept["tell_at"]
        self._untold = None if untold is None else Failing.from_dict(untold)
        self._failing = None if failing is None else Failing.from_dict(failing)

    def see(self, status: RunStatus, now: float) -> Step:
        """Take note of a status."""
        self._failing = None
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
        :param retry_after: Seconds after which the vendor wants to be asked again.
        """
        self._failing = failing(self._failing, outcome, detail, now, retry_after=retry_after)
        return self.tick(now)

    def went_on(self, now: float) -> None:
        """Take note that the vendor has taken it to go on; it is told again only if nothing comes of that."""
        self._untold = None
        self._tell_at = now + TAKEN

    def went_not_on(self, error: Exception, now: float) -> None:
        """Take note that the vendor did not take it: it is told again, ever more rarely, and not for ever."""
        outcome = Outcome.UNAVAILABLE if isinstance(error, SyncUnavailableError) else Outcome.DENIED
        retry_after = float(getattr(error, "retry_after", 0.0))
        self._untold = failing(self._untold, outcome, str(error), now, retry_after=retry_after)
        grown = min(max(TELL_AGAIN, now - self._untold.since), TELL_AT_MOST)
        self._tell_at = now + max(grown, retry_after)

    def tick(self, now: float) -> Step:
        """Look at the clock alone."""
        limits, status = self._limits, self.status.status
        if limits.deadline is not None and now >= limits.deadline:
            return Step(outcome=Outcome.TIMED_OUT)
        if self._failing is not None:
            over = now >= self._failing.ends(limits)
            return Step(outcome=self._failing.outcome, detail=self._failing.detail) if over else Step()
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
            case SyncStatus.RESCHEDULED if self._manual:
                points.append(self._tell_at)
        points += [each.ends(limits) for each in (self._failing, self._untold) if each is not None]
        soonest = min((point for point in points if point is not None), default=now + most)
        return min(max(soonest - now, 0.0), most)

    def _rescheduled(self, status: RunStatus, now: float) -> Step | None:
        if status.status is not SyncStatus.RESCHEDULED:
            return None
        until = status.rescheduled_for or ""
        self._reschedules.add(until)
        if len(self._reschedules) > self._limits.max_reschedules:
            return Step(outcome=Outcome.TOO_OFTEN, detail=f"{len(self._reschedules)} times")
        if not self._manual:
            return None
        if self._until != until:
            self._until, self._tell_at, self._untold = until, _seconds(until) + self._grace, None
        if self._untold is not None and now >= self._untold.ends(self._limits):
            told = f"it could not be told to go on: {self._untold.detail}"
            return Step(outcome=self._untold.outcome, detail=told)
        if now < self._tell_at:
            return None
        self._tell_at = now + TELL_AGAIN  # unless it is known by then how that went
        return Step(go_on=True)


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
