"""Partition keys: which day, hour or month a verdict is about.

One rule for producer and consumer alike (:meth:`PartitionRule.key_for`), so that both name the same
data without knowing each other's schedule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from airflow_ext.exceptions import InvalidError

DEFAULT_FORMAT = "%Y-%m-%d"
DEFAULT_TIMEZONE = "UTC"
MAX_KEY_LENGTH = 250
"""Characters of a partition key that Airflow's tables hold."""

MAX_PARTITIONS = 1000
"""Partitions that one consumer may wait for: the hours of a month are 744."""

_DIRECTIVES = "YmdHMS"
"""From coarse to fine; a format uses a leading run of them, so that each key is one span of time."""


@dataclass(frozen=True)
class PartitionRule:
    """How partition keys of a contract look.

    :param format: ``strftime`` format of ``%Y %m %d %H %M %S``; the finest one used is the length of a
        partition (``%Y-%m-%d`` is a day, ``%Y-%m`` a month).
    :param timezone: IANA zone in which keys are written.
    :raises InvalidError: If the format or the zone cannot be used.
    """

    format: str = DEFAULT_FORMAT
    timezone: str = DEFAULT_TIMEZONE

    def __post_init__(self) -> None:
        found = re.findall(r"%(.)", self.format.replace("%%", ""))
        expected = _DIRECTIVES[: len(set(found))]
        if not found or sorted(found) != sorted(expected):
            raise InvalidError(
                f"partition format {self.format!r}: use each of %Y %m %d %H %M %S at most once, from the year "
                f"down without a gap, for example {DEFAULT_FORMAT!r} or '%Y-%m-%dT%H'"
            )
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError):
            raise InvalidError(
                f"timezone {self.timezone!r} is not known here: use an IANA name such as 'Europe/Berlin'"
            ) from None

    @cached_property
    def zone(self) -> ZoneInfo:
        """The zone in which keys are written."""
        return ZoneInfo(self.timezone)

    @property
    def unit(self) -> str:
        """The length of one partition: ``year``, ``month``, ``day``, ``hour``, ``minute`` or ``second``."""
        names = ("year", "month", "day", "hour", "minute", "second")
        return names[len(re.findall(r"%(.)", self.format.replace("%%", ""))) - 1]

    def fits(self, key: str) -> bool:
        """Say whether ``key`` is written in the format."""
        try:
            return datetime.strptime(key, self.format).strftime(self.format) == key  # noqa: DTZ007  wall time
        except ValueError:
            return False

    def check(self, key: object) -> str:
        """Return ``key`` if it is a partition key of this rule.

        :raises ValueError: If it is not.
        """
        if not isinstance(key, str) or len(key) > MAX_KEY_LENGTH or not self.fits(key):
            raise InvalidError(
                f"partition={str(key)[:80]!r} does not fit the partition format {self.format!r}, which gives keys "
                f"such as {datetime(2013, 1, 31, 5).strftime(self.format)!r}"  # noqa: DTZ001  an example
            )
        return key

    def render(self, moment: datetime) -> str:
        """Return the key of the partition that holds ``moment``; a naive one is wall time in the zone."""
        local = moment if moment.tzinfo is None else moment.astimezone(self.zone)
        return local.strftime(self.format)

    def bounds(self, key: str) -> tuple[datetime, datetime]:
        """Return start and end of a partition as wall times in the zone, the end excluded."""
        start = datetime.strptime(self.check(key), self.format)  # noqa: DTZ007  wall time
        match self.unit:
            case "year":
                return start, start.replace(year=start.year + 1)
            case "month":
                return start, (start + timedelta(days=32)).replace(day=1)
            case unit:
                return start, start + timedelta(**{f"{unit}s": 1})

    def instants(self, key: str) -> tuple[datetime, datetime]:
        """Return start and end of a partition in UTC, the end excluded; on DST days a day has 23 or 25 hours."""
        start, end = self.bounds(key)
        return (
            start.replace(tzinfo=self.zone).astimezone(UTC),
            end.replace(tzinfo=self.zone).astimezone(UTC),
        )

    def keys_within(self, start: datetime, end: datetime) -> tuple[str, ...]:
        """Return the partitions that lie wholly between two moments, in order.

        An hour that comes twice when clocks go back is one partition, one that is left out is none.

        :param start: The first moment; a naive one is wall time in the zone.
        :param end: The moment after the last.
        :raises ValueError: If no partition lies between them, or more than 1,000 do.
        """
        first, last = ((m if m.tzinfo else m.replace(tzinfo=self.zone)).astimezone(UTC) for m in (start, end))
        keys: list[str] = []
        cursor = first
        while cursor < last and len(keys) <= MAX_PARTITIONS:
            key = self.render(cursor)
            begins, cursor = self.instants(key)
            if begins >= first and cursor <= last:
                keys.append(key)
        if not keys or len(keys) > MAX_PARTITIONS:
            raise InvalidError(
                f"interval from {start.isoformat()} to {end.isoformat()}: "
                f"{'no' if not keys else f'more than {MAX_PARTITIONS}'} partitions of one {self.unit} lie inside it "
                f"(partition format {self.format!r} in {self.timezone})"
            )
        return tuple(keys)

    def key_for(self, context: Mapping[str, Any], given: str | None = None) -> str:
        """Return the partition that a run is about.

        :param context: The task's context.
        :param given: What the user asked for. Without it, the run's partition key counts (an ISO datetime is
            cut to the format), else the start of its data interval, else the one partition that all events
            which started the run are about.
        :raises ValueError: If the value given, or the run's key, does not fit the format, or if the run has
            neither a partition key nor a data interval nor events of one partition.
        """
        if given is not None:
            return self.check(given)
        key = key_of_run(context)
        if key is not None:
            return self.check(self.cut(key))
        if (start := context.get("data_interval_start")) is not None:
            return self.render(start)
        told = partitions_of_events(context)
        if len(told) == 1:
            return self.check(self.cut(told[0]))
        found = f" The events that started it are about several: {', '.join(told[:5])}." if told else ""
        raise InvalidError(
            "partition: this run has neither a partition key nor a data interval, so the partition must be "
            f"given, for example partition=\"{{{{ dag_run.conf['day'] }}}}\".{found}"
        )

    def derives(self, context: Mapping[str, Any], given: str | None) -> bool:
        """Say whether :meth:`key_for` turns a point in time into a key, so that the zone matters."""
        return given is None and key_of_run(context) is None and "data_interval_start" in context

    def cut(self, key: str) -> str:
        """Return an ISO date and time as a key of this rule; anything else as it is."""
        if self.fits(key):
            return key
        try:
            return self.render(datetime.fromisoformat(key))
        except ValueError:
            return key


def partitions_of_events(context: Mapping[str, Any], contract: str = "") -> list[str]:
    """Return the partitions that the events which started a run are about, in the order of the events.

    :param contract: Only events of this contract; empty takes those of all assets.
    """
    found: dict[str, None] = {}
    for events in (context.get("triggering_asset_events") or {}).values():
        for event in events:
            extra = event.extra or {}
            if contract and extra.get("contract") != contract:
                continue
            key = extra.get("partition") or getattr(event, "partition_key", None)
            if isinstance(key, str) and key:
                found[key] = None
    return list(found)


def key_of_run(context: Mapping[str, Any]) -> str | None:
    """Return the partition key of a run, ``None`` if it has none."""
    key: str | None = context.get("partition_key") or getattr(context.get("dag_run"), "partition_key", None)
    return key
