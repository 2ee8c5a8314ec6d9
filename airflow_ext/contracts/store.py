"""Where verdicts are kept: the protocol, and the store in Airflow's asset state.

Per major version of a contract one asset, and in its state

``p/<partition>``
    the verdict of a partition,
``head``
    status, number and version of the 200 partitions published last. It is small, so a waiter for one
    partition, or ten thousand waiters for two hundred, learn of a change by reading one key.

Airflow has no compare-and-set here. A publisher that finds its entry gone right after writing ``head``
(two partitions were published in the same moment) writes it again. One that wrote ``head`` from an older
copy later still takes entries of others out, or back to what they were before; so every tenth poll a waiter
reads ``p/...`` whatever the head says. A lost or stale entry costs time and never a verdict.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.ranges import asset_name
from airflow_ext.contracts.verdict import Status, Verdict
from airflow_ext.exceptions import StoreUnavailableError

HEAD = "head"
HEAD_SIZE = 200
WRITE_ATTEMPTS = 5
_NO_ASSET = re.compile(r"Asset with name=.{1,1500} not found")
READ_SECONDS = 30.0
"""A trigger's question to its supervisor may stay without answer for ever; then it counts as failed."""


@dataclass(frozen=True)
class Entry:
    """One partition in the head."""

    status: Status
    seq: int
    version: str


@dataclass(frozen=True)
class Head:
    """The partitions published last.

    :param rule: How the publisher writes partition keys; ``None`` before the first verdict.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    rule: PartitionRule | None = None

    @property
    def seq(self) -> int:
        """The highest number given so far."""
        return max((entry.seq for entry in self.entries.values()), default=0)

    def with_entry(self, partition: str, entry: Entry, rule: PartitionRule) -> Head:
        """Return the head after a publication, without what no longer fits."""
        entries = {**self.entries, partition: entry}
        kept = sorted(entries.items(), key=lambda item: item[1].seq)[-HEAD_SIZE:]
        return Head(dict(kept), rule)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        rule = self.rule or PartitionRule()
        return {
            "format": rule.format,
            "timezone": rule.timezone,
            "partitions": {key: [str(e.status), e.seq, e.version] for key, e in self.entries.items()},
        }

    @classmethod
    def from_dict(cls, value: Any) -> Head:
        """Read what :meth:`to_dict` wrote.

        :raises ValueError: If it is not a head.
        """
        if value is None:
            return cls()
        try:
            entries = {
                key: Entry(Status(status), seq, version)
                for key, (status, seq, version) in value["partitions"].items()
            }
            return cls(entries, PartitionRule(value["format"], value["timezone"]))
        except (AttributeError, KeyError, TypeError) as exc:
            raise ValueError(f"not the head of a contract: {type(exc).__name__} at {exc}") from exc


class VerdictStore(Protocol):
    """What publishers, waiters and commands need of a store.

    Each method raises :class:`~airflow_ext.exceptions.StoreUnavailableError` if the store does not answer.
    """

    def publish(self, verdict: Verdict, *, rule: PartitionRule) -> Verdict:
        """Keep a verdict and return it with its number."""

    def head(self, asset: str) -> Head:
        """Return the partitions published last."""

    def verdict(self, asset: str, partition: str) -> Verdict | None:
        """Return the verdict of a partition, ``None`` if there is none."""

    async def ahead(self, asset: str) -> Head:
        """Return the partitions published last, from a trigger."""

    async def averdict(self, asset: str, partition: str) -> Verdict | None:
        """Return the verdict of a partition, from a trigger."""


class AssetState(Protocol):
    """The part of Airflow's ``AssetStateStoreAccessor`` that is used."""

    def get(self, key: str, default: Any = None) -> Any:
        """Read a key."""

    def set(self, key: str, value: Any) -> None:
        """Write a key."""

    async def aget(self, key: str, default: Any = None) -> Any:
        """Read a key from a trigger."""


class AssetVerdictStore:
    """Verdicts in the state of the contract's assets.

    :param state_of: Returns the state of the asset with a name.
    """

    def __init__(self, state_of: Callable[[str], AssetState]) -> None:
        self._state_of = state_of

    def publish(self, verdict: Verdict, *, rule: PartitionRule) -> Verdict:
        """Keep a verdict and return it with its number.

        :param rule: How the contract writes partition keys.
        """
        asset = asset_name(verdict.contract, verdict.major)
        earlier = self.verdict(asset, verdict.partition)
        for _ in range(WRITE_ATTEMPTS):
            head = self.head(asset)
            seq = max(head.seq, earlier.seq if earlier else 0) + 1
            numbered = verdict.numbered(seq)
            entry = Entry(verdict.status, seq, verdict.version)
            with _answering(asset):
                state = self._state_of(asset)
                state.set(f"p/{verdict.partition}", numbered.to_dict())
                state.set(HEAD, head.with_entry(verdict.partition, entry, rule).to_dict())
            if self.head(asset).entries.get(verdict.partition) == entry:
                return numbered
        raise StoreUnavailableError(
            f"The head of {asset} was overwritten {WRITE_ATTEMPTS} times while publishing {verdict.partition}: "
            "too many tasks publish this contract at once",
            service=f"state of asset {asset}",
        )

    def head(self, asset: str) -> Head:
        """Return the partitions published last."""
        with _answering(asset):
            return Head.from_dict(self._state_of(asset).get(HEAD))

    def verdict(self, asset: str, partition: str) -> Verdict | None:
        """Return the verdict of a partition, ``None`` if there is none."""
        with _answering(asset):
            return _read(self._state_of(asset).get(f"p/{partition}"))

    async def ahead(self, asset: str) -> Head:
        """Return the partitions published last, from a trigger."""
        with _answering(asset):
            async with asyncio.timeout(READ_SECONDS):
                return Head.from_dict(await self._state_of(asset).aget(HEAD))

    async def averdict(self, asset: str, partition: str) -> Verdict | None:
        """Return the verdict of a partition, from a trigger."""
        with _answering(asset):
            async with asyncio.timeout(READ_SECONDS):
                return _read(await self._state_of(asset).aget(f"p/{partition}"))


def _read(value: Any) -> Verdict | None:
    return None if value is None else Verdict.from_dict(value)


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
