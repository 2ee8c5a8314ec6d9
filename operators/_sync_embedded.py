"""Driving the embedded engine from a task: start, tell how far it is, end with it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidError, SyncFailedError
from airflow_ext.sync.backend import RunHandle, SyncBackend, SyncRequest
from airflow_ext.sync.model import RunStatus, SyncResult, SyncStatus
from airflow_ext.sync.tables import SyncTable

if TYPE_CHECKING:
    from airflow.sdk import Context

PROGRESS_SECONDS = 10
"""Time between two progress lines in the log."""

POLL_SECONDS = 2
"""Longest time between two looks at the run; an embedded run answers at once when it ends."""

CANCEL_SECONDS = 3
"""Airflow kills a task five seconds after it has asked it to stop."""


async def drive(
    backend: SyncBackend,
    request: SyncRequest,
    *,
    log: Any,
    running: Callable[[RunHandle | None], None],
) -> SyncResult:
    """Run a sync in this task and return its result.

    :param running: Told the handle as long as the run goes on.
    :raises SyncFailedError: If it failed.
    :raises InvalidError: If somebody has to change something first.
    """
    handle = await backend.start(request)
    running(handle)
    progress = _Progress(log.info)
    try:
        while True:
            status = await backend.poll(handle, wait=POLL_SECONDS)
            for level, text in status.messages:
                (log.warning if level == "warning" else log.info)(text)
            if status.result is not None:
                return status.result
            if status.status.ended:
                raise _failure(status)
            progress.tell(status)
    finally:
        # Whatever made the task stop waiting, a timeout too, nothing goes on behind its back.
        await backend.cancel(handle, patience=CANCEL_SECONDS)
        running(None)


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


def check_tables(tables: Sequence[SyncTable | str]) -> tuple[SyncTable, ...]:
    """Return the tables of an embedded sync, once they go together.

    :raises ValueError: If there are none or one stands twice.
    :raises TypeError: If one is no :class:`SyncTable`.
    """
    if not tables:
        raise ValueError("tables=[]: give at least one SyncTable, or sync= for a sync of a vendor")
    for table in tables:
        if not isinstance(table, SyncTable):
            raise TypeError(f"tables={table!r}: give SyncTable objects, such as SyncTable('flights', ...)")
    checked = tuple(table for table in tables if isinstance(table, SyncTable))
    names = [table.name.lower() for table in checked]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"tables: {twice[0]!r} stands twice; both would write the same destination table")
    return checked


def check_state_key(state_key: str | None, sync: str | None) -> None:
    """Check ``state_key=``.

    :raises ValueError: If it is none, or a vendor keeps the state.
    """
    if state_key is None:
        return
    if not isinstance(state_key, str) or not state_key.strip() or "{{" in state_key:
        raise ValueError(
            f"state_key={state_key!r}: give a text that stays the same, such as '<dag id>/<task id>' of the task as it "
            "was; it is not templated"
        )
    if sync is not None:
        raise ValueError(f"state_key={state_key!r}: the state of sync={sync!r} is the vendor's")


def state_key_of(context: Context) -> str:
    """Return what a task gives as ``state_key=`` to go on from the state of the running one."""
    return f"{context['ti'].dag_id}/{context['ti'].task_id}"


def run_name(context: Context, state_key: str | None = None) -> str:
    """Return the name under which cursors are kept: one per task and map index, the same in every run.

    :param state_key: What stands for the task instead of its ids.
    """
    key = state_key or state_key_of(context)
    readable = re.sub(r"[^A-Za-z0-9]+", "_", key).strip("_")[:40] or "sync"
    index = context["ti"].map_index if context["ti"].map_index is not None else -1
    # The ids may differ in what the readable part leaves out, and hold no slash; dlt takes 64 characters.
    own = hashlib.sha256("\0".join([*key.split("/", 1), str(index)]).encode()).hexdigest()[:12]
    return f"{readable}_{own}"


def _failure(status: RunStatus) -> Exception:
    if status.fixable:
        return InvalidError(status.reason)
    where = f"table {status.table!r}: " if status.table else ""
    ended = "was cancelled" if status.status is SyncStatus.CANCELLED else "failed"
    return SyncFailedError(
        f"sync {ended}: {where}{status.reason}", status=str(status.status), table=status.table
    )
