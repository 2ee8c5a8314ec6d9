"""What a sync run is, whatever runs it: our states, results and capabilities, never a vendor's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class SyncStatus(StrEnum):
    """State of a sync run."""

    PENDING = "pending"
    RUNNING = "running"
    RESCHEDULED = "rescheduled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (SyncStatus.SUCCEEDED, SyncStatus.FAILED, SyncStatus.CANCELLED)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a backend can do; an operator asks here instead of trying.

    :param remote: Runs go on elsewhere when the task that started them ends, so they can be adopted.
    :param cancel: A running sync can be stopped.
    :param resync: Everything can be loaded anew.
    :param resync_tables: Single tables can be loaded anew.
    :param tables: The tables a sync writes are known.
    :param columns: Their columns are known too.
    :param history: Past runs are known, with the reason of a failure.
    :param list_status: One request tells the status of many syncs.
    :param webhook: Can tell by itself that a run has ended.
    :param windowed: A run can be limited to a window of a cursor column.
    :param row_counts: The result knows the rows of each table.
    :param schema_changes: The result knows what changed in each table's columns.
    :param failed_rows: The result knows how many rows the destination refused.
    """

    remote: bool = False
    cancel: bool = False
    resync: bool = False
    resync_tables: bool = False
    tables: bool = False
    columns: bool = False
    history: bool = False
    list_status: bool = False
    webhook: bool = False
    windowed: bool = False
    row_counts: bool = False
    schema_changes: bool = False
    failed_rows: bool = False


CHANGE_KINDS = (
    "table_added",
    "table_removed",
    "column_added",
    "column_removed",
    "column_retyped",
    "key_changed",
)


@dataclass(frozen=True, kw_only=True)
class SchemaChange:
    """One difference between a table as it was and as it is now.

    :param kind: One of :data:`CHANGE_KINDS`. A column removed from the source stays in the destination, null
        from now on.
    :param column: The column; empty for a table.
    :param type: New type of an added or retyped column in the engine's words.
    """

    kind: str
    column: str = ""
    type: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return plain JSON without empty fields."""
        return {
            key: value
            for key, value in (("kind", self.kind), ("column", self.column), ("type", self.type))
            if value
        }


@dataclass(frozen=True, kw_only=True)
class TableResult:
    """What a run did to one table.

    :param name: The table as the DAG author wrote it.
    :param rows: Rows loaded; ``None`` when the backend cannot know. 0 means none.
    :param schema_changes: What changed since the run before.
    :param failed: Rows that the destination refused; ``None`` when the backend cannot know.
    :param counts: What the rows were, as the backend tells it, such as ``added``, ``changed`` and ``removed``.
    """

    name: str
    rows: int | None = None
    schema_changes: tuple[SchemaChange, ...] = ()
    failed: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; unknown rows stay ``None``, refused ones are there only where they are known."""
        told: dict[str, Any] = {
            "rows": self.rows,
            "schema_changes": [change.to_dict() for change in self.schema_changes],
        }
        if self.failed is not None:
            told["failed"] = self.failed
        if self.counts:
            told["counts"] = dict(self.counts)
        return told

    @classmethod
    def from_dict(cls, name: str, value: Mapping[str, Any]) -> TableResult:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            name=name,
            rows=value["rows"],
            schema_changes=tuple(SchemaChange(**change) for change in value["schema_changes"]),
            failed=value.get("failed"),
            counts=value.get("counts") or {},
        )


@dataclass(frozen=True, kw_only=True)
class SyncRef:
    """A sync as its vendor knows it.

    :param id: The vendor's id.
    :param name: Its name, for people.
    :param schedule: ``auto`` if the vendor starts it by itself, ``manual`` if only others do.
    :param link: Its page in the vendor's dashboard.
    :param details: What else a backend needs to read of it; plain JSON.
    """

    id: str
    name: str
    schedule: str = "manual"
    link: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableRef:
    """A table that a sync writes.

    :param name: ``schema.table`` in the destination.
    :param source: Its name in the source.
    :param columns: Type by column name, ``""`` where the vendor tells no types; ``None`` if the columns are not
        known.
    :param key: Primary key columns; ``None`` if they are not known.
    """

    name: str
    source: str = ""
    columns: Mapping[str, str] | None = None
    key: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """A run that succeeded.

    :param backend: Which backend ran it, such as ``dlt``.
    :param run_id: The run as the backend names it.
    :param started: Start in UTC, ISO 8601; ``None`` when the vendor does not tell.
    :param ended: End in UTC, ISO 8601; ``None`` when the vendor does not tell.
    :param tables: One entry per table asked for, in that order; of a vendor, per table it writes.
    :param rows: Rows of all tables; ``None`` when they are not known.
    :param finished_pending: Packages that an earlier, crashed try had left behind and that were loaded
        before the new data, each ``{"run_id": ..., "tables": {name: rows}}``; empty when there were none.
    :param link: Page of the run in the backend's own web interface, if it has one.
    :param columns: Of an embedded sync, ``now`` and ``before`` (in the load before, ``None`` if there was none) of each
        table: type by column. Not told to others.
    """

    backend: str
    run_id: str
    started: str | None
    ended: str | None
    tables: tuple[TableResult, ...] = ()
    rows: int | None = None
    finished_pending: tuple[Mapping[str, Any], ...] = ()
    link: str | None = None
    columns: Mapping[str, Mapping[str, Mapping[str, str] | None]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, the shape that goes to XCom."""
        return {
            "backend": self.backend,
            "run_id": self.run_id,
            "started": self.started,
            "ended": self.ended,
            "tables": {table.name: table.to_dict() for table in self.tables},
            "rows": self.rows,
            "finished_pending": [dict(package) for package in self.finished_pending],
            "link": self.link,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SyncResult:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            backend=value["backend"],
            run_id=value["run_id"],
            started=value["started"],
            ended=value["ended"],
            tables=tuple(TableResult.from_dict(name, table) for name, table in value["tables"].items()),
            rows=value.get("rows"),
            finished_pending=tuple(value["finished_pending"]),
            link=value["link"],
        )


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Where a run stands.

    :param status: Our state.
    :param phase: What it is doing, for the log; empty when unknown.
    :param rows: Rows seen so far per table.
    :param messages: Lines for the log since the last look, as (level, text) with ``info`` or ``warning``.
    :param reason: Why it failed; without credentials.
    :param table: The table it failed in, where that is known.
    :param fixable: The author of the DAG or connection must change something; trying again will not help.
    :param result: The result, once it has succeeded, if the backend tells it here.
    :param run_id: The run as the vendor names it.
    :param started: Start, ISO 8601.
    :param ended: End, ISO 8601.
    :param rescheduled_for: When the vendor wants to go on, ISO 8601.
    :param progress: Changes whenever something the vendor shows of the run has changed.
    """

    status: SyncStatus
    phase: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    table: str = ""
    fixable: bool = False
    result: SyncResult | None = None
    run_id: str = ""
    started: str | None = None
    ended: str | None = None
    rescheduled_for: str | None = None
    progress: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what outlives a process, as plain JSON: not the lines for the log, nor the result."""
        return {
            "status": str(self.status),
            "phase": self.phase,
            "reason": self.reason,
            "fixable": self.fixable,
            "run_id": self.run_id,
            "started": self.started,
            "ended": self.ended,
            "rescheduled_for": self.rescheduled_for,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> RunStatus:
        """Read what :meth:`to_dict` wrote."""
        return cls(**{**value, "status": SyncStatus(value["status"])})
