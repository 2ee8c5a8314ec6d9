"""SQL for databases that are not here: read back by sqlglot in their own dialect."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlglot  # noqa: TID253  read by no DAG
import yaml
from sqlglot import exp  # noqa: TID253

from airflow_ext.contracts import Contract
from airflow_ext.contracts.catalog import Found, look_at
from airflow_ext.contracts.catalog_queries import columns_query, key_query
from airflow_ext.contracts.dialects import DIALECTS, dialect_of
from airflow_ext.contracts.families import family_of
from airflow_ext.contracts.folding import fold
from airflow_ext.contracts.measures import Measures, partition_condition
from airflow_ext.contracts.sql import Bound, Database, Sql
from airflow_ext.testing.postgres import LocalPostgres
from tests.unit.contracts.samples import column, document

NAMES = sorted({dialect.name for dialect in DIALECTS.values()})
HOSTILE = "it's 100% \\' \"`]; DROP TABLE x --\n"
TYPES = {
    "bigquery": ("DATE", "INT64", "STRING", "NUMERIC"),
    "databricks": ("date", "bigint", "string", "decimal(10,2)"),
    "snowflake": ("DATE", "NUMBER(38,0)", "VARCHAR(20)", "FLOAT"),
    "tsql": ("date", "int", "nvarchar(20)", "decimal(10,2)"),
}
USUAL = ("date", "bigint", "varchar(20)", "decimal(10,2)")


def parsed(sql: Sql, name: str) -> exp.Expr:
    """Read a query back, with its values where the driver would put them."""
    dialect = dialect_of(name)
    parts = (dialect.literal(part.value) if isinstance(part, Bound) else part for part in sql.parts)
    statements = sqlglot.parse("".join(parts), dialect=name)
    assert len(statements) == 1
    assert statements[0] is not None
    assert not statements[0].find(exp.Command)
    return statements[0]


def promised() -> Contract:
    made = document()
    made["schema"][0]["physicalName"] = "wh.shop.orders"
    column(made, "country")["enum"] = [{"value": HOSTILE}, {"value": "DE"}]
    del column(made, "country")["logicalTypeOptions"]
    column(made, "country")["logicalTypeOptions"] = {"pattern": "^[A-Z]{2}'$", "minLength": 1}
    made["schema"][0]["quality"] = [
        {"metric": "rowCount", "mustBe": 1},
        {"metric": "missingValues", "mustBe": 0, "arguments": {"properties": ["country"], "missingValues": [HOSTILE]}},
        {"metric": "duplicateValues", "mustBe": 0, "arguments": {"properties": ["id", "country"]}},
        {"type": "sql", "query": "SELECT SUM(amount) FROM ${table} WHERE id > 1", "mustBe": 1},
        {
            "type": "sql",
            "query": "SELECT COUNT(*) FROM (SELECT id FROM ${table} WHERE country <> ${partition} GROUP BY id) x",
            "mustBe": 1,
        },
    ]  # fmt: skip
    made["slaProperties"] = [{"property": "retention", "value": 1, "unit": "y", "element": "orders.day"}]
    return Contract.from_text(yaml.safe_dump(made))


def measures(name: str, contract: Contract) -> Measures:
    dialect = dialect_of(name)
    types = TYPES.get(name, USUAL)
    columns = {
        each.name: Found(each.name.upper(), type_, family_of(type_, name))
        for each, type_ in zip(contract.columns, types, strict=True)
    }
    condition = partition_condition(columns["day"], contract.partition, "2013-01-05", dialect)
    return Measures(
        table=dialect.quote_table(contract.table), condition=condition, columns=columns, dialect=dialect
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_measure_is_sql_of_the_dialect(name: str) -> None:
    contract = promised()
    built = measures(name, contract)
    rules = [rule for rule in contract.rules if dialect_of(name).matches or rule.validity.pattern is None]
    together = [rule for rule in rules if built.can_fold(rule)]
    query = parsed(built.query(together), name)
    assert len(query.expressions) == len(together) + 1
    tables = {table.sql(dialect="postgres") for table in query.find_all(exp.Table)}
    assert tables == {'"wh"."shop"."orders"'} or tables == {"wh.shop.orders"}, tables
    texts = {literal.name for literal in query.find_all(exp.Literal) if literal.is_string}
    assert {HOSTILE, "2013-01-05"} <= texts
    for rule in rules:
        built.check(rule)
        if not built.can_fold(rule):
            parsed(built.own_query(rule, "2013-01-05"), name)
        if (failing := built.failing(rule)) is not None:
            parsed(Sql("SELECT 1", built.rows_of_partition, built.and_, "(", failing, ")"), name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("table", ["orders", "shop.orders", "wh.shop.or'd\"er`s]"])
def test_catalog_queries_are_sql_of_the_dialect(name: str, table: str) -> None:
    dialect = dialect_of(name)
    if (query := columns_query(dialect, table)) is not None:
        assert len(parsed(query, name).expressions) == 5
    if (asked := key_query(dialect, table, "shop", "orders")) is not None and (
        name != "bigquery" or "." in table
    ):
        parsed(asked, name)


@pytest.mark.parametrize("name", NAMES)
def test_identifiers_and_values_cannot_break_out(name: str) -> None:
    dialect = dialect_of(name)
    quoted = sqlglot.parse_one(f"SELECT {dialect.quote(HOSTILE.strip())}", dialect=name).expressions
    assert len(quoted) == 1
    assert isinstance(quoted[0], exp.Column)
    for value in (HOSTILE, "\\", "\\'", "''", "a\\\\b"):
        read = sqlglot.parse_one(f"SELECT {dialect.literal(value)}", dialect=name).expressions
        assert [(type(each), each.name) for each in read] == [(exp.Literal, value)]


def test_values_are_literals_where_drivers_disagree() -> None:
    moment = datetime(2013, 1, 5, 6, tzinfo=UTC)
    values = [
        Bound(None),
        Bound(True),
        Bound(3),
        Bound(date(2013, 1, 5)),
        Bound(moment),
        Bound(moment.replace(tzinfo=None)),
    ]
    query = Sql("SELECT ", Sql.join(", ", [Sql(value) for value in values]))
    assert dialect_of("gcpbigquery").written(query) == (
        "SELECT NULL, TRUE, 3, CAST('2013-01-05' AS DATE), CAST('2013-01-05 06:00:00+00:00' AS TIMESTAMP), "
        "CAST('2013-01-05 06:00:00' AS DATETIME)",
        (),
    )
    assert dialect_of("snowflake").written(Sql("SELECT ", Bound("x"))) == ("SELECT %s", ("x",))


def test_a_cut_query() -> None:
    assert (
        dialect_of("mssql").cut(Sql("SELECT DISTINCT a FROM t"), 3).render("?")[0]
        == "SELECT DISTINCT TOP 3 a FROM t"
    )
    assert dialect_of("trino").cut(Sql("SELECT a FROM t"), 0).render("?")[0] == "SELECT a FROM t LIMIT 0"


class Hook:
    """A common-sql hook, as far as the judge asks it."""

    def __init__(self, url: str) -> None:
        from sqlalchemy import create_engine

        self.engine = create_engine(url)

    @property
    def inspector(self) -> Any:
        from sqlalchemy import inspect

        return inspect(self.engine)


def test_the_inspector_is_asked_where_the_catalog_does_not_answer(tmp_path: Path) -> None:
    """A database without information_schema stands for one whose catalog may not be read."""
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER NOT NULL PRIMARY KEY, price DECIMAL(10, 2))")
        connection.commit()
        hook = Hook(f"sqlite:///{tmp_path / 'x.sqlite'}")
        # Trino quotes as SQLite does and sets a limit that SQLite does not know
        database = Database(connection, "trino", hook=hook)
        database.sql = database.sql.__class__(**{**vars(database.sql), "limits": ()})
        with database:
            found = look_at(database, "orders", with_key=True)
            assert found is not None
            assert [(c.name, c.family, c.nullable) for c in found.columns.values()] == [
                ("id", "integer", False),
                ("price", "number", True),
            ]
            assert found.key == ("id",)
            database.hook = None
            plain = look_at(database, "orders")
            assert plain is not None
            assert [(c.name, c.type) for c in plain.columns.values()] == [("id", ""), ("price", "")]
        hook.engine.dispose()


def test_duckdb_tells_types_even_of_a_query(tmp_path: Path) -> None:
    import duckdb

    with duckdb.connect() as connection, Database(connection, "duckdb") as database:
        assert database.described(Sql("SELECT 1 AS a, 'x' AS b LIMIT 0")) == [
            ("a", "INTEGER"),
            ("b", "VARCHAR"),
        ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT SUM(a) FROM rows", "SUM(a)"),
        ("SELECT SUM(a) AS s FROM rows", "SUM(a)"),
        ("SELECT SUM(r.a) FROM rows r WHERE r.b > 0", "SUM(CASE WHEN b > 0 THEN a END)"),
        ("SELECT COUNT(*) FROM rows WHERE a", "COUNT(CASE WHEN a THEN 1 END)"),
        ("SELECT COUNT(DISTINCT a) FROM rows WHERE b", "COUNT(DISTINCT CASE WHEN b THEN a END)"),
        ("SELECT 100.0 * SUM(a) / COUNT(*) FROM rows", "100.0 * SUM(a) / COUNT(*)"),
        ('SELECT MAX("Ab") FROM rows', 'MAX("Ab")'),
        ("SELECT a FROM rows", None),
        ("SELECT 1 FROM rows", None),
        ("SELECT SUM(a), 1 FROM rows", None),
        ("SELECT SUM(a) + b FROM rows", None),
        ("SELECT SUM(a) FROM rows GROUP BY b", None),
        ("SELECT SUM(a) FROM rows HAVING SUM(a) > 1", None),
        ("SELECT DISTINCT SUM(a) FROM rows", None),
        ("SELECT SUM(a) FROM rows LIMIT 1", None),
        ("SELECT SUM(a) FROM rows, other", None),
        ("SELECT SUM(a) FROM rows JOIN other ON TRUE", None),
        ("SELECT SUM(a) FROM other", None),
        ("SELECT SUM(a) FROM s.rows", None),
        ("SELECT SUM(a) FROM rows WHERE b IN (SELECT 1)", None),
        ("SELECT SUM(a) OVER () FROM rows", None),
        ("SELECT SUM(a) FILTER (WHERE b) FROM rows", None),
        ("SELECT MEDIAN(a) FROM rows", None),
        ("SELECT COUNT(pg_sleep(9)) FROM rows", None),
        ("SELECT SUM(a) FROM rows TABLESAMPLE SYSTEM (10)", None),
        ("SELECT SUM(a) FROM rows UNION SELECT 1", None),
        ("WITH x AS (SELECT 1) SELECT SUM(a) FROM rows", None),
    ],
)
def test_what_folds_into_the_one_query(query: str, expected: str | None) -> None:
    assert fold(query, "rows", "postgres") == expected


class Answers:
    """A driver's connection to a server that says which one it is."""

    def __init__(self, version: str) -> None:
        self.version = version

    def cursor(self) -> Answers:
        return self

    def execute(self, statement: str) -> None:
        assert statement == "SELECT VERSION()"

    def fetchall(self) -> list[tuple[str]]:
        return [(self.version,)]

    def close(self) -> None:
        """Nothing is open."""


def test_mariadb_has_another_time_limit_and_other_patterns() -> None:
    """Both are reached through a connection of type ``mysql``."""
    assert Database(Answers("8.4.3"), "mysql").sql is DIALECTS["mysql"]
    sql = Database(Answers("10.11.19-MariaDB-0+deb12u1"), "mysql").sql
    assert sql.limits == ("SET SESSION max_statement_time = {seconds}",)
    matches = sql.matches.format(column="`a`", pattern="'^x'")
    assert sqlglot.parse_one(f"SELECT {matches}", dialect="mysql").find(exp.RegexpLike)


def test_a_new_time_limit_counts_in_a_transaction_that_is_open(postgres: LocalPostgres) -> None:
    with closing(postgres.connect()) as opened, Database(opened, "postgres") as database:
        database.rows(Sql("SELECT 1"))
        database.time_limit = 7
        assert database.rows(Sql("SHOW statement_timeout")) == [("7s",)]
