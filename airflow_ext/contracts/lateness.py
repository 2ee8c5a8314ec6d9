"""Partitions that are late by what their contract promises, as somebody who waits for them knows it.

Only the contract's own promise counts, never a waiter's stricter ``available_by``: what is told to the owner
is what the owner promised.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from airflow_ext.contracts.head import Head
from airflow_ext.contracts.recipients import Recipient
from airflow_ext.contracts.store import Key
from airflow_ext.contracts.terms import Wanted
from airflow_ext.contracts.verdict import Status
from airflow_ext.contracts.waiting import Known, speaker_of

NEWS_SECONDS = 86_400.0
"""A partition that is due for longer is no news: somebody asks for it now, nobody missed it then."""

_LOOK_BACK = {
    "year": timedelta(days=800),
    "month": timedelta(days=70),
    "day": timedelta(days=9),
    "hour": timedelta(days=3),
    "minute": timedelta(hours=12),
    "second": timedelta(minutes=15),
}
"""In which a partition fell due, by what its keys count."""


@dataclass(frozen=True)
class Late:
    """A partition that is due and not published.

    :param asset: Name of the asset of the contract's major version.
    :param contract: Contract id.
    :param version: The version published last.
    :param partition: Partition key.
    :param due: When it was due, grace included, with the contract's zone.
    :param owner: Who answers for the data.
    :param support: Where to ask.
    :param last: The partition published last, with its state; empty if there is none.
    :param recipients: Who is told.
    """

    asset: str
    contract: str
    version: str
    partition: str
    due: str
    owner: str = ""
    support: str = ""
    last: str = ""
    recipients: tuple[Recipient, ...] = ()

    @property
    def key(self) -> Key:
        """Asset and partition."""
        return self.asset, self.partition


def overdue(wanted: Wanted, known: Known, now: float) -> tuple[list[Late], float | None]:
    """Return what is late of the partitions a consumer waits for, and when the next one will be.

    :param known: What was read of the store.
    :param now: Seconds since the epoch.
    :return: The late ones that are news, and seconds since the epoch or ``None``.
    """
    asset, head = speaker_of(wanted, known)
    available, rule = head.promise.available, head.rule
    if wanted.latest or available is None or rule is None or wanted.timezone not in (None, rule.timezone):
        return [], None
    life = head.promise.life(datetime.fromtimestamp(now, UTC), rule)
    if life is not None and life[0] is Status.WITHDRAWN:
        return [], None
    late, following = [], None
    for partition in wanted.partitions:
        if not rule.fits(partition) or _published(wanted, partition, known):
            continue
        due = available.deadline(rule, partition)
        moment = due.timestamp()
        if now <= moment:
            following = moment + 1 if following is None else min(following, moment + 1)
        elif now - moment <= NEWS_SECONDS:
            said = due.astimezone(rule.zone).isoformat(timespec="seconds")
            late.append(_late(wanted, asset, head, partition, said))
    return late, following


def _published(wanted: Wanted, partition: str, known: Known) -> bool:
    def there(asset: str) -> bool:
        head = known.heads.get(asset)
        return (asset, partition) in known.verdicts or (head is not None and partition in head.entries)

    return any(there(asset) for asset in wanted.range.assets)


def _late(wanted: Wanted, asset: str, head: Head, partition: str, due: str) -> Late:
    newest = max(head.entries.items(), key=lambda item: item[1].seq, default=None)
    return Late(
        asset=asset,
        contract=wanted.range.id,
        version=newest[1].version if newest else str(wanted.range),
        partition=partition,
        due=due,
        owner=head.promise.owner,
        support=head.promise.support,
        last=f"{newest[0]} ({newest[1].status})" if newest else "",
        recipients=head.promise.tell,
    )


def due_last(head: Head, now: float) -> tuple[str, datetime] | None:
    """Return the partition that was due last, and when; ``None`` if the contract promises no time.

    :param now: Seconds since the epoch.
    """
    available, rule = head.promise.available, head.rule
    if available is None or rule is None:
        return None
    moment = datetime.fromtimestamp(now, UTC)
    for key in reversed(rule.keys_within(moment - _LOOK_BACK[rule.unit], moment)):
        due = available.deadline(rule, key)
        if due < moment:
            return key, due.astimezone(rule.zone)
    return None
