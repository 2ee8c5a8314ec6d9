"""What Airbyte's answers mean, without asking anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_ext.sync.model import RunStatus, SyncStatus, TableRef
from airflow_ext.sync.moments import moment

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
    fields = sorted({str(path[0]) for path in known.get("propertyFields") or [] if path})
    keys = stream.get("primaryKey") or known.get("sourceDefinedPrimaryKey") or []
    return TableRef(
        name=there,
        source=name,
        columns=dict.fromkeys(fields, ""),
        key=tuple(sorted(".".join(map(str, key)) for key in keys)),
    )


def number_of(job: Mapping[str, Any]) -> int:
    """Return the id of a job, 0 if it has none."""
    number = job.get("jobId")
    return number if isinstance(number, int) else 0
