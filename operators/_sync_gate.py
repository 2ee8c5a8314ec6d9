"""The schema that was accepted last, in the state of the connection's asset, and how a run's tables differ from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.context import AssetStateStoreAccessor

from airflow_ext.exceptions import SyncFailedError
from airflow_ext.sync import drift
from airflow_ext.sync.drift import Schema, SchemaGate
from airflow_ext.sync.model import SchemaChange, SyncResult
from airflow_ext.triggers.sync import state_asset

Changes = Mapping[str, tuple[SchemaChange, ...]]


class AcceptedSchema:
    """What the tables of one sync looked like when a gate last let them pass; only that moves it.

    :param sync_conn_id: Connection of the sync.
    :param sync: The sync, as the connection's asset knows it.
    :param gate: What is let pass.
    """

    def __init__(self, sync_conn_id: str, sync: str, *, gate: SchemaGate) -> None:
        self._asset = state_asset(sync_conn_id)
        self._store = AssetStateStoreAccessor(name=self._asset)
        self._key = f"schema/{sync}"
        self._gate = gate

    def changes(self, now: Schema) -> Changes:
        """Return how a vendor's tables differ from those accepted, and keep them if the gate lets them pass.

        :param now: All tables that the sync writes.
        :raises SyncFailedError: If Airflow's state cannot be read or written.
        """
        with self._told():
            before = self._kept()
            changes = drift.compare(before, now) if before else {}
            judged = drift.judge(self._gate, changes)
            if not judged.refused:
                self._store.set(self._key, drift.accepted(before, now, judged))
        return changes

    def inspect(self, result: SyncResult) -> SyncResult:
        """Return an embedded sync's result with the changes since its tables were accepted, and keep those that pass.

        Its author names the tables, so none is added or removed; of one whose columns were never accepted, those of the
        load before count.

        :raises SyncFailedError: If Airflow's state cannot be read or written.
        """
        now = {name: _entry(seen["now"] or {}) for name, seen in result.columns.items()}
        with self._told():
            kept = self._kept()
            known = {name: _entry(seen["before"]) for name, seen in result.columns.items() if seen["before"]}
            before = {name: kept.get(name) or known[name] for name in now if name in kept or name in known}
            changes = drift.compare(before, {name: now[name] for name in before})
            judged = drift.judge(self._gate, changes)
            unseen = {table.name: kept[table.name] for table in result.tables if table.name in kept}
            accepted = before if judged.refused else drift.accepted(before, now, judged)
            if (new := {**unseen, **accepted}) != kept:
                self._store.set(self._key, new)
        tables = [
            replace(table, schema_changes=changes.get(table.name, ())) if table.name in before else table
            for table in result.tables
        ]
        return replace(result, tables=tuple(tables))

    def _kept(self) -> Schema:
        kept: Any = self._store.get(self._key)
        return kept if isinstance(kept, Mapping) else {}

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except AirflowRuntimeError as error:
            raise SyncFailedError(
                f"the schema that was accepted last cannot be read or kept, so nothing was compared: {error}. If the asset "
                f"is not found: a mapped task with schema_gate= needs partial(inlets=[Asset({self._asset!r})])"
            ) from error


def _entry(columns: Mapping[str, str]) -> dict[str, Any]:
    return {"columns": dict(columns), "key": None}
