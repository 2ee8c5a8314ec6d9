"""What the verdicts published so far mean for one waiting consumer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from airflow_ext.contracts.head import Head
from airflow_ext.contracts.store import Key, VerdictStore
from airflow_ext.contracts.terms import GO, WAIT, Terms, Wanted
from airflow_ext.contracts.verdict import Status, Verdict

_NAMED = 5
"""Partitions that a message names one by one."""


@dataclass(frozen=True)
class Known:
    """What was read of a store.

    :param heads: Heads by asset, of the assets that could be read.
    :param verdicts: Verdicts by asset and partition.
    """

    heads: Mapping[str, Head] = field(default_factory=dict)
    verdicts: Mapping[Key, Verdict] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What a consumer sees of the contract it waits for.

    :param status: State of the contract, see :class:`Status`.
    :param verdict: The verdict that decides, ``None`` without one.
    :param detail: What else is worth telling.
    :param good: Partitions that hold, where several are wanted.
    :param owner: Who answers for the data, as far as the publisher said without a verdict.
    :param support: Where to ask.
    """

    status: Status
    verdict: Verdict | None = None
    detail: str = ""
    good: tuple[str, ...] = ()
    owner: str = ""
    support: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "status": str(self.status),
            "verdict": self.verdict.to_dict() if self.verdict else None,
            "detail": self.detail,
            "good": list(self.good),
            "owner": self.owner,
            "support": self.support,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Seen:
        """Read what :meth:`to_dict` of this or an earlier version wrote.

        :raises ValueError: If it is something else.
        """
        try:
            verdict = Verdict.from_dict(value["verdict"]) if value["verdict"] else None
            return cls(
                Status(value["status"]),
                verdict,
                str(value["detail"]),
                tuple(value.get("good", ())),
                str(value.get("owner", "")),
                str(value.get("support", "")),
            )
        except (KeyError, TypeError) as exc:
            raise ValueError(f"not what a waiter sees: {type(exc).__name__} at {exc}") from exc

    def answer(self, wanted: Wanted) -> dict[str, Any]:
        """Return what the waiting task hands on: the verdict, or what is known of several partitions."""
        if self.verdict is not None and not wanted.several:
            return self.verdict.to_dict()
        return {
            "contract": wanted.range.id,
            "status": str(self.status),
            "partitions": list(self.good),
            "missing": [key for key in wanted.partitions if key not in self.good],
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Decision:
    """What follows from what is seen.

    :param action: One of :data:`airflow_ext.contracts.terms.ACTIONS`.
    :param recheck: When time alone may change the decision, in seconds since the epoch; ``None`` if never.
    """

    action: str
    seen: Seen
    recheck: float | None = None


def decide(wanted: Wanted, known: Known, now: float) -> Decision:
    """Say what a consumer does now.

    :param known: What was read of the store.
    :param now: Seconds since the epoch.
    """
    if wanted.latest:
        return _latest(wanted, known, now)
    if not wanted.several:
        return _one(wanted, wanted.partitions[0], known, now)
    return _several(wanted, {key: _one(wanted, key, known, now) for key in wanted.partitions})


def _several(wanted: Wanted, each: Mapping[str, Decision]) -> Decision:
    needed = len(each) if wanted.terms.at_least is None else min(wanted.terms.at_least, len(each))
    good = tuple(key for key, decision in each.items() if decision.action == GO)
    waiting = [key for key, decision in each.items() if decision.action == WAIT]
    rechecks = [decision.recheck for decision in each.values() if decision.recheck is not None]
    recheck = min(rechecks, default=None)
    detail = f"{len(good)} of {len(each)} partitions hold, {needed} are needed"
    if len(good) >= needed:
        weakest = next(
            (d.seen for k, d in each.items() if k in good and d.seen.status is not Status.PASS), None
        )
        status = Status.PASS if weakest is None else weakest.status
        return Decision(GO, Seen(status, None, detail, good), recheck)
    if len(good) + len(waiting) < needed:
        worst = next(d for d in each.values() if d.action not in (GO, WAIT))
        seen = replace(worst.seen, detail="; ".join(filter(None, (worst.seen.detail, detail))), good=good)
        return replace(worst, seen=seen)
    named = ", ".join(waiting[:_NAMED])
    more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
    first = each[waiting[0]].seen
    return Decision(WAIT, replace(first, detail=f"{detail}; not there: {named}{more}", good=good), recheck)


def _one(wanted: Wanted, partition: str, known: Known, now: float) -> Decision:
    seen, recheck = _look(wanted, partition, known, now)
    aside = seen.verdict.quarantine if seen.verdict is not None else None
    action = wanted.terms.action(seen.status, whole=aside is not None and aside.what == "partition")
    unknown_after = wanted.terms.unknown_after
    if seen.status is Status.NOT_PUBLISHED and unknown_after is not None and _silent(wanted, known):
        until = wanted.since + unknown_after
        if now >= until:
            detail = f"nothing was ever published under this contract in {unknown_after:g} s of waiting"
            return Decision(wanted.terms.on_unknown, replace(seen, detail=detail))
        recheck = min(until, recheck or until)
    return Decision(action, seen, recheck)


def _silent(wanted: Wanted, known: Known) -> bool:
    """Whether every contract was read and none has ever published."""
    return all(asset in known.heads and known.heads[asset].rule is None for asset in wanted.range.assets)


def _look(wanted: Wanted, partition: str, known: Known, now: float) -> tuple[Seen, float | None]:
    """Return what is seen of a partition, and when time alone may change that.

    Of several majors in the range the highest that holds counts; a breach counts if none holds.
    """
    assets = wanted.range.assets
    rules = {asset: head.rule for asset, head in known.heads.items() if asset in assets and head.rule}
    elsewhere = {asset for asset, rule in rules.items() if wanted.timezone not in (None, rule.timezone)}
    if rules and all(asset in elsewhere or asset not in rules for asset in assets) and elsewhere:
        theirs = rules[min(elsewhere)].timezone
        detail = (
            f"the publisher's keys are dates and times of {theirs}, this one was derived in {wanted.timezone}; "
            f"give the sensor timezone={theirs!r}"
        )
        return Seen(Status.PARTITION_MISMATCH, detail=detail), None
    published = [
        (asset, known.verdicts[asset, partition].seen_by(wanted.terms.uses))
        for asset in reversed(assets)
        if (asset, partition) in known.verdicts and asset not in elsewhere
    ]
    matching = [item for item in published if item[1].version in wanted.range]
    best = next((item for item in matching if item[1].status.holds), matching[0] if matching else None)
    if best is not None:
        return _of_verdict(*best, known, now), None
    if published:
        found = ", ".join(verdict.version for _, verdict in published)
        return Seen(Status.VERSION_MISMATCH, published[0][1], f"published is version {found}"), None
    if rules and not any(rule.fits(partition) for rule in rules.values()):
        rule = rules[min(rules)]
        detail = f"the publisher writes partition keys as {rule.format!r} in {rule.timezone}"
        return Seen(Status.PARTITION_MISMATCH, detail=detail), None
    return _unpublished(wanted, partition, known, now)


def _of_verdict(asset: str, verdict: Verdict, known: Known, now: float) -> Seen:
    head = known.heads.get(asset)
    life = head.promise.life(_moment(now), head.rule) if head and head.rule else None
    if verdict.status.holds and life is not None:
        return Seen(Status.DEPRECATED, verdict, life[1])
    return Seen(verdict.status, verdict)


def _unpublished(wanted: Wanted, partition: str, known: Known, now: float) -> tuple[Seen, float | None]:
    spoken = _spoken(wanted, known)
    speaker = speaker_of(wanted, known)[1]
    base = Seen(Status.NOT_PUBLISHED, owner=speaker.promise.owner, support=speaker.promise.support)
    lives = [head.promise.life(_moment(now), head.rule) for head in spoken.values() if head.rule]
    if spoken and all(life is not None and life[0] is Status.WITHDRAWN for life in lives):
        detail = lives[0][1] if lives[0] else ""
        return replace(
            base, status=Status.WITHDRAWN, detail=f"{detail}, and the partition is not there"
        ), None
    available = wanted.terms.available or speaker.promise.available
    rule = speaker.rule or wanted.rule
    if available is None or not rule.fits(partition):
        return base, None
    due = available.deadline(rule, partition)
    if now <= due.timestamp():
        return base, due.timestamp() + 1
    detail = f"due {due.astimezone(rule.zone).isoformat(timespec='seconds')}, grace included"
    return replace(base, status=Status.LATE, detail=detail), None


def _spoken(wanted: Wanted, known: Known) -> dict[str, Head]:
    heads = {asset: known.heads[asset] for asset in wanted.range.assets if asset in known.heads}
    return {asset: head for asset, head in heads.items() if head.rule is not None}


def speaker_of(wanted: Wanted, known: Known) -> tuple[str, Head]:
    """Return asset and head of the highest major in the range that ever published; empty ones without."""
    return next(reversed(_spoken(wanted, known).items()), ("", Head()))


def _latest(wanted: Wanted, known: Known, now: float) -> Decision:
    found = newest_good(wanted, known.heads, until=None, verdicts=known.verdicts)
    if found is None:
        heads = [known.heads[asset] for asset in wanted.range.assets if asset in known.heads]
        promise = heads[-1].promise if heads else Head().promise
        return Decision(WAIT, Seen(Status.NOT_PUBLISHED, owner=promise.owner, support=promise.support))
    asset, partition, ends = found
    age = now - ends.timestamp()
    limit = wanted.terms.max_staleness
    if limit is not None and age > limit:
        detail = (
            f"the newest partition that holds is {partition}, {age:.0f} s past its end; at most {limit:g} s"
        )
        return Decision(WAIT, Seen(Status.NOT_PUBLISHED, None, detail))
    verdict = known.verdicts.get((asset, partition))
    seen = _of_verdict(asset, verdict, known, now) if verdict is not None else Seen(Status.PASS)
    return Decision(GO, replace(seen, good=(partition,)))


def newest_good(
    wanted: Wanted,
    heads: Mapping[str, Head],
    *,
    until: str | None,
    verdicts: Mapping[Key, Verdict] | None = None,
) -> tuple[str, str, datetime] | None:
    """Return asset, key and end of the newest partition that holds, of a version in the range.

    :param until: Only partitions that end before this one does, and not longer before than the terms allow;
        ``None`` looks at all.
    :param verdicts: What was read beside the heads. A head may be older than the verdicts, which are what counts.
    """
    read = verdicts or {}
    best: tuple[str, str, datetime] | None = None
    for asset in wanted.range.assets:
        head = heads.get(asset)
        if head is None or head.rule is None:
            continue
        last = head.rule.instants(until)[1] if until is not None and head.rule.fits(until) else None
        for key, entry in head.entries.items():
            if not entry.status.holds or entry.version not in wanted.range or not head.rule.fits(key):
                continue
            verdict = read.get((asset, key))
            if verdict is not None and not (verdict.status.holds and verdict.version in wanted.range):
                continue
            ends = head.rule.instants(key)[1]
            if until is not None and not _usable(ends, last, wanted.terms):
                continue
            if best is None or ends >= best[2]:
                best = (asset, key, ends)
    return best


def _usable(ends: datetime, last: datetime | None, terms: Terms) -> bool:
    if last is None or ends >= last:
        return False
    return terms.max_staleness is None or (last - ends).total_seconds() <= terms.max_staleness


def _moment(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)


def look_in_store(wanted: Wanted, store: VerdictStore, now: float) -> Decision:
    """Read what is known of a consumer's partitions, and decide.

    :raises StoreUnavailableError: If the store does not answer.
    """
    return decide(wanted, read_known(wanted, store), now)


def read_known(wanted: Wanted, store: VerdictStore) -> Known:
    """Read what is known of a consumer's partitions.

    :raises StoreUnavailableError: If the store does not answer.
    """
    heads = {asset: store.head(asset) for asset in wanted.range.assets}
    if wanted.latest:
        return Known(heads, _read_newest(wanted, heads, store, until=None)[1])
    keys = [(asset, partition) for asset in wanted.range.assets for partition in wanted.partitions]
    return Known(heads, store.verdicts(keys))


def _read_newest(
    wanted: Wanted, heads: Mapping[str, Head], store: VerdictStore, *, until: str | None
) -> tuple[Verdict | None, dict[Key, Verdict]]:
    """Return the newest verdict that holds, also by what is in the store itself, and all that were read."""
    read: dict[Key, Verdict] = {}
    while (found := newest_good(wanted, heads, until=until, verdicts=read)) is not None:
        key = found[:2]
        if key in read:
            return read[key], read
        if not (answer := store.verdicts([key])):
            break
        read |= answer
    return None, read


def last_good(wanted: Wanted, store: VerdictStore) -> Verdict | None:
    """Return the verdict of the newest partition before the one wanted that holds, if it is not too old.

    :raises StoreUnavailableError: If the store does not answer.
    """
    heads = {asset: store.head(asset) for asset in wanted.range.assets}
    return _read_newest(wanted, heads, store, until=wanted.partitions[0])[0]
