"""Which occurrences a policy has in a stretch of time: the same for any number of DAGs with the same rule."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.sla.clock import Due, due_on, parse_clock, parse_zone
from airflow_ext.sla.policy import Policy

Ticks = Callable[[datetime, datetime], Sequence[datetime]]
"""Times a schedule names, both ends included; see :mod:`airflow_ext.sla.monitor.timetables`."""
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_MIDNIGHT = time(0)
_RULE_FIELDS = (
    *("by", "within", "since", "fresh", "every", "tz", "days", "calendar", "grace", "late_start"),
    *("exceptions", "maintenance", "partition_format", "partition_zone"),
)
PARTITION = "p/"
"""How slots begin that stand for a partition of a contract."""
_RECOVERY = timedelta(days=7)
"""For so long after it was due, a partition that is published counts as recovered."""
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Expected:
    """One occurrence before anything is known of it; fields as in the ledger.

    :param excuse: Why it counts for nothing, or an empty string.
    """

    local_date: date
    slot: str
    due_at: datetime
    tell_at: datetime
    watch_from: datetime
    window_start: datetime
    window_end: datetime
    other_start: datetime
    other_end: datetime
    excuse: str = ""


def rule_of(policy: Policy, schedule: str) -> str:
    """Return a digest of all that decides when a policy's occurrences fall.

    :param schedule: The DAG's schedule as text, where occurrences follow it.
    """
    flat = policy.to_flat()
    parts = [flat.get(name) for name in _RULE_FIELDS]
    return hashlib.sha256(json.dumps([*parts, policy.subject == "asset", schedule]).encode()).hexdigest()


def occurrences(policy: Policy, *, start: datetime, end: datetime, ticks: Ticks | None) -> list[Expected]:
    """Return the occurrences that fall due after ``start`` and not after ``end``, in order.

    ``by`` has one for each local date that is promised, if the schedule names a time from the due time before to this
    one: a weekly DAG owes nothing on the other days. ``within`` from the schedule has one for each time it names,
    ``every`` one for each window, ``fresh`` one for each local date that has begun. ``within`` of the queue or the
    start has none: each run makes its own.

    :param ticks: The schedule, ``None`` if it names no times (asset-triggered DAGs, for example).
    """
    rule = policy.partitions
    if rule is not None and policy.kind in ("by", "within"):
        return list((_by_partition if policy.kind == "by" else _within_partition)(policy, rule, start, end))
    makers: dict[str, Callable[[], Iterator[Expected]]] = {
        "by": lambda: _by(policy, start, end, ticks),
        "within": lambda: _within(policy, start, end, ticks),
        "every": lambda: _every(policy, start, end),
        "fresh": lambda: _fresh(policy, start, end),
    }
    return list(makers[policy.kind]())


def _dates(start: datetime, end: datetime, zone: ZoneInfo) -> Iterator[date]:
    # A date more on both sides: a clock change can move the instant of a date onto its neighbour.
    day = start.astimezone(zone).date() - _DAY
    last = end.astimezone(zone).date() + _DAY
    while day <= last:
        yield day
        day += _DAY


def _by(policy: Policy, start: datetime, end: datetime, ticks: Ticks | None) -> Iterator[Expected]:
    zone, at = parse_zone(policy.tz), parse_clock(policy.by or "")
    follows = ticks is not None and policy.subject != "asset"
    named = sorted(ticks(start - 2 * _DAY, end)) if follows and ticks is not None else []
    for day in _dates(start, end, zone):
        due, before = due_on(day, at=at, zone=zone), due_on(day - _DAY, at=at, zone=zone)
        if not start < due <= end or not policy.promised_on(day):
            continue
        if follows and not any(before <= tick < due for tick in named):
            continue
        yield _expected(
            policy, Due(day, due), policy.by_slot, window=(before, due), late_start=policy.late_start
        )


def _within(policy: Policy, start: datetime, end: datetime, ticks: Ticks | None) -> Iterator[Expected]:
    if policy.since != "schedule" or policy.within is None or ticks is None:
        return
    zone = parse_zone(policy.tz)
    for tick in ticks(start - policy.within, end - policy.within):
        at = tick + policy.within
        if start < at <= end:
            due = Due(at.astimezone(zone).date(), at)
            slot = f"at-{tick:%Y%m%dT%H%M%SZ}"
            yield _expected(
                policy, due, slot, window=(tick, tick + _SECOND), other=(tick, at + policy.late_start)
            )


def _by_partition(policy: Policy, rule: PartitionRule, start: datetime, end: datetime) -> Iterator[Expected]:
    """Yield one for each time of day by which another partition has ended: the last that has is due."""
    zone, at = parse_zone(policy.tz), parse_clock(policy.by or "")
    for day in _dates(start, end, zone):
        due, before = due_on(day, at=at, zone=zone), due_on(day - _DAY, at=at, zone=zone)
        if (
            start < due <= end
            and policy.promised_on(day)
            and (key := _ended(rule, due)) != _ended(rule, before)
        ):
            yield _partition(policy, rule, key, Due(day, due))


def _within_partition(
    policy: Policy, rule: PartitionRule, start: datetime, end: datetime
) -> Iterator[Expected]:
    """Yield one for each partition, so long after its end."""
    length, zone = policy.within or _DAY, parse_zone(policy.tz)
    key = rule.render(start - length)
    while (closed := rule.instants(key)[1]) + length <= end:
        due = closed + length
        if due > start:
            yield _partition(policy, rule, key, Due(due.astimezone(zone).date(), due))
        key = rule.render(closed)


def _ended(rule: PartitionRule, moment: datetime) -> str:
    key = rule.render(moment - _INSTANT)
    begin, close = rule.instants(key)
    return key if close <= moment else rule.render(begin - _INSTANT)


def _partition(policy: Policy, rule: PartitionRule, key: str, due: Due) -> Expected:
    begin, close = rule.instants(key)
    window, late = (begin, due.at), (begin, due.at + policy.grace + _RECOVERY)
    found = _expected(policy, due, f"{PARTITION}{key}", window=window, other=late)
    return replace(found, watch_from=close)


def _every(policy: Policy, start: datetime, end: datetime) -> Iterator[Expected]:
    zone, length = parse_zone(policy.tz), policy.every or _DAY
    for day in _dates(start, end, zone):
        if not policy.promised_on(day):
            continue
        begin = due_on(day, at=_MIDNIGHT, zone=zone)
        midnight = due_on(day + _DAY, at=_MIDNIGHT, zone=zone)
        while begin < midnight:
            # On a day of 25 hours the last window is short, on one of 23 too.
            close = min(begin + length, midnight)
            if start < close <= end:
                yield _expected(
                    policy,
                    Due(day, close),
                    f"{begin:%Y%m%dT%H%M%SZ}",
                    window=(begin, close),
                    other=(begin, close),
                )
            begin = close


def _fresh(policy: Policy, start: datetime, end: datetime) -> Iterator[Expected]:
    zone = parse_zone(policy.tz)
    for day in _dates(start, end, zone):
        begin = due_on(day, at=_MIDNIGHT, zone=zone)
        close = due_on(day + _DAY, at=_MIDNIGHT, zone=zone)
        if close > start and begin <= end and policy.promised_on(day):
            yield _expected(policy, Due(day, close), "fresh-1", window=(begin, close), other=(begin, close))


def _expected(
    policy: Policy,
    due: Due,
    slot: str,
    *,
    window: tuple[datetime, datetime],
    other: tuple[datetime, datetime] | None = None,
    late_start: timedelta = timedelta(0),
) -> Expected:
    others = other or (window[0] + late_start, window[1] + late_start)
    return Expected(
        local_date=due.day,
        slot=slot,
        due_at=due.at,
        tell_at=due.at + policy.grace,
        watch_from=min(window[0], others[0]),
        window_start=window[0],
        window_end=window[1],
        other_start=others[0],
        other_end=others[1],
        excuse=policy.excuse_for(due),
    )
