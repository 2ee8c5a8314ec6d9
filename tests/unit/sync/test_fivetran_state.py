"""What a connection's timestamps tell of a run, however they are written."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_ext.sync.fivetran_state import judge
from airflow_ext.sync.model import SyncStatus

BEFORE = "2026-03-20T08:00:00.000000Z"


def connection(succeeded: Any, failed: Any = None, **status: Any) -> dict[str, Any]:
    found = {"setup_state": "connected", "sync_state": "scheduled", **status}
    return {"id": "shop", "succeeded_at": succeeded, "failed_at": failed, "status": found}


@pytest.mark.parametrize(
    ("before", "succeeded", "failed", "status"),
    [
        pytest.param(None, None, None, SyncStatus.PENDING, id="the first sync ever"),
        pytest.param(None, "2026-03-20T08:00:01Z", None, SyncStatus.SUCCEEDED, id="its end"),
        pytest.param(BEFORE, BEFORE, None, SyncStatus.PENDING, id="not moved"),
        pytest.param(
            BEFORE, "2026-03-20T10:00:00+02:00", None, SyncStatus.PENDING, id="same in another zone"
        ),
        pytest.param(BEFORE, "2026-03-20T09:59:59+02:00", None, SyncStatus.PENDING, id="moved back"),
        pytest.param(BEFORE, "2026-03-20T10:00:01+02:00", None, SyncStatus.SUCCEEDED, id="moved"),
        pytest.param(
            BEFORE, "2026-03-20T08:00:01", None, SyncStatus.SUCCEEDED, id="without a zone it is UTC"
        ),
        pytest.param(BEFORE, None, None, SyncStatus.PENDING, id="null now"),
        pytest.param(BEFORE, "yesterday", 1_774_000_000, SyncStatus.PENDING, id="no timestamps"),
        pytest.param(BEFORE, BEFORE, "2026-03-20T08:05:00Z", SyncStatus.FAILED, id="failed"),
        pytest.param(
            BEFORE,
            "2026-03-20T08:06:00Z",
            "2026-03-20T08:05:00Z",
            SyncStatus.SUCCEEDED,
            id="failed, then not",
        ),
    ],
)
def test_the_timestamp_that_moved_tells_the_end(
    before: str | None, succeeded: Any, failed: Any, status: SyncStatus
) -> None:
    handle = {"succeeded_at": before, "failed_at": None}
    assert judge(connection(succeeded, failed), handle).status is status


def test_a_time_to_go_on_may_be_missing() -> None:
    found = judge(connection(None, sync_state="rescheduled", rescheduled_for=None), {})
    assert (found.status, found.rescheduled_for) == (SyncStatus.RESCHEDULED, None)
