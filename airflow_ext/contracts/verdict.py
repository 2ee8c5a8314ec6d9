"""The verdict: the judged state of one contract version for one partition."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

MAX_REASONS = 20
MAX_TEXT = 300
"""Characters of one text in a verdict; with :data:`MAX_REASONS` this bounds its size."""
MAX_COLUMNS = 1000
"""Names of columns that a breach lists; of a contract with more none are."""


class Status(enum.StrEnum):
    """What can be said about a contract for a partition."""

    PASS = "PASS"  # noqa: S105  not a password
    WARN = "WARN"
    BREACHED = "BREACHED"
    QUARANTINED = "QUARANTINED"
    DEPRECATED = "DEPRECATED"
    WITHDRAWN = "WITHDRAWN"
    LATE = "LATE"
    NOT_PUBLISHED = "NOT_PUBLISHED"
    VERSION_MISMATCH = "VERSION_MISMATCH"
    PARTITION_MISMATCH = "PARTITION_MISMATCH"
    UNKNOWN_CONTRACT = "UNKNOWN_CONTRACT"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"

    @property
    def holds(self) -> bool:
        """Whether a consumer may go on."""
        return self in (Status.PASS, Status.WARN, Status.DEPRECATED)


def _cut(text: object) -> str:
    text = str(text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


@dataclass(frozen=True)
class Reason:
    """One rule that does not hold.

    :param rule: The rule's name.
    :param expected: What the contract says.
    :param actual: What was found: a count, a type, a figure; never a value of the data.
    :param severity: ``error`` breaches the contract, ``warning`` does not.
    :param table: The table it is about, by its name in the contract; empty if it is about all.
    :param columns: The columns it is about; empty if it is about the table, or a query says it.
    :param dimension: The dimension of quality it belongs to, empty if not said.
    """

    rule: str
    expected: str
    actual: str
    severity: str = "error"
    table: str = ""
    columns: tuple[str, ...] = ()
    dimension: str = ""

    def __str__(self) -> str:
        return f"{self.rule}: expected {self.expected}, actual {self.actual}"

    def touches(self, uses: Collection[str]) -> bool:
        """Say whether it matters to somebody who reads only some columns.

        :param uses: ``column`` or ``table.column``; a nested field is part of its column. Empty means all.
        """
        if not self.columns or not uses:
            return True
        mine = [name for column in self.columns for name in (column, f"{self.table}.{column}")]
        return any(_within(name.casefold(), used.casefold()) for name in mine for used in uses)

    def cut(self) -> Reason:
        """Return it with texts no longer than a verdict may have."""
        return replace(
            self,
            rule=_cut(self.rule),
            expected=_cut(self.expected),
            actual=_cut(self.actual),
            table=_cut(self.table),
            # of more columns than are kept nobody could be told that his is not among them
            columns=tuple(map(_cut, self.columns)) if len(self.columns) <= MAX_REASONS else (),
            dimension=_cut(self.dimension),
        )


def _within(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _reason(value: Mapping[str, Any]) -> Reason:
    """Read a reason; verdicts of earlier versions have no table, columns and dimension."""
    return Reason(
        value["rule"],
        value["expected"],
        value["actual"],
        value["severity"],
        value.get("table", ""),
        tuple(value.get("columns", ())),
        value.get("dimension", ""),
    )


@dataclass(frozen=True)
class Quarantine:
    """What was set aside of a partition that breaks its contract.

    :param what: ``rows``: only the bad ones, the others can be used; ``partition``: all of it.
    :param table: Where the rows are, empty if they were only marked.
    :param rows: How many, ``None`` if not counted.
    """

    what: str
    table: str = ""
    rows: int | None = None


@dataclass(frozen=True)
class RunReference:
    """The task that published a verdict."""

    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1
    try_number: int = 0
    url: str = ""

    def __str__(self) -> str:
        if not self.dag_id:
            return "no task (the command line, or another program)"
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"DAG {self.dag_id}, run {self.run_id}, task {self.task_id}{mapped}, try {self.try_number}"


@dataclass(frozen=True)
class Verdict:
    """What was found out about one contract version for one partition.

    :param contract: Contract id.
    :param version: The version that was judged.
    :param partition: Partition key.
    :param status: ``PASS``, ``WARN``, ``BREACHED``, ``QUARANTINED`` or ``WITHDRAWN``.
    :param reasons: Rules that do not hold, errors first, at most 20.
    :param rows: Rows of the partition, ``None`` where they could not be counted.
    :param counts: How many rules were judged, failed, warned and could not be judged.
    :param skipped: What the contract says but was not judged, with the cause.
    :param seq: Grows with each verdict published for the contract.
    :param at: When it was judged, ISO 8601 in UTC.
    :param owner: Who answers for the data.
    :param support: Where to ask.
    :param run: The task that published it.
    :param quarantine: What was set aside, ``None`` if nothing was.
    :param columns: In a breach, the contract's columns as ``column`` and ``table.column``; empty if they are not known.
    """

    contract: str
    version: str
    partition: str
    status: Status
    reasons: tuple[Reason, ...] = ()
    rows: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    seq: int = 0
    at: str = ""
    owner: str = ""
    support: str = ""
    run: RunReference = field(default_factory=RunReference)
    quarantine: Quarantine | None = None
    columns: tuple[str, ...] = ()

    @property
    def major(self) -> int:
        """The major version, which names the asset."""
        from packaging.version import Version

        return Version(self.version).major

    @classmethod
    def of(cls, *, reasons: list[Reason], skipped: list[str], judged: int, **known: Any) -> Verdict:
        """Return the verdict that follows from the reasons found; texts and lists are cut to their bounds."""
        errors = [reason for reason in reasons if reason.severity == "error"]
        warnings = [reason for reason in reasons if reason.severity != "error"]
        status = Status.BREACHED if errors else Status.WARN if warnings else Status.PASS
        kept = tuple(reason.cut() for reason in (errors + warnings)[:MAX_REASONS])
        counts = {"rules": judged, "failed": len(errors), "warnings": len(warnings), "skipped": len(skipped)}
        return cls(
            status=status,
            reasons=kept,
            counts=counts,
            skipped=tuple(_cut(text) for text in skipped[:MAX_REASONS]),
            **known,
        )

    def numbered(self, seq: int) -> Verdict:
        """Return this verdict as number ``seq`` of its contract."""
        return replace(self, seq=seq)

    def set_aside(self, quarantine: Quarantine) -> Verdict:
        """Return a breach of which something was set aside."""
        return replace(self, status=Status.QUARANTINED, quarantine=quarantine)

    def bounded(self) -> Verdict:
        """Return this verdict with no text and no list longer than a store should hold."""
        run = replace(
            self.run,
            dag_id=_cut(self.run.dag_id),
            run_id=_cut(self.run.run_id),
            task_id=_cut(self.run.task_id),
            url=_cut(self.run.url),
        )
        counts = dict(list(self.counts.items())[:MAX_REASONS])
        return replace(
            self,
            reasons=tuple(reason.cut() for reason in self.reasons[:MAX_REASONS]),
            skipped=tuple(_cut(text) for text in self.skipped[:MAX_REASONS]),
            counts=counts,
            at=_cut(self.at),
            owner=_cut(self.owner),
            support=_cut(self.support),
            run=run,
            columns=tuple(map(_cut, self.columns)) if len(self.columns) <= MAX_COLUMNS else (),
        )

    def seen_by(self, uses: Collection[str]) -> Verdict:
        """Return what it means to somebody who reads only some columns.

        A breach only of rules about other columns is a warning. As long as not every failed rule is listed, or
        he names a column that the contract does not have, it stays a breach.

        :param uses: Columns that are read; empty means all.
        """
        unknown = self._unknown(uses)
        if unknown and self.status in (Status.BREACHED, Status.QUARANTINED):
            named = ", ".join(repr(used) for used in unknown[:3])
            reason = Reason("uses", "columns of the contract", f"not among them: {named}", "warning").cut()
            return replace(self, reasons=(*self.reasons, reason))
        failed = [reason for reason in self.reasons if reason.severity == "error"]
        if (
            self.status not in (Status.BREACHED, Status.QUARANTINED)
            or not failed
            or self.counts.get("failed", len(failed)) > len(failed)
            or any(reason.touches(uses) for reason in failed)
        ):
            return self
        softened = tuple(replace(reason, severity="warning") for reason in self.reasons)
        return replace(self, status=Status.WARN, reasons=softened)

    def _unknown(self, uses: Collection[str]) -> list[str]:
        """Return what the contract, if its columns are known, has no column for."""
        names = [column.casefold() for column in self.columns]
        return [used for used in uses if names and not any(_within(name, used.casefold()) for name in names)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **asdict(self),
            "columns": list(self.columns),
            "status": str(self.status),
            "reasons": [{**asdict(reason), "columns": list(reason.columns)} for reason in self.reasons],
            "counts": dict(self.counts),
            "skipped": list(self.skipped),
        }

    @classmethod
    def from_dict(cls, value: Any) -> Verdict:
        """Read what :meth:`to_dict` of this or an earlier version wrote; what later ones added is ignored.

        :raises ValueError: If it is not a verdict.
        """
        try:
            texts = (value["contract"], value["version"], value["partition"])
            if not all(isinstance(text, str) for text in texts) or type(value.get("seq", 0)) is not int:
                raise TypeError("a name or a number")
            known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
            aside = value.get("quarantine")
            verdict = cls(
                **{
                    **known,
                    "status": Status(value["status"]),
                    "reasons": tuple(_reason(r) for r in value["reasons"]),
                    "skipped": tuple(value.get("skipped", ())),
                    "columns": tuple(map(str, value.get("columns", ()))),
                    "run": RunReference(**_fields(RunReference, value.get("run") or {})),
                    "quarantine": Quarantine(**_fields(Quarantine, aside)) if aside else None,
                }
            )
            return verdict.bounded()
        except (AttributeError, KeyError, TypeError) as exc:
            raise ValueError(f"not a verdict: {type(exc).__name__} at {str(exc)[:MAX_TEXT]}") from exc


def _fields(cls: type, value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in cls.__dataclass_fields__ if name in value}  # type: ignore[attr-defined]  # dataclasses only
