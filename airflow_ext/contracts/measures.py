"""From a rule to the SQL that measures it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from airflow_ext.contracts.catalog import Found
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.rules import SQL_PLACEHOLDER, Rule, Validity
from airflow_ext.contracts.sql import Bound, Sql, quote, quote_table
from airflow_ext.exceptions import InvalidContractError

PARTITION = "airflow_ext_partition"
"""Name under which a query of a rule reads the rows of its partition."""

_LEADING_COMMENTS = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_TEXT = {"duckdb": "VARCHAR", "postgres": "TEXT", "sqlite": "TEXT"}


def partition_condition(column: Found, rule: PartitionRule, key: str, dialect: str) -> Sql | None:
    """Return the condition that restricts a table to a partition.

    :return: ``None`` if a column of this type cannot hold the partition.
    """
    name = quote(column.name)
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
    if dialect == "sqlite":  # keeps dates as text
        low, high = str(low), str(high)
    return Sql(f"({name} >= ", Bound(low), f" AND {name} < ", Bound(high), ")")


class Measures:
    """Builds queries over one partition of one table.

    :param table: The table's name.
    :param condition: What restricts it to the partition, ``None`` for all of it.
    :param columns: The columns it has, by the contract's names.
    """

    def __init__(
        self, *, table: str, condition: Sql | None, columns: Mapping[str, Found], dialect: str
    ) -> None:
        self.columns = columns
        self.dialect = dialect
        where = Sql(" WHERE ", condition) if condition else Sql()
        self.rows_of_partition = Sql(f" FROM {quote_table(table)}", where)
        self._and = " AND " if condition else " WHERE "

    def query(self, rules: list[Rule]) -> Sql:
        """Return one query whose first column counts rows and whose others measure ``rules`` in order."""
        return Sql(
            "SELECT COUNT(*)", *(Sql(", ", self._figure(rule)) for rule in rules), self.rows_of_partition
        )

    def _figure(self, rule: Rule) -> Sql:
        if rule.metric == "duplicateValues":
            return self._duplicates(rule)
        if rule.metric == "rowCount":
            return Sql("COUNT(*)")
        column = quote(self.columns[rule.columns[0]].name)
        match rule.metric:
            case "nullValues":
                return Sql(f"COUNT(*) - COUNT({column})")
            case "missingValues":
                return self._count(self._missing(column, rule))
            case "invalidValues":
                return self._count(
                    Sql(f"{column} IS NOT NULL AND NOT (", self._valid(column, rule.validity), ")")
                )
            case _:
                return Sql(f"MAX({column})")

    @staticmethod
    def _count(condition: Sql) -> Sql:
        return Sql("COALESCE(SUM(CASE WHEN ", condition, " THEN 1 ELSE 0 END), 0)")

    def _duplicates(self, rule: Rule) -> Sql:
        """Count rows too many: three rows with one key are two duplicates; keys with NULL are none."""
        names = [quote(self.columns[column].name) for column in rule.columns]
        present = " AND ".join(f"{name} IS NOT NULL" for name in names)
        keys = ", ".join(names)
        return Sql(
            "(SELECT COALESCE(SUM(n - 1), 0) FROM (SELECT COUNT(*) AS n",
            self.rows_of_partition,
            f"{self._and}{present} GROUP BY {keys} HAVING COUNT(*) > 1) AS duplicated)",
        )

    def _is_one_of(self, column: str, values: tuple[Any, ...]) -> Sql:
        texts = [value for value in values if isinstance(value, str)]
        numbers = [value for value in values if value is not None and not isinstance(value, str)]
        tests = []
        if texts:
            tests.append(Sql(f"CAST({column} AS {_TEXT[self.dialect]}) IN (", _listed(texts), ")"))
        if numbers:
            tests.append(Sql(f"{column} IN (", _listed(numbers), ")"))
        return Sql("(", Sql.join(" OR ", tests), ")") if tests else Sql("1 = 0")

    def _missing(self, column: str, rule: Rule) -> Sql:
        return Sql(f"{column} IS NULL OR ", self._is_one_of(column, rule.missing))

    def _valid(self, column: str, validity: Validity) -> Sql:
        tests = []
        if validity.values is not None:
            tests.append(self._is_one_of(column, validity.values))
        if validity.pattern is not None:
            tests.append(self._matches(column, validity.pattern))
        for template, bound in (
            (f"LENGTH({column}) >= ", validity.min_length),
            (f"LENGTH({column}) <= ", validity.max_length),
            (f"{column} >= ", validity.minimum),
            (f"{column} <= ", validity.maximum),
            (f"{column} > ", validity.exclusive_minimum),
            (f"{column} < ", validity.exclusive_maximum),
        ):
            if bound is not None:
                tests.append(Sql(template, Bound(bound)))
        return Sql.join(" AND ", tests)

    def _matches(self, column: str, pattern: str) -> Sql:
        if self.dialect == "postgres":
            return Sql(f"CAST({column} AS TEXT) ~ ", Bound(pattern))
        if self.dialect == "duckdb":
            return Sql(f"REGEXP_MATCHES(CAST({column} AS VARCHAR), ", Bound(pattern), ")")
        return Sql(f"{column} REGEXP ", Bound(pattern))

    def own_query(self, rule: Rule, key: str) -> Sql:
        """Return the query of an ``sql`` rule, reading the rows of the partition where it says ``${table}``.

        :raises InvalidContractError: If it is not one query that only reads.
        """
        query = _LEADING_COMMENTS.sub("", rule.query, count=1)
        pieces: list[str | Bound] = []
        end = 0
        for match in SQL_PLACEHOLDER.finditer(query):
            pieces.append(query[end : match.start()])
            pieces.append(self._placeholder(match[1], rule, key))
            end = match.end()
        body = Sql(*pieces, query[end:])
        check_reads_only(rule.name, body.render("?")[0], self.dialect)
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
        return quote(self.columns[rule.columns[0]].name)


def _listed(values: list[Any]) -> Sql:
    return Sql.join(", ", [Sql(Bound(value)) for value in values])


def check_reads_only(name: str, query: str, dialect: str) -> None:
    """Refuse what is not exactly one query that only reads.

    :raises InvalidContractError: With the rule's name.
    """
    import sqlglot
    from sqlglot import exp

    writing = (
        exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter, exp.TruncateTable,
        exp.Command, exp.Copy, exp.Into, exp.Lock, exp.Pragma, exp.Set, exp.Use, exp.Attach, exp.Detach,
    )  # fmt: skip
    try:
        statements = [
            statement for statement in sqlglot.parse(query, dialect=dialect) if statement is not None
        ]
    except sqlglot.errors.SqlglotError:
        raise InvalidContractError(f"rule {name!r}: its query is not {dialect} SQL") from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise InvalidContractError(f"rule {name!r}: a rule is exactly one SELECT")
    if statements[0].find(*writing):
        raise InvalidContractError(f"rule {name!r}: a rule may only read")


def age(newest: Any, end: datetime, rule: PartitionRule) -> float:
    """Return the seconds between the newest row and ``end``.

    :param newest: What ``MAX`` of a date or time column gave.
    :param end: Aware.
    :raises TypeError: If it is no date or time.
    """
    if isinstance(newest, str):
        newest = datetime.fromisoformat(newest)
    if not isinstance(newest, datetime):
        newest = datetime(newest.year, newest.month, newest.day, tzinfo=rule.zone)
    if newest.tzinfo is None:
        newest = newest.replace(tzinfo=rule.zone)
    # two times of one zone are subtracted by their clocks, which is an hour off on a DST day
    return float((end.astimezone(UTC) - newest.astimezone(UTC)).total_seconds())
