"""What a table looks like in its database, and how that compares to a contract."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from airflow_ext.contracts.model import Column, Contract
from airflow_ext.contracts.sql import Bound, Database, QueryError, Sql, quote_table
from airflow_ext.contracts.verdict import Reason

_FAMILIES = {
    "boolean": ("BOOLEAN", "BIT"),
    "integer": (
        "TINYINT", "SMALLINT", "MEDIUMINT", "INT", "BIGINT", "INT128", "INT256", "UTINYINT", "USMALLINT",
        "UMEDIUMINT", "UINT", "UBIGINT", "UINT128", "UINT256", "SERIAL", "SMALLSERIAL", "BIGSERIAL",
    ),
    "number": ("FLOAT", "DOUBLE", "DECIMAL", "UDECIMAL", "BIGDECIMAL", "MONEY", "SMALLMONEY", "UDOUBLE"),
    "string": ("CHAR", "NCHAR", "VARCHAR", "NVARCHAR", "BPCHAR", "TEXT", "MEDIUMTEXT", "LONGTEXT", "TINYTEXT",
               "NAME", "UUID", "ENUM"),
    "date": ("DATE", "DATE32"),
    "timestamp": ("DATETIME", "DATETIME2", "DATETIME64", "SMALLDATETIME", "TIMESTAMP", "TIMESTAMPNTZ",
                  "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"),
    "timestamptz": ("TIMESTAMPTZ", "TIMESTAMPLTZ"),
    "time": ("TIME", "TIMETZ", "TIME_NS"),
    "array": ("ARRAY", "LIST", "VECTOR"),
    "map": ("MAP",),
    "object": ("STRUCT", "OBJECT", "JSON", "JSONB", "NESTED", "UNION", "VARIANT"),
    "binary": ("BINARY", "VARBINARY", "BLOB", "LONGBLOB", "MEDIUMBLOB", "TINYBLOB"),
}  # fmt: skip
_FITS = {
    "number": {"number", "integer"},
    "timestamp": {"timestamp", "timestamptz"},
    "object": {"object", "map"},
    "vector": {"array"},
}
"""Which families keep a logical type's promise, where that is more than the one of the same name."""
_SAME = {"TEXT": "VARCHAR", "NVARCHAR": "VARCHAR", "BPCHAR": "CHAR", "NCHAR": "CHAR", "DATETIME": "TIMESTAMP"}


@dataclass(frozen=True)
class Found:
    """A column as it is.

    :param type: As the database writes it; empty if it does not say.
    :param family: Our family of the type, empty if unknown.
    """

    name: str
    type: str
    family: str


@functools.lru_cache(maxsize=4096)
def _parse(type_: str, dialect: str) -> tuple[str, tuple[str, ...]] | None:
    import sqlglot
    from sqlglot import exp

    try:
        parsed = exp.DataType.build(type_, dialect=dialect)
    except (sqlglot.errors.SqlglotError, ValueError):
        return None
    name = getattr(parsed.this, "name", str(parsed.this))
    return _SAME.get(name, name), tuple(part.sql(dialect=dialect) for part in parsed.expressions)


def family_of(type_: str, dialect: str) -> str:
    """Return our family of a database type, empty if it is not known."""
    parsed = _parse(type_, dialect) if type_ else None
    if parsed is None:
        return ""
    return next((family for family, names in _FAMILIES.items() if parsed[0] in names), "")


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
    if promised.physical_type:
        wanted, actual = _parse(promised.physical_type, dialect), _parse(found.type, dialect)
        if (
            wanted
            and actual
            and (wanted[0] != actual[0] or (wanted[1] and actual[1] and wanted[1] != actual[1]))
        ):
            return False
    if promised.logical_type and found.family:
        return found.family in _FITS.get(promised.logical_type, {promised.logical_type})
    return True


def schema_reasons(contract: Contract, columns: dict[str, Found], database: Database) -> Iterator[Reason]:
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
