"""Arithmetic on local wall-clock times: which instant "06:00 in Berlin" is, and which one a run owes.

Two days a year a wall clock lies. A time in the gap (02:30 when clocks jump from 02:00 to 03:00) is moved
forward by the size of the gap, a time that comes twice is the first of the two; both is what ``fold=0``
means to :mod:`zoneinfo`. So there is one instant for each local date, and never two.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

from airflow_ext.exceptions import InvalidError

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY_DAY = tuple(range(7))
_FULL_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?", re.ASCII)
_FEW = 3


@dataclass(frozen=True)
class Due:
    """One occurrence of a wall-clock promise.

    :param day: The local date as written, also where the clock change moves the instant.
    :param at: The instant, in UTC.
    """

    day: date
    at: datetime


def parse_clock(text: str, *, argument: str = "by") -> time:
    """Read ``HH:MM`` or ``HH:MM:SS``, 24 hours, two digits each.

    :raises TypeError: If it is no string.
    :raises InvalidError: If it is no such time.
    """
    if not isinstance(text, str):
        raise TypeError(f'{argument}={text!r} must be a string such as "06:00"')
    if not _CLOCK.fullmatch(text):
        raise InvalidError(
            f'{argument}={text!r} is not a time of day: write "HH:MM" or "HH:MM:SS" on a 24-hour clock, '
            'such as "06:00"; midnight is "00:00"'
        )
    return time.fromisoformat(text)


def parse_zone(name: str, *, argument: str = "tz") -> ZoneInfo:
    """Return the time zone of an IANA name such as ``Europe/Berlin``.

    :raises TypeError: If it is no string.
    :raises InvalidError: If there is no such zone; similar names are offered.
    """
    if not isinstance(name, str):
        raise TypeError(f'{argument}={name!r} must be the name of a time zone, such as "Europe/Berlin"')
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # KeyError: unknown; the others: not even a legal path
        known = {zone.lower(): zone for zone in available_timezones()}
        near = [known[match] for match in get_close_matches(name.lower(), known, n=_FEW, cutoff=0.7)]
        hint = f"did you mean {' or '.join(near)}?" if near else 'use an IANA name such as "Europe/Berlin"'
        raise InvalidError(f"{argument}={name!r} is not a time zone: {hint}") from error


def parse_days(days: str | Iterable[str] | None, *, argument: str = "days") -> tuple[int, ...]:
    """Read weekdays: ``None`` (all), ``"mon-fri"``, ``"mon,wed"`` or a list of names; Monday is 0.

    A range may run over the week's end: ``"sat-mon"``. Names are English, short or full, in any case.

    :raises TypeError: If an item is no string.
    :raises InvalidError: If a name is unknown or nothing is left.
    """
    if days is None:
        return EVERY_DAY
    items = days.split(",") if isinstance(days, str) else list(days)
    found: set[int] = set()
    for item in items:
        if not isinstance(item, str):
            raise TypeError(f"{argument} contains {item!r}: weekdays are strings such as {WEEKDAYS[0]!r}")
        first, dash, last = item.partition("-")
        start = _weekday(first, argument=argument, given=days)
        end = _weekday(last, argument=argument, given=days) if dash else start
        found.update((start + step) % 7 for step in range((end - start) % 7 + 1))
    if not found:
        raise InvalidError(f'{argument}={days!r} names no day: leave it out for every day, or give "mon-fri"')
    return tuple(sorted(found))


def format_days(days: Collection[int]) -> str:
    """Return weekdays for a reader: ``every day``, ``mon-fri`` or ``mon, wed``."""
    ordered = sorted(days)
    if tuple(ordered) == EVERY_DAY:
        return "every day"
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{WEEKDAYS[ordered[0]]}-{WEEKDAYS[ordered[-1]]}"
    return ", ".join(WEEKDAYS[day] for day in ordered)


def due_on(day: date, *, at: time, zone: ZoneInfo) -> datetime:
    """Return the instant, in UTC, at which the clocks of ``zone`` show ``at`` on ``day``.

    In the gap of a clock change it moves forward by the size of the gap, in the fold it is the first.
    """
    return datetime.combine(day, at, tzinfo=zone).replace(fold=0).astimezone(UTC)


def first_due_after(moment: datetime, *, at: time, zone: ZoneInfo) -> Due:
    """Return the first occurrence of the wall-clock time strictly after ``moment``.

    :param moment: An aware time.
    """
    start = moment.astimezone(zone).date() - timedelta(days=1)
    # Four dates: the instant of a date can lie on its neighbour where a clock change moves it there.
    candidates = (Due(day, due_on(day, at=at, zone=zone)) for day in (start + timedelta(n) for n in range(4)))
    return next(due for due in candidates if due.at > moment)


def _weekday(name: str, *, argument: str, given: object) -> int:
    key = name.strip().lower()
    for names in (WEEKDAYS, _FULL_NAMES):
        if key in names:
            return names.index(key)
    raise InvalidError(
        f"{argument}={given!r}: {name.strip()!r} is not a weekday; use {', '.join(WEEKDAYS)}, "
        'a list of them or a range such as "mon-fri"'
    )
