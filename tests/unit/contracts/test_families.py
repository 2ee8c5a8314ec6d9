"""Families of types, and what a change of a type does to values."""

from __future__ import annotations

import pytest

from airflow_ext.contracts.families import Widening, family_of, logical_widening, widening

_BACK = {"wider": "narrower", "narrower": "wider"}


@pytest.mark.parametrize(
    ("dialect", "old", "new", "expected"),
    [
        ("postgres", "int4", "INTEGER", "same"),
        ("postgres", "integer", "bigint", "wider"),
        ("postgres", "smallint", "real", "wider"),
        ("postgres", "integer", "real", "other"),
        ("postgres", "integer", "double precision", "wider"),
        ("postgres", "bigint", "double precision", "other"),
        ("postgres", "integer", "numeric(10,0)", "wider"),
        ("postgres", "bigint", "numeric(18,0)", "other"),
        ("postgres", "bigint", "numeric", "wider"),
        ("postgres", "numeric(10,2)", "numeric(12,2)", "wider"),
        ("postgres", "numeric(10,2)", "numeric(12,4)", "wider"),
        ("postgres", "numeric(10,2)", "numeric(10,4)", "other"),
        ("postgres", "numeric(10,2)", "double precision", "other"),
        ("postgres", "real", "float(25)", "wider"),
        ("postgres", "float(24)", "real", "same"),
        ("postgres", "varchar(10)", "varchar(20)", "wider"),
        ("postgres", "varchar(10)", "text", "wider"),
        ("postgres", "varchar", "text", "same"),
        ("postgres", "char(10)", "varchar(10)", "wider"),
        ("postgres", "char", "char(2)", "wider"),
        ("postgres", "integer", "text", "other"),
        ("postgres", "uuid", "text", "other"),
        ("postgres", "date", "timestamp", "wider"),
        ("postgres", "date", "timestamptz", "other"),
        ("postgres", "timestamp", "timestamptz", "other"),
        ("postgres", "timestamp(3)", "timestamp", "wider"),
        ("postgres", "integer[]", "bigint[]", "wider"),
        ("postgres", "integer[]", "integer", "other"),
        ("postgres", "boolean", "integer", "other"),
        ("postgres", "jsonb", "json", "same"),
        ("postgres", "shop.kind", "SHOP.kind", "same"),
        ("postgres", "shop.kind", "integer", "unknown"),
        ("duckdb", "INTEGER", "HUGEINT", "wider"),
        ("duckdb", "UINTEGER", "INTEGER", "other"),
        ("duckdb", "UINTEGER", "BIGINT", "wider"),
        ("duckdb", "UTINYINT", "USMALLINT", "wider"),
        ("duckdb", "DECIMAL", "DECIMAL(18,3)", "same"),
        ("duckdb", "VARCHAR(5)", "VARCHAR", "same"),
        ("duckdb", "ENUM('a', 'b')", "ENUM('a', 'b', 'c')", "wider"),
        ("duckdb", "ENUM('a', 'b')", "VARCHAR", "wider"),
        ("duckdb", "STRUCT(a INTEGER)", "STRUCT(a BIGINT, b VARCHAR)", "wider"),
        ("duckdb", "STRUCT(a INTEGER)", "STRUCT(b INTEGER)", "other"),
        ("duckdb", "MAP(VARCHAR, INTEGER)", "MAP(VARCHAR, BIGINT)", "wider"),
        ("duckdb", "INTEGER[3]", "INTEGER[]", "wider"),
        ("duckdb", "TIMESTAMP_S", "TIMESTAMP", "wider"),
        ("duckdb", "TIMESTAMP", "TIMESTAMP_NS", "other"),
        ("sqlite", "INT", "BIGINT", "same"),
        ("sqlite", "VARCHAR(3)", "TEXT", "same"),
        ("mysql", "int", "int unsigned", "other"),
        ("mysql", "int unsigned", "bigint", "wider"),
        ("mysql", "text", "longtext", "wider"),
        ("mysql", "varchar(255)", "text", "wider"),
        ("mysql", "datetime", "datetime(6)", "wider"),
        ("mysql", "tinyint(1)", "boolean", "same"),
        ("snowflake", "INT", "NUMBER(38,0)", "same"),
        ("snowflake", "NUMBER", "INT", "same"),
        ("snowflake", "NUMBER(10,0)", "INT", "wider"),
        ("snowflake", "NUMBER(10,0)", "NUMBER(12,2)", "wider"),
        ("snowflake", "INT", "FLOAT", "other"),
        ("snowflake", "TIMESTAMP_NTZ", "TIMESTAMP_TZ", "other"),
        ("bigquery", "INT64", "INTEGER", "same"),
        ("bigquery", "INT64", "NUMERIC", "wider"),
        ("bigquery", "NUMERIC", "BIGNUMERIC", "wider"),
        ("bigquery", "DATE", "DATETIME", "wider"),
        ("bigquery", "DATE", "TIMESTAMP", "other"),
        ("bigquery", "ARRAY<STRUCT<a INT64>>", "ARRAY<STRUCT<a INT64, b STRING>>", "wider"),
        ("databricks", "int", "bigint", "wider"),
        ("databricks", "bigint", "decimal(20,0)", "wider"),
        ("databricks", "date", "timestamp_ntz", "wider"),
        ("trino", "varchar(5)", "varchar", "wider"),
        ("trino", "row(a integer)", "row(a bigint)", "wider"),
        ("trino", "timestamp(3)", "timestamp(6)", "wider"),
        ("tsql", "tinyint", "smallint", "wider"),
        ("tsql", "varchar(20)", "varchar(max)", "wider"),
        ("tsql", "varchar(20)", "nvarchar(20)", "wider"),
        ("tsql", "datetime", "datetime2", "wider"),
        ("tsql", "money", "decimal(19,4)", "same"),
    ],
)
def test_what_a_change_does_to_values(dialect: str, old: str, new: str, expected: str) -> None:
    assert widening(old, new, dialect) == expected
    assert widening(new, old, dialect) == _BACK.get(expected, expected)
    assert widening(old, old, dialect) is Widening.SAME


@pytest.mark.parametrize(
    ("dialect", "type_", "family"),
    [
        ("bigquery", "TIMESTAMP", "timestamptz"),
        ("bigquery", "DATETIME", "timestamp"),
        ("databricks", "timestamp", "timestamptz"),
        ("databricks", "timestamp_ntz", "timestamp"),
        ("snowflake", "NUMBER(38,0)", "integer"),
        ("snowflake", "NUMBER(12,2)", "number"),
        ("snowflake", "TIMESTAMP_LTZ", "timestamptz"),
        ("snowflake", "VARIANT", "object"),
        ("trino", "row(a integer)", "object"),
        ("tsql", "datetimeoffset", "timestamptz"),
        ("tsql", "bit", "boolean"),
        ("mysql", "tinyint(1)", "boolean"),
        ("mysql", "timestamp", "timestamptz"),
        ("postgres", "bit(3)", "binary"),
        ("postgres", "shop.kind", ""),
        ("postgres", "no type (", ""),
    ],
)
def test_families(dialect: str, type_: str, family: str) -> None:
    assert family_of(type_, dialect) == family


def test_logical_types() -> None:
    assert logical_widening("integer", "number") is Widening.WIDER
    assert logical_widening("number", "integer") is Widening.NARROWER
    assert logical_widening("string", "integer") is Widening.OTHER
    assert logical_widening("date", "date") is Widening.SAME
    assert logical_widening("", "date") is Widening.UNKNOWN
