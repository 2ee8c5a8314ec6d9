"""How moments, durations and counts are written on pages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any


def seconds(value: float | None) -> str:
    """Write a duration; nothing if there is none."""
    if value is None:
        return ""
    if value < 100:
        return f"{value:.2f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def age(value: float) -> str:
    """Write how long ago something was, in whole units."""
    if value < 1.5:
        return "just now"
    return f"{round(value)} s ago" if value < 100 else f"{seconds(value)} ago"


def number(value: int | None) -> str:
    """Write a count; nothing if there is none."""
    return "" if value is None else f"{value:,}"


def clock(value: datetime | None) -> str:
    """Write the time of day to the millisecond; nothing if there is none."""
    return "" if value is None else f"{value:%H:%M:%S}.{value.microsecond // 1000:03d}"


def moment(value: datetime) -> str:
    """Write date and time to the second."""
    return f"{value:%Y-%m-%d %H:%M:%S} UTC"


def percent(value: float) -> str:
    """Write a share for an attribute of a drawing."""
    return f"{value:.3f}%"


FILTERS: dict[str, Callable[..., Any]] = {
    "seconds": seconds,
    "age": age,
    "number": number,
    "clock": clock,
    "moment": moment,
    "percent": percent,
}
