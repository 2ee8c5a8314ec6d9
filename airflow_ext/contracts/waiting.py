"""What the verdicts published so far mean for one waiting consumer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.ranges import ContractRange
from airflow_ext.contracts.store import Head, VerdictStore
from airflow_ext.contracts.verdict import Status, Verdict


@dataclass(frozen=True)
class Seen:
    """What a consumer sees of the contract it waits for.

    :param status: ``PASS``, ``WARN`` or ``BREACHED`` of ``verdict``; ``NOT_PUBLISHED`` without one;
        ``VERSION_MISMATCH`` if it is of a version outside the range; ``PARTITION_MISMATCH`` if the
        publisher writes partition keys otherwise; ``STORE_UNAVAILABLE`` if nothing can be known.
    :param detail: What else is worth telling.
    """

    status: Status
    verdict: Verdict | None = None
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "status": str(self.status),
            "verdict": self.verdict.to_dict() if self.verdict else None,
            "detail": self.detail,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Seen:
        """Read what :meth:`to_dict` wrote.

        :raises ValueError: If it is something else.
        """
        try:
            verdict = Verdict.from_dict(value["verdict"]) if value["verdict"] else None
            return cls(Status(value["status"]), verdict, str(value["detail"]))
        except (KeyError, TypeError) as exc:
            raise ValueError(f"not what a waiter sees: {type(exc).__name__} at {exc}") from exc

    def ends(self, on_breach: str) -> bool:
        """Say whether waiting is over."""
        if self.status in (Status.NOT_PUBLISHED, Status.STORE_UNAVAILABLE):
            return False
        return not (self.status is Status.BREACHED and on_breach == "wait")


def look(
    wanted: ContractRange,
    partition: str,
    verdicts: Mapping[str, Verdict],
    rules: Mapping[str, PartitionRule | None],
    timezone: str | None = None,
) -> Seen:
    """Say what is seen of a partition.

    Of several majors in the range the highest that holds counts; a breach counts if none holds.

    :param verdicts: Verdict of the partition by asset, of the assets that have one.
    :param rules: How the publisher of each asset writes keys, as far as known.
    :param timezone: Zone in which the waiter derived the key from a point in time, ``None`` if it was told
        the key. A publisher in another zone means another span of time by the same key.
    """
    known = [rule for asset in wanted.assets if (rule := rules.get(asset)) is not None]
    elsewhere = {
        asset for asset, rule in rules.items() if timezone and rule is not None and rule.timezone != timezone
    }
    if known and all(rules.get(asset) is None or asset in elsewhere for asset in wanted.assets):
        return Seen(
            Status.PARTITION_MISMATCH,
            detail=f"the publisher's keys are dates and times of {known[0].timezone}, this one was derived in "
            f"{timezone}; give the sensor timezone={known[0].timezone!r}",
        )
    published = [
        verdicts[asset] for asset in reversed(wanted.assets) if asset in verdicts and asset not in elsewhere
    ]
    matching = [verdict for verdict in published if verdict.version in wanted]
    best = next((verdict for verdict in matching if verdict.status.holds), matching[0] if matching else None)
    if best is not None:
        return Seen(best.status, best)
    if published:
        found = ", ".join(verdict.version for verdict in published)
        return Seen(Status.VERSION_MISMATCH, published[0], f"published is version {found}")
    if known and not any(rule.fits(partition) for rule in known):
        return Seen(
            Status.PARTITION_MISMATCH,
            detail=f"the publisher writes partition keys as {known[0].format!r} in {known[0].timezone}",
        )
    return Seen(Status.NOT_PUBLISHED)


def look_in_store(
    wanted: ContractRange, partition: str, store: VerdictStore, timezone: str | None = None
) -> Seen:
    """Read what is seen of a partition now.

    :param timezone: See :func:`look`.
    :raises StoreUnavailableError: If the store does not answer.
    """
    verdicts: dict[str, Verdict] = {}
    rules: dict[str, PartitionRule | None] = {}
    for asset in wanted.assets:
        if (verdict := store.verdict(asset, partition)) is not None:
            verdicts[asset] = verdict
    if not verdicts or timezone is not None:
        heads: dict[str, Head] = {asset: store.head(asset) for asset in wanted.assets}
        rules = {asset: head.rule for asset, head in heads.items()}
    return look(wanted, partition, verdicts, rules, timezone)
