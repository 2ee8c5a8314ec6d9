"""Connections of the local Fivetran server and how their syncs pass, without HTTP.

Nothing here runs by itself: :meth:`FivetranConnection.settle` brings a connection up to a moment.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from airflow_ext.testing._vendor_server import WireError

Tables = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""``{schema: {table: {column: {"is_primary_key": bool}}}}`` of the source."""

Outcome = Literal["ok", "fail", "fail_task", "reschedule", "stuck", "delete"]


@dataclass(frozen=True, kw_only=True)
class SyncScript:
    """How one sync shall pass.

    :param seconds: From its start to its end.
    :param delay: From the request to its start, during which the connection still says ``scheduled``.
    :param outcome: ``ok``; ``fail``; ``fail_task`` also breaks the connection and leaves a task;
        ``reschedule`` waits for quota of the source; ``stuck`` never ends; ``delete`` ends with the deletion
        of the connection.
    :param reason: Why it failed, as the sync history tells it.
    :param reschedule_after: Seconds until a rescheduled sync may go on.
    :param tables: What the source holds from the end of this sync on; ``None`` changes nothing.
    """

    seconds: float = 1.0
    delay: float = 0.0
    outcome: Outcome = "ok"
    reason: str = ""
    reschedule_after: float = 60.0
    tables: Tables | None = None


@dataclass
class Sync:
    """A sync that was started."""

    script: SyncScript
    begins: float
    sync_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    end: float | None = None
    status: str = ""
    reason: str | None = None

    def record(self, now: float) -> dict[str, Any]:
        """Return its entry in the sync history."""
        return {
            "sync_id": self.sync_id,
            "start": stamp(self.begins) if self.begins <= now else None,
            "end": stamp(self.end) if self.end is not None else None,
            "status": self.status or "IN_PROGRESS",
            "reason": self.reason,
        }


def stamp(moment: float) -> str:
    """Return a moment as Fivetran writes it: UTC with microseconds and ``Z``."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(kw_only=True)
class FivetranConnection:
    """One connection.

    :param scripts: How its next syncs pass, the last one again and again.
    """

    id: str
    schema: str
    group_id: str
    service: str = "postgres"
    schedule_type: str = "manual"
    sync_frequency: int = 360
    scripts: deque[SyncScript]
    tables: Tables | None = None
    created: float = 0.0
    paused: bool = False
    setup_state: str = "connected"
    sync_state: str | None = None
    historical: bool = False
    tasks: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    table_resync: bool = True
    succeeded: float | None = None
    failed: float | None = None
    rescheduled_for: float | None = None
    current: Sync | None = None
    history: list[Sync] = field(default_factory=list)
    ended: list[Sync] = field(default_factory=list)
    deleted: bool = False

    # ------------------------------------------------------------------------------------------ requests

    def begin(self, now: float) -> Sync:
        """Start the next sync of the script."""
        script = self.scripts.popleft() if len(self.scripts) > 1 else self.scripts[0]
        self.rescheduled_for = None
        self.current = Sync(script, begins=now + script.delay)
        self.history.append(self.current)
        return self.current

    def trigger(self, now: float, *, force: bool) -> None:
        """Do what ``POST .../sync`` does."""
        if self.paused:
            return
        if self.current is not None:
            if not force:
                return
            self.end(self.current, now, "CANCELED")
        self.begin(now)

    def pause(self, now: float, *, paused: bool) -> None:
        """Pause, which stops a running sync, or go on."""
        if paused and self.current is not None:
            self.end(self.current, now, "CANCELED")
        if paused:
            self.rescheduled_for = None
        self.paused = paused

    def resync(self, now: float, scope: Mapping[str, Iterable[str]] | None) -> None:
        """Do what ``POST .../resync`` does.

        :raises WireError: 409 while a sync runs, 400 where the scope is wrong.
        """
        if scope is not None:
            self._check_scope(scope)
        if self.current is not None:
            raise WireError(
                409, {"code": "Conflict", "message": "A sync is in progress and cannot be completed"}
            )
        self.historical = scope is None
        if not self.paused:
            self.begin(now)

    def _check_scope(self, scope: Mapping[str, Iterable[str]]) -> None:
        if not self.table_resync:
            raise WireError(400, {"code": "BadRequest", "message": "Table re-sync is not supported"})
        if not isinstance(scope, Mapping) or not scope or not all(scope.values()):
            raise WireError(400, {"code": "BadRequest", "message": "Scope must name schemas and tables"})
        for schema, tables in scope.items():
            for table in tables:
                if table not in (self.tables or {}).get(schema, {}):
                    message = f"Table '{schema}.{table}' does not exist"
                    raise WireError(400, {"code": "BadRequest", "message": message})

    # ---------------------------------------------------------------------------------------------- time

    def settle(self, now: float) -> None:
        """Let everything happen that is due."""
        for _ in range(1000):
            if not self._step(now):
                return

    def _step(self, now: float) -> bool:
        sync = self.current
        if sync is not None:
            due = sync.begins + sync.script.seconds
            if sync.script.outcome == "stuck" or due > now:
                return False
            self._finish(sync, due)
            return True
        if self.paused or self.schedule_type != "auto":
            return False
        last = max(self.succeeded or 0, self.failed or 0, self.created)
        due = self.rescheduled_for or last + self.sync_frequency * 60
        if due > now:
            return False
        self.begin(due)
        return True

    def _finish(self, sync: Sync, at: float) -> None:
        script = sync.script
        if script.tables is not None:
            self.tables = script.tables
        match script.outcome:
            case "ok":
                self.succeeded = at
                self.historical = False
                self.end(sync, at, "COMPLETED")
            case "fail" | "fail_task":
                self.failed = at
                reason = script.reason or "The source refused the connection"
                status = "FAILURE"
                if script.outcome == "fail_task":
                    status = "FAILURE_WITH_TASK"
                    self.setup_state = "broken"
                    self.tasks = [{"code": "reconnect", "message": "Reconnect", "details": reason}]
                self.end(sync, at, status, reason)
            case "reschedule":
                self.rescheduled_for = at + script.reschedule_after
                self.end(sync, at, "RESCHEDULED", script.reason or "Rate limit of the source is used up")
            case "delete":
                self.deleted = True
                self.end(sync, at, "CANCELED")

    def end(self, sync: Sync, at: float, status: str, reason: str | None = None) -> None:
        """End the running sync."""
        sync.end, sync.status, sync.reason = at, status, reason
        self.current = None
        self.ended.append(sync)

    # ------------------------------------------------------------------------------------------- answers

    def state(self, now: float) -> str:
        """Return ``sync_state``."""
        if self.sync_state is not None:
            return self.sync_state
        if self.paused:
            return "paused"
        if self.current is not None and self.current.begins <= now:
            return "syncing"
        return "rescheduled" if self.rescheduled_for is not None else "scheduled"

    def to_dict(self, now: float) -> dict[str, Any]:
        """Return the connection object."""
        rescheduled = self.rescheduled_for
        return {
            "id": self.id,
            "service": self.service,
            "schema": self.schema,
            "group_id": self.group_id,
            "service_version": 1,
            "connected_by": "local_user",
            "created_at": stamp(self.created),
            "succeeded_at": None if self.succeeded is None else stamp(self.succeeded),
            "failed_at": None if self.failed is None else stamp(self.failed),
            "paused": self.paused,
            "pause_after_trial": False,
            "sync_frequency": self.sync_frequency,
            "daily_sync_time": None,
            "schedule_type": self.schedule_type,
            "networking_method": "Directly",
            "status": {
                "setup_state": self.setup_state,
                "sync_state": self.state(now),
                "update_state": "on_schedule",
                "is_historical_sync": self.historical,
                "schema_status": "ready" if self.tables is not None else "no_schema",
                "rescheduled_for": None if rescheduled is None else stamp(rescheduled),
                "tasks": self.tasks,
                "warnings": self.warnings,
            },
            "setup_tests": [],
            "source_sync_details": {},
            "config": {},
        }

    def schemas(self) -> dict[str, Any]:
        """Return the schema config.

        :raises WireError: 404, if the schema was never loaded.
        """
        if self.tables is None:
            message = f"Connector with id '{self.id}' doesn't have schema config"
            raise WireError(404, {"code": "NotFound_SchemaConfig", "message": message})
        return {
            "enable_new_by_default": True,
            "schema_change_handling": "ALLOW_ALL",
            "schemas": {
                schema: {
                    "name_in_destination": f"{self.schema}_{schema}",
                    "enabled": True,
                    "tables": {
                        name: {
                            "name_in_destination": name.lower(),
                            "enabled": True,
                            "sync_mode": "SOFT_DELETE",
                            "supports_columns_config": True,
                            "enabled_patch_settings": {"allowed": True},
                        }
                        for name in tables
                    },
                }
                for schema, tables in self.tables.items()
            },
        }

    def columns(self, schema: str, table: str) -> dict[str, Any]:
        """Return the columns of a table.

        :raises WireError: 404, if there is no such table.
        """
        found = (self.tables or {}).get(schema, {}).get(table)
        if found is None:
            message = f"Table '{schema}.{table}' does not exist"
            raise WireError(404, {"code": "NotFound", "message": message})
        return {
            "columns": {
                name: {
                    "name_in_destination": name.lower(),
                    "enabled": True,
                    "hashed": False,
                    "is_primary_key": bool(column.get("is_primary_key")),
                    "enabled_patch_settings": {"allowed": True},
                }
                for name, column in found.items()
            }
        }
