"""What one SLA says, checked when it is written, and when a given run has to be done by it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.clock import (
    EVERY_DAY,
    Due,
    first_due_after,
    format_days,
    parse_clock,
    parse_days,
    parse_zone,
)
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
DEFAULT_RUN_TYPES = {
    "by": ("scheduled", "asset_triggered", "operator_triggered"),
    "within": ("scheduled", "asset_triggered", "operator_triggered", "asset_materialization", "manual"),
}
DEFAULT_LATE_START = timedelta(hours=12)
_DAY = timedelta(days=1)
_YEAR = timedelta(days=366)
_LONGEST_KEY = 255  # what incident tools take as a dedup_key
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run when its due time is set.

    :param run_type: Airflow's word, such as ``scheduled``.
    :param run_after: When it may start; for a scheduled run the time its schedule names.
    :param created: When it was created.
    """

    run_type: str
    run_after: datetime
    created: datetime
    queued: datetime | None = None
    logical_date: datetime | None = None
    interval_end: datetime | None = None


@dataclass(frozen=True)
class Policy:
    """One SLA as written; :func:`airflow_ext.sla.sla` says what the fields mean.

    Built by :meth:`make`, which checks, or by :meth:`from_flat`, which reads back what :meth:`to_flat` wrote.
    """

    name: str
    by: str | None
    within: timedelta | None
    tz: str
    days: tuple[int, ...]
    grace: timedelta
    owner: str
    severity: str
    run_types: tuple[str, ...]
    late_start: timedelta

    @classmethod
    def make(
        cls,
        *,
        by: str | None,
        within: timedelta | None,
        tz: str | None,
        days: str | Iterable[str] | None,
        grace: timedelta,
        owner: str,
        severity: str,
        name: str | None,
        run_types: Iterable[str] | None,
        late_start: timedelta,
    ) -> Policy:
        """Check the arguments of one SLA and return it.

        :raises TypeError: If an argument has the wrong type.
        :raises InvalidError: If a value is wrong; the text names the argument and the way out.
        """
        if (by is None) == (within is None):
            what = "both are given" if by is not None else "neither is given"
            raise InvalidError(
                f"sla() takes exactly one of by= and within=, {what} (by={by!r}, within={within!r}): "
                'write by="06:00", tz="Europe/Berlin" for a time of day, '
                "or within=timedelta(hours=1) for a duration"
            )
        if by is not None:
            parse_clock(by)
            if tz is None:
                raise InvalidError(
                    f'by={by!r} needs tz=, the zone whose clocks are meant, such as tz="Europe/Berlin"'
                )
        elif days is not None:
            raise InvalidError(f"days={days!r} goes with by=, not with within=: leave days out")
        parse_zone(tz or "UTC")
        if within is not None:
            _check_duration("within", within, least=timedelta(seconds=1), most=_YEAR)
        _check_duration("grace", grace, least=timedelta(0), most=_DAY - timedelta(seconds=1))
        _check_duration("late_start", late_start, least=timedelta(0), most=_DAY - timedelta(seconds=1))
        if severity not in SEVERITIES:
            raise InvalidError(f"severity={severity!r} is unknown: use one of {', '.join(SEVERITIES)}")
        if not isinstance(owner, str):
            raise TypeError(f"owner={owner!r} must be a string: the team or person who is told")
        weekdays = parse_days(days)
        return cls(
            name=_check_name(name) if name is not None else _default_name(by, within, tz or "UTC", weekdays),
            by=by,
            within=within,
            tz=tz or "UTC",
            days=weekdays,
            grace=grace,
            owner=owner,
            severity=severity,
            run_types=_check_run_types(run_types, kind="by" if by is not None else "within"),
            late_start=late_start,
        )

    @property
    def promise(self) -> str:
        """The promise in words, such as ``done by 06:00 Europe/Berlin, mon-fri``."""
        if self.by is not None:
            text = f"done by {self.by} {self.tz}, {format_days(self.days)}"
        else:
            text = f"done within {duration(self.within or timedelta(0))} of being queued"
        return f"{text} (grace {duration(self.grace)})" if self.grace else text

    def due_for(self, run: RunFacts) -> Due | None:
        """Return when this run has to be done, without grace, or ``None`` if the promise is not about it.

        ``within`` counts from the moment the run was queued.

        ``by`` is the first such time after the run's anchor. For a scheduled run the anchor is the time
        its schedule names (``run_after``: the end of its data interval), so a run of 22:00 owes the next
        morning. Other runs start when they can, also too late, so for them it is the first such time after
        ``late_start`` before the anchor (the end of the data interval, else the logical date, else
        ``run_after``): a run of 06:30 still owes 06:00. A time that was over by more than ``late_start``
        when the run was created is nobody's promise any more: repairs, catch-up, backfills.
        """
        if run.run_type not in self.run_types:
            return None
        zone = parse_zone(self.tz)
        if self.within is not None:
            at = (run.queued or run.created) + self.within
            return Due(day=at.astimezone(zone).date(), at=at)
        anchor = run.run_after
        if run.run_type != "scheduled":
            anchor = (run.interval_end or run.logical_date or run.run_after) - self.late_start
        due = first_due_after(anchor, at=parse_clock(self.by or ""), zone=zone)
        if due.day.weekday() not in self.days or run.created - due.at > self.late_start:
            return None
        return due

    def occurrence_key(self, *, dag_id: str, run_id: str, due: datetime) -> str:
        """Return the name of one promise that is kept or missed: DAG, policy, local date and slot.

        ``by`` is a promise about the date, so its slot is the time of day (``marts/early/2026-03-02/0600``)
        and all runs that owe it share the key. ``within`` is one about each run, so its slot stands for the
        run (``sync/slow/2026-03-02/run-9f86d081884c``). The same run and due time give the same key.

        :param due: When it was due, without grace.
        :returns: At most 255 characters; of a longer one, a digest takes the place of the middle.
        """
        day = due.astimezone(parse_zone(self.tz)).date()
        slot = f"run-{_digest(run_id)}" if self.by is None else self.by.replace(":", "")
        head, tail = f"{dag_id}/{self.name}", f"/{day.isoformat()}/{slot}"
        if len(head) + len(tail) > _LONGEST_KEY:
            tail = f"~{_digest(head)}{tail}"
            head = head[: _LONGEST_KEY - len(tail)]
        return head + tail

    def to_flat(self) -> dict[str, str | float | None]:
        """Return strings, numbers and ``None`` only: nested values in callback arguments break Airflow."""
        return {
            "policy": self.name,
            "by": self.by,
            "within": self.within.total_seconds() if self.within is not None else None,
            "tz": self.tz,
            "days": ",".join(str(day) for day in self.days),
            "grace": self.grace.total_seconds(),
            "owner": self.owner,
            "severity": self.severity,
            "run_types": ",".join(self.run_types),
            "late_start": self.late_start.total_seconds(),
        }

    @classmethod
    def from_flat(cls, data: Mapping[str, Any]) -> Policy:
        """Read what :meth:`to_flat` wrote.

        :raises KeyError: If a field is missing.
        :raises ValueError: If a field cannot be read.
        """
        within = data["within"]
        return cls(
            name=data["policy"],
            by=data["by"],
            within=timedelta(seconds=float(within)) if within is not None else None,
            tz=data["tz"],
            days=tuple(int(day) for day in data["days"].split(",")),
            grace=timedelta(seconds=float(data["grace"])),
            owner=data["owner"],
            severity=data["severity"],
            run_types=tuple(data["run_types"].split(",")),
            late_start=timedelta(seconds=float(data["late_start"])),
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check_duration(argument: str, value: timedelta, *, least: timedelta, most: timedelta) -> None:
    if not isinstance(value, timedelta):
        raise TypeError(f"{argument}={value!r} must be a timedelta, such as timedelta(minutes=5)")
    if not least <= value <= most:
        raise InvalidError(f"{argument}={value!r} must be between {duration(least)} and {duration(most)}")


def _check_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name={name!r} must be a string")
    if not _NAME.fullmatch(name):
        raise InvalidError(
            f"name={name!r}: use 1 to 100 letters, digits, dots, dashes and underscores, "
            "the first a letter or digit"
        )
    return name


def _default_name(by: str | None, within: timedelta | None, tz: str, days: tuple[int, ...]) -> str:
    if by is None:
        return f"within-{duration(within or timedelta(0)).replace(' ', '')}"
    parts = ["by", by.replace(":", ""), tz.replace("/", "-").replace("+", "plus")]
    if days != EVERY_DAY:
        parts.append(format_days(days).replace(", ", "-"))
    return "-".join(parts)


def _check_run_types(run_types: Iterable[str] | None, *, kind: str) -> tuple[str, ...]:
    if run_types is None:
        return DEFAULT_RUN_TYPES[kind]
    if isinstance(run_types, str):
        raise TypeError(f"run_types={run_types!r} must be a list, such as [{run_types!r}]")
    given = list(run_types)
    unknown = [item for item in given if item not in RUN_TYPES]
    if unknown or not given:
        raise InvalidError(f"run_types={given!r}: use one or more of {', '.join(RUN_TYPES)}")
    return tuple(item for item in RUN_TYPES if item in given)
