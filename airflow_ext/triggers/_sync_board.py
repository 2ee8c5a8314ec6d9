"""The one poller of a connection and triggerer: who waits for which run, what is known, when it is asked again."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.context import AssetStateStoreAccessor
from airflow.sdk.observability import stats

from airflow_ext.exceptions import InvalidError, SyncDeniedError, SyncUnavailableError
from airflow_ext.hooks.sync_vendors import aget_connection, remote_backend, webhook_secret
from airflow_ext.sync.backend import RemoteBackend, RunHandle
from airflow_ext.sync.model import RunStatus
from airflow_ext.sync.watch import Outcome

WEBHOOK_SECONDS = 2.0
STATE_SECONDS = 10.0
"""A question to Airflow may stay without answer for ever; then the vendor is polled as if there were no webhook."""

MAX_BACKOFF = 120.0


def state_asset(sync_conn_id: str) -> str:
    """Return the name of the asset in whose state a connection's webhook and schemas are kept."""
    return f"sync/{sync_conn_id}"


def webhook_key(sync_conn_id: str) -> str:
    """Return the key that the webhook route writes and the poller reads."""
    return f"webhook/{sync_conn_id}"


@dataclass
class Seen:
    """What the last look brought for one run.

    :param number: Counts looks, so that a waiter knows what is new.
    """

    number: int
    status: RunStatus | None = None
    failure: tuple[Outcome, str] | None = None
    retry_after: float = 0.0


@dataclass
class Board:
    """Who waits for which run of one connection, and what is known."""

    sync_conn_id: str
    handles: dict[str, RunHandle] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    _keys: itertools.count[int] = field(default_factory=itertools.count)
    _rests: dict[str, float] = field(default_factory=dict)
    _looks: int = 0
    _failures: int = 0
    _retry_after: float = 0.0
    _backend: RemoteBackend | None = None
    _signed: bool = False
    _heard: dict[str, Any] | None = None

    def join(self, handle: RunHandle) -> str:
        """Begin to follow a run and return the waiter's key."""
        key = str(next(self._keys))
        self.handles[key] = handle
        return key

    def leave(self, key: str) -> None:
        """Forget a waiter."""
        self.handles.pop(key, None)
        self.seen.pop(key, None)
        self._rests.pop(key, None)

    async def backend(self) -> RemoteBackend:
        """Return the connection's backend; it is made anew after the vendor has refused the key."""
        if self._backend is None:
            connection = await aget_connection(self.sync_conn_id)
            self._backend = remote_backend(connection, tries=1)
            self._signed = bool(webhook_secret(connection))
        return self._backend

    async def poll(self) -> bool:
        """Ask the vendor for every run and tell whether anything is new."""
        now = time.monotonic()
        handles = {key: handle for key, handle in self.handles.items() if self._rests.get(key, 0.0) <= now}
        if not handles:
            self._retry_after = min(self._rests.values(), default=now) - now
            return False
        self._looks += 1
        self._retry_after = 0.0
        found: Mapping[str, RunStatus | Exception]
        try:
            backend = await self.backend()
            if self._heard is None:
                await self.heard()  # what was told before this look is no news, what is told from now on is
            found = await backend.status_many(handles)
        except AirflowRuntimeError as error:  # the connection could not be read
            told = f"Airflow did not give the connection: {error}"[:300]
            found = dict.fromkeys(handles, SyncUnavailableError(told))
        except (SyncUnavailableError, SyncDeniedError, InvalidError) as error:
            found = dict.fromkeys(handles, error)
        errors = [each for each in found.values() if isinstance(each, Exception)]
        if not errors or len(errors) < len(found):
            self._failures = 0
            stats.incr("airflow_ext.sync.polls", tags={"sync_conn_id": self.sync_conn_id})
        else:
            self._failures += 1
            self._retry_after = max(map(_retry_after, errors))
            if not all(isinstance(each, SyncUnavailableError) for each in errors):
                await self.aclose()  # the key may just be exchanged
        news = [self._keep(key, self._seen(key, told)) for key, told in found.items()]
        return any(news)

    def _seen(self, key: str, told: RunStatus | Exception) -> Seen:
        if not isinstance(told, Exception):
            return Seen(self._looks, told)
        kind = Outcome.UNAVAILABLE if isinstance(told, SyncUnavailableError) else Outcome.DENIED
        # The vendor may want rest for one run alone.
        self._rests[key] = time.monotonic() + _retry_after(told)
        return Seen(self._looks, failure=(kind, str(told)), retry_after=_retry_after(told))

    def _keep(self, key: str, seen: Seen) -> bool:
        if key not in self.handles:  # its waiter left while we asked
            self._rests.pop(key, None)
            return False
        before = self.seen.get(key)
        self.seen[key] = seen
        return before is None or before.failure is not None or before.status != seen.status

    async def heard(self) -> bool:
        """Tell whether a webhook has told something new of a run that somebody waits for."""
        if not self._signed:
            return False
        accessor = AssetStateStoreAccessor(name=state_asset(self.sync_conn_id))
        try:
            async with asyncio.timeout(STATE_SECONDS):
                told = await accessor.aget(webhook_key(self.sync_conn_id))
        except Exception:  # noqa: BLE001  whatever it is, the vendor is polled all the same
            return False
        told = told if isinstance(told, dict) else {}
        before, self._heard = self._heard, told
        if before is None:
            return False
        waited = {str(handle.get("sync")) for handle in self.handles.values()}
        # Whoever has just begun to wait may have come after what was told.
        unseen = {str(handle.get("sync")) for key, handle in self.handles.items() if key not in self.seen}
        return any(sync in unseen or told[sync] != before.get(sync) for sync in waited & set(told))

    def pause(self, poll_interval: float) -> float:
        """Return the seconds until the next poll: longer while the vendor does not answer, or as it says."""
        if not self._failures:
            return poll_interval
        grown: float = min(poll_interval * 2 ** min(self._failures - 1, 10), max(poll_interval, MAX_BACKOFF))
        return max(grown, self._retry_after)

    async def go_on(self, handle: RunHandle) -> None:
        """Tell the vendor to go on with a rescheduled run."""
        await (await self.backend()).go_on(handle)

    async def aclose(self) -> None:
        """Close the connections to the vendor."""
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.aclose()


def _retry_after(error: Exception) -> float:
    return error.retry_after if isinstance(error, SyncUnavailableError) else 0.0


BOARDS: dict[Hashable, Board] = {}
"""Those of this triggerer: a waiter and the stream that polls for it find each other here."""


def key_of(sync_conn_id: str, poll_interval: float) -> Hashable:
    """Return what all that ask the same account equally often have in common."""
    return ("airflow-ext.sync", sync_conn_id, float(poll_interval))


def board_of(sync_conn_id: str, poll_interval: float) -> Board:
    """Return the board that all of a connection and interval share."""
    return BOARDS.setdefault(key_of(sync_conn_id, poll_interval), Board(sync_conn_id))


async def ticks(board: Board, poll_interval: float) -> AsyncGenerator[int, None]:
    """Poll for ever; tell what is new only."""
    due = 0.0
    number = 0
    try:
        while True:
            if board.handles:
                now = time.monotonic()
                if now >= due or await board.heard():
                    news = await board.poll()
                    due = now + board.pause(poll_interval)
                    if news:
                        number += 1
                        yield number
            step = min(WEBHOOK_SECONDS, poll_interval)
            await asyncio.sleep(step if board.handles else min(step, 0.1))
    finally:
        await board.aclose()
