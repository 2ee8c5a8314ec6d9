"""Waiting for runs of sync vendors: one poller per connection and triggerer, however many tasks wait.

All triggers of one connection and poll interval share one stream. It asks the vendor once per interval for every run
somebody waits for, by the vendor's list request where there is one. Every two seconds it also reads one key of
Airflow's asset state, where the webhook route writes; what is heard there only makes it ask at once.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypedDict

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.context import AssetStateStoreAccessor
from airflow.sdk.observability import stats
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_ext.exceptions import (
    AirflowExtError,
    InvalidError,
    SyncDeniedError,
    SyncUnavailableError,
)
from airflow_ext.hooks.sync_vendors import aget_connection, remote_backend, webhook_secret
from airflow_ext.sync.backend import RemoteBackend, RunHandle
from airflow_ext.sync.model import RunStatus, SyncStatus
from airflow_ext.sync.moments import moment
from airflow_ext.sync.watch import Limits, Outcome, Step, Watch

RESUME_AFTER = 8.0
"""Seconds a task stays deferred at least before it is resumed on a worker.

The scheduler may hear only five to six seconds later that the worker which deferred has ended. If the task
runs again by then, it takes the news for the end of that run and retries or fails the task.
"""

WEBHOOK_SECONDS = 2.0
STATE_SECONDS = 10.0
"""A question to Airflow may stay without answer for ever; then the vendor is polled as if there were no webhook."""

KILL_SECONDS = 25.0
"""Airflow gives a killed trigger 30 seconds."""

MAX_BACKOFF = 120.0


def state_asset(sync_conn_id: str) -> str:
    """Return the name of the asset in whose state a connection's webhook and schemas are kept."""
    return f"sync/{sync_conn_id}"


def webhook_key(sync_conn_id: str) -> str:
    """Return the key that the webhook route writes and the poller reads."""
    return f"webhook/{sync_conn_id}"


class SyncEvent(TypedDict):
    """What a trigger tells its task.

    ``outcome`` is a value of :class:`~airflow_ext.sync.watch.Outcome`, ``status`` is :meth:`RunStatus.to_dict`.
    """

    outcome: str
    detail: str
    status: dict[str, Any]


def parse_event(event: Any) -> tuple[Outcome, str, RunStatus]:
    """Return how waiting ended, more about it, and where the run stood.

    :raises ValueError: If it is no event of :class:`SyncTrigger`.
    """
    if not isinstance(event, Mapping) or not {"outcome", "detail", "status"} <= set(event):
        raise ValueError(f"event={event!r}: not an event of SyncTrigger")
    return Outcome(event["outcome"]), str(event["detail"]), RunStatus.from_dict(event["status"])


@dataclass
class Seen:
    """What the last look brought for one run.

    :param number: Counts looks, so that a waiter knows what is new.
    """

    number: int
    status: RunStatus | None = None
    failure: tuple[Outcome, str] | None = None


@dataclass
class Board:
    """Who waits for which run of one connection, and what is known."""

    sync_conn_id: str
    handles: dict[str, RunHandle] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    _keys: itertools.count[int] = field(default_factory=itertools.count)
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

    async def backend(self) -> RemoteBackend:
        """Return the connection's backend; it is made anew after the vendor has refused the key."""
        if self._backend is None:
            connection = await aget_connection(self.sync_conn_id)
            self._backend = remote_backend(connection, tries=1)
            self._signed = bool(webhook_secret(connection))
        return self._backend

    async def poll(self) -> bool:
        """Ask the vendor for every run and tell whether anything is new."""
        handles = dict(self.handles)
        self._looks += 1
        self._retry_after = 0.0
        failure: tuple[Outcome, str]
        try:
            backend = await self.backend()
            if self._heard is None:
                await self.heard()  # what was told before this look is no news, what is told from now on is
            found = await backend.status_many(handles)
        except SyncUnavailableError as error:
            failure = (Outcome.UNAVAILABLE, str(error))
            self._retry_after = error.retry_after
        except AirflowRuntimeError as error:  # the connection could not be read
            failure = (Outcome.UNAVAILABLE, f"Airflow did not give the connection: {error}"[:300])
        except (SyncDeniedError, InvalidError) as error:
            failure = (Outcome.DENIED, str(error))
            await self.aclose()
        else:
            self._failures = 0
            stats.incr("airflow_ext.sync.polls", tags={"sync_conn_id": self.sync_conn_id})
            news = [self._keep(key, Seen(self._looks, status)) for key, status in found.items()]
            return any(news)
        self._failures += 1
        for key in handles:
            self._keep(key, Seen(self._looks, failure=failure))
        return True

    def _keep(self, key: str, seen: Seen) -> bool:
        if key not in self.handles:  # its waiter left while we asked
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


_BOARDS: dict[Hashable, Board] = {}


class _PollingTrigger(BaseEventTrigger):
    """What has a connection and a poll interval shares one poller with others of the same."""

    supports_triggerer_queue = True

    def __init__(self, *, sync_conn_id: str, poll_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own has no types
        self.sync_conn_id = sync_conn_id
        self.poll_interval = poll_interval

    def shared_stream_key(self) -> Hashable | None:
        """Share one stream with all that ask the same account equally often."""
        return _key(self.sync_conn_id, self.poll_interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[int, None]:
        """Poll for every waiter of the group.

        :param kwargs: Arguments of one of them; only what makes the key counts.
        """
        key = _key(kwargs["sync_conn_id"], kwargs["poll_interval"])
        board = _BOARDS.setdefault(key, Board(kwargs["sync_conn_id"]))
        async for tick in _ticks(board, kwargs["poll_interval"]):
            yield tick

    async def filter_shared_stream(self, shared_stream: AsyncIterator[int]) -> AsyncIterator[TriggerEvent]:
        """Wait for what the stream tells about our run."""
        board = _BOARDS.setdefault(_key(self.sync_conn_id, self.poll_interval), Board(self.sync_conn_id))
        async for event in self._events(board, shared_stream):
            yield event

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait with a poller of our own, where streams are not shared."""
        board = Board(self.sync_conn_id)
        stream = _ticks(board, self.poll_interval)
        try:
            async for event in self._events(board, stream):
                yield event
        finally:
            await stream.aclose()

    @abstractmethod
    def _events(self, board: Board, stream: AsyncIterator[int]) -> AsyncIterator[TriggerEvent]: ...

    async def _until_end(
        self, board: Board, stream: AsyncIterator[int], handle: RunHandle, limits: Limits
    ) -> tuple[Step, RunStatus]:
        watch = Watch(limits, manual=bool(handle.get("manual")))
        key = board.join(handle)
        pending: asyncio.Task[int] | None = None
        last = 0
        try:
            while True:
                seen = board.seen.get(key)
                if seen is not None and seen.number > last:
                    last = seen.number
                    step = _take(watch, seen, time.time())
                else:
                    step = watch.tick(time.time())
                if step.go_on:
                    await self._go_on(board, handle)
                if step.outcome is not None:
                    return step, watch.status
                if pending is None:
                    pending = asyncio.create_task(_next(stream))
                # never wait_for: it would cancel the stream itself, which then ends for good
                done, _ = await asyncio.wait({pending}, timeout=max(0.05, watch.pause(time.time())))
                if done:
                    pending.result()
                    pending = None
        finally:
            board.leave(key)
            if pending is not None:
                pending.cancel()
                await asyncio.wait({pending})

    async def _go_on(self, board: Board, handle: RunHandle) -> None:
        self.log.info("The vendor's own time to go on with %s has come", handle.get("name"))
        try:
            await board.go_on(handle)
        except AirflowExtError as error:
            self.log.warning("It could not be told to: %s", error)


class SyncTrigger(_PollingTrigger):
    """Waits for the end of one run; a killed task cancels it.

    :param sync_conn_id: The connection.
    :param handle: The run, as its backend made it.
    :param limits: :meth:`Limits.to_dict`.
    :param poll_interval: Seconds between two questions to the vendor.
    :param cancel_on_kill: Cancel the run when a user ends the task; a run that somebody else started never is.
    :param resume_after: Seconds to wait at least before a worker is started.
    """

    def __init__(
        self,
        *,
        sync_conn_id: str,
        handle: dict[str, Any],
        limits: dict[str, Any],
        poll_interval: float,
        cancel_on_kill: bool = True,
        resume_after: float = RESUME_AFTER,
    ) -> None:
        super().__init__(sync_conn_id=sync_conn_id, poll_interval=poll_interval)
        self.handle = handle
        self.limits = limits
        self.cancel_on_kill = cancel_on_kill
        self.resume_after = resume_after

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        return (
            "airflow_ext.triggers.sync.SyncTrigger",
            {
                "sync_conn_id": self.sync_conn_id,
                "handle": self.handle,
                "limits": self.limits,
                "poll_interval": self.poll_interval,
                "cancel_on_kill": self.cancel_on_kill,
                "resume_after": self.resume_after,
            },
        )

    async def _events(self, board: Board, stream: AsyncIterator[int]) -> AsyncIterator[TriggerEvent]:
        started = time.monotonic()
        step, status = await self._until_end(board, stream, self.handle, Limits.from_dict(self.limits))
        assert step.outcome is not None  # noqa: S101  # that is what it waits for
        await asyncio.sleep(max(0.0, started + self.resume_after - time.monotonic()))
        yield TriggerEvent(SyncEvent(outcome=str(step.outcome), detail=step.detail, status=status.to_dict()))

    async def on_kill(self) -> None:
        """Cancel the run: a user has ended the task, so nobody waits for it any more."""
        if not self.cancel_on_kill or self.handle.get("adopted"):
            return
        backend = remote_backend(await aget_connection(self.sync_conn_id), tries=2)
        try:
            await backend.cancel(self.handle, patience=KILL_SECONDS)
            self.log.info("Cancelled the run of %s", self.handle.get("name"))
        except (TimeoutError, AirflowExtError) as error:
            self.log.warning("The run of %s could not be cancelled: %s", self.handle.get("name"), error)
        finally:
            await backend.aclose()


class SyncEndTrigger(_PollingTrigger):
    """Watches a sync that runs on the vendor's own schedule, for an ``AssetWatcher``: one event per run that ends.

    What was told last is kept in the state of the watched asset, so that nothing is told twice or lost between two
    triggerers; of several runs that ended while none was up, the first is told. A failed run is told only if asked for.

    :param sync_conn_id: The connection.
    :param sync: The sync, by id or name.
    :param poll_interval: Seconds between two questions to the vendor.
    :param failures: Tell of failed runs too.
    """

    def __init__(
        self, *, sync_conn_id: str, sync: str, poll_interval: float = 60.0, failures: bool = False
    ) -> None:
        super().__init__(sync_conn_id=sync_conn_id, poll_interval=poll_interval)
        self.sync = sync
        self.failures = failures

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        return (
            "airflow_ext.triggers.sync.SyncEndTrigger",
            {
                "sync_conn_id": self.sync_conn_id,
                "sync": self.sync,
                "poll_interval": self.poll_interval,
                "failures": self.failures,
            },
        )

    async def _events(self, board: Board, stream: AsyncIterator[int]) -> AsyncIterator[TriggerEvent]:
        since = await self._told_last()
        if since is None:
            since = _iso(time.time())
        while True:
            try:
                handle = await (await board.backend()).next_run(self.sync, since=since)
            except (AirflowExtError, TimeoutError) as error:
                self.log.warning("%s cannot be watched now: %s", self.sync, error)
                await asyncio.sleep(self.poll_interval)
                continue
            step, status = await self._until_end(board, stream, handle, Limits(outage=60, denied=60))
            if status.ended is None or step.outcome not in (Outcome.SUCCEEDED, Outcome.FAILED):
                self.log.warning("%s cannot be watched now: %s", self.sync, step.detail or step.outcome)
                await asyncio.sleep(self.poll_interval)
                continue
            since = status.ended
            if status.status is SyncStatus.SUCCEEDED or self.failures:
                payload = {"sync": handle["sync"], "name": handle.get("name"), "link": handle.get("link")}
                yield TriggerEvent({**payload, **status.to_dict()})
            await self._tell(since)

    async def _told_last(self) -> str | None:
        told: Any = None
        if self.asset_state_store is not None:
            # Without it, or with one trigger for several assets, watching begins now.
            with suppress(Exception):
                async with asyncio.timeout(STATE_SECONDS):
                    told = await self.asset_state_store.aget(self._state_key)
        return None if moment(told) is None else str(told)

    async def _tell(self, ended: str) -> None:
        if self.asset_state_store is not None:
            with suppress(Exception):
                async with asyncio.timeout(STATE_SECONDS):
                    await self.asset_state_store.aset(self._state_key, ended)

    @property
    def _state_key(self) -> str:
        return f"ended/{self.sync_conn_id}/{self.sync}"


def _take(watch: Watch, seen: Seen, now: float) -> Step:
    if seen.failure is not None:
        return watch.fail(*seen.failure, now)
    assert seen.status is not None  # noqa: S101  # it is one or the other
    return watch.see(seen.status, now)


def _key(sync_conn_id: str, poll_interval: float) -> Hashable:
    return ("airflow-ext.sync", sync_conn_id, float(poll_interval))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


async def _next(stream: AsyncIterator[int]) -> int:
    return await anext(stream)


async def _ticks(board: Board, poll_interval: float) -> AsyncGenerator[int, None]:
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
