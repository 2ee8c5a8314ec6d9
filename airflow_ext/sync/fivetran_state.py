"""What Fivetran's answers mean, without asking anything: pure functions over what was read.

``POST .../sync`` returns no run id. A run is therefore recognised by what the connection's two timestamps were
before it: the one that moved since tells its end. Only the vendor's timestamps are compared with each other.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from airflow_ext.exceptions import InvalidError, InvalidSyncError
from airflow_ext.sync.backend import RunHandle, WebhookEvent
from airflow_ext.sync.model import RunStatus, SyncRef, SyncStatus
from airflow_ext.sync.moments import moment

DASHBOARD = "https://fivetran.com/dashboard/connections"
SIGNATURE = "x-fivetran-signature-256"
OLDEST_WEBHOOK = timedelta(hours=26)
"""Fivetran repeats a webhook for up to a day; anything older is a replay."""

NEWEST_WEBHOOK = timedelta(minutes=5)
_SAME_END = timedelta(seconds=5)
_RUNNING = "IN_PROGRESS"


def ref_of(connection: Mapping[str, Any]) -> SyncRef:
    """Return what a connection is."""
    sync = str(connection.get("id") or "")
    return SyncRef(
        id=sync,
        name=str(connection.get("schema") or sync),
        schedule="manual" if connection.get("schedule_type") == "manual" else "auto",
        link=f"{DASHBOARD}/{quote(sync, safe='')}/status",
    )


def handle_of(connection: Mapping[str, Any], ref: SyncRef, *, resync: bool = False) -> dict[str, Any]:
    """Return the handle of the run that begins after a connection was read."""
    return {
        "backend": "fivetran",
        "sync": ref.id,
        "name": ref.name,
        "link": ref.link,
        "succeeded_at": connection.get("succeeded_at"),
        "failed_at": connection.get("failed_at"),
        "manual": ref.schedule == "manual",
        "resync": resync,
    }


def check_ready(connection: Mapping[str, Any], ref: SyncRef) -> None:
    """Check that a connection can run.

    :raises InvalidSyncError: With what is wrong and where to change it, if it is paused or broken.
    """
    if state_of(connection) == "paused":
        raise InvalidSyncError(
            f"the Fivetran connection {ref.name!r} ({ref.id}) is paused: resume it at {ref.link}",
            code="paused",
            link=ref.link,
        )
    if broken := trouble(connection):
        raise InvalidSyncError(
            f"the Fivetran connection {ref.name!r} ({ref.id}) cannot run, its {broken}. Fix it at {ref.link}",
            code="broken",
            link=ref.link,
        )


def state_of(connection: Mapping[str, Any]) -> str:
    """Return ``sync_state``, ``paused`` also where only the flag says so."""
    if connection.get("paused") is True:
        return "paused"
    return str(_mapping(connection.get("status")).get("sync_state") or "")


def trouble(connection: Mapping[str, Any]) -> str:
    """Return what a person must fix first, empty if there is nothing."""
    status = _mapping(connection.get("status"))
    setup = str(status.get("setup_state") or "")
    if setup in ("", "connected"):
        return ""
    tasks = [
        ": ".join(str(task[key]) for key in ("message", "details") if task.get(key))
        for task in _list(status.get("tasks"))
        if isinstance(task, Mapping)
    ]
    tests = [
        f"{test.get('title')}: {test.get('message')}"
        for test in _list(connection.get("setup_tests"))
        if isinstance(test, Mapping) and str(test.get("status")) in ("FAILED", "JOB_FAILED")
    ]
    told = "; ".join([*tasks, *tests])
    return f"setup is {setup}" + (f": {told}" if told else "")


def judge(connection: Mapping[str, Any], handle: RunHandle) -> RunStatus:
    """Return where a run stands.

    :param connection: Connection object, of a list or alone.
    :param handle: The run, with the timestamps from before it.
    """
    succeeded = _moved(connection, handle, "succeeded_at")
    failed = _moved(connection, handle, "failed_at")
    if succeeded is not None and (failed is None or succeeded >= failed):
        return RunStatus(status=SyncStatus.SUCCEEDED, ended=succeeded.isoformat())
    if failed is not None:
        broken = trouble(connection)
        return RunStatus(
            status=SyncStatus.FAILED, ended=failed.isoformat(), reason=broken, fixable=bool(broken)
        )
    state = state_of(connection)
    status = _mapping(connection.get("status"))
    match state:
        case "syncing":
            return RunStatus(status=SyncStatus.RUNNING, phase="syncing")
        case "rescheduled":
            until = moment(status.get("rescheduled_for"))
            return RunStatus(
                status=SyncStatus.RESCHEDULED,
                phase="rescheduled",
                rescheduled_for=until.isoformat() if until else None,
            )
        case "paused":
            return RunStatus(
                status=SyncStatus.CANCELLED, reason="the connection was paused while its sync was awaited"
            )
        case "scheduled" if handle.get("next") and (broken := trouble(connection)):
            return RunStatus(status=SyncStatus.FAILED, reason=f"nothing will run: {broken}", fixable=True)
        case "scheduled":
            return RunStatus(status=SyncStatus.PENDING, phase="scheduled")
    # A state nobody has told us of is no end; the caller's time limits hold.
    return RunStatus(status=SyncStatus.RUNNING, phase=f"unknown state {state[:40]!r}")


def judge_history(entry: Mapping[str, Any]) -> SyncStatus | None:
    """Return our status of an entry of the sync history, ``None`` for a word that nobody has told us of."""
    word = str(entry.get("status") or "").upper()
    if word.startswith(("SUCC", "COMPLETED")):
        return SyncStatus.SUCCEEDED
    if word.startswith("FAIL"):
        return SyncStatus.FAILED
    if word.startswith("CANCEL"):
        return SyncStatus.CANCELLED
    if word.startswith("RESCHED"):
        return SyncStatus.RESCHEDULED
    return SyncStatus.RUNNING if entry.get("end") is None else None


def entry_of(history: list[Any], ended: datetime | None) -> Mapping[str, Any] | None:
    """Return the entry of the sync history that ended at a moment."""
    if ended is None:
        return None
    best, distance = None, _SAME_END
    for entry in history:
        end = moment(entry.get("end")) if isinstance(entry, Mapping) else None
        if end is not None and abs(end - ended) <= distance:
            best, distance = entry, abs(end - ended)
    return best


def is_fix(entry: Mapping[str, Any]) -> bool:
    """Tell whether a failure in the sync history waits for a person."""
    return "TASK" in str(entry.get("status") or "").upper()


def parse_webhook(headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> WebhookEvent:
    """Return what a webhook says, once it is certain who sent it.

    The signature covers the raw body, so its ``created`` may be trusted; Fivetran sends no other time.

    :raises InvalidError: If signature, age or content are wrong.
    """
    given = headers.get(SIGNATURE, "").strip().lower()
    expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if not secret or not hmac.compare_digest(given.encode(), expected.encode()):
        raise InvalidError("the signature is missing or wrong")
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidError("the body is no JSON") from None
    created = moment(told.get("created")) if isinstance(told, Mapping) else None
    if created is None:
        raise InvalidError("created is missing or no timestamp")
    age = datetime.fromtimestamp(now, UTC) - created
    if not -NEWEST_WEBHOOK <= age <= OLDEST_WEBHOOK:
        raise InvalidError("created is too old or in the future")
    sync, event = told.get("connector_id"), told.get("event")
    if not isinstance(sync, str) or not isinstance(event, str) or not 0 < len(sync) <= 200:
        raise InvalidError("connector_id or event is missing")
    return WebhookEvent(
        sync=sync,
        run_id=str(told.get("sync_id") or "")[:100],
        ended=event == "sync_end",
        created=created.isoformat(),
    )


def _moved(connection: Mapping[str, Any], handle: RunHandle, name: str) -> datetime | None:
    """Return a timestamp if it is later than before the run."""
    now, before = moment(connection.get(name)), moment(handle.get(name))
    return now if now is not None and (before is None or now > before) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
