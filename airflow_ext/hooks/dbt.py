"""What operators and sensors of dbt share: how a run reaches the warehouse, and how fresh sources are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ext.dbt.runner import RunSettings

if TYPE_CHECKING:
    from airflow_ext.dbt.project import DbtProject

SHOWN = 100
"""Sources that a summary names one by one."""

_WORST_FIRST = ("runtime error", "error", "warn", "pass")
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_NO_ROWS = "0001-01-01"
"""What dbt takes for the newest time in a table without rows."""


def settings_of(project: DbtProject) -> RunSettings:
    """Return what a run of a project is made with; reads its connection.

    :param project: The project.
    :raises InvalidProjectError: If no profile can be made from the connection, or the project names none.
    """
    profile = None
    if project.profile_conn_id is not None:
        # Read now, not when the DAG is parsed: the credentials may be leased and short-lived.
        from airflow.sdk import BaseHook

        from airflow_ext.dbt.profiles import profile_from_connection, profile_name

        profile = profile_from_connection(
            BaseHook.get_connection(project.profile_conn_id),
            name=profile_name(project.project_dir),
            target=project.target,
            schema=project.schema,
        )
    return RunSettings(
        project_dir=project.project_dir,
        profiles_dir=project.profiles_dir,
        profile=profile,
        target=project.target,
        executable=project.executable,
        env=project.env,
    )


def objects_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the objects that ``dbt ls --output json`` listed.

    :param lines: What it printed; what macros print while another environment's dbt parses is among it.
    """
    found = []
    for line in lines:
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict):
            found.append(one)
    return found


@dataclass(frozen=True, kw_only=True)
class SourceState:
    """How fresh one source is, as dbt judged it.

    :param unique_id: dbt's id of the source.
    :param status: ``pass``, ``warn``, ``error``, or ``runtime error`` if it could not be judged.
    :param max_loaded_at: Its newest time, ISO 8601; ``None`` if it has no rows or could not be read.
    :param age: Seconds since then.
    :param limits: dbt's rule, such as ``warn after 1 hour, error after 1 day``; may be empty.
    :param message: What dbt says of a source that it could not judge.
    """

    unique_id: str
    status: str
    max_loaded_at: str | None = None
    age: float | None = None
    limits: str = ""
    message: str = ""

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> SourceState:
        """Return what a ``node`` message of ``dbt source freshness`` says.

        :param message: The message.
        """
        newest, age = message.get("max_loaded_at"), message.get("age")
        empty = newest is None or str(newest).startswith(_NO_ROWS)
        return cls(
            unique_id=message["id"],
            status=str(message["status"]).lower(),
            max_loaded_at=None if empty else str(newest),
            age=None if empty or age is None else round(float(age), 1),
            limits=_limits(message.get("criteria") or {}),
            message=str(message.get("message") or ""),
        )

    @property
    def told(self) -> str:
        """How fresh it is, in words."""
        if self.status == "runtime error":
            return self.message or self.status
        found = "has no rows" if self.age is None else f"newest data {_span(self.age)} old"
        return f"{self.status}, {found}" + (f"; {self.limits}" if self.limits else "")

    def __str__(self) -> str:
        return f"{self.unique_id}: {self.told}"


def told_worst_first(states: Iterable[SourceState]) -> list[SourceState]:
    """Return states ordered from the worst to the best, then by name.

    :param states: The states.
    """
    return sorted(states, key=lambda state: (_rank(state), state.unique_id))


def summary_of(states: Iterable[SourceState]) -> dict[str, Any]:
    """Return states as JSON of a size that is fit for XCom.

    :param states: The states.
    :return: ``checked`` and ``counts`` by status of all of them; in ``sources`` by id the ``status``, ``max_loaded_at`` and
        ``age`` in seconds of the worst :data:`SHOWN`.
    """
    ordered = told_worst_first(states)
    counts: dict[str, int] = {}
    for state in ordered:
        counts[state.status] = counts.get(state.status, 0) + 1
    shown = {
        state.unique_id: {"status": state.status, "max_loaded_at": state.max_loaded_at, "age": state.age}
        for state in ordered[:SHOWN]
    }
    return {"checked": len(ordered), "counts": counts, "sources": shown}


def _rank(state: SourceState) -> int:
    return _WORST_FIRST.index(state.status) if state.status in _WORST_FIRST else 0


def _limits(criteria: Mapping[str, Any]) -> str:
    told = []
    for name, word in (("warn_after", "warn"), ("error_after", "error")):
        rule = criteria.get(name) or {}
        if rule.get("count") is not None:
            plural = "" if rule["count"] == 1 else "s"
            told.append(f"{word} after {rule['count']} {rule['period']}{plural}")
    return ", ".join(told)


def _span(seconds: float) -> str:
    for place, (size, unit) in enumerate(_SPANS):
        if seconds >= size:
            text = f"{int(seconds // size)} {unit}"
            if place + 1 < len(_SPANS) and (rest := int(seconds % size // _SPANS[place + 1][0])):
                text += f" {rest} {_SPANS[place + 1][1]}"
            return text
    return f"{int(seconds)} s"
