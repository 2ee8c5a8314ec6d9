"""Where verdicts are kept: the protocol, and the store in Airflow's asset state.

Per major version of a contract one asset, and in its state

``p/<partition>``
    the verdict of a partition,
``head``
    status, number and version of the 200 partitions published last. It is small, so a waiter for one
    partition, or ten thousand waiters for two hundred, learn of a change by reading one key,
``old``
    the partitions that have left the head, so that their verdicts can be deleted in the end,
``late/<partition>``, ``late``
    who tells that a partition is late, see :mod:`airflow_ext.contracts.claims`.

Airflow has no compare-and-set here. A publisher that finds its entry gone right after writing ``head``
(two partitions were published in the same moment) writes it again. One that wrote ``head`` from an older
copy later still takes entries of others out, or back to what they were before; so now and then a waiter
reads ``p/...`` whatever the head says. A lost or stale entry costs time and never a verdict.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from airflow_ext.contracts import claims
from airflow_ext.contracts.claims import Claim
from airflow_ext.contracts.head import HEAD_SIZE, Entry, Head, Promise
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.ranges import asset_name
from airflow_ext.contracts.verdict import Verdict
from airflow_ext.exceptions import StoreUnavailableError

HEAD = "head"
OLD = "old"
KEPT = 1000
"""Partitions of one major version whose verdicts are kept."""
WRITE_ATTEMPTS = 5
READ_SECONDS = 30.0
"""A trigger's question to its supervisor may stay without answer for ever; then it counts as failed."""
GIVE_UP_AFTER = 3
"""Contracts that cannot be read, one after the other, before the others are not asked any more."""

_NO_ASSET = re.compile(r"Asset with name=.{1,1500} not found")

Key = tuple[str, str]
"""An asset's name and a partition."""

log = logging.getLogger(__name__)


class VerdictStore(Protocol):
    """What publishers, waiters and commands need of a store.

    Each method raises :class:`~airflow_ext.exceptions.StoreUnavailableError` if the store does not answer.
    ``reads`` counts the questions asked of it. ``exact`` says that a head is never older than the verdicts.
    ``batch`` is the number of contracts whose verdicts are best read together.
    """

    reads: int
    exact: bool
    batch: int

    def publish(self, verdict: Verdict, *, rule: PartitionRule, promise: Promise | None = None) -> Verdict:
        """Keep a verdict and return it with its number."""

    def head(self, asset: str) -> Head:
        """Return the partitions published last."""

    def verdict(self, asset: str, partition: str) -> Verdict | None:
        """Return the verdict of a partition, ``None`` if there is none."""

    def verdicts(self, keys: Collection[Key]) -> dict[Key, Verdict]:
        """Return the verdicts of partitions that have one."""

    def aheads(
        self, known: Mapping[str, Head | None]
    ) -> AsyncIterator[tuple[str, Head | StoreUnavailableError]]:
        """Read the heads of contracts from a trigger, each as soon as it is there.

        :param known: Assets, each with its head as it was read before.
        """

    async def averdicts(self, keys: Collection[Key]) -> dict[Key, Verdict]:
        """Return the verdicts of partitions that have one, from a trigger."""

    def claim_late(self, keys: Collection[Key], *, token: str, now: float) -> dict[Key, Claim]:
        """Ask to be the one who tells that partitions are late; of all who ask, one may.

        :param token: Tells this claimer from all others.
        :param now: Seconds since the epoch.
        """

    def note_late_told(self, asset: str, partition: str, *, token: str, now: float) -> None:
        """Write down that the notice went out."""

    def late_claimed(self, asset: str, partition: str) -> bool:
        """Say whether somebody told, or is about to tell, that a partition is late."""


class AssetState(Protocol):
    """The part of Airflow's ``AssetStateStoreAccessor`` that is used."""

    def get(self, key: str, default: Any = None) -> Any:
        """Read a key."""

    def set(self, key: str, value: Any) -> None:
        """Write a key."""

    def delete(self, key: str) -> None:
        """Remove a key."""

    async def aget(self, key: str, default: Any = None) -> Any:
        """Read a key from a trigger."""


class AssetVerdictStore:
    """Verdicts in the state of the contract's assets.

    :param state_of: Returns the state of the asset with a name.
    :param kept: Partitions of one major version whose verdicts are kept, at least 200.
    :param settle: Waits so many seconds.
    """

    exact = False
    batch = 1

    def __init__(
        self,
        state_of: Callable[[str], AssetState],
        *,
        kept: int = KEPT,
        settle: Callable[[float], None] = time.sleep,
    ) -> None:
        self._state_of = state_of
        self._settle = settle
        self._kept = kept
        self.reads = 0

    def publish(self, verdict: Verdict, *, rule: PartitionRule, promise: Promise | None = None) -> Verdict:
        """Keep a verdict and return it with its number.

        :param rule: How the contract writes partition keys.
        :param promise: What else the contract says; ``None`` leaves what was said before.
        """
        verdict = verdict.bounded()
        asset = asset_name(verdict.contract, verdict.major)
        earlier = self.verdict(asset, verdict.partition)
        for _ in range(WRITE_ATTEMPTS):
            head = self.head(asset)
            seq = max(head.seq, earlier.seq if earlier else 0) + 1
            numbered = verdict.numbered(seq)
            entry = Entry(verdict.status, seq, verdict.version)
            after = head.with_entry(verdict.partition, entry, rule, promise)
            with _answering(asset):
                state = self._state_of(asset)
                state.set(f"p/{verdict.partition}", numbered.to_dict())
                state.set(HEAD, after.to_dict())
            if self.head(asset).entries.get(verdict.partition) == entry:
                self._prune(asset, after, [key for key in head.entries if key not in after.entries])
                return numbered
        raise StoreUnavailableError(
            f"The head of {asset} was overwritten {WRITE_ATTEMPTS} times while publishing {verdict.partition}: "
            "too many tasks publish this contract at once",
            service=f"state of asset {asset}",
        )

    def _prune(self, asset: str, head: Head, left: list[str]) -> None:
        """Remember what has left the head, and delete the verdicts of what left it long ago."""
        if not left:
            return
        try:
            with _answering(asset):
                state = self._state_of(asset)
                found = state.get(OLD)
                before = [key for key in found if isinstance(key, str)] if isinstance(found, list) else []
                old = [key for key in dict.fromkeys([*before, *left]) if key not in head.entries]
                keep = max(self._kept - HEAD_SIZE, 0)
                for key in old[: len(old) - keep]:
                    state.delete(f"p/{key}")
                state.set(OLD, old[max(len(old) - keep, 0) :])
        except StoreUnavailableError as exc:
            # the verdict is published; the next publication prunes
            log.warning("Old verdicts of %s stay: %s", asset, exc)

    def head(self, asset: str) -> Head:
        """Return the partitions published last."""
        self.reads += 1
        with _answering(asset):
            return Head.from_dict(self._state_of(asset).get(HEAD))

    def verdict(self, asset: str, partition: str) -> Verdict | None:
        """Return the verdict of a partition, ``None`` if there is none."""
        self.reads += 1
        with _answering(asset):
            return _read(self._state_of(asset).get(f"p/{partition}"))

    def verdicts(self, keys: Collection[Key]) -> dict[Key, Verdict]:
        """Return the verdicts of partitions that have one."""
        found = {key: self.verdict(*key) for key in keys}
        return {key: verdict for key, verdict in found.items() if verdict is not None}

    async def aheads(
        self, known: Mapping[str, Head | None]
    ) -> AsyncIterator[tuple[str, Head | StoreUnavailableError]]:
        """Read the heads one by one; once three in a row do not answer, the others are not asked."""
        failed = 0
        for asset in known:
            if failed >= GIVE_UP_AFTER:
                yield asset, StoreUnavailableError("not asked, the store does not answer for others either")
                continue
            try:
                head = Head.from_dict(await self._ask(asset, HEAD))
                failed = 0
                yield asset, head
            except StoreUnavailableError as exc:
                failed += 1
                yield asset, exc
            except ValueError as exc:
                yield asset, _broken(asset, exc)

    async def averdicts(self, keys: Collection[Key]) -> dict[Key, Verdict]:
        """Return the verdicts of partitions that have one, from a trigger."""
        found = {}
        for asset, partition in keys:
            value = await self._ask(asset, f"p/{partition}")
            try:
                if (verdict := _read(value)) is not None:
                    found[asset, partition] = verdict
            except ValueError as exc:
                raise _broken(asset, exc) from exc
        return found

    def claim_late(self, keys: Collection[Key], *, token: str, now: float) -> dict[Key, Claim]:
        """Ask to be the one who tells that partitions are late; takes five seconds where nobody did yet."""
        with _answering(", ".join(sorted({asset for asset, _ in keys}))):
            return claims.claim(self._state_of, keys, token=token, now=now, settle=self._settle)

    def note_late_told(self, asset: str, partition: str, *, token: str, now: float) -> None:
        """Write down that the notice went out."""
        with _answering(asset):
            claims.note_told(self._state_of(asset), partition, token=token, now=now)

    def late_claimed(self, asset: str, partition: str) -> bool:
        """Say whether somebody told, or is about to tell, that a partition is late."""
        with _answering(asset):
            return self._state_of(asset).get(claims.name_of(partition)) is not None

    async def _ask(self, asset: str, key: str) -> Any:
        self.reads += 1
        with _answering(asset):
            async with asyncio.timeout(READ_SECONDS):
                return await self._state_of(asset).aget(key)


def _read(value: Any) -> Verdict | None:
    return None if value is None else Verdict.from_dict(value)


def _broken(asset: str, exc: ValueError) -> StoreUnavailableError:
    return StoreUnavailableError(f"The verdicts of {asset} cannot be read: {exc}", service=asset)


@contextmanager
def _answering(asset: str) -> Iterator[None]:
    """Turn whatever goes wrong between us and the store into one error."""
    try:
        yield
    except Exception as exc:
        text = f"The verdicts of {asset} cannot be reached: {type(exc).__name__}: {str(exc)[:300]}"
        if _NO_ASSET.search(str(exc)):
            text = (
                f"The asset {asset} is not known to Airflow, so it keeps no verdicts: an asset has state while a DAG "
                "names it as inlet, outlet or schedule. A task made with partial().expand() does not name its "
                f"own: pass partial(outlets=[contract.asset, AssetAlias('{asset}/unkeyed')]) to a publisher, "
                f"partial(inlets=[Asset(name='{asset}')]) to a sensor"
            )
        raise StoreUnavailableError(text, service=f"state of asset {asset}") from exc
