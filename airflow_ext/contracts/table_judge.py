"""Judging one table of a contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from airflow_ext.contracts.catalog import Found, FoundTable, look_at
from airflow_ext.contracts.measures import Measures, age, partition_condition
from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.rules import Rule, duration
from airflow_ext.contracts.schema_check import keeps, schema_reasons
from airflow_ext.contracts.sql import Database, QueryError, TimeLimitError
from airflow_ext.contracts.tables import Table
from airflow_ext.contracts.verdict import Reason
from airflow_ext.exceptions import InvalidError, UnavailableError

_NEEDS_TYPE = ("invalidValues", "missingValues", "lag", "retention", "sql")
"""Rules that make no sense on a column of another type than promised."""

Figure = tuple[Rule, Any]


class TableJudge:
    """Judges a partition of one table; what it found is in its attributes.

    :param contract: What was promised.
    :param table: The table of it.
    :param partition: Partition key, checked.
    :param now: The present, aware.
    """

    def __init__(
        self, contract: Contract, table: Table, partition: str, database: Database, now: datetime
    ) -> None:
        self.contract = contract
        self.table = table
        self.partition = partition
        self.database = database
        self.now = now
        self.reasons: list[Reason] = []
        self.skipped: list[str] = []
        self.judged = 0
        self.rows: int | None = None

    def check_queries(self) -> None:
        """Refuse rules that do more than read, before anything runs.

        :raises InvalidContractError: With the rule's name.
        """
        measures = self._measures(None, {c.name: Found(c.name, "", "") for c in self.table.columns})
        for rule in self.table.rules:
            measures.check(rule)

    def judge(self) -> None:
        """Judge schema and rows."""
        name = self.table.physical_name
        found = look_at(self.database, name, with_key=bool(self.table.key))
        self.judged += 1
        if found is None:
            self.reasons.append(Reason("schema.table", f"table {name}", "no such table"))
            return
        severities = self.contract.settings.severities
        self.reasons += schema_reasons(self.table, found, self.database.dialect, severities)
        self.skipped += [
            f"type({column.name}): the database does not say it"
            for column in found.columns.values()
            if not column.type
        ]
        if (measures := self.over_partition(found)) is None:
            return
        rules = [rule for rule in self.table.rules if self.can_judge(rule, measures)]
        together = [rule for rule in rules if measures.can_fold(rule)]
        for rule, figure in [*self._together(together, measures)]:
            self._judge_figure(rule, figure)
        for rule in rules:
            if not measures.can_fold(rule):
                self._judge_figure(rule, self._own(rule, measures))

    def over_partition(self, found: FoundTable) -> Measures | None:
        """Return what measures the partition; ``None`` with a reason if it cannot be found.

        :raises InvalidError: If the type of the partition column is not known.
        """
        condition = None
        if name := self.table.partition_column:
            column = found.column(name)
            if column is not None and not column.family:
                raise InvalidError(
                    f"contract {self.contract.id!r}: the partition column {name!r} of {self.table.physical_name} is of "
                    f"type {column.type or 'unknown'!r}, by which no partition can be selected; judge a view that "
                    "casts it to a date, a timestamp, a text or an integer"
                )
            if column is not None:
                condition = partition_condition(
                    column, self.contract.partition, self.partition, self.database.sql
                )
            if condition is None:
                what = (
                    "is missing" if column is None else f"is {column.type}, which cannot hold the partition"
                )
                # about no column alone: no rule of any column can be judged, so it concerns whoever reads any
                self.reasons.append(Reason("partition", f"rows by {name}", f"{name} {what}"))
                self.skipped.append("all rules about rows: the partition cannot be found")
                return None
        columns = {
            column.name: actual
            for column in self.table.columns
            if (actual := found.column(column.name)) is not None
        }
        return self._measures(condition, columns, found.name)

    def _measures(self, condition: Any, columns: dict[str, Found], name: str = "") -> Measures:
        return Measures(table=name, condition=condition, columns=columns, dialect=self.database.sql)

    def can_judge(self, rule: Rule, measures: Measures) -> bool:
        """Say whether a rule can be measured, and note why not."""
        if rule.validity.pattern is not None and not self.database.sql.matches:
            self.skipped.append(f"{rule.name}: this database has no regular expressions")
            return False
        for name in rule.columns:
            if (found := measures.columns.get(name)) is None:
                self.skipped.append(f"{rule.name}: the column {name} is missing")
                return False
            promised = self.table.column(name)
            if rule.metric in _NEEDS_TYPE and promised and not keeps(promised, found, self.database.dialect):
                self.skipped.append(f"{rule.name}: the column {name} has another type")
                return False
        return True

    def _together(self, rules: Sequence[Rule], measures: Measures) -> Iterator[Figure]:
        """Measure rules in one query; where that cannot be computed, find out because of which."""
        try:
            count, *figures = self.database.rows(measures.query(rules))[0]
        except TimeLimitError as exc:
            yield from self._too_slow(rules, measures, exc)
            return
        except QueryError as exc:
            if not rules:
                raise
            if len(rules) == 1:
                # a query of the author's fails with its own words
                yield rules[0], self._own(rules[0], measures) if rules[0].metric == "sql" else exc
                self._count_rows(measures)
                return
            half = len(rules) // 2
            yield from self._together(rules[:half], measures)
            yield from self._together(rules[half:], measures)
            return
        self.rows = int(count)
        yield from zip(rules, figures, strict=True)

    def _count_rows(self, measures: Measures) -> None:
        if self.rows is None:
            self.rows = int(self.database.rows(measures.query([]))[0][0])

    def _too_slow(self, rules: Sequence[Rule], measures: Measures, exc: TimeLimitError) -> Iterator[Figure]:
        """Tell a query of the author's that does not end from a database that is too slow to judge at all."""
        own = [rule for rule in rules if rule.metric == "sql"]
        if not own:
            raise UnavailableError(
                f"{self.table.physical_name} could not be judged: the query over partition {self.partition} was "
                f"{exc}; the database is too slow now, or airflow.timeLimit is too short for this table",
                service="database",
            ) from None
        yield from self._together([rule for rule in rules if rule.metric != "sql"], measures)
        for rule in own:
            yield rule, self._own(rule, measures)

    def _own(self, rule: Rule, measures: Measures) -> Any:
        """Return the figure of a rule's own query, or the error that stands for it."""
        try:
            rows = self.database.rows(measures.own_query(rule, self.partition))
        except QueryError as exc:
            return exc
        if len(rows) != 1 or len(rows[0]) != 1:
            width = len(rows[0]) if rows else 0
            return QueryError(f"{len(rows)} rows of {width} columns instead of one figure")
        return rows[0][0]

    def _judge_figure(self, rule: Rule, figure: Any) -> None:
        if isinstance(figure, QueryError):
            text = str(figure)
            self._fail(rule, text if text.endswith("one figure") else f"cannot be computed: {text}")
        elif rule.metric in ("lag", "retention"):
            self._judge_age(rule, figure)
        elif figure is None:
            self._fail(rule, "no value (NULL)")
        elif isinstance(figure, bool) or not isinstance(figure, int | float | Decimal):
            self._fail(rule, f"a {type(figure).__name__} instead of a number")
        else:
            self._judge_number(rule, figure)

    def _judge_number(self, rule: Rule, figure: int | float | Decimal) -> None:
        if rule.percent:
            figure = 100 * float(figure) / self.rows if self.rows else 0.0
        # NUMERIC of a database and 0.1 of a file compare as people read them
        figure = float(figure) if isinstance(figure, Decimal) else figure
        if rule.check.passes(figure):
            self.judged += 1
        else:
            self._fail(rule, _written(figure, rule))

    def _judge_age(self, rule: Rule, moment: Any) -> None:
        end = self.now
        if self.table.partition_column and rule.metric == "lag":
            wall_end = self.contract.partition.bounds(self.partition)[1]
            end = wall_end.replace(tzinfo=self.contract.partition.zone)
        if moment is None:
            self._fail(rule, "no row")
            return
        try:
            seconds = age(moment, end, self.contract.partition)
        except (TypeError, ValueError, AttributeError):
            self._fail(rule, f"{rule.columns[0]} holds no date or time")
            return
        if rule.check.passes(seconds):
            self.judged += 1
        else:
            self._fail(rule, duration(seconds))

    def _fail(self, rule: Rule, actual: str) -> None:
        self.judged += 1
        self.reasons.append(
            Reason(
                rule.name,
                rule.expected,
                actual,
                rule.severity,
                columns=rule.columns,
                dimension=rule.dimension,
            )
        )


def _written(figure: float | Decimal, rule: Rule) -> str:
    text = f"{figure:,}" if isinstance(figure, int) else f"{figure:.10g}"
    return f"{text} %" if rule.percent else text
