"""Durations and moments as people read them at night."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo


def duration(value: timedelta) -> str:
    """Return the two largest units: ``45 s``, ``1 h 20 min``, ``3 d 4 h``; the sign is dropped."""
    seconds = round(abs(value).total_seconds())
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part) or "0 s"


def moment(value: datetime, *, zone: str, day: bool = True) -> str:
    """Return a local time with its zone's short name: ``Mon 02 Mar 2026 06:00:00 CET``.

    Zones without letters for their name get the full name instead.

    :param day: With the date.
    """
    local = value.astimezone(ZoneInfo(zone))
    short = local.tzname() or ""
    label = short if short.isalpha() else f"{local:%z} {zone}"
    return f"{local:%a %d %b %Y %H:%M:%S} {label}" if day else f"{local:%H:%M:%S} {label}"
