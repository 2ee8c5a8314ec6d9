"""The head of a contract: what is worth reading often, in one small value.

Waiters read it once per poll, so it holds no verdicts, only what tells whether a verdict is new, and what the
publisher promises beside them: how keys look, when a partition is due, and how long the contract lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from airflow_ext.contracts.availability import Availability
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.recipients import MAX_RECIPIENTS, Recipient, all_recipients
from airflow_ext.contracts.verdict import MAX_TEXT, Status

if TYPE_CHECKING:
    from airflow_ext.contracts.model import Contract

HEAD_SIZE = 200
RETIRED = ("retired", "withdrawn")
DEPRECATED = "deprecated"


@dataclass(frozen=True, slots=True)
class Entry:
    """One partition in the head."""

    status: Status
    seq: int
    version: str


@dataclass(frozen=True)
class Promise:
    """What a publisher says of its contract beside single verdicts.

    :param available: When a partition is due, ``None`` if the contract does not say.
    :param status: ODCS status of the contract.
    :param end_of_support: ISO date or time after which it is deprecated, empty if not said.
    :param end_of_life: ISO date or time after which nothing is published any more, empty if not said.
    :param owner: Who answers for the data.
    :param support: Where to ask.
    :param tell: Who is told when a partition is late; a waiter that sees it has no contract file.
    """

    available: Availability | None = None
    status: str = ""
    end_of_support: str = ""
    end_of_life: str = ""
    owner: str = ""
    support: str = ""
    tell: tuple[Recipient, ...] = ()

    @classmethod
    def of(cls, contract: Contract) -> Promise:
        """Return what a contract says."""
        levels = contract.service_levels
        at = levels.available_at
        return cls(
            available=Availability(at.isoformat(), grace=contract.grace.total_seconds()) if at else None,
            status=contract.status[:MAX_TEXT],
            end_of_support=levels.end_of_support.isoformat() if levels.end_of_support else "",
            end_of_life=levels.end_of_life.isoformat() if levels.end_of_life else "",
            owner=contract.owner[:MAX_TEXT],
            support=contract.support[:MAX_TEXT],
            # only a partition with a time can be late
            tell=tuple(all_recipients(contract)[:MAX_RECIPIENTS]) if at else (),
        )

    def life(self, now: datetime, rule: PartitionRule) -> tuple[Status, str] | None:
        """Return ``DEPRECATED`` or ``WITHDRAWN`` with the cause, ``None`` while the contract is in force.

        A date means the end of that day in the zone of the partition keys.
        """
        if self.status.lower() in RETIRED:
            return Status.WITHDRAWN, f"the contract is {self.status}"
        if _passed(self.end_of_life, now, rule):
            return Status.WITHDRAWN, f"the contract's life ended {_shown(self.end_of_life, rule)}"
        if self.status.lower() == DEPRECATED:
            until = f", supported until {_shown(self.end_of_support, rule)}" if self.end_of_support else ""
            return Status.DEPRECATED, f"the contract is deprecated{until}"
        if _passed(self.end_of_support, now, rule):
            return Status.DEPRECATED, f"the contract's support ended {_shown(self.end_of_support, rule)}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without what is not said."""
        values = {
            "available": self.available.to_dict() if self.available else None,
            "status": self.status,
            "end_of_support": self.end_of_support,
            "end_of_life": self.end_of_life,
            "owner": self.owner,
            "support": self.support,
            "tell": [one.to_list() for one in self.tell],
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Promise:
        """Read what :meth:`to_dict` of this or an earlier version wrote."""
        texts = ("status", "end_of_support", "end_of_life", "owner", "support")
        return cls(
            available=Availability.from_dict(value.get("available")),
            tell=_recipients(value.get("tell")),
            **{name: str(value.get(name, ""))[:MAX_TEXT] for name in texts},
        )


def _recipients(value: Any) -> tuple[Recipient, ...]:
    found = [Recipient.from_list(item) for item in value] if isinstance(value, list) else []
    return tuple(one for one in found[:MAX_RECIPIENTS] if one is not None)


def _shown(text: str, rule: PartitionRule) -> str:
    """Return an end for a reader: at midnight it is the end of the day before."""
    if len(text) == len("2026-01-31"):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    local = moment.astimezone(rule.zone) if moment.tzinfo else moment
    if local.time() == time():
        return (local.date() - timedelta(days=1)).isoformat()
    return local.isoformat(sep=" ", timespec="minutes")


def _passed(text: str, now: datetime, rule: PartitionRule) -> bool:
    if not text:
        return False
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return False
    if len(text) == len("2026-01-31"):
        moment = datetime.combine(moment.date(), time.max)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=rule.zone)
    return moment.astimezone(UTC) < now


@dataclass(frozen=True)
class Head:
    """The partitions published last, and what holds for all.

    :param rule: How the publisher writes partition keys; ``None`` before the first verdict.
    :param promise: What the publisher says of the contract.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    rule: PartitionRule | None = None
    promise: Promise = field(default_factory=Promise)

    @property
    def seq(self) -> int:
        """The highest number given so far."""
        return max((entry.seq for entry in self.entries.values()), default=0)

    def with_entry(
        self, partition: str, entry: Entry, rule: PartitionRule, promise: Promise | None = None
    ) -> Head:
        """Return the head after a publication, without what no longer fits."""
        entries = {**self.entries, partition: entry}
        kept = sorted(entries.items(), key=lambda item: item[1].seq)[-HEAD_SIZE:]
        return Head(dict(kept), rule, self.promise if promise is None else promise)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        rule = self.rule or PartitionRule()
        return {
            "format": rule.format,
            "timezone": rule.timezone,
            "promise": self.promise.to_dict(),
            "partitions": {key: [str(e.status), e.seq, e.version] for key, e in self.entries.items()},
        }

    @classmethod
    def from_dict(cls, value: Any) -> Head:
        """Read what :meth:`to_dict` of this or an earlier version wrote.

        :raises ValueError: If it is not a head.
        """
        if value is None:
            return cls()
        try:
            entries = {
                key: Entry(Status(status), seq, version)
                for key, (status, seq, version) in value["partitions"].items()
            }
            # any task can write here, and a number that is none would end the reading for all
            if not all(type(each.seq) is int and isinstance(each.version, str) for each in entries.values()):
                raise TypeError("a number or a version")
            rule = PartitionRule(value["format"], value["timezone"])
            return cls(entries, rule, Promise.from_dict(value.get("promise") or {}))
        except (AttributeError, KeyError, TypeError) as exc:
            raise ValueError(f"not the head of a contract: {type(exc).__name__} at {exc}") from exc
