"""What one triggerer knows of the contracts that somebody waits for, read once for all of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from airflow.sdk.observability import stats

from airflow_ext.contracts.head import Entry, Head
from airflow_ext.contracts.store import Key, VerdictStore
from airflow_ext.contracts.terms import LATEST
from airflow_ext.contracts.verdict import Verdict
from airflow_ext.contracts.waiting import Known
from airflow_ext.exceptions import StoreUnavailableError

MAX_BACKOFF = 60.0
DIRECT_SHARE = 10
"""One in so many polls reads a verdict for which the head has no news: its entry may have been pushed out of
the head, or a publisher of another partition may have written back an older one. With many partitions per
contract it is rarer, so that waiters never cost much more than one read per contract and poll.
"""

Waiter = asyncio.Future[None]


@dataclass
class Board:
    """What one stream knows, and who waits for what."""

    wanted: Counter[Key] = field(default_factory=Counter)
    heads: dict[str, Head] = field(default_factory=dict)
    verdicts: dict[Key, Verdict] = field(default_factory=dict)
    failing: dict[str, tuple[float, str]] = field(default_factory=dict)
    polls: int = 0
    _entries: dict[Key, Entry | None] = field(default_factory=dict)
    _waiters: dict[Key, set[Waiter]] = field(default_factory=dict)
    _direct: dict[Key, None] = field(default_factory=dict)

    @property
    def known(self) -> Known:
        """What was read so far."""
        return Known(self.heads, self.verdicts)

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
                self._direct.pop(key, None)
        for asset in {asset for asset, _ in keys} - {asset for asset, _ in self.wanted}:
            self.heads.pop(asset, None)
            self.failing.pop(asset, None)

    def watch(self, keys: tuple[Key, ...]) -> Waiter:
        """Return a future that is done at the next news of one of some keys; end it with :meth:`ignore`."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        for key in keys:
            self._waiters.setdefault(key, set()).add(waiter)
        return waiter

    def ignore(self, keys: tuple[Key, ...], waiter: Waiter) -> None:
        """Forget a future."""
        waiter.cancel()
        for key in keys:
            waiters = self._waiters.get(key, set())
            waiters.discard(waiter)
            if not waiters:
                self._waiters.pop(key, None)

    def _tell(self, keys: set[Key]) -> None:
        for key in keys:
            for waiter in self._waiters.get(key, ()):
                if not waiter.done():
                    waiter.set_result(None)

    async def poll(self, store: VerdictStore) -> None:
        """Read what may have changed and tell those who wait for it, each contract as soon as it is read."""
        partitions: dict[str, list[str]] = {}
        for asset, partition in self.wanted:
            partitions.setdefault(asset, []).append(partition)
        before = store.reads
        direct = set() if store.exact else self._due_directly(len(partitions))
        unread: dict[str, set[Key]] = {}
        async for asset, head in store.aheads({asset: self.heads.get(asset) for asset in partitions}):
            if isinstance(head, StoreUnavailableError):
                self._fail(asset, partitions[asset], head)
                continue
            unread[asset] = self._take(asset, head, partitions[asset], direct)
            if len(unread) >= store.batch:
                await self._read(store, unread)
                unread = {}
        await self._read(store, unread)
        self.polls += 1
        stats.incr("airflow_ext.contracts.store_reads", store.reads - before)

    def _due_directly(self, contracts: int) -> set[Key]:
        """Return the keys longest not read, a tenth as many as there are contracts."""
        for key in self.wanted:
            self._direct.setdefault(key)
        share = contracts * (self.polls + 1) // DIRECT_SHARE - contracts * self.polls // DIRECT_SHARE
        chosen = list(self._direct)[:share]
        for key in chosen:
            self._direct[key] = self._direct.pop(key)
        return set(chosen)

    def _take(self, asset: str, head: Head, partitions: list[str], direct: set[Key]) -> set[Key]:
        """Keep a head and return the keys whose verdicts are to be read."""
        before = self.heads.get(asset)
        self.heads[asset] = head
        if before is None or (before.rule, before.promise) != (head.rule, head.promise):
            self._tell({(asset, partition) for partition in partitions})
        elif LATEST in partitions and before.entries != head.entries:
            self._tell({(asset, LATEST)})
        found = set()
        for partition in partitions:
            key = (asset, partition)
            news = key not in self._entries or self._entries[key] != head.entries.get(partition)
            if partition != LATEST and (news or key in direct):
                found.add(key)
        return found

    async def _read(self, store: VerdictStore, unread: dict[str, set[Key]]) -> None:
        keys = {key for found in unread.values() for key in found}
        try:
            verdicts = await store.averdicts(keys) if keys else {}
        except StoreUnavailableError as exc:
            for asset, found in unread.items():
                self._fail(asset, [partition for _, partition in found], exc)
            return
        for asset in unread:
            self.failing.pop(asset, None)
        changed = set()
        for key in keys & self.wanted.keys():  # everybody may have left while we read
            self._entries[key] = self.heads[key[0]].entries.get(key[1])
            verdict = verdicts.get(key)
            if verdict is not None and verdict != self.verdicts.get(key):
                self.verdicts[key] = verdict
                changed.add(key)
        self._tell(changed)

    def _fail(self, asset: str, partitions: list[str], exc: StoreUnavailableError) -> None:
        since = self.failing.get(asset, (time.monotonic(), ""))[0]
        first = asset not in self.failing
        self.failing[asset] = (since, str(exc))
        if first:  # they must know from when to count
            self._tell({(asset, partition) for partition in partitions})

    def backoff(self, poll_interval: float, spent: float = 0.0) -> float:
        """Return the seconds until the next poll: longer and longer while nothing at all can be read.

        :param spent: Seconds that the last poll took; polls begin ``poll_interval`` apart.
        """
        assets = {asset for asset, _ in self.wanted}
        if not assets or not assets <= set(self.failing):
            return max(poll_interval - spent, poll_interval / DIRECT_SHARE)
        longest = max(time.monotonic() - since for since, _ in self.failing.values())
        return min(max(poll_interval, longest), max(poll_interval, MAX_BACKOFF))


async def polls(board: Board, store: VerdictStore, poll_interval: float) -> AsyncGenerator[Any, None]:
    """Poll for ever; what is new is told through the board, to nobody but those who wait for it."""
    yield None
    while True:
        started = time.monotonic()
        await board.poll(store)
        await asyncio.sleep(board.backoff(poll_interval, time.monotonic() - started))
