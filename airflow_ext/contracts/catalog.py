"""What a table looks like in its database, and how that compares to a contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from airflow_ext.contracts.families import FITS, Widening, family_of, widening
from airflow_ext.contracts.sql import Bound, Database, QueryError, Sql, quote_table
from airflow_ext.contracts.tables import Column, Table
from airflow_ext.contracts.verdict import Reason


@dataclass(frozen=True)
class Found:
    """A column as it is.

    :param type: As the database writes it; empty if it does not say.
    :param family: Our family of the type, empty if unknown.
    """

    name: str
    type: str
    family: str


def read_columns(database: Database, table: str) -> dict[str, Found]:
    """Return the columns of a table, a view or a materialized view by name; none if it is not there.

    Asks the catalog first, then a query for no rows, which knows names only.

    :raises QueryError: If the table cannot be looked at for another reason than that it is not there.
    :raises DeniedError: If it may not be looked at.
    """
    rows = database.rows(_catalog_query(database.dialect, table))
    if not rows:
        try:
            names = database.column_names(Sql(f"SELECT * FROM {quote_table(table)} LIMIT 0"))
        except QueryError as exc:
            if not exc.no_table:
                raise
            return {}
        rows = [(name, "") for name in names]
    fold = str.lower if database.folds_case else str
    return {fold(name): Found(name, type_, family_of(type_, database.dialect)) for name, type_ in rows}


def _catalog_query(dialect: str, table: str) -> Sql:
    *before, name = table.split(".")
    if dialect == "sqlite":
        schema: list[str | Bound] = [", ", Bound(before[-1])] if before else []
        return Sql("SELECT name, type FROM pragma_table_info(", Bound(name), *schema, ")")
    if dialect == "postgres":
        # information_schema knows no materialized views, and hides columns that the role may not read
        return Sql(
            "SELECT a.attname, CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) "
            "ELSE format_type(a.atttypid, a.atttypmod) END "
            "FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
            "WHERE a.attrelid = to_regclass(", Bound(quote_table(table)), ") "
            "AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        )  # fmt: skip
    schema_sql: str | Bound = Bound(before[-1]) if before else "current_schema()"
    catalog: str | Bound = Bound(before[-2]) if len(before) > 1 else "current_database()"
    return Sql(
        "SELECT column_name, data_type FROM information_schema.columns WHERE ",
        "lower(table_name) = lower(", Bound(name), ") AND ",
        "lower(table_schema) = lower(", schema_sql, ") AND ",
        "lower(table_catalog) = lower(", catalog, ") ORDER BY ordinal_position",
    )  # fmt: skip


def find(columns: dict[str, Found], name: str, database: Database) -> Found | None:
    """Return the column with a name, by the database's idea of what is the same name."""
    return columns.get(name.lower() if database.folds_case else name)


def keeps(promised: Column, found: Found, dialect: str) -> bool:
    """Say whether a column has the type promised; unknown types are given the benefit of the doubt."""
    if not found.family and not found.type:
        return True
    if promised.physical_type and widening(promised.physical_type, found.type, dialect) not in (
        Widening.SAME,
        Widening.UNKNOWN,
    ):
        return False
    if promised.logical_type and found.family:
        return found.family in FITS.get(promised.logical_type, {promised.logical_type})
    return True


def schema_reasons(contract: Table, columns: dict[str, Found], database: Database) -> Iterator[Reason]:
    """Yield what differs between the columns promised and those found."""
    promised = set()
    for column in contract.columns:
        found = find(columns, column.name, database)
        expected = " ".join(filter(None, (column.logical_type, column.physical_type))) or "any type"
        if found is None:
            yield Reason(f"schema.missing({column.name})", f"column of {expected}", "no such column")
            continue
        promised.add(found.name)
        if not keeps(column, found, database.dialect):
            yield Reason(f"schema.retyped({column.name})", expected, found.type)
    for found in columns.values():
        if contract.columns and found.name not in promised:
            yield Reason(f"schema.extra({found.name})", "no such column", found.type or "a column", "warning")


def unknown_types(columns: dict[str, Found]) -> list[Any]:
    """Return the names of columns whose type the database did not say."""
    return [found.name for found in columns.values() if not found.type]
