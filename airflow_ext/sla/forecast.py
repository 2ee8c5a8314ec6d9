"""Whether something is likely to be late, from how long it usually takes: an honest guess with its grounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from airflow_ext.sla.wording import duration

LEAST = 10
"""So many good runs are needed before anything is said."""
KEPT = 90
LIKELY = 0.8
"""Share of the good runs that would be late, from which on it is likely to be."""
SLOW, NO_TIME, FED_LATE = "slow", "no_time", "fed_late"
FORECASTS = (SLOW, NO_TIME, FED_LATE)
"""Causes of a risk that is a guess."""
_LONGER = 1.5


@dataclass(frozen=True)
class Forecast:
    """What is likely.

    :param cause: ``slow``, ``no_time`` or ``fed_late``.
    :param share: Share of the good runs that would be late, from 0 to 1.
    :param eta: When it is likely to be done.
    :param text: The grounds, in words.
    """

    cause: str
    share: float
    eta: datetime
    text: str

    @property
    def likely(self) -> bool:
        """Whether it is to be called at risk."""
        return self.share >= LIKELY


def usual_time(past: Sequence[timedelta]) -> timedelta:
    """Return the median."""
    return timedelta(seconds=median(item.total_seconds() for item in past))


def running(
    *, started: datetime, past: Sequence[timedelta], limit: datetime, now: datetime
) -> Forecast | None:
    """Return what is likely of a run that is going, ``None`` if there is too little history.

    Only the good runs that took longer than it has so far say anything about the rest. If none did, it is taken to need half as
    long again.

    :param past: How long good runs took.
    :param limit: When it is late.
    """
    if len(past) < LEAST:
        return None
    elapsed = now - started
    rest = [item for item in past if item > elapsed]
    usual = f"usually {duration(usual_time(past))} ({len(past)} runs), going for {duration(elapsed)}"
    if not rest:
        eta = started + _LONGER * elapsed
        return Forecast(SLOW, float(eta > limit), eta, f"{usual}, longer than each of them")
    eta = started + usual_time(rest)
    share = sum(started + item > limit for item in rest) / len(rest)
    return Forecast(
        SLOW, share, eta, f"{usual}, {round(share * len(rest))} of {len(rest)} like it would be late"
    )


def waiting(*, past: Sequence[timedelta], limit: datetime, begin: datetime, now: datetime) -> Forecast | None:
    """Return what is likely of a run that has not started, ``None`` if there is too little history.

    :param begin: When it can start at the earliest: now, or when what feeds it is likely to be done.
    """
    if len(past) < LEAST:
        return None
    share = sum(begin + item > limit for item in past) / len(past)
    cause = FED_LATE if begin > now else NO_TIME
    text = (
        f"usually {duration(usual_time(past))} ({len(past)} runs), not started, {duration(limit - now)} left"
    )
    if cause == FED_LATE:
        text += f", what feeds it is likely to need {duration(begin - now)} more"
    return Forecast(cause, share, begin + usual_time(past), text)
