"""What one consumer waits for, and what it does when things are not well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, Self

from airflow_ext.contracts.availability import Availability, seconds_of
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.ranges import ContractRange
from airflow_ext.contracts.verdict import Status
from airflow_ext.exceptions import InvalidError

ACTIONS = ("fail", "skip", "wait", "proceed", "use_last_good")
GO = "proceed"
WAIT = "wait"
FAIL = "fail"
LAST_GOOD = "use_last_good"

LATEST = "latest"
"""Instead of a partition: the newest that holds. No partition format gives such a key."""


@dataclass(frozen=True)
class Terms:
    """What a consumer does about each state; every action is one of :data:`ACTIONS`.

    :param uses: Columns that are read; a breach only in others is a warning. Empty means all.
    :param on_breach: About ``BREACHED``.
    :param on_late: About ``LATE``: a partition is due and not published.
    :param on_unknown: About ``UNKNOWN_CONTRACT``, and about ``NOT_PUBLISHED`` after ``unknown_after``.
    :param on_quarantine: About ``QUARANTINED``. ``proceed`` goes on with the rows that remain; where the whole
        partition was set aside none do, so there ``on_breach`` counts.
    :param unknown_after: Seconds of waiting for a contract of which nothing was ever published; ``None`` waits
        as long as there is time.
    :param max_staleness: How old the last good partition may be, in seconds between its end and that of the
        one wanted; for the partition ``latest`` between its end and now. ``None`` sets no limit.
    :param at_least: How many of several partitions must hold; ``None`` means all.
    :param available: When a partition is due; ``None`` means as the contract says.
    """

    uses: tuple[str, ...] = ()
    on_breach: str = FAIL
    on_late: str = WAIT
    on_unknown: str = FAIL
    on_quarantine: str = FAIL
    unknown_after: float | None = None
    max_staleness: float | None = None
    at_least: int | None = None
    available: Availability | None = None

    @classmethod
    def of(
        cls,
        *,
        uses: Sequence[str] = (),
        use_last_good: bool = False,
        unknown_after: timedelta | float | None = None,
        max_staleness: timedelta | float | None = None,
        at_least: int | None = None,
        available_by: str | timedelta | None = None,
        grace: timedelta | float = 0,
        **actions: str,
    ) -> Self:
        """Return them from what a DAG author writes.

        :param use_last_good: Where an action would be ``fail``, use the last good partition.
        :param actions: ``on_breach``, ``on_late``, ``on_unknown`` and ``on_quarantine``.
        :raises ValueError: If an argument is none of those allowed.
        """
        for name, action in actions.items():
            if action not in ACTIONS:
                raise InvalidError(f"{name}={action!r}: use one of {', '.join(ACTIONS)}")
        if isinstance(uses, str) or not all(isinstance(name, str) and name for name in uses):
            raise InvalidError(f"uses={uses!r}: expected a list of column names")
        if at_least is not None and (isinstance(at_least, bool) or at_least < 1):
            raise InvalidError(f"at_least={at_least!r}: expected a number of partitions, 1 or more")
        if grace and available_by is None:
            raise InvalidError(f"grace={grace!r} needs available_by: the contract's own grace counts without")
        if use_last_good:
            actions = {name: LAST_GOOD if action == FAIL else action for name, action in actions.items()}
        return cls(
            uses=tuple(uses),
            unknown_after=None if unknown_after is None else seconds_of("unknown_after", unknown_after),
            max_staleness=None if max_staleness is None else seconds_of("max_staleness", max_staleness),
            at_least=at_least,
            available=None if available_by is None else Availability.of(available_by, grace),
            **actions,
        )

    def action(self, status: Status, *, whole: bool = False) -> str:
        """Return what to do about a state.

        :param whole: Whether the whole partition was set aside.
        """
        if status.holds:
            return GO
        match status:
            case Status.BREACHED:
                return self.on_breach
            case Status.QUARANTINED:
                return self.on_breach if whole and self.on_quarantine == GO else self.on_quarantine
            case Status.LATE:
                return self.on_late
            case Status.UNKNOWN_CONTRACT:
                return self.on_unknown
            case Status.NOT_PUBLISHED | Status.STORE_UNAVAILABLE:
                return WAIT
        return FAIL  # another version or key format, or withdrawn: time does not help

    @property
    def falls_back(self) -> bool:
        """Whether the last good partition is an answer."""
        return LAST_GOOD in (self.on_breach, self.on_late, self.on_unknown, self.on_quarantine)


@dataclass(frozen=True)
class Wanted:
    """What one consumer waits for.

    :param contract: Id and version range, such as ``"orders>=2,<3"``.
    :param partitions: Partition keys, all of them; or only :data:`LATEST`.
    :param several: Whether the consumer asked for an interval, so that its answer is about many.
    :param timezone: Zone in which the keys were derived from points in time, ``None`` if they were given. A
        publisher in another zone means another span of time by the same key.
    :param since: When waiting began, in seconds since the epoch.
    :param terms: What to do when things are not well.
    :param rule: How the consumer thinks keys are written; what a publisher says counts more.
    """

    contract: str
    partitions: tuple[str, ...]
    several: bool = False
    timezone: str | None = None
    since: float = 0.0
    rule: PartitionRule = field(default_factory=PartitionRule)
    terms: Terms = field(default_factory=Terms)

    @property
    def range(self) -> ContractRange:
        """The parsed range."""
        return ContractRange.parse(self.contract)

    @property
    def latest(self) -> bool:
        """Whether the newest partition that holds is wanted."""
        return self.partitions == (LATEST,)

    @property
    def what(self) -> str:
        """The partitions for a reader."""
        if len(self.partitions) == 1:
            return self.partitions[0]
        return f"{self.partitions[0]} to {self.partitions[-1]}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without what is as always."""
        terms = {
            each.name: value
            for each in fields(Terms)
            if (value := getattr(self.terms, each.name)) != each.default
        }
        if self.terms.available is not None:
            terms["available"] = self.terms.available.to_dict()
        if self.terms.uses:
            terms["uses"] = list(self.terms.uses)
        return {
            "contract": self.contract,
            "partitions": list(self.partitions),
            "several": self.several,
            "timezone": self.timezone,
            "since": self.since,
            "rule": [self.rule.format, self.rule.timezone],
            "terms": terms,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Wanted:
        """Read what :meth:`to_dict` wrote.

        :raises ValueError: If it is something else.
        """
        try:
            terms = dict(value["terms"])
            available = Availability.from_dict(terms.pop("available", None))
            uses = tuple(terms.pop("uses", ()))
            return cls(
                contract=value["contract"],
                partitions=tuple(value["partitions"]),
                several=value["several"],
                timezone=value["timezone"],
                since=value["since"],
                rule=PartitionRule(*value["rule"]),
                terms=Terms(uses=uses, available=available, **terms),
            )
        except (AttributeError, KeyError, TypeError) as exc:
            raise ValueError(f"not what a consumer waits for: {type(exc).__name__} at {exc}") from exc
