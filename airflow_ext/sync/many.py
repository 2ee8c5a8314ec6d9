"""Asking for many runs one by one, so that what is wrong with one takes down no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from airflow_ext.exceptions import AirflowExtError, InvalidSyncError, SyncUnavailableError
from airflow_ext.sync.backend import RunHandle
from airflow_ext.sync.model import RunStatus, SyncStatus

AT_ONCE = 4
"""Requests that are on their way at a time; Hightouch, which has no other way, allows 200 in 10 seconds."""

LOST = 10
"""So many that bring nothing before any brings something are an outage: the others are not asked for."""


async def ask_each(
    poll: Callable[[RunHandle], Awaitable[RunStatus]],
    handles: Mapping[str, RunHandle],
    *,
    gone: Collection[int],
) -> dict[str, RunStatus | AirflowExtError]:
    """Return where each run stands, or why that cannot be told of it.

    :param gone: Statuses of an :class:`~airflow_ext.exceptions.InvalidSyncError` that mean: the sync was deleted.
    """
    gate = asyncio.Semaphore(AT_ONCE)
    found: dict[str, RunStatus | AirflowExtError] = {}
    lost: list[SyncUnavailableError] = []

    async def ask(key: str, handle: RunHandle) -> None:
        async with gate:
            if len(lost) >= LOST and len(lost) == len(found):
                found[key] = lost[-1]
                lost.append(lost[-1])
                return
            try:
                found[key] = await poll(handle)
            except SyncUnavailableError as error:
                found[key] = error
                lost.append(error)
            except AirflowExtError as error:
                deleted = isinstance(error, InvalidSyncError) and error.status in gone
                failed = RunStatus(status=SyncStatus.FAILED, reason=str(error), fixable=True)
                found[key] = failed if deleted else error

    await asyncio.gather(*(ask(key, handle) for key, handle in handles.items()))
    return found
