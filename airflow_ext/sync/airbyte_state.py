"""What Airbyte's answers mean, without asking anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_ext.exceptions import InvalidSyncError
from airflow_ext.sync.backend import SyncRequest
from airflow_ext.sync.model import RunStatus, SyncRef, SyncStatus, TableRef
from airflow_ext.sync.moments import moment
from airflow_ext.sync.shapes import names_of

ACTIVE = ("pending", "queued", "running", "incomplete")
"""A job in one of these goes on; ``incomplete`` is between two attempts."""

STATUSES = {
    "pending": SyncStatus.PENDING,
    "queued": SyncStatus.PENDING,
    "running": SyncStatus.RUNNING,
    "incomplete": SyncStatus.RUNNING,
    "succeeded": SyncStatus.SUCCEEDED,
    "failed": SyncStatus.FAILED,
    "cancelled": SyncStatus.CANCELLED,
}


def judge(job: Mapping[str, Any]) -> RunStatus:
    """Return where a job stands; a status that nobody has told us of is no end."""
    word = str(job.get("status") or "")
    status = STATUSES.get(word, SyncStatus.RUNNING)
    updated = moment(job.get("lastUpdatedAt"))
    started = moment(job.get("startTime"))
    return RunStatus(
        status=status,
        phase=word if word in STATUSES else f"unknown status {word[:40]!r}",
        run_id=str(job.get("jobId") or ""),
        started=started.isoformat() if started else None,
        ended=updated.isoformat() if updated and status.ended else None,
        reason="the job was cancelled" if status is SyncStatus.CANCELLED else "",
        progress=f"{word} {job.get('rowsSynced')} {job.get('bytesSynced')}",
    )


def check_active(connection: Mapping[str, Any], ref: SyncRef) -> None:
    """Check that a connection can run.

    :raises InvalidSyncError: With the reason, if it is not active.
    """
    status = str(connection.get("status") or "active")
    if status == "active":
        return
    reason = connection.get("statusReason")
    raise InvalidSyncError(
        f"the Airbyte connection {ref.name!r} ({ref.id}) is {status}"
        f"{f': {reason}' if reason else ''}. Change it at {ref.link}",
        code=status,
        link=ref.link,
    )


def running_of(
    handle: Mapping[str, Any], job: Mapping[str, Any], request: SyncRequest
) -> dict[str, Any] | None:
    """Return the handle that a job which goes on means for a request, ``None`` if it has ended.

    :param handle: The handle of the run that is asked for, without a job.
    :raises InvalidSyncError: If it goes on and ``on_running="fail"``.
    """
    if str(job.get("status")) not in ACTIVE:
        return None
    if request.on_running == "fail":
        raise InvalidSyncError(
            f"sync={request.sync!r} runs already (job {job.get('jobId')}) and on_running='fail'",
            link=str(handle["link"]),
            code="running",
        )
    found = {**handle, "job": number_of(job), "created": job.get("startTime")}
    if request.on_running == "adopt" and job.get("jobType") == handle["kind"]:
        return {**found, "adopted": True}
    return {**found, "behind": True}


def table_of(
    connection: Mapping[str, Any], stream: Mapping[str, Any], known: Mapping[str, Any] | None
) -> TableRef:
    """Return the table that a stream becomes.

    :param known: The source's own description of the stream, for columns and keys.
    """
    name = str(stream.get("name") or "")
    spaces = {
        "source": stream.get("namespace"),
        "custom_format": connection.get("namespaceFormat"),
    }
    space = spaces.get(str(connection.get("namespaceDefinition")))
    # Where the destination's default schema decides, only the destination knows it.
    there = ".".join(filter(None, (str(space or ""), f"{connection.get('prefix') or ''}{name}")))
    if known is None:
        return TableRef(name=there, source=name)
    fields = sorted({path[0] for path in _paths(known.get("propertyFields"))})
    keys = _paths(stream.get("primaryKey")) or _paths(known.get("sourceDefinedPrimaryKey"))
    return TableRef(
        name=there,
        source=name,
        columns=dict.fromkeys(fields, ""),
        key=tuple(sorted(".".join(key) for key in keys)),
    )


def _paths(value: Any) -> list[list[str]]:
    """Return the paths of fields, without those that are none."""
    return [path for each in value if (path := names_of(each))] if isinstance(value, list) else []


def number_of(job: Mapping[str, Any]) -> int:
    """Return the id of a job, 0 if it has none."""
    number = job.get("jobId")
    return number if isinstance(number, int) else 0
