"""Service levels of a contract as figures that can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from airflow_ext.contracts.settings import unit_seconds

Better = Literal["lower", "higher"]

BETTER: Mapping[str, Better] = {
    "availability": "higher",
    "endOfLife": "higher",
    "endOfSupport": "higher",
    "errorRate": "lower",
    "frequency": "lower",
    "freshness": "lower",
    "generalAvailability": "lower",
    "latency": "lower",
    "retention": "higher",
    "throughput": "higher",
    "timeOfAvailability": "lower",
    "timeToDetect": "lower",
    "timeToNotify": "lower",
    "timeToRepair": "lower",
}
"""Properties that can be compared, and which way is better for a consumer."""
DURATIONS = frozenset(
    {"freshness", "frequency", "latency", "retention", "timeToDetect", "timeToNotify", "timeToRepair"}
)
DATES = frozenset({"endOfLife", "endOfSupport", "generalAvailability"})
ENDS = frozenset({"endOfLife", "endOfSupport"})

_ISO = re.compile(
    r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.IGNORECASE
)
_ISO_SECONDS = (31_536_000, 2_592_000, 604_800, 86_400, 3_600, 60, 1)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(Z|[+-]\d{2}:\d{2})?")


def figure(item: Mapping[str, Any]) -> float | None:
    """Return a service level as a number: seconds, seconds of the day, a moment or per cent; ``None`` if it is none.

    :param item: An entry of ``slaProperties``.
    """
    name, value = item.get("property"), item.get("value")
    if isinstance(value, bool) or value is None:
        return None
    if name in DURATIONS:
        return seconds(value, item.get("unit"))
    if name in DATES:
        return moment(str(value))
    if name == "timeOfAvailability":
        return clock(str(value))
    return _number(value)


def seconds(value: Any, unit: Any = None) -> float | None:
    """Return a length of time in seconds; days where no unit is said, as ODCS has it.

    :param value: A number, a number with a unit (``2h``) or an ISO 8601 duration (``P1D``).
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        match = _ISO.fullmatch(text)
        if match is not None and any(match.groups()):
            return float(
                sum(int(part) * size for part, size in zip(match.groups(), _ISO_SECONDS, strict=True) if part)
            )
        written = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
        if written is None:
            return None
        value, unit = float(written[1]), written[2] or unit
    if not isinstance(value, int | float) or value < 0:
        return None
    size = unit_seconds(unit)
    return None if size is None else value * size


def moment(text: str) -> float | None:
    """Return a date or a time as seconds since 1970; without a zone it is UTC."""
    try:
        parsed = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def clock(text: str) -> float | None:
    """Return a time of the day such as ``06:00`` or ``06:00-05:00`` in seconds after midnight of its zone."""
    match = _CLOCK.search(text)
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    return float(hour * 3600 + minute * 60 + second) if hour < 24 and minute < 60 and second < 60 else None


def _number(value: Any) -> float | None:
    try:
        return float(str(value).strip().removesuffix("%"))
    except ValueError:
        return None
