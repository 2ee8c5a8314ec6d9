"""Checks of the arguments of ``sla()``; each error names the argument, its value and the way out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.calendars import working_days
from airflow_ext.sla.clock import format_days
from airflow_ext.sla.wording import duration

SEVERITIES = ("page", "ticket", "info")
RUN_TYPES = (
    "scheduled",
    "asset_triggered",
    "operator_triggered",
    "asset_materialization",
    "manual",
    "backfill",
)
_BY_ITSELF = ("scheduled", "asset_triggered", "operator_triggered")
DEFAULT_RUN_TYPES = {
    "by": _BY_ITSELF,
    "within": (*_BY_ITSELF, "asset_materialization", "manual"),
    "fresh": (*_BY_ITSELF, "asset_materialization", "manual"),
    "every": (*_BY_ITSELF, "asset_materialization", "manual"),
    "partition": RUN_TYPES,
}
SINCE = ("schedule", "queue", "start")
ON_PAUSED = ("alert", "excuse", "excuse_after_ack")
ON_FAILURE = ("tell", "wait")
ON_RISK = ("quiet", "tell")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BUDGET = re.compile(r"(\d{1,4}) in (\d{1,4})")
_DAY = timedelta(days=1)
LONGEST_PARTITION = 38
"""Characters of a partition key: with two more, it is the slot of an occurrence."""


def one_kind(given: dict[str, object]) -> str:
    """Return the one argument that says what is promised.

    :raises InvalidError: If there is none, or more than one.
    """
    kinds = [name for name, value in given.items() if value is not None]
    if len(kinds) == 1:
        return kinds[0]
    which = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    what = f"{'both' if len(kinds) == 2 else len(kinds)} are given ({which})" if kinds else "neither is given"
    raise InvalidError(
        f"sla() takes exactly one of by=, within=, fresh= and every=, {what}: "
        'write by="06:00", tz="Europe/Berlin" for a time of day, within=timedelta(hours=1) for a duration, '
        "fresh=timedelta(hours=6) for an age, every=timedelta(hours=1) for how often"
    )


def check_duration(argument: str, value: timedelta, *, least: timedelta, most: timedelta) -> None:
    """Check a duration and its bounds, both included.

    :raises TypeError: If it is no timedelta.
    :raises InvalidError: If it is out of bounds.
    """
    if not isinstance(value, timedelta):
        raise TypeError(f"{argument}={value!r} must be a timedelta, such as timedelta(minutes=5)")
    if not least <= value <= most:
        raise InvalidError(f"{argument}={value!r} must be between {duration(least)} and {duration(most)}")


def check_grace(grace: timedelta, *, kind: str, period: timedelta | None) -> None:
    """Check that the grace is shorter than what is promised, else the next promise is due before one is told.

    :param period: What is promised, where it is a duration.
    :raises TypeError: If it is no timedelta.
    :raises InvalidError: If it is negative or too long.
    """
    check_duration("grace", grace, least=timedelta(0), most=_DAY - timedelta(seconds=1))
    if period is not None and grace > period:
        raise InvalidError(
            f"grace={grace!r} is longer than {kind}={period!r}: what is late by that much is told too late; "
            f"give at most {duration(period)}, or a longer {kind}="
        )


def check_every(every: timedelta) -> None:
    """Check that windows of this length fill a day.

    :raises TypeError: If it is no timedelta.
    :raises InvalidError: If it does not divide a day.
    """
    check_duration("every", every, least=timedelta(minutes=1), most=_DAY)
    if _DAY % every:
        raise InvalidError(
            f"every={every!r} does not divide a day: windows start at midnight, so use for example 1 h, 6 h or 1 d"
        )


def check_choice(argument: str, value: str, allowed: tuple[str, ...]) -> str:
    """Check that a value is one of a few words.

    :raises InvalidError: If it is not.
    """
    if value not in allowed:
        raise InvalidError(f"{argument}={value!r} is unknown: use one of {', '.join(allowed)}")
    return value


def check_name(name: str) -> str:
    """Check a policy's name.

    :raises TypeError: If it is no string.
    :raises InvalidError: If it has other letters than names have.
    """
    if not isinstance(name, str):
        raise TypeError(f"name={name!r} must be a string")
    if not _NAME.fullmatch(name):
        raise InvalidError(
            f"name={name!r}: use 1 to 100 letters, digits, dots, dashes and underscores, "
            "the first a letter or digit"
        )
    return name


def check_run_types(run_types: Iterable[str] | None, *, kind: str) -> tuple[str, ...]:
    """Return run types in Airflow's words and a fixed order.

    :raises TypeError: If it is a string.
    :raises InvalidError: If one is unknown or none is given.
    """
    if run_types is None:
        return DEFAULT_RUN_TYPES[kind]
    if isinstance(run_types, str):
        raise TypeError(f"run_types={run_types!r} must be a list, such as [{run_types!r}]")
    given = list(run_types)
    unknown = [item for item in given if item not in RUN_TYPES]
    if unknown or not given:
        raise InvalidError(f"run_types={given!r}: use one or more of {', '.join(RUN_TYPES)}")
    return tuple(item for item in RUN_TYPES if item in given)


def check_calendar(calendar: str | None, days: tuple[int, ...]) -> None:
    """Check that a calendar exists and has working days among ``days``.

    :raises MissingExtraError: If the library of holidays is not installed.
    :raises InvalidError: If there is no such calendar, or no day is left.
    """
    if calendar is None:
        return
    working = working_days(calendar)
    if not set(working) & set(days):
        raise InvalidError(
            f"calendar={calendar!r} has no working day among days={format_days(days)!r}, so nothing would ever "
            f"be promised: leave days out, or name some of {format_days(working)}"
        )


def check_budget(budget: str | None) -> str:
    """Check an error budget, such as ``3 in 30``: misses in so many occurrences.

    :raises InvalidError: If it is none.
    """
    if budget is None:
        return ""
    match = _BUDGET.fullmatch(budget) if isinstance(budget, str) else None
    if match is None or not 0 <= int(match[1]) < int(match[2]):
        raise InvalidError(f'budget={budget!r}: write how many of how many may be missed, such as "3 in 30"')
    return budget


def check_partitions(rule: PartitionRule | None) -> None:
    """Check that the keys of a contract's partitions are short enough to name occurrences.

    :raises InvalidError: If they are not.
    """
    key = rule.render(datetime(2000, 12, 31, tzinfo=UTC)) if rule is not None else ""
    if len(key) > LONGEST_PARTITION:
        raise InvalidError(
            f"contract=...: its partitions are called like {key!r}, which is longer than {LONGEST_PARTITION} characters; "
            "name them shorter in airflow.partition, or give fresh= and the contract's asset as asset="
        )


def check_subject(given: dict[str, Any]) -> None:
    """Check that a policy is about one thing.

    :raises TypeError: If the id of a task or group is no string.
    :raises InvalidError: If several are named.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) > 1:
        raise InvalidError(
            f"{' and '.join(f'{name}=' for name in named)} are given: an sla() is about one of them, or about the "
            "whole run; write one sla() for each"
        )
    for name in ("task", "group"):
        value = named.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            raise TypeError(f"{name}={value!r} must be the id of a {name}, a string")
