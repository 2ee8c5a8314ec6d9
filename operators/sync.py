"""Bringing data in: one task runs a sync and tells, table by table, what arrived."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.observability import stats

from airflow_ext.events import Event, emit, outlets_for, partition_of
from airflow_ext.exceptions import InvalidError, SyncFailedError
from airflow_ext.hooks.sync import get_backend
from airflow_ext.sync.backend import RunHandle, SyncBackend, SyncRequest
from airflow_ext.sync.model import RunStatus, SyncResult, SyncStatus
from airflow_ext.sync.tables import SyncTable, Window

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["SyncOperator", "SyncTable"]

PROGRESS_SECONDS = 10
"""Time between two progress lines in the log."""

POLL_SECONDS = 2
"""Longest time between two looks at the run; an embedded run answers at once when it ends."""

CANCEL_SECONDS = 3
"""Airflow kills a task five seconds after it has asked it to stop."""


class SyncOperator(BaseOperator):
    """Run a sync and emit one asset event per loaded table.

    The backend follows from the type of the connection. With a window, tables that have a cursor load the
    rows with ``window_start <= cursor < window_end``; without one they continue from the last cursor value.

    Returns a dict: ``backend``, ``run_id``, ``started``, ``ended``, ``tables`` (``rows`` and
    ``schema_changes`` for each), ``finished_pending`` and ``link``.

    A mapped task (``SyncOperator.partial(...).expand(...)``) has no assets of its own when the DAG is parsed:
    give ``partial(outlets=[...])`` each ``Asset("sync/<connection id>/<table>")`` and the alias
    ``AssetAlias("sync/<dag id>/<task id>")``, or Airflow drops the events.

    :param tables: What to load.
    :param sync_conn_id: Connection whose type chooses the backend; ``ext-dlt`` is the embedded engine.
        Not templated: the assets are named after it when the DAG is parsed.
    :param window_start: First cursor value of this run, such as ``"{{ ds }}"`` (templated).
    :param window_end: First cursor value beyond, such as ``"{{ macros.ds_add(ds, 1) }}"`` (templated).
    :param partition: Partition key of the asset events, such as ``"{{ ds }}"`` (templated); ``None`` takes
        the run's own key, and in a run without one the events have no key.
    :param pipelines_folder: Folder where the embedded engine keeps state and load packages; ``None`` is
        ``airflow-ext/dlt`` under Airflow's home. On a disk that survives the task, never in a temporary folder.
    :raises ValueError: If the tables or the window do not go together.
    :raises SyncFailedError: If the sync ends in any state but success (the task may retry).
    :raises AirflowFailException: If the DAG or a connection must be changed first (no retry).
    """

    template_fields: Sequence[str] = ("window_start", "window_end", "partition")
    ui_color = "#d9edf7"

    def __init__(
        self,
        *,
        tables: Sequence[SyncTable],
        sync_conn_id: str = "ext_dlt_default",
        window_start: str | None = None,
        window_end: str | None = None,
        partition: str | None = None,
        pipelines_folder: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tables = tuple(tables)
        self.sync_conn_id = sync_conn_id
        self.window_start = window_start
        self.window_end = window_end
        self.partition = partition
        self.pipelines_folder = pipelines_folder
        _check_tables(self.tables)
        if (window_start is None) != (window_end is None):
            raise ValueError(
                f"window_start={window_start!r}, window_end={window_end!r}: give both or none of them"
            )
        windowed = [table.name for table in self.tables if table.mode == "window"]
        if windowed and window_start is None:
            raise ValueError(
                f"window_start=None: mode='window' of table {windowed[0]!r} needs window_start= and "
                "window_end=, such as '{{ ds }}' and '{{ macros.ds_add(ds, 1) }}'"
            )
        self.assets = {
            table.name: Asset(name=table.asset or f"sync/{sync_conn_id}/{table.name}")
            for table in self.tables
        }
        self._alias = f"sync/{self.dag_id}/{self.task_id}"
        own = f"sync/{sync_conn_id}/"
        declared = list(self.outlets)
        # A mapped task declares its assets by hand, for all of its copies; each fires only what it loaded.
        self._user_outlets = [
            outlet for outlet in declared if not (isinstance(outlet, Asset) and outlet.name.startswith(own))
        ]
        self.outlets = [*declared, *outlets_for(self.assets.values(), alias=self._alias)]
        self._running: tuple[SyncBackend, RunHandle] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the sync, wait for its end and record the asset events."""
        window = None
        if self.window_start is not None and self.window_end is not None:
            window = Window(start=self.window_start, end=self.window_end)
        request = SyncRequest(
            name=_run_name(context), tables=self.tables, window=window, run=context["ti"].run_id
        )
        tags = {"sync_conn_id": self.sync_conn_id}
        try:
            backend = get_backend(self.sync_conn_id, folder=self._folder())
            with stats.timer("airflow_ext.sync.duration", tags=tags):
                result = asyncio.run(self._drive(backend, request))
        except InvalidError as error:
            stats.incr("airflow_ext.sync.failed", tags=tags)
            raise AirflowFailException(str(error)) from error
        except SyncFailedError:
            stats.incr("airflow_ext.sync.failed", tags=tags)
            raise
        self._report(result, tags)
        events = [
            Event(
                self.assets[table.name],
                table.to_dict() | {"run_id": result.run_id, "backend": result.backend},
            )
            for table in result.tables
        ]
        emitted = emit(context, events, alias=self._alias, partition=partition_of(context, self.partition))
        self.outlets = [*self._user_outlets, *emitted]
        return result.to_dict()

    def on_kill(self) -> None:
        """Stop the sync; what it was writing is rolled back by the destination."""
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
        handle = await backend.start(request)
        self._running = backend, handle
        progress = _Progress(self.log.info)
        try:
            while True:
                status = await backend.poll(handle, wait=POLL_SECONDS)
                for level, text in status.messages:
                    (self.log.warning if level == "warning" else self.log.info)(text)
                if status.result is not None:
                    return status.result
                if status.status.ended:
                    raise _failure(status)
                progress.tell(status)
        finally:
            # Whatever made the task stop waiting, a timeout too, nothing goes on behind its back.
            await backend.cancel(handle, patience=CANCEL_SECONDS)
            self._running = None

    def _report(self, result: SyncResult, tags: dict[str, str]) -> None:
        for package in result.finished_pending:
            self.log.info("Finished what an earlier try had left behind: %s", package["tables"])
        for table in result.tables:
            rows = "unknown" if table.rows is None else table.rows
            self.log.info("Table %s: %s rows", table.name, rows)
            for change in table.schema_changes:
                self.log.info("Table %s: %s %s %s", table.name, change.kind, change.column, change.type)
            if table.rows:
                stats.incr("airflow_ext.sync.rows", table.rows, tags=tags)

    def _folder(self) -> Path:
        if self.pipelines_folder is not None:
            return Path(self.pipelines_folder)
        return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "airflow-ext" / "dlt"


class _Progress:
    """Says from time to time how far a long load is."""

    def __init__(self, say: Any) -> None:
        self._say = say
        self._started = self._told = time.monotonic()

    def tell(self, status: RunStatus) -> None:
        now = time.monotonic()
        if now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        total = sum(status.rows.values())
        self._say(
            "%s: %s rows in %s tables after %.0f s, %.0f rows/s",
            *(status.phase, total, len(status.rows), now - self._started, total / (now - self._started)),
        )


def _check_tables(tables: Sequence[SyncTable]) -> None:
    if not tables:
        raise ValueError("tables=[]: give at least one SyncTable")
    for table in tables:
        if not isinstance(table, SyncTable):
            raise TypeError(f"tables={table!r}: give SyncTable objects, such as SyncTable('flights', ...)")
    names = [table.name.lower() for table in tables]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"tables: {twice[0]!r} stands twice; both would write the same destination table")


def _run_name(context: Context) -> str:
    """Return the name under which cursors are kept: one per task and map index, the same in every run."""
    ti = context["ti"]
    readable = re.sub(r"[^A-Za-z0-9]+", "_", f"{ti.dag_id}_{ti.task_id}").strip("_")[:40] or "sync"
    index = ti.map_index if ti.map_index is not None else -1
    # The ids may differ in what the readable part leaves out; dlt takes 64 characters.
    own = hashlib.sha256(f"{ti.dag_id}\0{ti.task_id}\0{index}".encode()).hexdigest()[:12]
    return f"{readable}_{own}"


def _failure(status: RunStatus) -> Exception:
    if status.fixable:
        return InvalidError(status.reason)
    where = f"table {status.table!r}: " if status.table else ""
    ended = "was cancelled" if status.status is SyncStatus.CANCELLED else "failed"
    return SyncFailedError(
        f"sync {ended}: {where}{status.reason}", status=str(status.status), table=status.table
    )
