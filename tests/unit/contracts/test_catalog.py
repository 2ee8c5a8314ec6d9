"""What PostgreSQL lets us see: views, and tables that may not be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.catalog import look_at
from airflow_ext.contracts.judge import judge
from airflow_ext.contracts.sql import Database, QueryError, Sql
from airflow_ext.exceptions import DeniedError, InvalidError
from airflow_ext.testing.postgres import LocalPostgres
from tests.unit.contracts.samples import contract

DAY = "2013-01-05"
SECRET = "zq81-secret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    with LocalPostgres(tmp_path_factory.mktemp("postgres")) as server:
        for statement in (
            "CREATE SCHEMA shop",
            "CREATE DOMAIN shop.money AS NUMERIC(10, 2)",
            "CREATE TYPE shop.kind AS ENUM ('2013-01-05')",
            "CREATE TABLE shop.orders AS SELECT DATE '2013-01-05' AS day, 1 AS id, 'DE'::TEXT AS country, "
            "1.5::shop.money AS amount",
            "CREATE VIEW shop.plain AS SELECT * FROM shop.orders",
            "CREATE MATERIALIZED VIEW shop.kept AS SELECT * FROM shop.orders",
            "CREATE TABLE shop.kinds AS SELECT '2013-01-05'::shop.kind AS day, 1 AS id, 'DE'::TEXT AS country, "
            "1.5 AS amount",
            f"CREATE TABLE shop.secrets AS SELECT '{SECRET}'::TEXT AS country",
            "CREATE ROLE stranger",
            "CREATE ROLE guest",
            "GRANT USAGE ON SCHEMA shop TO guest",
            "CREATE ROLE clerk",
            "GRANT USAGE ON SCHEMA shop TO clerk",
            "GRANT SELECT (day, id) ON shop.orders TO clerk",
        ):
            server.execute(statement)
        yield server


@pytest.fixture
def connection(server: LocalPostgres) -> Iterator[Any]:
    with closing(server.connect()) as connection:
        connection.autocommit = False
        yield connection


def judged(connection: Any, table: str, role: str = "") -> Verdict:
    if role:
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"SET ROLE {role}")
        connection.commit()
    with Database(connection, "postgres") as database:
        return judge(contract(table=table), DAY, database)


@pytest.mark.parametrize("table", ["orders", "plain", "kept"])
def test_tables_and_views_of_both_kinds_are_judged(connection: Any, table: str) -> None:
    verdict = judged(connection, f"shop.{table}")
    assert (verdict.status, verdict.reasons, verdict.rows) == (Status.PASS, (), 1)
    with Database(connection, "postgres") as database:
        seen = look_at(database, f"shop.{table}")
    assert seen is not None
    assert {name: found.family for name, found in seen.columns.items()} == {
        "day": "date",
        "id": "integer",
        "country": "string",
        "amount": "number",
    }


@pytest.mark.parametrize(
    "role", [pytest.param("stranger", id="no-schema"), pytest.param("guest", id="no-table"), "clerk"]
)
def test_what_may_not_be_read_is_not_a_breach(connection: Any, role: str) -> None:
    with pytest.raises(DeniedError, match=r"cannot be judged: permission denied .*Grant"):
        judged(connection, "shop.orders", role)


@pytest.mark.parametrize("table", ["shop.nothing", "nowhere.orders"])
def test_what_is_not_there_is_a_breach(connection: Any, table: str) -> None:
    assert [reason.rule for reason in judged(connection, table).reasons] == ["schema.table"]


def test_a_partition_column_of_unknown_type_is_not_a_breach(connection: Any) -> None:
    with pytest.raises(InvalidError, match=r"partition column 'day' of shop\.kinds is of type 'shop\.kind'"):
        judged(connection, "shop.kinds")


@pytest.mark.parametrize(
    "expression",
    [
        "country::INTEGER",
        "country::REGCLASS",
        "(country || ' & (')::TSQUERY",
        "to_date(country, 'YYYY')",
        "country::JSON",
    ],
)
def test_a_value_never_gets_into_an_error(connection: Any, expression: str) -> None:
    with Database(connection, "postgres") as database, pytest.raises(QueryError) as caught:
        database.rows(Sql(f"SELECT {expression} FROM shop.secrets WHERE country LIKE 'zq%'"))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "expression", ["CAST(country AS INTEGER)", "strptime(country, '%Y')", "json(country)"]
)
def test_a_value_never_gets_into_an_error_of_duckdb(expression: str) -> None:
    import duckdb

    with duckdb.connect() as connection, Database(connection, "duckdb") as database:
        connection.execute(f"CREATE TABLE secrets AS SELECT '{SECRET}' AS country")
        with pytest.raises(QueryError) as caught:
            database.rows(Sql(f"SELECT {expression} FROM secrets"))
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None
        with pytest.raises(QueryError, match="nothing"):
            database.rows(Sql("SELECT nothing FROM secrets"))
