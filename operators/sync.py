"""Bringing data in: one task runs a sync and tells, table by table, what arrived."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.observability import stats

from airflow_ext.contracts import Contract
from airflow_ext.dbt.project import DbtProject
from airflow_ext.events import Event, emit, outlets_for, partition_of
from airflow_ext.exceptions import InvalidError, InvalidSyncError, SchemaDriftError, SyncFailedError
from airflow_ext.hooks.sync import DltHook, get_backend
from airflow_ext.operators._sync_arguments import (
    check_list,
    check_names,
    check_waiting,
    check_windows,
    not_there,
    rows_told,
)
from airflow_ext.operators._sync_embedded import (
    CANCEL_SECONDS,
    check_state_key,
    check_tables,
    drive,
    run_name,
    state_key_of,
)
from airflow_ext.operators._sync_gate import AcceptedSchema
from airflow_ext.operators._sync_memory import SyncWait
from airflow_ext.operators._sync_readers import touched
from airflow_ext.operators._sync_refused import check_limits, check_refused
from airflow_ext.operators._sync_remote import RemoteSyncOperator
from airflow_ext.operators._sync_resync import ResyncOperator
from airflow_ext.sync import drift
from airflow_ext.sync.api import SyncApi
from airflow_ext.sync.backend import RemoteBackend, RunHandle, SyncBackend, SyncRequest
from airflow_ext.sync.drift import SchemaGate
from airflow_ext.sync.files import SyncFiles
from airflow_ext.sync.model import SchemaChange, SyncResult, TableResult
from airflow_ext.sync.tables import SyncTable, Window

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["ResyncOperator", "SchemaGate", "SyncApi", "SyncFiles", "SyncOperator", "SyncTable", "SyncWait"]


class SyncOperator(RemoteSyncOperator):
    """Run a sync and emit one asset event per table.

    The backend follows from the type of the connection. With ``sync`` a vendor runs it: it is started, or adopted if
    it runs already, and waited for in the triggerer; a retry goes on with the run of the try before, and a killed,
    cleared or timed-out task cancels what it has started. With ``tables`` of :class:`SyncTable` the embedded engine
    runs it beside the task: with a window, tables that have a cursor load the rows with
    ``window_start <= cursor < window_end``; without one they continue from the last cursor value.

    Returns a dict: ``backend``, ``run_id``, ``started``, ``ended``, ``tables`` (``rows`` and
    ``schema_changes`` for each), ``rows`` in all, ``finished_pending`` and ``link``. Rows are ``None`` where they are
    not known.

    A mapped task (``SyncOperator.partial(...).expand(...)``) has no assets of its own when the DAG is parsed:
    give ``partial(outlets=[...])`` each ``Asset("sync/<connection id>/<table>")`` and the alias
    ``AssetAlias("sync/<dag id>/<task id>")``, or Airflow drops the events.

    :param tables: With the embedded engine, what to load. With ``sync``, names (``schema.table`` in the destination)
        of tables whose assets shall be known when the DAG is parsed, which keyed events need; events of the others
        have no key. A name that the sync does not have is warned of when its run has ended.
    :param sync_conn_id: Connection whose type chooses the backend; ``ext-dlt`` is the embedded engine.
        Not templated: the assets are named after it when the DAG is parsed.
    :param sync: The vendor's sync, by id or name. Not templated, as the connection.
    :param window_start: First cursor value of this run, such as ``"{{ ds }}"`` (templated).
    :param window_end: First cursor value beyond, such as ``"{{ macros.ds_add(ds, 1) }}"`` (templated).
    :param partition: Partition key of the asset events, such as ``"{{ ds }}"`` (templated); ``None`` takes
        the run's own key, and in a run without one the events have no key.
    :param pipelines_folder: Folder where the embedded engine keeps state and load packages; ``None`` is
        ``airflow-ext/dlt`` under Airflow's home. On a disk that survives the task, never in a temporary folder.
    :param state_key: Name under which the embedded engine keeps cursors and loaded files, instead of
        ``<dag id>/<task id>``; copies of a mapped task add their map index. Give a task that you rename or move the name it had,
        or it begins anew. Not templated.
    :param schema_gate: What happens when tables have changed since the last run; ``None`` compares nothing.
    :param readers: Contracts and dbt projects that build on the tables: what a refused change touches is then named
        in its message.
    :param skip_if_no_rows: Skip the task, and so what follows it, if it is known that no row arrived.
    :param max_failed_rows: Where a backend knows the rows that the destination refused (reverse ETL): so many may be;
        more fail the task, which may retry. Unless this or the ratio is given, none may be.
    :param max_failed_ratio: The same as a share of the rows of the run, from 0 to 1.
    :param kwargs: With ``sync``: ``waiting`` (:class:`SyncWait`), ``deferrable`` (default true), ``mode`` (``poke``
        or ``reschedule``) of a task that is not deferrable, ``on_running`` (``adopt``, ``wait``, ``fail``) if the
        sync runs already, ``cancel_on_kill`` (default true). And whatever every operator takes.
    :raises ValueError: If the tables, the window or ``waiting`` do not go together.
    :raises TypeError: If ``tables`` is no list of what it shall hold.
    :raises SyncFailedError: If the sync ends in any state but success (the task may retry).
    :raises SyncUnavailableError: If the vendor does not answer for long (the task may retry).
    :raises AirflowFailException: If the DAG, a connection or the sync must be changed first (no retry).
    """

    template_fields: Sequence[str] = ("window_start", "window_end", "partition")
    ui_color = "#d9edf7"

    def __init__(
        self,
        *,
        tables: Sequence[SyncTable | str] = (),
        sync_conn_id: str = "ext_dlt_default",
        sync: str | None = None,
        window_start: str | None = None,
        window_end: str | None = None,
        partition: str | None = None,
        pipelines_folder: str | os.PathLike[str] | None = None,
        state_key: str | None = None,
        schema_gate: SchemaGate | None = None,
        readers: Sequence[Contract | DbtProject] = (),
        skip_if_no_rows: bool = False,
        max_failed_rows: int | None = None,
        max_failed_ratio: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_waiting(kwargs.get("waiting"), sync)
        super().__init__(sync_conn_id=sync_conn_id, **kwargs)
        self.tables = check_list(tables, sync)
        self.sync = sync
        self.window_start = window_start
        self.window_end = window_end
        self.partition = partition
        self.pipelines_folder = pipelines_folder
        self.state_key = state_key
        self.schema_gate = schema_gate
        self.readers = tuple(readers)
        self.skip_if_no_rows = skip_if_no_rows
        self.max_failed_rows = max_failed_rows
        self.max_failed_ratio = max_failed_ratio
        check_state_key(state_key, sync)
        check_limits(max_failed_rows, max_failed_ratio)
        self._alias = f"sync/{self.dag_id}/{self.task_id}"
        declared = list(self.outlets)
        if sync is None:
            own = f"sync/{sync_conn_id}/"
            self._loads = check_tables(self.tables)
            check_windows(self._loads, window_start, window_end)
            self.assets = {
                table.name: Asset(name=table.asset or f"{own}{table.name}") for table in self._loads
            }
        else:
            own = f"sync/{sync_conn_id}/{sync}/"
            names = check_names(sync, self.tables, window_start, window_end)
            self.assets = {name: Asset(name=f"{own}{name}") for name in names}
        if sync is not None or schema_gate is not None:
            self.watch_state()
        # A mapped task declares its assets by hand, for all of its copies; each fires only what it loaded.
        self._user_outlets = [
            outlet for outlet in declared if not (isinstance(outlet, Asset) and outlet.name.startswith(own))
        ]
        self._own = own
        self._into = ""
        self.outlets = [*declared, *outlets_for(self.assets.values(), alias=self._alias)]
        self._running: tuple[SyncBackend, RunHandle] | None = None

    def execute(self, context: Context) -> Any:
        """Run the sync, wait for its end and record the asset events."""
        if self.sync is not None:
            return self.run_remote(context)
        window = None
        if self.window_start is not None and self.window_end is not None:
            window = Window(start=self.window_start, end=self.window_end)
        request = SyncRequest(
            name=run_name(context, self.state_key),
            key=self.state_key or state_key_of(context),
            tables=self._loads,
            window=window,
            run=context["ti"].run_id,
        )
        tags = {"sync_conn_id": self.sync_conn_id}
        try:
            backend = get_backend(self.sync_conn_id, folder=self._folder(), tables=self._loads)
            settings = DltHook(self.sync_conn_id).settings
            self._into = f" into {settings.dataset!r} of {settings.destination_conn_id!r}"
            with stats.timer("airflow_ext.sync.duration", tags=tags):
                result = asyncio.run(self._drive(backend, request))
        except InvalidError as error:
            stats.incr("airflow_ext.sync.failed", tags=tags)
            raise AirflowFailException(str(error)) from error.__cause__
        except SyncFailedError:
            stats.incr("airflow_ext.sync.failed", tags=tags)
            raise
        if self.schema_gate is not None:
            result = AcceptedSchema(self.sync_conn_id, request.name, gate=self.schema_gate).inspect(result)
        return self._end(context, [result])

    def on_kill(self) -> None:
        """Stop the sync; what the embedded engine was writing is rolled back by the destination."""
        super().on_kill()
        if self._running is None:
            return
        backend, handle = self._running
        # The loop that runs the sync is the one this call has interrupted, so it needs another.
        stopper = threading.Thread(
            target=lambda: asyncio.run(backend.cancel(handle, patience=CANCEL_SECONDS)), daemon=True
        )
        stopper.start()
        stopper.join(CANCEL_SECONDS + 1)

    async def _drive(self, backend: SyncBackend, request: SyncRequest) -> SyncResult:
        def running(handle: RunHandle | None) -> None:
            self._running = None if handle is None else (backend, handle)

        return await drive(backend, request, log=self.log, running=running)

    def _plan(self) -> Sequence[SyncRequest]:
        return [SyncRequest(sync=self.sync or "", on_running=self.on_running)]

    async def _inspect(self, backend: RemoteBackend, handle: RunHandle, result: SyncResult) -> SyncResult:
        if self.schema_gate is None:
            return result
        if not backend.capabilities.tables:
            raise InvalidSyncError(f"schema_gate=: the backend {backend.name!r} does not tell its tables")
        tables = await backend.tables(handle, columns=backend.capabilities.columns)
        now = drift.schema_of(tables)
        changes = AcceptedSchema(self.sync_conn_id, handle["sync"], gate=self.schema_gate).changes(now)
        return replace(result, tables=_with_changes(result.tables, changes))

    def _end(self, context: Context, results: Sequence[SyncResult]) -> Any:
        result = results[0]
        tags = {"sync_conn_id": self.sync_conn_id}
        self._report(result, tags)
        check_refused(result, self.max_failed_rows, self.max_failed_ratio)
        withheld = self._gate(result)
        told = result.to_dict()
        if withheld:
            told["quarantined"] = sorted(withheld)
        rows = _known_rows(result)
        if self.skip_if_no_rows and rows == 0:
            context["ti"].xcom_push(key="return_value", value=told)
            raise AirflowSkipException("no new rows")
        events = [self._event(table, result) for table in result.tables if table.name not in withheld]
        emitted = emit(context, events, alias=self._alias, partition=partition_of(context, self.partition))
        self.outlets = [*self._user_outlets, *emitted]
        return told

    def _event(self, table: TableResult, result: SyncResult) -> Event:
        extra = table.to_dict() | {"run_id": result.run_id, "backend": result.backend}
        known = self.assets.get(table.name)
        if self.sync is not None:
            extra |= {
                "sync": self.sync,
                "started": result.started,
                "ended": result.ended,
                "link": result.link,
            }
        asset = known or Asset(name=f"{self._own}{table.name}")
        return Event(asset, extra, declared=known is not None)

    def _gate(self, result: SyncResult) -> Mapping[str, Sequence[str]]:
        """Return the tables whose events are withheld.

        :raises AirflowFailException: If a change is not allowed.
        """
        if self.schema_gate is None:
            return {}
        changes = {table.name: table.schema_changes for table in result.tables if table.schema_changes}
        if self.sync is None:
            # The author names the tables of an embedded sync, so a new one is no surprise.
            changes = {
                name: tuple(change for change in found if change.kind != "table_added")
                for name, found in changes.items()
            }
        judged = drift.judge(self.schema_gate, changes)
        for line in judged.warned:
            self.log.warning("Schema change: %s", line)
        for lines in judged.quarantined.values():
            for line in lines:
                self.log.warning("Schema change, the table's event is withheld: %s", line)
        if judged.refused:
            touches = [
                f"{table} is in {line}"
                for table, found in changes.items()
                if any(self.schema_gate.action(change) == "fail" for change in found)
                for line in touched(table, self.readers)
            ]
            error = SchemaDriftError(
                "The data has arrived, but tables have changed in a way that schema_gate= does not allow:\n  "
                + "\n  ".join([*judged.refused, *touches])
                + "\nNothing downstream was started. To accept, set the kinds to 'allow' or 'warn' for a run.",
                run_id=result.run_id,
                changes=judged.refused,
                link=result.link or "",
            )
            raise AirflowFailException(str(error)) from error
        return judged.quarantined

    def _report(self, result: SyncResult, tags: dict[str, str]) -> None:
        if self.sync is not None and (warning := not_there(self.assets, result, self.sync)):
            self.log.warning("%s", warning)
        for package in result.finished_pending:
            self.log.info("Finished what an earlier try had left behind: %s", package["tables"])
        for table in result.tables:
            self.log.info("Table %s: %s%s", table.name, rows_told(table), self._into)
            for change in table.schema_changes:
                self.log.info("Table %s: %s %s %s", table.name, change.kind, change.column, change.type)
        if rows_in_all := _known_rows(result):
            stats.incr("airflow_ext.sync.rows", rows_in_all, tags=tags)

    def _folder(self) -> Path:
        if self.pipelines_folder is not None:
            return Path(self.pipelines_folder)
        return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "airflow-ext" / "dlt"


def _with_changes(
    tables: Sequence[TableResult], changes: Mapping[str, tuple[SchemaChange, ...]]
) -> tuple[TableResult, ...]:
    names = [table.name for table in tables]
    gone = [TableResult(name=name, schema_changes=changes[name]) for name in changes if name not in names]
    return (*(replace(table, schema_changes=changes.get(table.name, ())) for table in tables), *gone)


def _known_rows(result: SyncResult) -> int | None:
    if result.rows is not None:
        return result.rows
    rows = [table.rows for table in result.tables]
    if not rows or any(each is None for each in rows):
        return None
    return sum(each for each in rows if each is not None)
