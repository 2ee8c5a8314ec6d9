"""What one SLA says, checked when it is written, and when a given run has to be done by it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.exceptions import InvalidError
from airflow_ext.sla import calendars, checks
from airflow_ext.sla.clock import (
    EVERY_DAY,
    Due,
    first_due_after,
    format_days,
    parse_clock,
    parse_days,
    parse_zone,
)
from airflow_ext.sla.subject import contract_name, read_asset, read_contract
from airflow_ext.sla.wording import duration

DEFAULT_LATE_START = timedelta(hours=12)
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_YEAR = timedelta(days=366)
_LONGEST_NAME = 100
_LONGEST_KEY = 255  # what incident tools take as a dedup_key
_DURATIONS = ("within", "grace", "late_start", "fresh", "every")
_LISTS = ("days", "run_types", "exceptions", "maintenance")
_LONGEST_OWNER = 250
_ALWAYS = ("by", "within", "tz", "days", "grace", "owner", "severity", "run_types", "late_start")


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
    since: str = ""
    fresh: timedelta | None = None
    every: timedelta | None = None
    at_least: int = 1
    calendar: str | None = None
    exceptions: tuple[str, ...] = ()
    maintenance: tuple[str, ...] = ()
    on_paused: str = "alert"
    on_failure: str = "tell"
    budget: str = ""
    task: str = ""
    group: str = ""
    asset_name: str = ""
    asset_uri: str = ""
    formerly: str = ""
    partition_format: str = ""
    partition_zone: str = ""
    on_risk: str = "quiet"

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
        since: str | None = None,
        fresh: timedelta | None = None,
        every: timedelta | None = None,
        at_least: int = 1,
        calendar: str | None = None,
        exceptions: Iterable[str] = (),
        maintenance: Iterable[str] = (),
        on_paused: str = "alert",
        on_failure: str = "tell",
        on_risk: str = "quiet",
        budget: str | None = None,
        task: str | None = None,
        group: str | None = None,
        asset: Any = None,
        contract: Any = None,
        formerly: str | None = None,
        partitions: PartitionRule | None = None,
    ) -> Policy:
        """Check the arguments of one SLA and return it.

        :param partitions: How the partitions of the contract are called, where that is known: then each of them counts
            for itself.
        :raises TypeError: If an argument has the wrong type.
        :raises InvalidError: If a value is wrong; the text names the argument and the way out.
        """
        periods = {"within": within, "fresh": fresh, "every": every}
        kind = checks.one_kind({"by": by, **periods})
        weekdays = _check_time(kind, by=by, tz=tz, days=days, calendar=calendar)
        zone = parse_zone(tz or "UTC")
        period = periods.get(kind)
        if period is not None and every is None:
            checks.check_duration(kind, period, least=_SECOND, most=_YEAR)
        if every is not None:
            checks.check_every(every)
        checks.check_grace(grace, kind=kind, period=period)
        checks.check_duration("late_start", late_start, least=timedelta(0), most=_DAY - _SECOND)
        checks.check_choice("severity", severity, checks.SEVERITIES)
        if not isinstance(owner, str):
            raise TypeError(f"owner={owner!r} must be a string: the team or person who is told")
        if len(owner) > _LONGEST_OWNER:
            raise InvalidError(f"owner= has {len(owner)} characters: at most {_LONGEST_OWNER}")
        checks.check_subject({"task": task, "group": group, "asset": asset, "contract": contract})
        if not isinstance(at_least, int) or not 1 <= at_least <= 10_000 or (at_least > 1 and every is None):
            raise InvalidError(f"at_least={at_least!r}: a whole number from 1, and it goes with every=")
        if formerly is not None and (not isinstance(formerly, str) or not formerly):
            raise TypeError(f"formerly={formerly!r} must be the id the DAG had before")
        about = asset is not None or contract is not None
        names = ("", "")
        if about:
            names = read_asset(asset) if asset is not None else read_contract(contract)
        checks.check_partitions(partitions)
        dates, windows = tuple(exceptions), tuple(maintenance)
        calendars.parse_exceptions(exceptions if isinstance(exceptions, str) else dates)
        calendars.parse_maintenance(maintenance if isinstance(maintenance, str) else windows, zone=zone)
        policy = cls(
            name="",
            by=by,
            within=within,
            tz=tz or "UTC",
            days=weekdays,
            grace=grace,
            owner=owner,
            severity=severity,
            run_types=checks.check_run_types(run_types, kind=kind if partitions is None else "partition"),
            late_start=late_start,
            since=_check_since(since, kind=kind, about_data=about),
            fresh=fresh,
            every=every,
            at_least=at_least,
            calendar=calendar,
            exceptions=dates,
            maintenance=windows,
            on_paused=checks.check_choice("on_paused", on_paused, checks.ON_PAUSED),
            on_failure=checks.check_choice("on_failure", on_failure, checks.ON_FAILURE),
            on_risk=checks.check_choice("on_risk", on_risk, checks.ON_RISK),
            budget=checks.check_budget(budget),
            task=task or "",
            group=group or "",
            asset_name=names[0],
            asset_uri=names[1],
            formerly=formerly or "",
            partition_format=partitions.format if partitions is not None else "",
            partition_zone=partitions.timezone if partitions is not None else "",
        )
        return policy.renamed(checks.check_name(name) if name is not None else policy.default_name)

    @property
    def kind(self) -> str:
        """``by``, ``within``, ``fresh`` or ``every``."""
        return next(kind for kind in ("by", "within", "fresh", "every") if getattr(self, kind) is not None)

    @property
    def subject(self) -> str:
        """``task``, ``asset`` or ``run``."""
        if self.task or self.group:
            return "task"
        return "asset" if self.asset_name or self.asset_uri else "run"

    @property
    def subject_name(self) -> str:
        """What it is about where that is not the run: ``task load``, ``asset orders``, ``contract orders v2``."""
        if contract := contract_name(self.asset_name):
            return f"contract {contract}"
        for word, name in (
            ("task", self.task),
            ("group", self.group),
            ("asset", self.asset_name or self.asset_uri),
        ):
            if name:
                return f"{word} {name}"
        return ""

    @property
    def is_contract(self) -> bool:
        """Whether it is about a contract."""
        return bool(contract_name(self.asset_name))

    @cached_property
    def partitions(self) -> PartitionRule | None:
        """How the partitions of the contract are called, ``None`` if they do not count one by one."""
        if not self.partition_format:
            return None
        return PartitionRule(self.partition_format, self.partition_zone)

    @property
    def promise(self) -> str:
        """The promise in words, such as ``done by 06:00 Europe/Berlin, mon-fri``."""
        text = self._what()
        if self.subject == "asset":
            done = "published" if self.is_contract else "updated"
            text = f"{self.subject_name} {text.replace('done', done, 1)}"
        elif self.subject == "task":
            text = f"{self.subject_name} {text}"
        if self.calendar is not None:
            text += f", working days of {self.calendar}"
        return f"{text} (grace {duration(self.grace)})" if self.grace else text

    def _what(self) -> str:
        if self.by is not None:
            return f"done by {self.by} {self.tz}, {format_days(self.days)}"
        if self.within is not None:
            named = "its partition's end" if self.partition_format else "its scheduled time"
            since = {"schedule": f"of {named}", "start": "of its start"}
            return f"done within {duration(self.within)} {since.get(self.since, 'of being queued')}"
        if self.fresh is not None:
            return f"done again before it is {duration(self.fresh)} old"
        times = "once" if self.at_least == 1 else f"{self.at_least} times"
        return f"done at least {times} in every {duration(self.every or _DAY)}"

    @property
    def default_name(self) -> str:
        """The name of a policy that is given none; made of the promise."""
        if self.by is not None:
            parts = ["by", self.by.replace(":", ""), self.tz.replace("/", "-").replace("+", "plus")]
            if self.days != EVERY_DAY:
                parts.append(format_days(self.days).replace(", ", "-"))
        else:
            period = getattr(self, self.kind)
            parts = [self.kind, duration(period).replace(" ", "")]
        if self.subject != "run":
            about = self.task or self.group or self.asset_name or self.asset_uri
            parts.insert(0, re.sub(r"[^A-Za-z0-9._-]+", "-", about).strip("-._"))
        return shortened("-".join(part for part in parts if part))

    def renamed(self, name: str) -> Policy:
        """Return the same policy under another name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Policy(**{**values, "name": name})

    @cached_property
    def _exceptions(self) -> tuple[tuple[date, date], ...]:
        return calendars.parse_exceptions(self.exceptions)

    @cached_property
    def _maintenance(self) -> tuple[calendars.Window, ...]:
        return calendars.parse_maintenance(self.maintenance, zone=parse_zone(self.tz))

    def promised_on(self, day: date) -> bool:
        """Say whether anything is promised on a local date; exceptions are promised and excused."""
        if day.weekday() not in self.days:
            return False
        return self.calendar is None or calendars.is_working_day(day, calendar=self.calendar)

    def excuse_for(self, due: Due) -> str:
        """Return why a due time counts for nothing: ``exception``, ``maintenance`` or an empty string."""
        if calendars.excepted(due.day, self._exceptions):
            return "exception"
        return "maintenance" if calendars.in_maintenance(due.at, self._maintenance) else ""

    def due_for(self, run: RunFacts) -> Due | None:
        """Return when this run has to be done, without grace, or ``None`` if the promise is not about it.

        Only for promises about whole runs whose time is known when the run is created: ``by``, and ``within``
        from the schedule or the queue.

        ``by`` is the first such time after the run's anchor. For a scheduled run the anchor is the time
        its schedule names (``run_after``: the end of its data interval), so a run of 22:00 owes the next
        morning. Other runs start when they can, also too late, so for them it is the first such time after
        ``late_start`` before the anchor (the end of the data interval, else the logical date, else
        ``run_after``): a run of 06:30 still owes 06:00. A time that was over by more than ``late_start``
        when the run was created is nobody's promise any more: repairs, catch-up, backfills.
        """
        if run.run_type not in self.run_types or self.subject != "run":
            return None
        due = self._due_within(run) if self.by is None else self._due_by(run)
        return None if due is None or self.excuse_for(due) else due

    def _due_within(self, run: RunFacts) -> Due | None:
        if self.within is None or self.since == "start":
            return None
        start = run.run_after if self.since == "schedule" else run.queued or run.created
        if self.since == "schedule" and (
            run.run_type != "scheduled" or run.created - start > self.within + self.late_start
        ):
            return None
        at = start + self.within
        return Due(day=at.astimezone(parse_zone(self.tz)).date(), at=at)

    def _due_by(self, run: RunFacts) -> Due | None:
        anchor = run.run_after
        if run.run_type != "scheduled":
            anchor = (run.interval_end or run.logical_date or run.run_after) - self.late_start
        due = first_due_after(anchor, at=parse_clock(self.by or ""), zone=parse_zone(self.tz))
        if not self.promised_on(due.day) or run.created - due.at > self.late_start:
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
        return self.key_of(dag_id=dag_id, day=day, slot=run_slot(run_id) if self.by is None else self.by_slot)

    def key_of(self, *, dag_id: str, day: date, slot: str) -> str:
        """Return the name of the occurrence on a local date and slot, as :meth:`occurrence_key` does."""
        head, tail = f"{dag_id}/{self.name}", f"/{day.isoformat()}/{slot}"
        if len(head) + len(tail) > _LONGEST_KEY:
            tail = f"~{_digest(head)}{tail}"
            head = head[: _LONGEST_KEY - len(tail)]
        return head + tail

    @property
    def by_slot(self) -> str:
        """The slot of ``by``: its time of day."""
        return (self.by or "").replace(":", "")

    @property
    def fingerprint(self) -> str:
        """A digest of all the policy says; another one is another version of it."""
        return hashlib.sha256(json.dumps(self.to_flat(), sort_keys=True).encode()).hexdigest()

    def to_flat(self) -> dict[str, str | float | None]:
        """Return strings, numbers and ``None`` only: nested values in callback arguments break Airflow.

        What is at its default is left out, apart from the few fields that were always there.
        """
        flat: dict[str, str | float | None] = {"policy": self.name}
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if field.name in _ALWAYS or value != field.default:
                flat[field.name] = _flat(value)
        return flat

    @classmethod
    def from_flat(cls, data: Mapping[str, Any]) -> Policy:
        """Read what :meth:`to_flat` wrote, also an older or newer version: unknown fields are left aside.

        :raises KeyError: If a field is missing.
        :raises ValueError: If a field cannot be read.
        """
        values: dict[str, Any] = {"name": data["policy"]}
        for field in fields(cls)[1:]:
            if field.name in _ALWAYS or field.name in data:
                values[field.name] = _unflat(field.name, data[field.name])
        return cls(**values)


def shortened(name: str) -> str:
    """Return a policy's name that is not too long; of a longer one, a digest takes the place of the end."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:87]}-{_digest(name)}"


def run_slot(run_id: str) -> str:
    """Return the slot that stands for one run."""
    return f"run-{_digest(run_id)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _flat(value: Any) -> str | float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    flat: str | float | None = value
    return flat


def _unflat(name: str, value: Any) -> Any:
    if name in _DURATIONS:
        return timedelta(seconds=float(value)) if value is not None else None
    if name in _LISTS:
        items = [item for item in value.split(",") if item]
        return tuple(int(item) for item in items) if name == "days" else tuple(items)
    return int(value) if name == "at_least" else value


def _check_time(
    kind: str, *, by: str | None, tz: str | None, days: str | Iterable[str] | None, calendar: str | None
) -> tuple[int, ...]:
    if by is not None:
        parse_clock(by)
        if tz is None:
            raise InvalidError(
                f'by={by!r} needs tz=, the zone whose clocks are meant, such as tz="Europe/Berlin"'
            )
    elif days is not None and kind == "within":
        raise InvalidError(f"days={days!r} goes with by=, not with within=: leave days out")
    elif calendar is not None and kind == "within":
        raise InvalidError(f"calendar={calendar!r} goes with by=, not with within=: leave calendar out")
    weekdays = parse_days(days)
    checks.check_calendar(calendar, weekdays)
    return weekdays


def _check_since(since: str | None, *, kind: str, about_data: bool) -> str:
    if kind != "within":
        if since is not None:
            raise InvalidError(f"since={since!r} goes with within=: leave it out")
        return ""
    if about_data and since not in (None, "schedule"):
        raise InvalidError(f'since={since!r}: data has no queue; within= of an asset counts since="schedule"')
    default = "schedule" if about_data else "queue"
    return checks.check_choice("since", since or default, checks.SINCE)
