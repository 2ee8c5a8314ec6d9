"""What differs between databases: quoting, values, limits, patterns, and where they describe their tables.

DuckDB, PostgreSQL and SQLite are tested on real servers. The others follow their published dialects, and every query
built for them is read back by sqlglot in that dialect.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from airflow_ext.contracts.sql_text import Bound, Sql
from airflow_ext.exceptions import InvalidError


@dataclass(frozen=True)
class Dialect:
    """One database's way of writing SQL.

    :param name: sqlglot's name of it.
    :param text: Type to which values are cast to be compared as text.
    :param key_text: Type of our own short texts, which may be compared and indexed.
    :param matches: Condition that ``{column}`` holds a match of ``{pattern}``; empty if there is none.
    :param begin: Statements that start a transaction which cannot write; none where there is no such thing.
    :param limits: Statements that let the server end a query after ``{seconds}`` or ``{milliseconds}``.
    :param placeholder: What stands for a value; empty where drivers disagree, then values are written as literals.
    :param quotes: Before and after an identifier.
    :param length: Characters of ``{column}``.
    :param folds_case: Whether the contract's names mean the same in upper and lower case.
    :param naive: Type of a date and time without a zone.
    :param top: Whether a query is cut by ``SELECT TOP n`` instead of ``LIMIT n``.
    :param native_catalog: Whether the catalog query always answers, so that nothing else need be asked.
    """

    name: str
    text: str
    matches: str
    key_text: str = "VARCHAR(300)"
    begin: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    placeholder: str = "%s"
    quotes: tuple[str, str] = ('"', '"')
    length: str = "LENGTH({column})"
    folds_case: bool = True
    naive: str = "TIMESTAMP"
    top: bool = False
    native_catalog: bool = False

    def quote(self, name: str) -> str:
        """Quote one identifier."""
        before, after = self.quotes
        if self.name == "bigquery":  # a backslash escapes there, and doubling does not
            return before + name.replace("\\", "\\\\").replace("`", "\\`") + after
        return before + name.replace(after, 2 * after) + after

    def quote_table(self, name: str) -> str:
        """Quote a table's name, which may have a schema and a catalog before it."""
        return ".".join(self.quote(part) for part in name.split("."))

    def literal(self, value: Any) -> str:
        """Write a value as SQL, for drivers to which it cannot be handed safely."""
        if value is None:
            return "NULL"
        if isinstance(value, bool):
            return "TRUE" if value else "FALSE"
        if isinstance(value, datetime):
            type_ = self.naive if value.tzinfo is None else "TIMESTAMP"
            return f"CAST('{value.isoformat(sep=' ')}' AS {type_})"
        if isinstance(value, date):
            return f"CAST('{value.isoformat()}' AS DATE)"
        if isinstance(value, str):
            return self._text_literal(value)
        return str(value)

    def _text_literal(self, value: str) -> str:
        if self.name in _ESCAPING:
            for plain, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
                value = value.replace(plain, escaped)
            return f"'{value}'"
        return "'" + value.replace("'", "''") + "'"

    def written(self, query: Sql) -> tuple[str, tuple[Any, ...]]:
        """Return text and values as the drivers take them; values as literals where drivers disagree."""
        if self.placeholder:
            return query.render(self.placeholder)
        parts = (self.literal(part.value) if isinstance(part, Bound) else part for part in query.parts)
        return "".join(parts), ()

    def cut(self, query: Sql, rows: int) -> Sql:
        """Cut a ``SELECT`` to some rows."""
        if not self.top:
            return Sql(query, f" LIMIT {rows}")
        first = str(query.parts[0])
        word = "SELECT DISTINCT " if first.startswith("SELECT DISTINCT ") else "SELECT "
        return Sql(f"{word}TOP {rows} {first.removeprefix(word)}", *query.parts[1:])


_ESCAPING = ("bigquery", "databricks", "mysql", "snowflake")
"""Dialects in which a backslash inside a text escapes what follows."""

DUCKDB = Dialect(
    "duckdb",
    "VARCHAR",
    "REGEXP_MATCHES(CAST({column} AS VARCHAR), {pattern})",
    begin=("BEGIN TRANSACTION READ ONLY",),
    placeholder="?",
    native_catalog=True,
)
POSTGRES = Dialect(
    "postgres",
    "TEXT",
    "CAST({column} AS TEXT) ~ {pattern}",
    # a driver opens the transaction itself; repeatable read, so that all rules see the same rows
    begin=("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",),
    limits=("SET LOCAL statement_timeout = {milliseconds}",),
    folds_case=False,
    native_catalog=True,
)
SQLITE = Dialect(
    "sqlite",
    "TEXT",
    "{column} REGEXP {pattern}",
    begin=("PRAGMA query_only = ON", "BEGIN"),
    placeholder="?",
    native_catalog=True,
    key_text="TEXT",
)
MYSQL = Dialect(
    "mysql",
    "CHAR",
    "REGEXP_LIKE(CAST({column} AS CHAR), {pattern}, 'c')",
    begin=("START TRANSACTION READ ONLY",),
    limits=("SET SESSION max_execution_time = {milliseconds}",),
    quotes=("`", "`"),
    length="CHAR_LENGTH({column})",
    naive="DATETIME",
    key_text="CHAR(300)",
)
MARIADB = replace(
    MYSQL,
    matches="CAST({column} AS CHAR) REGEXP CONCAT('(?-i)', {pattern})",
    limits=("SET SESSION max_statement_time = {seconds}",),
)
"""Reached through a connection of type ``mysql``; the server says that it is one."""
SNOWFLAKE = Dialect(
    "snowflake",
    "VARCHAR",
    "REGEXP_INSTR(CAST({column} AS VARCHAR), {pattern}) > 0",  # REGEXP_LIKE wants the whole value to match
    limits=("ALTER SESSION SET STATEMENT_TIMEOUT_IN_SECONDS = {seconds}",),
    naive="TIMESTAMP_NTZ",
)
BIGQUERY = Dialect(
    "bigquery",
    "STRING",
    "REGEXP_CONTAINS(CAST({column} AS STRING), {pattern})",
    placeholder="",
    quotes=("`", "`"),
    naive="DATETIME",
    key_text="STRING",
)
DATABRICKS = Dialect(
    "databricks",
    "STRING",
    "CAST({column} AS STRING) RLIKE {pattern}",
    limits=("SET STATEMENT_TIMEOUT = {seconds}",),
    placeholder="",
    quotes=("`", "`"),
    naive="TIMESTAMP_NTZ",
    key_text="STRING",
)
TRINO = Dialect(
    "trino",
    "VARCHAR",
    "REGEXP_LIKE(CAST({column} AS VARCHAR), {pattern})",
    limits=("SET SESSION query_max_run_time = '{seconds}s'",),
    placeholder="?",
)
MSSQL = Dialect(
    "tsql",
    "NVARCHAR(MAX)",
    "",  # regular expressions came with SQL Server 2025 and are not everywhere
    quotes=("[", "]"),
    length="LEN(CONCAT({column}, 'x')) - 1",  # LEN alone leaves blanks at the end out
    naive="DATETIME2",
    top=True,
    key_text="NVARCHAR(300)",
)

DIALECTS: Mapping[str, Dialect] = {
    "duckdb": DUCKDB,
    "postgres": POSTGRES,
    "sqlite": SQLITE,
    "mysql": MYSQL,
    "snowflake": SNOWFLAKE,
    "bigquery": BIGQUERY,
    "gcpbigquery": BIGQUERY,
    "google_cloud_platform": BIGQUERY,
    "databricks": DATABRICKS,
    "trino": TRINO,
    "mssql": MSSQL,
    "tsql": MSSQL,
}
"""By the type of an Airflow connection, and by sqlglot's name."""


@functools.cache
def dialect_of(name: str) -> Dialect:
    """Return the dialect of a connection type.

    :raises InvalidError: If no contract can be judged there.
    """
    if name not in DIALECTS:
        raise InvalidError(f"dialect={name!r}: contracts can be judged on {', '.join(DIALECTS)}")
    return DIALECTS[name]
