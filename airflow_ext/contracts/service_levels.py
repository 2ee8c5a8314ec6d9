"""What a contract promises about time: by when, how fresh, kept how long, supported until when."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any, Final

from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.settings import unit_seconds

LAGS = ("freshness", "latency")
_TIME: Final = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(Z|UTC|[+-]\d{2}:?\d{2})?", re.IGNORECASE)
_DATES: Final = {
    "generalAvailability": "general_availability",
    "endOfSupport": "end_of_support",
    "endOfLife": "end_of_life",
}


@dataclass(frozen=True)
class ServiceLevels:
    """Promises about time that concern the contract as a whole.

    :param available_at: Wall time by which a partition that has ended is published; with a zone if the contract
        gives an offset, else in the zone of partition keys. ``None`` if nothing is promised. Of several the earliest.
    :param general_availability: From when on the data may be relied on.
    :param end_of_support: When support ends, of a date the end of that day: the contract counts as deprecated from
        then on.
    :param end_of_life: When the data ends, the same: the contract counts as withdrawn from then on.
    """

    available_at: time | None = None
    general_availability: datetime | None = None
    end_of_support: datetime | None = None
    end_of_life: datetime | None = None

    def due(self, key: str, rule: PartitionRule) -> datetime | None:
        """Return when a partition must be there: the first such wall time at or after its end, in UTC.

        :param key: The partition.
        :param rule: How keys look.
        """
        if self.available_at is None:
            return None
        end = rule.bounds(key)[1].replace(tzinfo=rule.zone)
        zone = self.available_at.tzinfo or rule.zone
        local = end.astimezone(zone)
        due = datetime.combine(local.date(), self.available_at.replace(tzinfo=None), zone)
        if due.astimezone(UTC) < end.astimezone(UTC):
            due = datetime.combine(
                local.date() + timedelta(days=1), self.available_at.replace(tzinfo=None), zone
            )
        return due.astimezone(UTC)


def read_service_levels(document: Mapping[str, Any], rule: PartitionRule) -> tuple[ServiceLevels, list[str]]:
    """Read the service levels of a contract as a whole, and say which are not judged, with the cause."""
    found: dict[str, Any] = {}
    skipped: list[str] = []
    for sla in document.get("slaProperties") or ():
        name, value = sla["property"], sla["value"]
        if name in _DATES:
            moment = _moment(value, rule, ends=name != "generalAvailability")
            if moment is None:
                skipped.append(f"{name}: {value!r} is no date")
            else:
                found.setdefault(_DATES[name], moment)
        elif name == "timeOfAvailability":
            clock = _clock(value)
            if clock is None:
                skipped.append(f"{name}: {value!r} is no time of day such as 06:00")
            else:
                found["available_at"] = min(
                    (clock, found.get("available_at", clock)), key=lambda each: each.replace(tzinfo=None)
                )
        elif name not in (*LAGS, "retention"):
            skipped.append(f"{name}: this service level is not judged")
    return ServiceLevels(**found), skipped


def lag_seconds(sla: Mapping[str, Any]) -> float | str:
    """Return the seconds of a ``freshness``, ``latency`` or ``retention``, or what is wrong with it."""
    value, size = sla["value"], unit_seconds(sla.get("unit"))
    if size is None:
        return f"{sla.get('unit')!r} is not known, use s, min, h, d, w, month or y"
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return f"{value!r} is not a number of {sla.get('unit') or 'd'}"
    return float(value * size)


def elements(sla: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield table and column of each element of a service level; a table alone has an empty column."""
    for element in str(sla.get("element") or "").split(","):
        table, _, column = element.strip().partition(".")
        if table:
            yield table, column


def _moment(value: object, rule: PartitionRule, *, ends: bool) -> datetime | None:
    """Return a moment; where something ends, a date is the end of that day."""
    text = str(value)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if ends and len(text) == len("2026-01-31"):
        moment += timedelta(days=1)
    return (moment if moment.tzinfo else moment.replace(tzinfo=rule.zone)).astimezone(UTC)


def _clock(value: object) -> time | None:
    match = _TIME.fullmatch(str(value).strip())
    if match is None:
        return None
    zone = None
    if match[4]:
        text = match[4].upper().replace(":", "")
        sign = -1 if text[0] == "-" else 1
        zone = (
            UTC
            if text in ("Z", "UTC")
            else timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[3:5])))
        )
    try:
        return time(int(match[1]), int(match[2]), int(match[3] or 0), tzinfo=zone)
    except ValueError:
        return None
