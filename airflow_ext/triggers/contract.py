"""Waiting for verdicts: one reader per triggerer, however many tasks wait.

All :class:`ContractTrigger` of one poll interval share one stream. It reads the ``head`` of each contract
somebody waits for once per interval, a verdict only when the head says it is new, and tells the waiters
only what changed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.xcom import XCom
from airflow.sdk.observability import stats
from airflow.triggers.base import BaseEventTrigger, TaskSuccessEvent, TriggerEvent

from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.ranges import ContractRange
from airflow_ext.contracts.store import Entry, Head, VerdictStore
from airflow_ext.contracts.verdict import Status, Verdict
from airflow_ext.contracts.waiting import Seen, look
from airflow_ext.exceptions import StoreUnavailableError
from airflow_ext.hooks.verdict_store import verdict_store

OUTAGE_SECONDS = 600.0
RESUME_AFTER = 8.0
"""Seconds a task stays deferred at least before it is resumed on a worker.

The scheduler may hear only five to six seconds later that the worker which deferred has ended. If the task
runs again by then, it takes the news for the end of that run and retries or fails the task.
"""

MAX_BACKOFF = 60.0
_DIRECT_EVERY = 10
"""Polls between two reads of a verdict for which the head has no news; it may have been pushed out of the
head, or a publisher of another partition may have written back an older entry.
"""
_GIVE_UP_AFTER = 3

Key = tuple[str, str]
"""An asset's name and a partition."""


class ContractEvent(TypedDict):
    """What a trigger tells its sensor.

    ``seen`` is :meth:`Seen.to_dict`; ``timed_out`` says that the sensor's time is over.
    """

    seen: dict[str, Any]
    timed_out: bool


def parse_event(event: Any) -> tuple[Seen, bool]:
    """Return what was seen, and whether the time is over.

    :raises ValueError: If it is no event of :class:`ContractTrigger`.
    """
    if not isinstance(event, Mapping) or "seen" not in event:
        raise ValueError(f"event={event!r}: not an event of ContractTrigger")
    return Seen.from_dict(event["seen"]), bool(event["timed_out"])


@dataclass(frozen=True)
class Tick:
    """What one poll tells the waiters.

    :param changed: Keys whose verdict, or whose publisher's key format, is new.
    :param failing: Assets that cannot be read.
    """

    changed: frozenset[Key]
    failing: frozenset[str]


@dataclass
class Board:
    """What one stream knows, and who waits for what."""

    wanted: Counter[Key] = field(default_factory=Counter)
    verdicts: dict[Key, Verdict] = field(default_factory=dict)
    rules: dict[str, PartitionRule | None] = field(default_factory=dict)
    failing: dict[str, tuple[float, str]] = field(default_factory=dict)
    _entries: dict[Key, Entry | None] = field(default_factory=dict)
    _polls: int = 0
    _reads: int = 0

    def join(self, keys: tuple[Key, ...]) -> None:
        """Begin to follow some keys for one more waiter."""
        self.wanted.update(keys)

    def leave(self, keys: tuple[Key, ...]) -> None:
        """Forget keys that nobody waits for any more, so that nothing stale is ever told."""
        for key in keys:
            self.wanted[key] -= 1
            if self.wanted[key] <= 0:
                del self.wanted[key]
                self.verdicts.pop(key, None)
                self._entries.pop(key, None)
        for asset in {asset for asset, _ in keys} - {asset for asset, _ in self.wanted}:
            self.rules.pop(asset, None)
            self.failing.pop(asset, None)

    async def poll(self, store: VerdictStore) -> Tick:
        """Read what may have changed."""
        partitions: dict[str, list[str]] = {}
        for asset, partition in self.wanted:
            partitions.setdefault(asset, []).append(partition)
        changed: set[Key] = set()
        failed = 0
        self._reads = 0
        for asset, keys in partitions.items():
            try:
                if failed >= _GIVE_UP_AFTER:
                    raise StoreUnavailableError("not asked, the store does not answer for others either")
                changed |= await self._read_asset(store, asset, keys)
                self.failing.pop(asset, None)
            except StoreUnavailableError as exc:
                failed += 1
                since = self.failing.get(asset, (time.monotonic(), ""))[0]
                self.failing[asset] = (since, str(exc))
        self._polls += 1
        stats.incr("airflow_ext.contracts.store_reads", self._reads)
        return Tick(frozenset(changed), frozenset(self.failing))

    async def _read_asset(self, store: VerdictStore, asset: str, partitions: list[str]) -> set[Key]:
        self._reads += 1
        head = await store.ahead(asset)
        changed: set[Key] = set()
        if head.rule != self.rules.get(asset):
            self.rules[asset] = head.rule
            changed |= {(asset, partition) for partition in partitions}
        for partition in partitions:
            if await self._read_partition(store, head, asset, partition):
                changed.add((asset, partition))
        return changed

    async def _read_partition(self, store: VerdictStore, head: Head, asset: str, partition: str) -> bool:
        key = (asset, partition)
        entry = head.entries.get(partition)
        known = key in self._entries and entry == self._entries[key]
        if known and self._polls % _DIRECT_EVERY:
            return False
        self._reads += 1
        verdict = await store.averdict(asset, partition)
        if key not in self.wanted:  # everybody left while we read
            return False
        self._entries[key] = entry
        if verdict is None or verdict == self.verdicts.get(key):
            return False
        self.verdicts[key] = verdict
        return True

    def backoff(self, poll_interval: float) -> float:
        """Return the seconds until the next poll: longer and longer while nothing at all can be read."""
        assets = {asset for asset, _ in self.wanted}
        if not assets or not assets <= set(self.failing):
            return poll_interval
        longest = max(time.monotonic() - since for since, _ in self.failing.values())
        return min(max(poll_interval, longest), max(poll_interval, MAX_BACKOFF))


_BOARDS: dict[Hashable, Board] = {}


class ContractTrigger(BaseEventTrigger):
    """Waits until a contract holds for a partition, or certainly does not.

    :param contract: Contract and range, such as ``"daily_delays>=1,<2"``.
    :param partition: Partition key.
    :param on_breach: ``wait`` goes on waiting after a breach; ``fail`` and ``skip`` end.
    :param poll_interval: Seconds between two reads.
    :param deadline: When to give up, in seconds since the epoch.
    :param end_task: End the task in the triggerer once the contract holds, with the verdict as its XCom,
        instead of starting a worker for it.
    :param outage_seconds: How long the store may fail before waiting ends.
    :param resume_after: Seconds to wait at least before a worker is started.
    :param timezone: Zone in which ``partition`` was derived from a point in time, ``None`` if it was given.
    """

    supports_triggerer_queue = True

    def __init__(
        self,
        *,
        contract: str,
        partition: str,
        on_breach: str,
        poll_interval: float,
        deadline: float,
        end_task: bool,
        outage_seconds: float = OUTAGE_SECONDS,
        resume_after: float = RESUME_AFTER,
        timezone: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own has no types
        self.contract = contract
        self.partition = partition
        self.on_breach = on_breach
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.end_task = end_task
        self.outage_seconds = outage_seconds
        self.resume_after = resume_after
        self.timezone = timezone

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        return (
            "airflow_ext.triggers.contract.ContractTrigger",
            {
                "contract": self.contract,
                "partition": self.partition,
                "on_breach": self.on_breach,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "end_task": self.end_task,
                "outage_seconds": self.outage_seconds,
                "resume_after": self.resume_after,
                "timezone": self.timezone,
            },
        )

    @staticmethod
    def _key(poll_interval: float) -> Hashable:
        return ("airflow-ext.contracts", "assets", float(poll_interval))

    def shared_stream_key(self) -> Hashable | None:
        """Share one stream with all that poll equally often."""
        return self._key(self.poll_interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[Tick, None]:
        """Poll for every waiter of the group.

        :param kwargs: Arguments of one of them; only its poll interval counts.
        """
        poll_interval = kwargs["poll_interval"]
        board = _BOARDS.setdefault(cls._key(poll_interval), Board())
        async for tick in _ticks(board, poll_interval):
            yield tick

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Tick]) -> AsyncIterator[TriggerEvent]:
        """Wait for what the stream tells about our contract and partition."""
        started = time.monotonic()
        board = _BOARDS.setdefault(self._key(self.poll_interval), Board())
        yield await self._event(*await self._wait(board, shared_stream), started=started)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait with a stream of our own, where streams are not shared."""
        started = time.monotonic()
        board = Board()
        stream = _ticks(board, self.poll_interval)
        try:
            seen, timed_out = await self._wait(board, stream)
        finally:
            await stream.aclose()
        yield await self._event(seen, timed_out, started=started)

    async def _wait(self, board: Board, stream: AsyncIterator[Tick]) -> tuple[Seen, bool]:
        wanted = ContractRange.parse(self.contract)
        keys = tuple((asset, self.partition) for asset in wanted.assets)
        board.join(keys)
        joined = time.monotonic()
        pending: asyncio.Task[Tick] | None = None
        try:
            seen = self._look(board, wanted, keys)
            while True:
                if seen.ends(self.on_breach):
                    return seen, False
                failing = [board.failing[asset] for asset, _ in keys if asset in board.failing]
                if failing:
                    since = max(joined, min(since for since, _ in failing))
                    outage = Seen(Status.STORE_UNAVAILABLE, detail=failing[0][1])
                    if time.monotonic() - since >= self.outage_seconds:
                        return outage, False
                left = self.deadline - time.time()
                if left <= 0:
                    return (outage if failing else seen), True
                if pending is None:
                    pending = asyncio.create_task(_next(stream))
                # never wait_for: it would cancel the stream itself, which then ends for good
                done, _ = await asyncio.wait({pending}, timeout=left)
                if not done:
                    continue
                tick = pending.result()
                pending = None
                if not tick.changed.isdisjoint(keys):
                    seen = self._look(board, wanted, keys)
        finally:
            board.leave(keys)
            if pending is not None:
                pending.cancel()
                await asyncio.wait({pending})

    def _look(self, board: Board, wanted: ContractRange, keys: tuple[Key, ...]) -> Seen:
        verdicts = {key[0]: board.verdicts[key] for key in keys if key in board.verdicts}
        return look(wanted, self.partition, verdicts, board.rules, self.timezone)

    async def _event(self, seen: Seen, timed_out: bool, *, started: float) -> TriggerEvent:
        if (
            self.end_task
            and seen.status.holds
            and seen.verdict is not None
            and await self._push(seen.verdict)
        ):
            return TaskSuccessEvent()
        await asyncio.sleep(max(0.0, started + self.resume_after - time.monotonic()))
        return TriggerEvent(ContractEvent(seen=seen.to_dict(), timed_out=timed_out))

    async def _push(self, verdict: Verdict) -> bool:
        """Store the verdict as the task's XCom and say whether that worked.

        The XComs of a :class:`TaskSuccessEvent` reach other tasks as JSON text instead of values.
        """
        task = self.task_instance
        if task is None:
            return False
        try:
            await XCom.aset(
                key="return_value",
                value=verdict.to_dict(),
                dag_id=task.dag_id,
                task_id=task.task_id,
                run_id=task.run_id,
                map_index=-1 if task.map_index is None else task.map_index,
            )
        except AirflowRuntimeError:
            self.log.warning("The verdict cannot be pushed from here; a worker will")
            return False
        return True


async def _next(stream: AsyncIterator[Tick]) -> Tick:
    return await anext(stream)


async def _ticks(board: Board, poll_interval: float) -> AsyncGenerator[Tick, None]:
    """Poll for ever; tell changes and failures only."""
    store = verdict_store()
    while True:
        tick = await board.poll(store)
        if tick.changed or tick.failing:
            yield tick
        await asyncio.sleep(board.backoff(poll_interval))
