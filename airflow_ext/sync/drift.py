"""What changed in the tables a sync writes, and whether that may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from airflow_ext.sync.model import CHANGE_KINDS, SchemaChange, TableRef

Action = Literal["allow", "warn", "fail", "quarantine"]
ACTIONS = ("allow", "warn", "fail", "quarantine")

Schema = Mapping[str, Mapping[str, Any]]
"""``{table: {"columns": {name: type} | None, "key": [column] | None}}``, plain JSON."""


@dataclass(frozen=True, kw_only=True)
class SchemaGate:
    """What happens when tables change, per kind of change.

    ``allow`` takes note; ``warn`` also logs; ``fail`` fails the task without retries and emits nothing, so that
    nothing downstream runs; ``quarantine`` withholds the event of that table only. What is refused is compared again
    in the next run, until the table is as before or its kind is allowed.

    :param table_added: A table that was not there before.
    :param table_removed: A table that is no longer written.
    :param column_added: A new column.
    :param column_removed: A column that is gone from the source.
    :param column_retyped: A column of another type, where the backend knows types.
    :param key_changed: Another primary key.
    :raises ValueError: If an action is none of these.
    """

    table_added: Action = "allow"
    table_removed: Action = "fail"
    column_added: Action = "allow"
    column_removed: Action = "fail"
    column_retyped: Action = "fail"
    key_changed: Action = "fail"

    def __post_init__(self) -> None:
        for kind in CHANGE_KINDS:
            action = getattr(self, kind)
            if action not in ACTIONS:
                raise ValueError(f"{kind}={action!r}: use one of {', '.join(ACTIONS)}")

    def action(self, change: SchemaChange) -> str:
        """Return what happens on a change."""
        return str(getattr(self, change.kind))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The changes of one run, sorted by what happens.

    :param refused: One line per change that fails the task.
    :param quarantined: Tables whose events are withheld, with one line per change.
    :param warned: One line per change to warn of.
    """

    refused: tuple[str, ...] = ()
    quarantined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warned: tuple[str, ...] = ()


def schema_of(tables: Iterable[TableRef]) -> dict[str, dict[str, Any]]:
    """Return what is compared of some tables, as plain JSON."""
    return {
        table.name: {
            "columns": None if table.columns is None else dict(table.columns),
            "key": None if table.key is None else sorted(table.key),
        }
        for table in tables
    }


def compare(before: Schema, now: Schema) -> dict[str, tuple[SchemaChange, ...]]:
    """Return the changes by table; what either side does not know is no change."""
    changes: dict[str, tuple[SchemaChange, ...]] = {}
    for name in sorted({*before, *now}):
        if name not in before:
            found: list[SchemaChange] = [SchemaChange(kind="table_added")]
        elif name not in now:
            found = [SchemaChange(kind="table_removed")]
        else:
            found = _table_changes(before[name], now[name])
        if found:
            changes[name] = tuple(found)
    return changes


def _table_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[SchemaChange]:
    found: list[SchemaChange] = []
    old, new = before.get("columns"), now.get("columns")
    if old is not None and new is not None:
        found += [
            SchemaChange(kind="column_added", column=c, type=new[c]) for c in sorted(set(new) - set(old))
        ]
        found += [SchemaChange(kind="column_removed", column=c) for c in sorted(set(old) - set(new))]
        found += [
            SchemaChange(kind="column_retyped", column=c, type=new[c])
            for c in sorted(set(old) & set(new))
            if old[c] and new[c] and old[c] != new[c]
        ]
    if before.get("key") is not None and now.get("key") is not None and before["key"] != now["key"]:
        found.append(SchemaChange(kind="key_changed", column=", ".join(now["key"])))
    return found


def judge(gate: SchemaGate, changes: Mapping[str, tuple[SchemaChange, ...]]) -> Judged:
    """Sort changes by what happens on them."""
    refused: list[str] = []
    warned: list[str] = []
    quarantined: dict[str, tuple[str, ...]] = {}
    for table, found in changes.items():
        for change in found:
            line = describe(table, change)
            match gate.action(change):
                case "fail":
                    refused.append(line)
                case "quarantine":
                    quarantined[table] = (*quarantined.get(table, ()), line)
                case "warn":
                    warned.append(line)
    return Judged(refused=tuple(refused), quarantined=quarantined, warned=tuple(warned))


def accepted(before: Schema, now: Schema, judged: Judged) -> dict[str, Any]:
    """Return the schema that the next run is compared with: as it was for tables in quarantine."""
    kept = {name: value for name, value in now.items() if name not in judged.quarantined}
    return kept | {name: before[name] for name in judged.quarantined if name in before}


def describe(table: str, change: SchemaChange) -> str:
    """Return a change as a line."""
    words = change.kind.replace("_", " ")
    what = f" {change.column}" if change.column else ""
    of_type = f" ({change.type})" if change.type else ""
    return f"{table}: {words}{what}{of_type}"
