"""The judge: compares a contract with the rows of one partition."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from airflow_ext.contracts.catalog import Found, find, keeps, read_columns, schema_reasons, unknown_types
from airflow_ext.contracts.measures import Measures, age, partition_condition
from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.rules import Rule, duration
from airflow_ext.contracts.sql import Database, QueryError, Sql
from airflow_ext.contracts.verdict import Reason, RunReference, Verdict
from airflow_ext.exceptions import InvalidError

_NEEDS_TYPE = ("invalidValues", "missingValues", "lag", "sql")
"""Rules that make no sense on a column of another type than promised."""


def judge(
    contract: Contract,
    partition: str,
    database: Database,
    *,
    run: RunReference | None = None,
    now: datetime | None = None,
) -> Verdict:
    """Judge one partition.

    The table's columns are read from the catalog, then all library rules together in one query and each
    ``sql`` rule in its own, in one read-only transaction. No value of the data leaves this function.

    :param contract: What was promised.
    :param partition: Partition key, checked against the contract's format.
    :param database: Where the table is.
    :param run: Who judges.
    :param now: The present, aware; for contracts without partitions it bounds the age of the newest row.
    :raises ValueError: If the partition does not fit the format, a query of the contract does not only read, or
        the type of the partition column is not known.
    :raises QueryError: If the rows cannot even be counted.
    :raises DeniedError: If the connection may not read the table.
    :raises UnavailableError: If the database does not answer.
    """
    return _Judge(contract, contract.partition.check(partition), database, now or datetime.now(UTC)).verdict(
        run or RunReference()
    )


class _Judge:
    def __init__(self, contract: Contract, partition: str, database: Database, now: datetime) -> None:
        self.contract = contract
        self.partition = partition
        self.database = database
        self.now = now
        self.reasons: list[Reason] = []
        self.skipped = list(contract.skipped)
        self.judged = 0
        self.rows: int | None = None
        self.table = contract.tables[0]

    def verdict(self, run: RunReference) -> Verdict:
        for table in self.contract.tables:
            self.table = table
            self.judge_table()
        return Verdict.of(
            reasons=self.reasons,
            skipped=self.skipped,
            judged=self.judged,
            rows=self.rows,
            contract=self.contract.id,
            version=self.contract.version,
            partition=self.partition,
            at=self.now.astimezone(UTC).isoformat(timespec="milliseconds"),
            owner=self.contract.owner,
            support=self.contract.support,
            run=run,
        )

    def judge_table(self) -> None:
        name = self.table.physical_name
        found = read_columns(self.database, name)
        self.judged += 1
        if not found:
            self.reasons.append(Reason("schema.table", f"table {name}", "no such table"))
        else:
            self.reasons += schema_reasons(self.table, found, self.database)
            self.skipped += [f"type({name}): the database does not say it" for name in unknown_types(found)]
            self.judge_rows(found)

    def judge_rows(self, found: dict[str, Found]) -> None:
        condition = None
        if name := self.table.partition_column:
            column = find(found, name, self.database)
            if column is not None and not column.family:
                raise InvalidError(
                    f"contract {self.contract.id!r}: the partition column {name!r} of {self.table.physical_name} is of type "
                    f"{column.type or 'unknown'!r}, by which no partition can be selected; judge a view that casts it "
                    "to a date, a timestamp, a text or an integer"
                )
            if column is not None:
                condition = partition_condition(
                    column, self.contract.partition, self.partition, self.database.dialect
                )
            if condition is None:
                what = (
                    "is missing" if column is None else f"is {column.type}, which cannot hold the partition"
                )
                self.reasons.append(Reason("partition", f"rows by {name}", f"{name} {what}"))
                self.skipped.append("all rules about rows: the partition cannot be found")
                return
        columns = {
            column.name: actual
            for column in self.table.columns
            if (actual := find(found, column.name, self.database)) is not None
        }
        rules = [rule for rule in self.table.rules if self.can_judge(rule, columns)]
        measures = Measures(
            table=self.table.physical_name,
            condition=condition,
            columns=columns,
            dialect=self.database.dialect,
        )
        self.judge_library([rule for rule in rules if rule.metric != "sql"], measures)
        for rule in rules:
            if rule.metric == "sql":
                self.judge_query(rule, measures)

    def can_judge(self, rule: Rule, columns: Mapping[str, Found]) -> bool:
        promised = {column.name: column for column in self.table.columns}
        for name in rule.columns:
            if name not in columns:
                self.skipped.append(f"{rule.name}: the column {name} is missing")
                return False
            if rule.metric in _NEEDS_TYPE and not keeps(promised[name], columns[name], self.database.dialect):
                self.skipped.append(f"{rule.name}: the column {name} has another type")
                return False
        return True

    def judge_library(self, rules: list[Rule], measures: Measures) -> None:
        try:
            count, *figures = self.database.rows(measures.query(rules))[0]
        except QueryError:
            # one of them cannot be computed: find out which, and judge the others
            count = self.database.rows(measures.query([]))[0][0]
            figures = [self.alone(rule, measures) for rule in rules]
        self.rows = (self.rows or 0) + int(count)
        self.rows_of_table = int(count)
        for rule, figure in zip(rules, figures, strict=True):
            if isinstance(figure, QueryError):
                self.fail(rule, f"cannot be computed: {figure}")
            elif rule.metric == "lag":
                self.judge_lag(rule, figure)
            else:
                self.judge_figure(rule, figure)

    def alone(self, rule: Rule, measures: Measures) -> Any:
        try:
            return self.database.rows(measures.query([rule]))[0][1]
        except QueryError as exc:
            return exc

    def judge_query(self, rule: Rule, measures: Measures) -> None:
        query: Sql = measures.own_query(rule, self.partition)
        try:
            rows = self.database.rows(query)
        except QueryError as exc:
            self.fail(rule, f"cannot be computed: {exc}")
            return
        if len(rows) != 1 or len(rows[0]) != 1:
            width = len(rows[0]) if rows else 0
            self.fail(rule, f"{len(rows)} rows of {width} columns instead of one figure")
            return
        self.judge_figure(rule, rows[0][0])

    def judge_figure(self, rule: Rule, figure: Any) -> None:
        if figure is None:
            self.fail(rule, "no value (NULL)")
            return
        if not isinstance(figure, int | float | Decimal):
            self.fail(rule, f"a {type(figure).__name__} instead of a number")
            return
        if rule.percent:
            figure = 100 * float(figure) / self.rows_of_table if self.rows_of_table else 0.0
        # NUMERIC of a database and 0.1 of a file compare as people read them
        figure = float(figure) if isinstance(figure, Decimal) else figure
        self.judged += 1
        if not rule.check.passes(figure):
            self.reasons.append(Reason(rule.name, rule.expected, _written(figure, rule), rule.severity))

    def judge_lag(self, rule: Rule, newest: Any) -> None:
        end = self.now
        if self.table.partition_column:
            wall_end = self.contract.partition.bounds(self.partition)[1]
            end = wall_end.replace(tzinfo=self.contract.partition.zone)
        if newest is None:
            self.fail(rule, "no row")
            return
        try:
            seconds = age(newest, end, self.contract.partition)
        except (TypeError, ValueError, AttributeError):
            self.fail(rule, f"{rule.columns[0]} holds no date or time")
            return
        self.judged += 1
        if not rule.check.passes(seconds):
            self.reasons.append(Reason(rule.name, rule.expected, duration(seconds), rule.severity))

    def fail(self, rule: Rule, actual: str) -> None:
        self.judged += 1
        self.reasons.append(Reason(rule.name, rule.expected, actual, rule.severity))


def _written(figure: float, rule: Rule) -> str:
    text = f"{figure:,}" if isinstance(figure, int) else f"{figure:.10g}"
    return f"{text} %" if rule.percent else text
