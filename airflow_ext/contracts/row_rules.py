"""The rules that a single row breaks, and the rows that break them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_ext.contracts.catalog import FoundTable, look_at
from airflow_ext.contracts.measures import Measures
from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.rules import Rule
from airflow_ext.contracts.sql import Database, Sql
from airflow_ext.contracts.table_judge import TableJudge
from airflow_ext.contracts.tables import Table


@dataclass(frozen=True)
class Broken:
    """Rows of a partition that break one rule.

    :param name: The rule's name as reasons write it.
    :param table: The table.
    :param found: The table as it is.
    :param rows: ``FROM`` and ``WHERE`` that select them.
    """

    name: str
    rule: Rule
    table: Table
    found: FoundTable
    rows: Sql


def broken_rows(
    contract: Contract, partition: str, database: Database, rules: Collection[str] | None
) -> Iterator[Broken]:
    """Yield each row-level rule of a contract with the rows of a partition that break it.

    :param partition: Partition key, checked.
    :param rules: Names of rules as reasons write them; ``None`` takes all.
    """
    several = len(contract.tables) > 1
    for table in contract.tables:
        found = look_at(database, table.physical_name)
        if found is None:
            continue
        judge = TableJudge(contract, table, partition, database, datetime.now(UTC))
        if (measures := judge.over_partition(found)) is None:
            continue
        for rule in table.rules:
            name = f"{table.name}: {rule.name}" if several else rule.name
            if (rules is None or name in rules) and judge.can_judge(rule, measures):
                yield from _broken(name, rule, table, found, measures)


def _broken(name: str, rule: Rule, table: Table, found: FoundTable, measures: Measures) -> Iterator[Broken]:
    if (failing := measures.failing(rule)) is not None:
        rows = Sql(measures.rows_of_partition, measures.and_, "(", failing, ")")
        yield Broken(name, rule, table, found, rows)


@dataclass(frozen=True)
class Sample:
    """Values that broke a rule.

    :param rule: The rule's name as reasons write it.
    :param column: The column.
    :param values: Some of them, as text, cut.
    """

    rule: str
    column: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rule}: {self.column} holds {', '.join(map(repr, self.values))}"


MAX_VALUE = 80
"""Characters of one value in a sample."""


def samples(contract: Contract, partition: str, database: Database, rules: Collection[str]) -> list[Sample]:
    """Return values that broke rules, for the log of the publisher.

    None unless the contract allows it with ``airflow.samples``, and never of a column with a ``classification``
    other than ``public``.

    :param rules: Names of the rules that failed, as reasons write them.
    :raises QueryError: If the database refuses.
    :raises UnavailableError: If it does not answer.
    """
    count = contract.settings.samples
    key = contract.partition.check(partition)
    shown: list[Sample] = []
    if not count:
        return shown
    for broken in broken_rows(contract, key, database, rules):
        promised = [column for name in broken.rule.columns if (column := broken.table.column(name))]
        if len(promised) != 1 or not promised[0].may_be_shown or broken.rule.metric == "nullValues":
            continue
        actual = broken.found.column(promised[0].name)
        if actual is None:
            continue
        query = Sql(f"SELECT DISTINCT {database.sql.quote(actual.name)}", broken.rows)
        rows = database.rows(database.sql.cut(query, count))
        shown.append(Sample(broken.name, promised[0].name, tuple(_cut(row[0]) for row in rows)))
    return shown


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."
