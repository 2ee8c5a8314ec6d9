"""What one triggerer knows of the contracts that somebody waits for, read once for all of them."""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from airflow.sdk.execution_time.context import AssetStateStoreAccessor
from airflow.sdk.observability import stats

from airflow_ext.contracts.head import Entry, Head
from airflow_ext.contracts.store import GIVE_UP_AFTER, HEAD, READ_SECONDS, Key, VerdictStore
from airflow_ext.contracts.terms import LATEST
from airflow_ext.contracts.verdict import Verdict
from airflow_ext.contracts.waiting import Known
from airflow_ext.exceptions import StoreUnavailableError

MAX_BACKOFF = 60.0
TURNS, MIN_TURN = 20, 1.0
"""Turns that a poll interval is divided into, and how many seconds one takes at least."""
READ_WITHIN = 0.85
"""Part of the poll interval in which everything is read once: a triggerer needs the rest to end those who waited."""
DIRECT_SHARE = 10
"""One in so many polls reads a verdict for which the head has no news: its entry may have been pushed out of
the head, or a publisher of another partition may have written back an older one. With many partitions per
contract it is rarer, so that waiters never cost much more than one read per contract and poll.
"""

AT_ONCE, PAUSE, FETCHED = 1000, 0.5, 2.5
"""Waiters that are released before the triggerer has written their ends, seconds between two questions whether it
has, and after how many it has fetched the event of a trigger: it does so about once a second.
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
    _read_heads: int = 0
    _looks: Counter[str] = field(default_factory=Counter)
    _woken: deque[float] = field(default_factory=deque)

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
            self._looks.pop(asset, None)

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

    async def _release(self, keys: set[Key]) -> None:
        """Wake those who wait for some keys, no more than the triggerer can end in some seconds.

        It writes the ends of tasks one by one, some milliseconds each, and all that it has before it gives a sign of
        life: given thousands at once it counts as dead, and others start its triggers again. It answers questions only
        between, so an answer tells that what it had before the question is written.
        """
        for waiter in [waiter for key in keys for waiter in self._waiters.get(key, ())]:
            while len(self._woken) >= AT_ONCE:
                # an answer to a question asked earlier would tell nothing
                fetched = self._woken[0] + FETCHED - time.monotonic()
                await asyncio.sleep(max(fetched, PAUSE))
                asked = time.monotonic()
                await _ask(next(iter(keys))[0])
                self._answered(asked)
            if not waiter.done():
                waiter.set_result(None)
                self._woken.append(time.monotonic())

    def _answered(self, asked: float) -> None:
        """Take note that the triggerer has answered a question of some moment."""
        while self._woken and self._woken[0] <= asked - FETCHED:
            self._woken.popleft()

    def due(self, after: float, until: float, poll_interval: float) -> set[str]:
        """Return the contracts whose moment came between two moments, and those not read yet.

        Each has its own in the interval, so that neither are two hundred read in a row, while the triggerer has no
        answer for anybody else, nor are all waiters released together that were told of at once.
        """
        found = set()
        for asset in {asset for asset, _ in self.wanted}:
            own = zlib.crc32(asset.encode()) / 2**32 * poll_interval
            came = math.floor((until - own) / poll_interval) > math.floor((after - own) / poll_interval)
            if came or not (asset in self.heads or asset in self.failing):
                found.add(asset)
        return found

    async def poll(self, store: VerdictStore, assets: Collection[str] | None = None) -> None:
        """Read what may have changed and tell those who wait for it, each contract as soon as it is read.

        :param assets: Contracts to read; ``None`` for all that somebody waits for.
        """
        partitions: dict[str, list[str]] = {}
        for asset, partition in self.wanted:
            if assets is None or asset in assets:
                partitions.setdefault(asset, []).append(partition)
        if not partitions:
            return
        before = store.reads
        if not store.exact:
            for asset in await self._look(store, partitions):
                del partitions[asset]
        await self._read_heads_of(store, partitions)
        self.polls += 1
        stats.incr("airflow_ext.contracts.store_reads", store.reads - before)

    async def _look(self, store: VerdictStore, partitions: Mapping[str, list[str]]) -> set[str]:
        """Read the verdicts themselves where all wait for one and return the contracts that need no look at the head.

        Then the head, which only tells rules and promises, is read every tenth time, and before a verdict of a
        version that it does not have: what else a contract says changes with its version.
        """
        looked: set[str] = set()
        failed = 0
        for asset, keys in partitions.items():
            head = self.heads.get(asset)
            if (
                len(keys) > 1
                or keys[0] == LATEST
                or asset in self.failing
                or head is None
                or head.rule is None
            ):
                continue
            self._looks[asset] += 1
            if (self._looks[asset] + zlib.crc32(asset.encode())) % DIRECT_SHARE == 0:
                continue
            key, asked = (asset, keys[0]), time.monotonic()
            try:
                verdict = (await store.averdicts({key})).get(key)
            except StoreUnavailableError as exc:
                self._fail(asset, keys, exc)
                looked.add(asset)
                failed += 1
                if failed >= GIVE_UP_AFTER:
                    break
                continue
            self._answered(asked)
            news = verdict is not None and verdict != self.verdicts.get(key)
            if (
                news
                and verdict is not None
                and verdict.version not in {e.version for e in head.entries.values()}
            ):
                continue
            looked.add(asset)
            if news and verdict is not None and key in self.wanted:
                self.verdicts[key] = verdict
                await self._release({key})
        return looked

    async def _read_heads_of(self, store: VerdictStore, partitions: Mapping[str, list[str]]) -> None:
        direct = set() if store.exact else self._due_directly(partitions)
        unread: dict[str, set[Key]] = {}
        async for asset, head in store.aheads({asset: self.heads.get(asset) for asset in partitions}):
            if not any((asset, key) in self.wanted for key in partitions[asset]):
                continue  # everybody has left while others were read; it would only get stale
            if isinstance(head, StoreUnavailableError):
                self._fail(asset, partitions[asset], head)
                continue
            pushed_out = self._pushed_out(asset, head, partitions[asset]) if store.exact else set()
            unread[asset] = self._take(asset, head, partitions[asset], direct | pushed_out)
            if len(unread) >= store.batch:
                await self._read(store, unread)
                unread = {}
        await self._read(store, unread)

    def _due_directly(self, partitions: Mapping[str, list[str]]) -> set[Key]:
        """Return the keys longest not read of some contracts, a tenth as many as there are contracts."""
        for key in self.wanted:
            self._direct.setdefault(key)
        self._read_heads += len(partitions)
        share = self._read_heads // DIRECT_SHARE - (self._read_heads - len(partitions)) // DIRECT_SHARE
        chosen = [key for key in self._direct if key[0] in partitions][:share]
        for key in chosen:
            self._direct[key] = self._direct.pop(key)
        return set(chosen)

    def _pushed_out(self, asset: str, head: Head, partitions: list[str]) -> set[Key]:
        """Return the keys that may have been published and left the head again since it was read before."""
        before = self.heads.get(asset)
        if before is None:
            return set()
        seen = sum(entry.seq > before.seq for entry in head.entries.values())
        missed = head.seq - before.seq > seen
        return {(asset, key) for key in partitions if missed and key not in head.entries}

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
        await self._release(changed)

    def _fail(self, asset: str, partitions: list[str], exc: StoreUnavailableError) -> None:
        since = self.failing.get(asset, (time.monotonic(), ""))[0]
        first = asset not in self.failing
        self.failing[asset] = (since, str(exc))
        if first:  # they must know from when to count
            self._tell({(asset, partition) for partition in partitions})

    @property
    def blind(self) -> bool:
        """Whether nothing at all can be read of what somebody waits for."""
        assets = {asset for asset, _ in self.wanted}
        return bool(assets) and assets <= set(self.failing)

    def backoff(self, poll_interval: float) -> float:
        """Return the seconds until the next poll of a blind board: longer and longer."""
        longest = max(time.monotonic() - since for since, _ in self.failing.values())
        return min(max(poll_interval, longest), max(poll_interval, MAX_BACKOFF))


async def _ask(asset: str) -> None:
    """Return once the triggerer has time to answer whatever question."""
    with suppress(Exception):  # a refusal is an answer too
        async with asyncio.timeout(READ_SECONDS):
            await AssetStateStoreAccessor(name=asset).aget(HEAD)


async def polls(board: Board, store: VerdictStore, poll_interval: float) -> AsyncGenerator[Any, None]:
    """Poll for ever; what is new is told through the board, to nobody but those who wait for it.

    Each contract is read once in the greater part of an interval, so that those who wait have gone on by its end: all
    together where one question does for all, else each in its turn.
    """
    yield None
    poll_interval *= READ_WITHIN
    turn = poll_interval if store.exact else min(poll_interval, max(poll_interval / TURNS, MIN_TURN))
    last: float | None = None
    while True:
        now = time.monotonic()
        together = last is None or turn == poll_interval
        await board.poll(store, None if together or last is None else board.due(last, now, poll_interval))
        if board.blind:
            last = None
            await asyncio.sleep(board.backoff(poll_interval))
        else:
            last = now
            await asyncio.sleep(max(turn - (time.monotonic() - now), turn / DIRECT_SHARE))
