"""What it means for a task that waiting for a run has ended in anything but success."""

from __future__ import annotations

from airflow_ext.exceptions import (
    AirflowExtError,
    InvalidSyncError,
    SyncDeniedError,
    SyncFailedError,
    SyncUnavailableError,
)
from airflow_ext.operators._sync_memory import SyncWait
from airflow_ext.sync.backend import RunHandle
from airflow_ext.sync.model import RunStatus
from airflow_ext.sync.watch import Outcome

Ended = tuple[Outcome, str, RunStatus]
"""How waiting ended, more about it, and where the run stood."""


def error_of(
    handle: RunHandle, ended: Ended, waiting: SyncWait, *, service: str, cancelled: bool
) -> AirflowExtError:
    """Return the error that tells an end.

    :param service: The connection, for an outage.
    :param cancelled: A run that was given up has been cancelled; else it goes on.
    """
    outcome, detail, status = ended
    where = f"sync {handle['name']!r} ({handle['sync']})"
    link = str(handle.get("link") or "")
    if outcome is Outcome.UNAVAILABLE:
        return SyncUnavailableError(f"{where}: {detail}", service=service, link=link)
    if outcome is Outcome.DENIED:
        return SyncDeniedError(f"{where}: {detail}", link=link)
    reason = status.reason or detail
    fate = "it is cancelled" if cancelled else "it goes on"
    told = {
        Outcome.FAILED: f"failed: {reason}",
        Outcome.CANCELLED: f"was cancelled: {reason}",
        Outcome.TIMED_OUT: f"did not end in time, it was {status.phase or status.status}; {fate}",
        Outcome.NOT_STARTED: f"had not begun after {waiting.start_timeout:g} s; {fate}",
        Outcome.STUCK: f"is stuck, {detail}; {fate}",
        Outcome.TOO_OFTEN: f"was put off by the vendor too often, {detail}; {fate}",
    }[outcome]
    text = f"{where} {told}.{f' See {link}' if link else ''}"
    if outcome is Outcome.CANCELLED or status.fixable:
        return InvalidSyncError(text, code=str(outcome), link=link)
    return SyncFailedError(text, status=str(outcome), run_id=status.run_id, reason=reason, link=link)
