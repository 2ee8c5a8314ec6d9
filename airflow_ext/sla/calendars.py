"""On which dates a promise is made: business calendars, exceptions, maintenance windows.

Holidays come from the library ``holidays`` of the extra ``calendars``, which is imported only where a policy names a
calendar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from airflow_ext.exceptions import InvalidError
from airflow_ext.extras import require

_COUNTRY = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")
_MARKET = re.compile(r"[A-Z]{3,4}")
_RANGE = ".."
Window = tuple[datetime, datetime]


@lru_cache(maxsize=256)
def holidays_of(calendar: str) -> Any:
    """Return the holidays of a country, a part of one, or a market, as the library gives them.

    :param calendar: ``DE``, ``DE-BY``, ``US-CA``; or a market such as ``XECB`` or ``XNYS``.
    :raises MissingExtraError: If the library is not installed.
    :raises InvalidError: If there is no such calendar.
    """
    if not isinstance(calendar, str):
        raise TypeError(f'calendar={calendar!r} must be a string such as "DE" or "US-CA"')
    require("holidays", extra="calendars")
    import holidays

    country, _, part = calendar.partition("-")
    try:
        if _COUNTRY.fullmatch(calendar):
            return holidays.country_holidays(country, subdiv=part or None)
        if _MARKET.fullmatch(calendar):
            return holidays.financial_holidays(calendar)
    except NotImplementedError:
        pass
    raise InvalidError(
        f"calendar={calendar!r} is not known: use the code of a country (DE), of a part of one (DE-BY, US-CA) "
        "or of a market (XECB, XNYS)"
    )


def is_working_day(day: date, *, calendar: str) -> bool:
    """Say whether ``day`` is neither on the calendar's weekend nor one of its holidays."""
    return bool(holidays_of(calendar).is_working_day(day))


def working_days(calendar: str) -> tuple[int, ...]:
    """Return the weekdays that are not on a calendar's weekend; Monday is 0."""
    weekend = holidays_of(calendar).weekend
    return tuple(day for day in range(7) if day not in weekend)


def parse_exceptions(dates: Iterable[str]) -> tuple[tuple[date, date], ...]:
    """Read dates on which nothing is promised: ``2026-12-24`` or ``2026-12-24..2027-01-01``, both ends included.

    :raises TypeError: If it is no list of strings.
    :raises InvalidError: If an item is no date or a range ends before it starts.
    """
    return tuple(_dates(item) for item in _texts("exceptions", dates, '["2026-12-24..2027-01-01"]'))


def _dates(item: str) -> tuple[date, date]:
    first, dots, last = item.partition(_RANGE)
    try:
        start = date.fromisoformat(first.strip())
        end = date.fromisoformat(last.strip()) if dots else start
    except ValueError:
        raise InvalidError(
            f'exceptions contains {item!r}: write a date, "2026-12-24", or a range, "2026-12-24..2027-01-01"'
        ) from None
    if end < start:
        raise InvalidError(f"exceptions contains {item!r}, which ends before it starts")
    return start, end


def parse_maintenance(windows: Iterable[str], *, zone: ZoneInfo) -> tuple[Window, ...]:
    """Read windows in which nothing is due: ``2026-12-05T22:00/2026-12-06T04:00``, by the clocks of ``zone``.

    :raises TypeError: If it is no list of strings.
    :raises InvalidError: If an item is no window or ends before it starts.
    """
    texts = _texts("maintenance", windows, '["2026-12-05T22:00/2026-12-06T04:00"]')
    return tuple(_window(item, zone) for item in texts)


def _window(item: str, zone: ZoneInfo) -> Window:
    first, _, last = item.partition("/")
    try:
        start, end = (_local(text, zone) for text in (first, last))
    except ValueError:
        raise InvalidError(
            f'maintenance contains {item!r}: write start and end as "2026-12-05T22:00/2026-12-06T04:00"'
        ) from None
    if end <= start:
        raise InvalidError(f"maintenance contains {item!r}, which ends before it starts")
    return start, end


def _local(text: str, zone: ZoneInfo) -> datetime:
    moment = datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def excepted(day: date, exceptions: Sequence[tuple[date, date]]) -> bool:
    """Say whether a date is among the exceptions."""
    return any(start <= day <= end for start, end in exceptions)


def in_maintenance(moment: datetime, windows: Sequence[Window]) -> bool:
    """Say whether a moment lies in a window; the end does not."""
    return any(start <= moment < end for start, end in windows)


def _texts(argument: str, items: Iterable[str], example: str) -> list[str]:
    if isinstance(items, str):
        raise TypeError(f"{argument}={items!r} must be a list, such as {argument}={example}")
    found = list(items)
    for item in found:
        if not isinstance(item, str):
            raise TypeError(f"{argument} contains {item!r}: every item is a string, such as {example}")
    return found
