"""Queries for the columns and the primary key of a table, one way per database.

The columns' queries return schema and name of the table as the database keeps them (NULL where that is no question),
then name, type and nullability of each column, in the table's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airflow_ext.contracts.dialects import Dialect
from airflow_ext.contracts.sql import Bound, Sql

_SIZED = (
    "CASE WHEN data_type IN ('decimal', 'numeric') THEN CONCAT(data_type, '(', numeric_precision, ',', "
    "numeric_scale, ')') WHEN character_maximum_length = -1 THEN CONCAT(data_type, '(max)') "
    "WHEN character_maximum_length IS NOT NULL AND data_type IN ('char', 'varchar', 'nchar', 'nvarchar', 'binary', "
    "'varbinary') THEN CONCAT(data_type, '(', character_maximum_length, ')') ELSE data_type END"
)
_SNOWFLAKE = (
    "CASE WHEN data_type = 'NUMBER' THEN CONCAT('NUMBER(', numeric_precision, ',', numeric_scale, ')') "
    "WHEN data_type = 'TEXT' THEN CONCAT('VARCHAR(', character_maximum_length, ')') ELSE data_type END"
)


@dataclass(frozen=True)
class _Schema:
    """How a database's ``information_schema`` is asked.

    :param type: Expression of a column's whole type.
    :param schema: Expression of the schema that counts where the contract names none.
    :param catalog: The same of the catalog; empty if tables are looked up in the session's only.
    """

    type: str
    schema: str
    catalog: str = ""


_SCHEMAS: Mapping[str, _Schema] = {
    "duckdb": _Schema("data_type", "current_schema()", "current_database()"),
    "mysql": _Schema("column_type", "DATABASE()"),
    "snowflake": _Schema(_SNOWFLAKE, "CURRENT_SCHEMA()"),
    "databricks": _Schema("full_data_type", "current_schema()"),
    "trino": _Schema("data_type", "current_schema"),
    "tsql": _Schema(_SIZED, "SCHEMA_NAME()"),
}
_KEYS_KEPT = ("mysql", "databricks", "bigquery", "tsql")


def columns_query(dialect: Dialect, table: str) -> Sql | None:
    """Return the query for the columns of a table, ``None`` if its name says too little to ask."""
    *before, name = table.split(".")
    if dialect.name == "sqlite":
        schema: list[str | Bound] = [", ", Bound(before[-1])] if before else []
        return Sql(
            "SELECT NULL, NULL, name, type, CASE \"notnull\" WHEN 0 THEN 'YES' ELSE 'NO' END FROM pragma_table_info(",
            Bound(name), *schema, ")",
        )  # fmt: skip
    if dialect.name == "postgres":
        # information_schema knows no materialized views, and hides columns that the role may not read
        return Sql(
            "SELECT NULL, NULL, a.attname, CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) "
            "ELSE format_type(a.atttypid, a.atttypmod) END, NOT (a.attnotnull OR t.typnotnull) "
            "FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
            "WHERE a.attrelid = to_regclass(", Bound(dialect.quote_table(table)), ") "
            "AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        )  # fmt: skip
    if dialect.name == "bigquery":
        if not before:
            return None
        place = ".".join(dialect.quote(part) for part in before)
        return Sql(
            f"SELECT table_schema, table_name, column_name, data_type, is_nullable FROM {place}.INFORMATION_SCHEMA.COLUMNS "
            "WHERE table_name = ", Bound(name), " ORDER BY ordinal_position",
        )  # fmt: skip
    asked = _SCHEMAS[dialect.name]
    schema_sql: str | Bound = Bound(before[-1]) if before else asked.schema
    catalog: list[str | Bound] = []
    if asked.catalog:
        catalog_sql: str | Bound = Bound(before[-2]) if len(before) > 1 else asked.catalog
        catalog = [" AND lower(table_catalog) = lower(", catalog_sql, ")"]
    return Sql(
        f"SELECT table_schema, table_name, column_name, {asked.type}, is_nullable "
        f"FROM {_information_schema(dialect, before)}.columns WHERE lower(table_name) = lower(", Bound(name),
        ") AND lower(table_schema) = lower(", schema_sql, ")", *catalog,
        " ORDER BY table_schema, table_name, ordinal_position",
    )  # fmt: skip


def key_query(dialect: Dialect, table: str, schema: str | None, name: str | None) -> Sql | None:
    """Return the query for the names of the columns of a primary key in order, ``None`` if none is kept.

    :param schema: Schema of the table as the database keeps it.
    :param name: Its name as the database keeps it.
    """
    *before, written = table.split(".")
    if dialect.name == "sqlite":
        in_schema: list[str | Bound] = [", ", Bound(before[-1])] if before else []
        return Sql(
            "SELECT name FROM pragma_table_info(", Bound(written), *in_schema, ") WHERE pk > 0 ORDER BY pk"
        )
    if dialect.name == "postgres":
        return Sql(
            "SELECT a.attname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid "
            "AND a.attnum = ANY (i.indkey) WHERE i.indisprimary AND i.indrelid = to_regclass(",
            Bound(dialect.quote_table(table)), ") ORDER BY array_position(i.indkey::int2[], a.attnum)",
        )  # fmt: skip
    if dialect.name == "duckdb":
        return Sql(
            "SELECT UNNEST(constraint_column_names) FROM duckdb_constraints() WHERE constraint_type = 'PRIMARY KEY' "
            "AND schema_name = ", Bound(schema), " AND table_name = ", Bound(name),
        )  # fmt: skip
    if dialect.name not in _KEYS_KEPT:
        return None
    place = _information_schema(dialect, before)
    return Sql(
        f"SELECT k.column_name FROM {place}.table_constraints t JOIN {place}.key_column_usage k "
        "ON k.constraint_name = t.constraint_name AND k.constraint_schema = t.constraint_schema "
        "AND k.table_name = t.table_name WHERE t.constraint_type = 'PRIMARY KEY' AND t.table_schema = ",
        Bound(schema), " AND t.table_name = ", Bound(name), " ORDER BY k.ordinal_position",
    )  # fmt: skip


def _information_schema(dialect: Dialect, before: list[str]) -> str:
    """Return the schema of the catalog in which a table is."""
    if dialect.name == "bigquery":
        return ".".join([*(dialect.quote(part) for part in before), "INFORMATION_SCHEMA"])
    if len(before) > 1 and dialect.name in ("snowflake", "databricks", "trino", "tsql"):
        return f"{dialect.quote(before[-2])}.information_schema"
    return "information_schema"
