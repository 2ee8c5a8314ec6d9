"""What a hostile or careless contract cannot do, and that every query comes to an end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_ext.contracts import Contract, Status
from airflow_ext.contracts.judge import judge
from airflow_ext.contracts.read_only import check_reads_only
from airflow_ext.contracts.sql import Database, Sql, TimeLimitError
from airflow_ext.exceptions import InvalidContractError, UnavailableError
from tests.unit.contracts.samples import document
from tests.unit.contracts.shops import NOW, Shop, reasons

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n, ${table}"


def with_rules(shop: Shop, *rules: dict[str, Any], **own: Any) -> Contract:
    made = document(customProperties=[{"property": f"airflow.{k}", "value": v} for k, v in own.items()])
    made["schema"][0]["physicalName"] = shop.table
    made["schema"][0]["quality"] = list(rules)
    return Contract.from_text(yaml.safe_dump(made))


def test_a_rule_that_never_ends_is_ended_and_the_others_are_judged(shop: Shop) -> None:
    promised = with_rules(
        shop,
        {"name": "endless", "type": "sql", "query": ENDLESS, "mustBe": 0},
        {"name": "ten rows", "metric": "rowCount", "mustBe": 10},
        timeLimit="1s",
    )
    started = time.monotonic()
    verdict = shop.judge_contract(promised)
    assert time.monotonic() - started < 10
    assert reasons(verdict) == {
        "endless": "result = 0 / cannot be computed: ended after the time limit of 1 s",
        "ten rows": "rows = 10 / 3",
    }
    assert shop.judge().status is Status.PASS


def test_a_database_that_is_too_slow_is_not_a_breach(shop: Shop) -> None:
    shop.do(
        f"CREATE VIEW {shop.table}_slow AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        f"SELECT o.* FROM {shop.table} o, n"
    )
    promised = with_rules(shop, timeLimit="1s")
    made = yaml.safe_load(yaml.safe_dump(dict(promised.document)))
    made["schema"][0]["physicalName"] = f"{shop.table}_slow"
    with pytest.raises(UnavailableError, match=r"ended after the time limit of 1 s.*airflow\.timeLimit"):
        shop.judge_contract(Contract.from_text(yaml.safe_dump(made)))


def test_the_limit_counts_for_each_query(shop: Shop) -> None:
    with Database(shop.connection, shop.dialect, time_limit=0.3) as database:
        with pytest.raises(TimeLimitError):
            database.rows(Sql(ENDLESS.replace("${table}", shop.table)))
        assert database.rows(Sql("SELECT 1")) == [(1,)]


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        ("postgres", "SELECT nextval('orders_id_seq')"),
        ("postgres", "SELECT COUNT(*) FROM ${table} WHERE pg_terminate_backend(1)"),
        ("postgres", "SELECT length(pg_read_file('/etc/passwd'))"),
        ("postgres", "SELECT COUNT(set_config('statement_timeout', '0', false)) FROM rows"),
        ("postgres", "SELECT COUNT(*) FROM dblink('host=x', 'DROP TABLE orders') AS t(a int)"),
        ("postgres", "SELECT COUNT(*) FROM rows FOR UPDATE"),
        ("duckdb", "SELECT COUNT(*) FROM read_csv('/etc/passwd')"),
        ("duckdb", "SELECT LENGTH(getenv('HOME'))"),
        ("duckdb", "SELECT COUNT(*) FROM query('SELECT 1')"),
        ("sqlite", "SELECT load_extension('x')"),
        ("sqlite", "SELECT \"load_extension\"('x')"),
        ("duckdb", "SELECT COUNT(*) FROM \"read_text\"('/etc/passwd')"),
        ("postgres", "SELECT COUNT(\"set_config\"('statement_timeout', '0', false)) FROM rows"),
        ("postgres", "SELECT pg_catalog.\"dblink_exec\"('host=x', 'DROP TABLE orders')"),
        ("postgres", "SELECT U&\"set\\005fconfig\"('statement_timeout', '0', false)"),
        ("postgres", "SELECT length(table_to_xml('orders', true, true, '')::text)"),
        ("mysql", "SELECT LENGTH(`load_file`('/etc/passwd'))"),
        ("mysql", "SELECT COUNT(*) FROM rows /*!50000 INTO OUTFILE '/tmp/x' */"),
        ("mysql", "SELECT LENGTH(LOAD_FILE('/etc/passwd'))"),
        ("tsql", "SELECT COUNT(*) FROM OPENROWSET('x', 'y', 'DELETE FROM t')"),
        ("tsql", "SELECT 1 INTO copy FROM rows"),
        ("tsql", "EXEC sp_who"),
        ("snowflake", "SELECT SYSTEM$CANCEL_QUERY('x')"),
        ("snowflake", "CALL do_it()"),
        ("bigquery", "CREATE TABLE d.t AS SELECT 1"),
        ("databricks", "OPTIMIZE orders"),
        ("trino", "DELETE FROM orders"),
    ],
)
def test_what_acts_is_refused_by_its_text(dialect: str, query: str) -> None:
    with pytest.raises(InvalidContractError, match="rule 'r'"):
        check_reads_only("r", query.replace("${table}", "rows"), dialect)


@pytest.mark.parametrize(
    "dialect", ["postgres", "duckdb", "sqlite", "mysql", "tsql", "snowflake", "bigquery", "trino"]
)
def test_what_only_reads_is_let_through(dialect: str) -> None:
    check_reads_only(
        "r",
        "WITH a AS (SELECT COUNT(*) AS n FROM orders WHERE amount > 0 AND country IN ('DE') GROUP BY country) "
        "SELECT MAX(n) - COALESCE(MIN(n), 0) FROM a",
        dialect,
    )


def test_a_rule_that_writes_is_refused_before_anything_runs(shop: Shop) -> None:
    seen: list[Sql] = []

    class Counting(Database):
        def rows(self, sql: Sql) -> list[tuple[Any, ...]]:
            seen.append(sql)
            return super().rows(sql)

    promised = with_rules(shop, {"name": "w", "type": "sql", "query": "DELETE FROM ${table}", "mustBe": 0})
    with Counting(shop.connection, shop.dialect) as database, pytest.raises(InvalidContractError):
        judge(promised, "2013-01-05", database, now=NOW)
    assert seen == []


def test_a_file_of_another_process_is_left_alone(tmp_path: Path) -> None:
    """DuckDB reads files by name in FROM: a read-only transaction cannot stop that, so the text must."""
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(InvalidContractError, match="may not read files"):
        check_reads_only("r", f"SELECT COUNT(*) FROM '{secret}'", "duckdb")


def test_a_pattern_that_may_never_end_is_refused_where_nothing_could_end_it(shop: Shop) -> None:
    def promise(pattern: str) -> Contract:
        arguments = {"properties": ["country"], "pattern": pattern}
        return with_rules(shop, {"name": "p", "metric": "invalidValues", "mustBe": 9, "arguments": arguments})

    shop.do(f"INSERT INTO {shop.table} VALUES ('2013-01-05', 4, '{'A' * 18}!x', 1)")
    assert reasons(shop.judge_contract(promise("^([A-Z][A-Z])+$")))["p"] == "invalid values = 9 / 1"
    if shop.dialect == "sqlite":
        with pytest.raises(InvalidContractError, match="may never end"):
            shop.judge_contract(promise("^([A-Z]+)+$"))
    else:
        assert reasons(shop.judge_contract(promise("^([A-Z]+)+$")))["p"] == "invalid values = 9 / 1"
