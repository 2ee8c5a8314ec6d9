"""Waiting for runs of sync vendors: one poller per connection and triggerer, however many tasks wait.

All triggers of one connection and poll interval share one stream. It asks the vendor once per interval for every run
somebody waits for, by the vendor's list request where there is one. Every two seconds it also reads one key of
Airflow's asset state, where the webhook route writes; what is heard there only makes it ask at once.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NotRequired, TypedDict

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_ext.exceptions import AirflowExtError
from airflow_ext.hooks.sync_vendors import aget_connection, remote_backend
from airflow_ext.sync.backend import RunHandle
from airflow_ext.sync.model import RunStatus, SyncStatus
from airflow_ext.sync.moments import moment
from airflow_ext.sync.watch import Limits, Outcome, Step, Watch
from airflow_ext.triggers._sync_board import (
    STATE_SECONDS,
    Board,
    Seen,
    board_of,
    key_of,
    state_asset,
    ticks,
    webhook_key,
)

RESUME_AFTER = 8.0
"""Seconds a task stays deferred at least before it is resumed on a worker.

The scheduler may hear only five to six seconds later that the worker which deferred has ended. If the task
runs again by then, it takes the news for the end of that run and retries or fails the task.
"""

KILL_SECONDS = 25.0
"""Airflow gives a killed trigger 30 seconds."""

__all__ = ["SyncEndTrigger", "SyncEvent", "SyncTrigger", "parse_event", "state_asset", "webhook_key"]


class SyncEvent(TypedDict):
    """What a trigger tells its task.

    ``outcome`` is a value of :class:`~airflow_ext.sync.watch.Outcome`, ``status`` is :meth:`RunStatus.to_dict`.
    ``handle`` and ``deadline`` are those it waited with: ``dag.test()`` resumes a task with nothing but the event.
    """

    outcome: str
    detail: str
    status: dict[str, Any]
    handle: NotRequired[dict[str, Any]]
    deadline: NotRequired[float | None]


def parse_event(event: Any) -> tuple[Outcome, str, RunStatus]:
    """Return how waiting ended, more about it, and where the run stood.

    :raises ValueError: If it is no event of :class:`SyncTrigger`.
    """
    if not isinstance(event, Mapping) or not {"outcome", "detail", "status"} <= set(event):
        raise ValueError(f"event={event!r}: not an event of SyncTrigger")
    return Outcome(event["outcome"]), str(event["detail"]), RunStatus.from_dict(event["status"])


def event_of(ended: tuple[Outcome, str, RunStatus]) -> SyncEvent:
    """Return what :func:`parse_event` reads."""
    outcome, detail, status = ended
    return SyncEvent(outcome=str(outcome), detail=detail, status=status.to_dict())


class _PollingTrigger(BaseEventTrigger):
    """What has a connection and a poll interval shares one poller with others of the same."""

    supports_triggerer_queue = True

    def __init__(self, *, sync_conn_id: str, poll_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own has no types
        self.sync_conn_id = sync_conn_id
        self.poll_interval = poll_interval

    def shared_stream_key(self) -> Hashable | None:
        """Share one stream with all that ask the same account equally often."""
        return key_of(self.sync_conn_id, self.poll_interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[int, None]:
        """Poll for every waiter of the group.

        :param kwargs: Arguments of one of them; only what makes the key counts.
        """
        board = board_of(kwargs["sync_conn_id"], kwargs["poll_interval"])
        async for tick in ticks(board, kwargs["poll_interval"]):
            yield tick

    async def filter_shared_stream(self, shared_stream: AsyncIterator[int]) -> AsyncIterator[TriggerEvent]:
        """Wait for what the stream tells about our run."""
        board = board_of(self.sync_conn_id, self.poll_interval)
        async for event in self._events(board, shared_stream):
            yield event

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait with a poller of our own, where streams are not shared."""
        board = Board(self.sync_conn_id)
        stream = ticks(board, self.poll_interval)
        try:
            async for event in self._events(board, stream):
                yield event
        finally:
            await stream.aclose()

    @abstractmethod
    def _events(self, board: Board, stream: AsyncIterator[int]) -> AsyncIterator[TriggerEvent]: ...

    async def _until_end(
        self,
        board: Board,
        stream: AsyncIterator[int],
        handle: RunHandle,
        limits: Limits,
        kept: Mapping[str, Any] | None = None,
    ) -> tuple[Step, RunStatus]:
        watch = Watch(limits, manual=bool(handle.get("manual")), kept=kept)
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
                    await self._go_on(board, handle, watch)
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

    async def _go_on(self, board: Board, handle: RunHandle, watch: Watch) -> None:
        self.log.info("The vendor's own time to go on with %s has come", handle.get("name"))
        try:
            await board.go_on(handle)
        except AirflowExtError as error:
            self.log.warning("It could not be told to: %s", error)
            watch.went_not_on(error, time.time())
        else:
            watch.went_on(time.time())


class SyncTrigger(_PollingTrigger):
    """Waits for the end of one run; a killed task cancels it.

    :param sync_conn_id: The connection.
    :param handle: The run, as its backend made it.
    :param limits: :meth:`Limits.to_dict`.
    :param poll_interval: Seconds between two questions to the vendor.
    :param cancel_on_kill: Cancel the run when a user ends the task; a run that somebody else started never is.
    :param resume_after: Seconds to wait at least before a worker is started.
    :param watch: What was known of the run when waiting began, of :meth:`Watch.to_dict`.
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
        watch: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(sync_conn_id=sync_conn_id, poll_interval=poll_interval)
        self.handle = handle
        self.limits = limits
        self.cancel_on_kill = cancel_on_kill
        self.resume_after = resume_after
        self.watch = watch

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
                "watch": self.watch,
            },
        )

    async def _events(self, board: Board, stream: AsyncIterator[int]) -> AsyncIterator[TriggerEvent]:
        started = time.monotonic()
        limits = Limits.from_dict(self.limits)
        step, status = await self._until_end(board, stream, self.handle, limits, self.watch)
        assert step.outcome is not None  # noqa: S101  # that is what it waits for
        await asyncio.sleep(max(0.0, started + self.resume_after - time.monotonic()))
        told = event_of((step.outcome, step.detail, status))
        yield TriggerEvent({**told, "handle": self.handle, "deadline": limits.deadline})

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

    What was told last is kept in the state of the watched asset, so that nothing is lost between two triggerers, and
    told twice only by one that dies in that very moment; of several runs that ended while none was up, the first is
    told. A failed run is told only if asked for, a cancelled one never.

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
            if status.ended is None:
                self.log.warning("%s cannot be watched now: %s", self.sync, step.detail or step.outcome)
                await asyncio.sleep(self.poll_interval)
                continue
            since = status.ended
            failed = status.status is SyncStatus.FAILED
            if status.status is SyncStatus.SUCCEEDED or (failed and self.failures):
                status = await self._explained(board, handle, status)
                payload = {"sync": handle["sync"], "name": handle.get("name"), "link": handle.get("link")}
                yield TriggerEvent({**payload, **status.to_dict()})
            await self._tell(since)

    async def _explained(self, board: Board, handle: RunHandle, status: RunStatus) -> RunStatus:
        try:
            return await (await board.backend()).explain(handle, status)
        except (AirflowExtError, TimeoutError) as error:
            self.log.warning("No more is known of the run: %s", error)
            return status

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
        return watch.fail(*seen.failure, now, retry_after=seen.retry_after)
    assert seen.status is not None  # noqa: S101  # it is one or the other
    return watch.see(seen.status, now)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


async def _next(stream: AsyncIterator[int]) -> int:
    return await anext(stream)
