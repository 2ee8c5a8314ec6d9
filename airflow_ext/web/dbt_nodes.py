"""What a dbt run's page shows, made from what its tasks have told.

Plain Python: it knows neither the web nor Airflow. What was told is an XCom, which users can change, so nothing
in it is trusted to be of its type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import msgspec

from airflow_ext.dbt.results import BAD
from airflow_ext.web.timeline import Timeline

STATES = ("failed", "warned", "skipped", "success")
"""States of a node, the worst first."""

_TEST_ORDER = ("fail", "error", "runtime error", "warn", "skipped", "pass")
_FAR_FUTURE = datetime.max.replace(tzinfo=UTC)


class Line(msgspec.Struct, array_like=True):
    """One node."""

    id: str
    status: str | None = None
    started: str | None = None
    seconds: float | None = None
    rows: int | None = None
    tests: dict[str, int] | None = None


class Told(msgspec.Struct):
    """One failure or warning."""

    id: str
    status: str = ""
    message: str = ""
    rows: int | None = None
    compiled: str = ""


class Unit(msgspec.Struct):
    """One settled unit."""

    state: str
    nodes: list[Line] = []
    failures: list[Told] = []
    warnings: list[Told] = []


class Payload(msgspec.Struct):
    """What one task has told."""

    started: float
    at: float
    ended: bool
    units: dict[str, Unit]
    attempt: int = msgspec.field(name="try", default=1)
    asked: list[str] | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table.

    :param label: The unit that the node belongs to.
    :param status: dbt's own word, which for a node whose tests failed is still ``success``.
    :param left: Left edge of its time, in percent of the axis; ``None`` if dbt told no time.
    """

    id: str
    kind: str
    name: str
    label: str
    state: str
    status: str
    started: datetime | None
    seconds: float | None
    rows: int | None
    tests: tuple[tuple[str, int], ...]
    left: float | None = None
    width: float = 0.0


@dataclass(frozen=True)
class Failed:
    """A failure or a warning, with the unit whose task tells it."""

    id: str
    kind: str
    name: str
    label: str
    status: str
    message: str
    rows: int | None
    compiled: str


@dataclass(frozen=True)
class Nodes:
    """All that was told.

    :param by: Which task ran dbt, by unit.
    :param untold: How many failures are counted but not told one by one.
    """

    rows: list[Row]
    failures: list[Failed]
    timeline: Timeline
    states: dict[str, str] = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)
    untold: int = 0
    warnings: list[Failed] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return how many nodes are in each state, the worst first."""
        found = {state: sum(row.state == state for row in self.rows) for state in STATES}
        return {state: count for state, count in found.items() if count}


def read(value: object) -> Payload | None:
    """Return what a task has told, ``None`` if it is not of our making."""
    try:
        payload = msgspec.convert(value, Payload)
    except msgspec.ValidationError:
        return None
    moments = (payload.started, payload.at)
    return payload if all(_moment(moment) is not None for moment in moments) else None


def moment_of(seconds: float) -> datetime:
    """Return the moment of a time that :func:`read` has let through."""
    return datetime.fromtimestamp(seconds, UTC)


def collect(
    build: Payload, others: Mapping[str, Payload], *, build_task: str, only: str | None = None
) -> Nodes:
    """Return the nodes of a build, those that were built again after it included.

    :param build: What the build task told.
    :param others: What cleared tasks told that built without it, by task.
    :param build_task: The build task.
    :param only: Only this unit, on the axis of them all; ``None`` means all.
    """
    told: list[tuple[str, Payload]] = [(build_task, build)]
    # What was told before this build began is of an earlier one.
    newer = [(name, payload) for name, payload in others.items() if payload.started >= build.started]
    told += sorted(newer, key=lambda one: one[1].started)
    units = {label: (name, unit) for name, payload in told for label, unit in payload.units.items()}
    rows = [_row(label, unit, line) for label, (_, unit) in units.items() for line in unit.nodes]
    timeline = Timeline(
        (interval for row in rows if (interval := _interval(row)) is not None),
        {payload.started for _, payload in told},
    )
    if only is not None:
        units = {label: found for label, found in units.items() if label == only}
    shown = (_placed(row, timeline) for row in rows if row.label in units)
    failures = [_failed(label, one) for label, (_, unit) in units.items() for one in unit.failures]
    ordered = sorted(shown, key=lambda row: (row.started or _FAR_FUTURE, row.name))
    return Nodes(
        rows=ordered,
        failures=failures,
        timeline=timeline,
        states={label: unit.state for label, (_, unit) in units.items()},
        by={label: name for label, (name, _) in units.items()},
        untold=max(0, sum(_bad(row) for row in ordered) - len(failures)),
        warnings=[_failed(label, one) for label, (_, unit) in units.items() for one in unit.warnings],
    )


def slowest_first(rows: Iterable[Row]) -> list[Row]:
    """Return rows by their duration."""
    return sorted(rows, key=lambda row: -(row.seconds or 0.0))


def _row(label: str, unit: Unit, line: Line) -> Row:
    kind, name = _name(line.id)
    tests = line.tests or {}
    ranked = sorted(tests.items(), key=lambda one: _TEST_ORDER.index(one[0]) if one[0] in _TEST_ORDER else -1)
    status = line.status or unit.state
    if status in BAD or status == "failed" or BAD.intersection(tests):
        state = "failed"
    elif status == "skipped":
        state = "skipped"
    else:
        state = "warned" if status == "warn" or tests.get("warn") else "success"
    # What did not run took no time, whatever it is told with.
    ran = status != "skipped"
    seconds = line.seconds if ran else None
    if seconds is not None and not (math.isfinite(seconds) and 0 <= seconds < 1e9):
        seconds = None
    return Row(
        id=line.id,
        kind=kind,
        name=name,
        label=label,
        state=state,
        status=status,
        started=_parsed(line.started) if ran else None,
        seconds=seconds,
        rows=line.rows,
        tests=tuple(ranked),
    )


def _failed(label: str, told: Told) -> Failed:
    kind, name = _name(told.id)
    return Failed(
        id=told.id,
        kind=kind,
        name=name,
        label=label,
        status=told.status,
        message=told.message,
        rows=told.rows,
        compiled=told.compiled.strip(),
    )


def _bad(row: Row) -> int:
    """Return how many failures a row stands for."""
    return (row.status in BAD) + sum(count for status, count in row.tests if status in BAD)


def _name(unique_id: str) -> tuple[str, str]:
    """Return kind and name from ``kind.package.name``; tests have a hash behind their name."""
    kind, _, rest = unique_id.partition(".")
    name = rest.partition(".")[2] or rest or unique_id
    if kind == "test":
        name = name.partition(".")[0]
    return kind, name


def _interval(row: Row) -> tuple[float, float] | None:
    if row.started is None or row.seconds is None:
        return None
    begin = row.started.timestamp()
    return begin, begin + row.seconds


def _placed(row: Row, timeline: Timeline) -> Row:
    interval = _interval(row)
    if interval is None or not timeline:
        return row
    left, width = timeline.place(*interval)
    return replace(row, left=left, width=width)


def _parsed(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC) if 1970 <= moment.year < 9000 else None
    except (ValueError, OverflowError):
        return None


def _moment(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
