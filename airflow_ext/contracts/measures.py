"""From a rule to the SQL that measures it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow_ext.contracts.catalog import Found
from airflow_ext.contracts.dialects import Dialect
from airflow_ext.contracts.folding import fold
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.read_only import check_reads_only
from airflow_ext.contracts.rules import SQL_PLACEHOLDER, Rule, Validity
from airflow_ext.contracts.sql import Bound, Sql
from airflow_ext.exceptions import InvalidContractError

PARTITION = "airflow_ext_partition"
"""Name under which a query of a rule reads the rows of its partition."""

_LEADING_COMMENTS = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)

_REPEATED_REPEAT = re.compile(r"(?:[+*]|,\d*\})\??[^()]*\)+(?:[+*]|\{\d*,)")
"""SQLite matches patterns with Python, which takes for ever on some of these and cannot be interrupted."""


def partition_condition(column: Found, rule: PartitionRule, key: str, dialect: Dialect) -> Sql | None:
    """Return the condition that restricts a table to a partition.

    :return: ``None`` if a column of this type cannot hold the partition.
    """
    name = dialect.quote(column.name)
    start, end = rule.bounds(key)
    if column.family == "string":
        return Sql(f"{name} = ", Bound(key))
    if column.family == "integer" and key.isdigit():
        return Sql(f"{name} = ", Bound(int(key)))
    low: Any
    high: Any
    if column.family == "date":
        low, high = start.date(), end.date()
    elif column.family == "timestamp":
        low, high = start, end
    elif column.family == "timestamptz":
        low, high = (moment.replace(tzinfo=rule.zone).astimezone(UTC) for moment in (start, end))
    else:
        return None
    if dialect.name == "sqlite":  # keeps dates as text
        low, high = str(low), str(high)
    return Sql(f"({name} >= ", Bound(low), f" AND {name} < ", Bound(high), ")")


class Measures:
    """Builds queries over one partition of one table.

    :param table: The table's name, quoted.
    :param condition: What restricts it to the partition, ``None`` for all of it.
    :param columns: The columns it has, by the contract's names.
    """

    def __init__(
        self, *, table: str, condition: Sql | None, columns: Mapping[str, Found], dialect: Dialect
    ) -> None:
        self.table = table
        self.columns = columns
        self.dialect = dialect
        where = Sql(" WHERE ", condition) if condition else Sql()
        self.rows_of_partition = Sql(f" FROM {table}", where)
        self.and_ = " AND " if condition else " WHERE "

    def query(self, rules: Sequence[Rule]) -> Sql:
        """Return one query whose first column counts rows and whose others measure ``rules`` in order."""
        return Sql(
            "SELECT COUNT(*)", *(Sql(", ", self._figure(rule)) for rule in rules), self.rows_of_partition
        )

    def can_fold(self, rule: Rule) -> bool:
        """Say whether a rule can be measured together with others in :meth:`query`."""
        return rule.metric != "sql" or self._folded(rule) is not None

    def failing(self, rule: Rule) -> Sql | None:
        """Return the condition of a row that breaks a rule, ``None`` if no single row breaks it."""
        if rule.metric not in ("nullValues", "missingValues", "invalidValues", "duplicateValues"):
            return None
        names = [self._quoted(column) for column in rule.columns]
        match rule.metric:
            case "nullValues":
                return Sql(f"{names[0]} IS NULL")
            case "missingValues":
                return Sql("(", self._missing(names[0], rule), ")")
            case "invalidValues":
                return self._invalid(names[0], rule)
            case _:
                keys = ", ".join(f"{name} AS ext_key{index}" for index, name in enumerate(names))
                same = " AND ".join(f"repeated.ext_key{index} = {name}" for index, name in enumerate(names))
                return Sql(
                    f"EXISTS (SELECT 1 FROM (SELECT {keys}",
                    self._repeated(names),
                    f") repeated WHERE {same})",
                )

    def _quoted(self, column: str) -> str:
        return self.dialect.quote(self.columns[column].name)

    def _figure(self, rule: Rule) -> Sql:
        match rule.metric:
            case "sql":
                return Sql(self._folded(rule) or "NULL")
            case "duplicateValues":
                return self._duplicates(rule)
            case "rowCount":
                return Sql("COUNT(*)")
        column = self._quoted(rule.columns[0])
        match rule.metric:
            case "nullValues":
                return Sql(f"COUNT(*) - COUNT({column})")
            case "missingValues":
                return self._count(self._missing(column, rule))
            case "invalidValues":
                return self._count(self._invalid(column, rule))
            case "retention":
                return Sql(f"(SELECT MIN({column}) FROM {self.table})")
            case _:
                return Sql(f"MAX({column})")

    @staticmethod
    def _count(condition: Sql) -> Sql:
        return Sql("COALESCE(SUM(CASE WHEN ", condition, " THEN 1 ELSE 0 END), 0)")

    def _duplicates(self, rule: Rule) -> Sql:
        """Count rows too many: three rows with one key are two duplicates; keys with NULL are none."""
        names = [self._quoted(column) for column in rule.columns]
        return Sql(
            "(SELECT COALESCE(SUM(n - 1), 0) FROM (SELECT COUNT(*) AS n",
            self._repeated(names),
            ") duplicated)",
        )

    def _repeated(self, names: list[str]) -> Sql:
        present = " AND ".join(f"{name} IS NOT NULL" for name in names)
        keys = ", ".join(names)
        return Sql(self.rows_of_partition, f"{self.and_}{present} GROUP BY {keys} HAVING COUNT(*) > 1")

    def _is_one_of(self, column: str, values: tuple[Any, ...]) -> Sql:
        texts = [value for value in values if isinstance(value, str)]
        numbers = [value for value in values if value is not None and not isinstance(value, str)]
        tests = []
        if texts:
            tests.append(Sql(f"CAST({column} AS {self.dialect.text}) IN (", _listed(texts), ")"))
        if numbers:
            tests.append(Sql(f"{column} IN (", _listed(numbers), ")"))
        return Sql("(", Sql.join(" OR ", tests), ")") if tests else Sql("1 = 0")

    def _missing(self, column: str, rule: Rule) -> Sql:
        return Sql(f"{column} IS NULL OR ", self._is_one_of(column, rule.missing))

    def _invalid(self, column: str, rule: Rule) -> Sql:
        return Sql(f"{column} IS NOT NULL AND NOT (", self._valid(column, rule.validity), ")")

    def _valid(self, column: str, validity: Validity) -> Sql:
        tests = []
        if validity.values is not None:
            tests.append(self._is_one_of(column, validity.values))
        if validity.pattern is not None:
            tests.append(self._matches(column, validity.pattern))
        length = self.dialect.length.format(column=column)
        for template, bound in (
            (f"{length} >= ", validity.min_length),
            (f"{length} <= ", validity.max_length),
            (f"{column} >= ", validity.minimum),
            (f"{column} <= ", validity.maximum),
            (f"{column} > ", validity.exclusive_minimum),
            (f"{column} < ", validity.exclusive_maximum),
        ):
            if bound is not None:
                tests.append(Sql(template, Bound(bound)))
        return Sql.join(" AND ", tests)

    def _matches(self, column: str, pattern: str) -> Sql:
        before, after = self.dialect.matches.split("{pattern}")
        return Sql(before.replace("{column}", column), Bound(pattern), after.replace("{column}", column))

    def _folded(self, rule: Rule) -> str | None:
        body = self._body(rule, "")
        if any(isinstance(part, Bound) for part in body.parts):
            return None
        return fold(body.render("?")[0], PARTITION, self.dialect.name)

    def _body(self, rule: Rule, key: str) -> Sql:
        """Return the query of an ``sql`` rule with its placeholders filled."""
        query = _LEADING_COMMENTS.sub("", rule.query, count=1)
        pieces: list[str | Bound] = []
        end = 0
        for match in SQL_PLACEHOLDER.finditer(query):
            pieces.append(query[end : match.start()])
            pieces.append(self._placeholder(match[1], rule, key))
            end = match.end()
        return Sql(*pieces, query[end:])

    def check(self, rule: Rule) -> None:
        """Refuse a rule whose query does more than read, or whose pattern cannot be interrupted.

        :raises InvalidContractError: With the rule's name.
        """
        pattern = rule.validity.pattern
        if pattern is not None and self.dialect.name == "sqlite" and _REPEATED_REPEAT.search(pattern):
            raise InvalidContractError(
                f"rule {rule.name!r}: its pattern repeats a repetition, such as (a+)+, which may never end on SQLite"
            )
        if rule.metric == "sql":
            check_reads_only(rule.name, self._body(rule, "").render("NULL")[0], self.dialect.name)

    def own_query(self, rule: Rule, key: str) -> Sql:
        """Return the query of an ``sql`` rule, reading the rows of the partition where it says ``${table}``."""
        body = self._body(rule, key)
        rows = Sql(f"{PARTITION} AS (SELECT *", self.rows_of_partition, ")")
        first = body.parts[0] if isinstance(body.parts[0], str) else ""
        if match_with := re.match(r"WITH(\s+RECURSIVE)?\b", first, re.IGNORECASE):
            rest = Sql(first[match_with.end() :], *body.parts[1:])
            return Sql(f"{match_with[0]} ", rows, ", ", rest)
        return Sql("WITH ", rows, " ", body)

    def _placeholder(self, word: str, rule: Rule, key: str) -> str | Bound:
        if word == "partition":
            return Bound(key)
        if word in ("table", "object", "model"):
            return PARTITION
        return self._quoted(rule.columns[0])


def _listed(values: list[Any]) -> Sql:
    return Sql.join(", ", [Sql(Bound(value)) for value in values])


def age(moment: Any, end: datetime, rule: PartitionRule) -> float:
    """Return the seconds between a row and ``end``.

    :param moment: What ``MAX`` or ``MIN`` of a date or time column gave.
    :param end: Aware.
    :raises TypeError: If it is no date or time.
    """
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=rule.zone)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=rule.zone)
    # two times of one zone are subtracted by their clocks, which is an hour off on a DST day
    return float((end.astimezone(UTC) - moment.astimezone(UTC)).total_seconds())
