"""What Hightouch's answers mean, without asking anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_ext.sync.model import RunStatus, SyncStatus, TableRef, TableResult
from airflow_ext.sync.moments import moment
from airflow_ext.sync.shapes import names_of

STATUSES = {
    "pending": SyncStatus.PENDING,
    "queued": SyncStatus.PENDING,
    "querying": SyncStatus.RUNNING,
    "processing": SyncStatus.RUNNING,
    "reporting": SyncStatus.RUNNING,
    "success": SyncStatus.SUCCEEDED,
    "warning": SyncStatus.SUCCEEDED,
    "failed": SyncStatus.FAILED,
    "interrupted": SyncStatus.FAILED,
    "cancelled": SyncStatus.CANCELLED,
}
"""``warning`` ended with rows that the destination refused; how many may be is the task's to decide."""

CHANGES = ("added", "changed", "removed")


def judge(run: Mapping[str, Any]) -> RunStatus:
    """Return where a run stands; a status that nobody has told us of is no end."""
    word = str(run.get("status") or "")
    status = STATUSES.get(word, SyncStatus.RUNNING)
    started, finished = moment(run.get("startedAt")), moment(run.get("finishedAt"))
    reason = ""
    if status is SyncStatus.FAILED:
        reason = str(run.get("error") or "Hightouch does not tell why")
        if word == "interrupted":
            reason = f"interrupted, Hightouch resumes it in a run of its own: {reason}"
    if status is SyncStatus.CANCELLED:
        reason = "the run was cancelled in Hightouch"
    return RunStatus(
        status=status,
        phase=word if word in STATUSES else f"unknown status {word[:40]!r}",
        run_id=str(number_of(run) or ""),
        started=started.isoformat() if started else None,
        ended=finished.isoformat() if finished and status.ended else None,
        reason=reason,
        progress=f"{word} {run.get('completionRatio')} {counted(run, 'successfulRows')}",
    )


def table_result(name: str, run: Mapping[str, Any]) -> TableResult:
    """Return what a run did to its one destination; what was not told is unknown."""
    done, failed = counted(run, "successfulRows"), counted(run, "failedRows")
    return TableResult(
        name=name,
        rows=None if done is None else sum(done.values()),
        failed=None if failed is None else sum(failed.values()),
        counts=done or {},
    )


def counted(run: Mapping[str, Any], field: str) -> dict[str, int] | None:
    """Return added, changed and removed rows, ``None`` unless all three are told."""
    told = run.get(field)
    if not isinstance(told, Mapping):
        return None
    values = {kind: told.get(f"{kind}Count") for kind in CHANGES}
    if not all(isinstance(value, int | float) for value in values.values()):
        return None
    return {kind: int(value) for kind, value in values.items() if value is not None}


def table_of(sync: Mapping[str, Any], name: str) -> TableRef:
    """Return what a sync writes, with the columns of its model that it refers to."""
    columns = sync.get("referencedColumns")
    key = sync.get("primaryKey")
    return TableRef(
        name=name,
        source=f"model {sync.get('modelId')}",
        columns=dict.fromkeys(sorted(names_of(columns)), "") if isinstance(columns, list) else None,
        key=(str(key),) if key else None,
    )


def number_of(item: Mapping[str, Any]) -> int:
    """Return the id of a sync or a run, 0 if it has none; ids come as numbers and as text."""
    number = item.get("id")
    if isinstance(number, str) and number.isascii() and number.isdigit():
        return int(number)
    return int(number) if isinstance(number, int | float) else 0
