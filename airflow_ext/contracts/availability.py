"""When a partition is due: the time of day a contract promises, and how long lateness is forgiven.

A wall clock lies two days a year. A time in the gap is moved forward by its size, a time that comes twice is
the first of the two (``fold=0`` of :mod:`zoneinfo`), so that each partition is due once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.exceptions import InvalidError

_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?(Z|[+-]\d{2}:\d{2})?", re.ASCII)


def seconds_of(argument: str, value: object) -> float:
    """Return a duration in seconds.

    :param argument: Its name, for messages.
    :param value: A ``timedelta`` or a number of seconds, not below 0.
    :raises ValueError: If it is something else.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InvalidError(f"{argument}={value!r}: expected a timedelta or a number of seconds, not below 0")
    return float(value)


@dataclass(frozen=True)
class Availability:
    """When a partition is promised to be there.

    :param by: Time of day ``HH:MM`` or ``HH:MM:SS``, in the zone of the partition keys unless an offset such as
        ``+02:00`` follows: the first such moment at or after the partition's end. Empty: at its end.
    :param after: Seconds that are added.
    :param grace: Seconds of lateness that nobody is told of.
    :raises ValueError: If ``by`` is no time of day.
    """

    by: str = ""
    after: float = 0.0
    grace: float = 0.0

    def __post_init__(self) -> None:
        if self.by and not _CLOCK.fullmatch(self.by):
            raise InvalidError(
                f"available_by={self.by!r}: expected a time of day such as '06:00', or a timedelta after the "
                "partition's end"
            )

    @classmethod
    def of(cls, available_by: str | timedelta, grace: timedelta | float = 0) -> Availability:
        """Return it from what a DAG author writes.

        :param available_by: A time of day, or a timedelta after the partition's end.
        :param grace: Seconds or a timedelta.
        :raises ValueError: If one of them is something else.
        """
        if isinstance(available_by, str) and available_by:
            return cls(by=available_by, grace=seconds_of("grace", grace))
        return cls(after=seconds_of("available_by", available_by), grace=seconds_of("grace", grace))

    def deadline(self, rule: PartitionRule, partition: str) -> datetime:
        """Return the moment after which a partition is late, in UTC."""
        ends = rule.instants(partition)[1]
        due = ends
        if self.by:
            clock = time.fromisoformat(self.by)
            zone = clock.tzinfo or rule.zone
            wall, day = clock.replace(tzinfo=None), ends.astimezone(zone).date()
            due = datetime.combine(day, wall, zone).astimezone(UTC)
            if due < ends:
                due = datetime.combine(day + timedelta(days=1), wall, zone).astimezone(UTC)
        return due + timedelta(seconds=self.after + self.grace)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"by": self.by, "after": self.after, "grace": self.grace}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any] | None) -> Availability | None:
        """Read what :meth:`to_dict` wrote; ``None`` stays ``None``."""
        if not value:
            return None
        return cls(str(value.get("by", "")), float(value.get("after", 0)), float(value.get("grace", 0)))
