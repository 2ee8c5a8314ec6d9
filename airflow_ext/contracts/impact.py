"""Whom a change of a contract reaches: DAGs and tasks that use the contract, by version and column."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from airflow_ext.contracts.grades import Change, Grade
from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.usage import Use


class Reach(enum.StrEnum):
    """What a change means to one use."""

    BREAKS = "breaks"
    """It uses what goes."""
    MAY_BREAK = "may break"
    """It does not say what it uses, or that is not understood."""
    SAFE = "safe"
    """It uses other columns only."""
    ELSEWHERE = "elsewhere"
    """It waits for other versions."""


@dataclass(frozen=True)
class Reached:
    """One use, and what becomes of it.

    :param columns: Columns of it that are concerned.
    :param why: In words.
    """

    use: Use
    reach: Reach
    columns: tuple[str, ...] = ()
    why: str = ""


def reached(
    uses: Iterable[Use], *, contract: str, version: str, columns: Collection[str] | None
) -> list[Reached]:
    """Say of each use of a contract what it means that something of one version goes.

    :param version: The version as it is now.
    :param columns: Columns that go; ``None`` means the contract as a whole.
    """
    found = [_reach(use, version, columns) for use in uses if use.contract in (contract, "")]
    order = list(Reach)
    return sorted(found, key=lambda one: (order.index(one.reach), one.use.name))


def _reach(use: Use, version: str, columns: Collection[str] | None) -> Reached:
    if use.kind == "publishes":
        return Reached(use, Reach.SAFE, why="publishes it")
    if not use.contract:
        return Reached(use, Reach.MAY_BREAK, why=use.note)
    if not use.includes(version):
        return Reached(use, Reach.ELSEWHERE, why=f"wants {use.wanted}")
    if columns is None:
        return Reached(use, Reach.BREAKS, why=f"wants {use.wanted}" if use.wanted else "uses it")
    if not use.uses:
        why = use.note or (
            "does not say which columns it uses" if use.kind == "waits" else "a schedule names no columns"
        )
        return Reached(use, Reach.MAY_BREAK, tuple(sorted(columns)), why)
    common = tuple(sorted(name for name in columns if matches(name, use.uses)))
    if common:
        return Reached(use, Reach.BREAKS, common, f"uses {', '.join(common)}")
    return Reached(use, Reach.SAFE, why=f"uses only {', '.join(use.uses)}")


def matches(column: str, uses: Iterable[str]) -> bool:
    """Say whether a column is among those used; either may be written ``table.column``."""
    return any(column == use or column.endswith(f".{use}") or use.endswith(f".{column}") for use in uses)


def known_consumers(contract: Contract) -> list[Use]:
    """Return the consumers that the contract itself names under ``airflow.consumers``."""
    return [
        Use("waits", contract.id, None, consumer.uses, consumer.name, "", contract.source, 0)
        for consumer in contract.consumers
    ]


def columns_of(changes: Iterable[Change]) -> Mapping[str, tuple[Change, ...]]:
    """Return the changes that break consumers by the column they are about; ``""`` for the whole contract."""
    found: dict[str, tuple[Change, ...]] = {}
    for change in changes:
        if change.consumer is Grade.BREAKING:
            key = f"{change.table}.{change.column}" if change.column else ""
            found[key] = (*found.get(key, ()), change)
    return found
