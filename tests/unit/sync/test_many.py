"""Asking for many runs one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from airflow_ext.exceptions import InvalidSyncError, SyncUnavailableError
from airflow_ext.sync.backend import RunHandle
from airflow_ext.sync.many import AT_ONCE, LOST, ask_each
from airflow_ext.sync.model import RunStatus, SyncStatus


def ask(answers: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    asked: list[str] = []

    async def poll(handle: RunHandle) -> RunStatus:
        asked.append(handle["sync"])
        answer = answers[handle["sync"]]
        if isinstance(answer, Exception):
            raise answer
        return RunStatus(status=answer)

    handles = {key: {"sync": key} for key in answers}
    return asyncio.run(ask_each(poll, handles, gone=(404,))), asked


def test_each_run_has_its_own_answer() -> None:
    down, refused = SyncUnavailableError("500"), InvalidSyncError("405", status=405)
    gone = InvalidSyncError("no such sync", status=404)
    answers = {"a": down, "b": SyncStatus.RUNNING, "c": refused, "d": gone} | {
        f"bad {number}": down for number in range(3 * LOST)
    }
    found, asked = ask(answers)
    assert sorted(asked) == sorted(answers)
    assert (found["a"], found["b"].status, found["c"]) == (down, SyncStatus.RUNNING, refused)
    assert (found["d"].status, found["d"].reason, found["d"].fixable) == ("failed", "no such sync", True)


def test_a_vendor_that_is_down_is_not_asked_for_every_run() -> None:
    down = SyncUnavailableError("no answer in time")
    found, asked = ask({str(number): down for number in range(200)})
    assert len(asked) < LOST + AT_ONCE
    assert list(found.values()) == [down] * 200
