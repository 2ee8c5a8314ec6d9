"""Judging rows on real DuckDB, SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_ext.contracts import Contract, Status, Verdict
from airflow_ext.contracts.sql import Database
from airflow_ext.exceptions import InvalidContractError, UnavailableError
from tests.unit.contracts.conftest import connect
from tests.unit.contracts.samples import column, document
from tests.unit.contracts.shops import Shop, reasons


def test_a_partition_as_promised_passes(shop: Shop) -> None:
    verdict = shop.judge()
    assert (verdict.status, verdict.reasons, verdict.rows) == (Status.PASS, (), 3)
    assert (verdict.contract, verdict.version, verdict.partition) == ("orders", "1.2.0", "2013-01-05")
    assert (verdict.owner, verdict.support) == ("shop team", "slack #shop")
    assert verdict.at == "2013-01-08T00:00:00.000+00:00"


def test_only_the_partition_is_judged(shop: Shop) -> None:
    assert reasons(shop.judge("2013-01-06")) == {
        "valid(country)": "invalid values = 0 / 1",
        "valid(amount)": "invalid values = 0 / 1",
    }


def test_an_empty_partition_does_not_pass(shop: Shop) -> None:
    verdict = shop.judge("2013-01-07")
    assert reasons(verdict) == {"rowCount(table)": "rows >= 1 / 0"}
    assert verdict.rows == 0


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param({"metric": "rowCount", "mustBeGreaterOrEqualTo": 10}, "rows >= 10 / 3", id="rows"),
        pytest.param({"metric": "rowCount", "mustBeBetween": [1, 3]}, None, id="rows-between"),
        pytest.param({"metric": "rowCount", "mustNotBeBetween": [1, 3]}, "rows not between 1 and 3 / 3", id="not-between"),
        pytest.param(
            {"metric": "nullValues", "arguments": {"properties": ["country"]}, "mustBe": 0},
            "NULL values = 0 / 1",
            id="nulls",
        ),
        pytest.param(
            {"metric": "nullValues", "arguments": {"properties": ["country"]}, "mustBeLessThan": 30, "unit": "percent"},
            "NULL values < 30 % / 33.33333333 %",
            id="nulls-percent",
        ),
        pytest.param(
            {
                "metric": "missingValues",
                "arguments": {"properties": ["country"], "missingValues": ["FR", "100%"]},
                "mustBe": 0,
            },
            "missing values = 0 / 2",
            id="missing",
        ),
        pytest.param(
            {"metric": "missingValues", "arguments": {"properties": ["amount"], "missingValues": [0]}, "mustBe": 0},
            "missing values = 0 / 1",
            id="missing-number",
        ),
        pytest.param(
            {
                "metric": "invalidValues",
                "arguments": {"properties": ["country"], "validValues": ["DE", "it's"]},
                "mustBe": 0,
            },
            "invalid values = 0 / 1",
            id="invalid",
        ),
        pytest.param(
            {"metric": "duplicateValues", "arguments": {"properties": ["day", "id"]}, "mustBe": 0}, None, id="unique"
        ),
        pytest.param(
            {"metric": "duplicateValues", "arguments": {"properties": ["day"]}, "mustBe": 0},
            "duplicates = 0 / 2",
            id="duplicates",
        ),
        pytest.param(
            {"type": "sql", "query": "SELECT SUM(amount) FROM ${table}", "mustBeGreaterThan": 100},
            "result > 100 / 17.75",
            id="sql",
        ),
        pytest.param(
            {
                "type": "sql",
                "query": "WITH a AS (SELECT * FROM {table} WHERE country LIKE 'D%') SELECT COUNT(*) FROM a;",
                "mustBe": 5,
            },
            "result = 5 / 1",
            id="sql-with",
        ),
        pytest.param(
            {
                "type": "sql",
                "query": "-- per ${table}\n/* two\nlines */ WITH/**/a AS (SELECT * FROM {table}) SELECT COUNT(*) FROM a",
                "mustBe": 3,
            },
            None,
            id="sql-comment-with",
        ),
        pytest.param(
            {
                "type": "sql",
                "query": "SELECT COUNT(*) FROM ${table} t WHERE CAST(t.day AS VARCHAR(10)) <> ${partition} OR 1 = 1",
                "mustBe": 0,
            },
            "result = 0 / 3",
            id="sql-partition",
        ),
        pytest.param(
            {"type": "sql", "query": "SELECT MAX(amount) FROM ${table} WHERE amount > 99", "mustBe": 0},
            "result = 0 / no value (NULL)",
            id="sql-null",
        ),
        pytest.param(
            {"type": "sql", "query": "SELECT MIN(country) FROM ${table}", "mustBe": 0},
            "result = 0 / a str instead of a number",
            id="sql-text",
        ),
        pytest.param(
            {"type": "sql", "query": "SELECT id, amount FROM ${table}", "mustBe": 0},
            "result = 0 / 3 rows of 2 columns instead of one figure",
            id="sql-table",
        ),
    ],
)  # fmt: skip
def test_rules(shop: Shop, rule: dict[str, Any], expected: str | None) -> None:
    verdict = shop.judge(quality=[{"name": "rule", **rule}])
    assert reasons(verdict).get("rule") == expected
    assert verdict.status is (Status.PASS if expected is None else Status.BREACHED)


def test_a_rule_of_severity_warning_warns(shop: Shop) -> None:
    verdict = shop.judge(quality=[{"metric": "rowCount", "mustBe": 9, "severity": "warning", "name": "nine"}])
    assert verdict.status is Status.WARN
    assert verdict.status.holds
    assert verdict.reasons[0].severity == "warning"


def test_a_rule_that_cannot_be_computed_does_not_hide_the_others(shop: Shop) -> None:
    made = document()
    column(made, "amount")["quality"] = [
        {"name": "none", "metric": "nullValues", "mustBe": 0},
        {
            "name": "sum",
            "type": "sql",
            "query": "SELECT SUM(${column}) FROM ${table} WHERE nothing = 1",
            "mustBe": 0,
        },
    ]
    made["schema"][0]["physicalName"] = shop.table
    verdict = shop.judge_contract(Contract.from_text(yaml.safe_dump(made)))
    assert set(reasons(verdict)) == {"sum"}
    assert "cannot be computed" in verdict.reasons[0].actual
    assert "nothing" in verdict.reasons[0].actual


def test_changed_columns_are_reported(shop: Shop) -> None:
    shop.do(
        f"DROP TABLE {shop.table}",
        f"CREATE TABLE {shop.table} (day DATE, id VARCHAR(9), amount DOUBLE PRECISION, note VARCHAR(9))",
        f"INSERT INTO {shop.table} VALUES ('2013-01-05', '1', -1, 'x')",
    )
    verdict = shop.judge()
    found = reasons(verdict)
    assert found["schema.missing(country)"] == "column of string / no such column"
    assert found["schema.retyped(id)"].startswith("integer / ")
    assert found["valid(amount)"] == "invalid values = 0 / 1"
    assert "schema.extra(note)" in found
    assert [r.severity for r in verdict.reasons if r.rule == "schema.extra(note)"] == ["warning"]
    assert "valid(country): the column country is missing" in verdict.skipped


def test_a_table_that_vanished_is_a_breach(shop: Shop) -> None:
    shop.do(f"DROP TABLE {shop.table}")
    verdict = shop.judge()
    assert reasons(verdict) == {"schema.table": f"table {shop.table} / no such table"}
    assert verdict.rows is None


def test_a_partition_column_that_became_text_is_reported_and_still_restricts(shop: Shop) -> None:
    shop.do(
        f"DROP TABLE {shop.table}",
        f"CREATE TABLE {shop.table} (day VARCHAR(10), id INTEGER, country VARCHAR(9), amount DOUBLE PRECISION)",
        f"INSERT INTO {shop.table} VALUES ('2013-01-05', 1, 'DE', 1), ('2013-01-06', 1, 'DE', 1)",
    )
    verdict = shop.judge()
    assert set(reasons(verdict)) == {"schema.retyped(day)"}
    assert verdict.rows == 1


def test_a_breach_lists_the_columns_that_may_be_used(shop: Shop) -> None:
    assert shop.judge().columns == ()
    broken = shop.judge(quality=[{"name": "rows", "metric": "rowCount", "mustBe": 9}])
    assert broken.status is Status.BREACHED
    assert {"amount", "country", "day"} <= set(broken.columns)
    assert Verdict.from_dict(broken.to_dict()) == broken


def test_a_partition_column_that_is_missing_or_useless_is_a_breach(shop: Shop) -> None:
    shop.do(
        f"DROP TABLE {shop.table}",
        f"CREATE TABLE {shop.table} (day DOUBLE PRECISION, id INTEGER, country VARCHAR(9), amount DOUBLE PRECISION)",
    )
    assert "which cannot hold the partition" in reasons(shop.judge())["partition"]
    shop.do(f"DROP TABLE {shop.table}", f"CREATE TABLE {shop.table} (id INTEGER)")
    lost = shop.judge()
    assert "day is missing" in reasons(lost)["partition"]
    # nothing could be judged, so it concerns also who does not read that column
    assert lost.seen_by(["amount"]).status is Status.BREACHED


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("DELETE FROM ${table}", id="delete"),
        pytest.param("SELECT 1 FROM ${table}; DROP TABLE orders", id="two-statements"),
        pytest.param(
            "WITH x AS (DELETE FROM orders RETURNING 1) SELECT COUNT(*) FROM x, ${table}", id="in-a-cte"
        ),
        pytest.param("SELECT COUNT(*) INTO copy FROM ${table}", id="into"),
        pytest.param("SELECT (( FROM ${table}", id="nonsense"),
        pytest.param("PRAGMA database_list -- ${table}", id="pragma"),
    ],
)
def test_a_query_that_does_more_than_read_is_refused(shop: Shop, query: str) -> None:
    with pytest.raises(InvalidContractError, match="rule 'rule'"):
        shop.judge(quality=[{"name": "rule", "type": "sql", "query": query, "mustBe": 0}])
    assert shop.judge().rows == 3


def test_nothing_can_be_written_through_the_judge(shop: Shop) -> None:
    from airflow_ext.contracts.sql import QueryError, Sql

    with Database(shop.connection, shop.dialect) as database, pytest.raises((QueryError, UnavailableError)):
        database.rows(Sql(f"DELETE FROM {shop.table}"))
    assert shop.judge().rows == 3


def test_names_are_quoted(shop: Shop) -> None:
    table = shop.table.replace("orders", 'or"ders')
    quoted = table.replace('or"ders', '"or""ders"')
    shop.do(
        f'CREATE TABLE {quoted} (day DATE, "select" INTEGER)',
        f"INSERT INTO {quoted} VALUES ('2013-01-05', 1)",
    )
    made = document()
    made["schema"][0]["physicalName"] = table
    made["schema"][0]["properties"] = [
        {"name": "day", "logicalType": "date", "partitioned": True},
        {"name": "select", "logicalType": "integer", "unique": True, "required": True},
    ]
    verdict = shop.judge_contract(Contract.from_text(yaml.safe_dump(made)))
    assert (verdict.status, verdict.rows) == (Status.PASS, 1)


def _timed(shop: Shop, type_: str, value: str, **options: Any) -> Verdict:
    shop.do(
        f"CREATE TABLE {shop.table}_times (placed {type_}, n INTEGER)",
        f"INSERT INTO {shop.table}_times VALUES ({value}, 1)",
    )
    made = document(
        slaProperties=[{"property": "latency", "value": 2, "unit": "h", "element": "orders.placed"}],
        customProperties=[{"property": f"airflow.{k}", "value": v} for k, v in options.items()],
    )
    made["schema"][0]["physicalName"] = f"{shop.table}_times"
    made["schema"][0]["properties"] = [{"name": "placed", "logicalType": "timestamp"}, {"name": "n"}]
    return shop.judge_contract(Contract.from_text(yaml.safe_dump(made)))


def test_the_newest_row_may_be_too_old_for_its_partition(shop: Shop) -> None:
    verdict = _timed(shop, "TIMESTAMP", "'2013-01-05 20:30:00'", partitionColumn="placed")
    assert reasons(verdict) == {"latency(orders.placed)": "age of the newest row <= 2h / 3h 30m"}
    assert verdict.rows == 1


def test_without_partitions_the_newest_row_is_compared_with_the_present(shop: Shop) -> None:
    verdict = _timed(shop, "TIMESTAMP", "'2013-01-07 22:30:00'")
    assert verdict.status is Status.PASS


@pytest.mark.parametrize("shop", ["duckdb", "postgres"], indirect=True)  # SQLite has no such times
def test_times_with_a_zone_are_cut_at_local_midnight(shop: Shop) -> None:
    verdict = _timed(
        shop,
        "TIMESTAMP WITH TIME ZONE",
        "'2013-01-04 23:30:00+00'",
        partitionColumn="placed",
        timezone="Europe/Berlin",
    )
    assert verdict.rows == 1
    assert reasons(verdict) == {"latency(orders.placed)": "age of the newest row <= 2h / 23h 30m"}


def test_values_of_the_data_never_get_into_a_verdict(shop: Shop) -> None:
    secret = "zq81-secret"
    shop.do(f"INSERT INTO {shop.table} VALUES ('2013-01-05', 9, '{secret}', -5)")
    verdict = shop.judge(
        quality=[
            {"name": "a", "type": "sql", "query": "SELECT MAX(country) FROM ${table}", "mustBe": 0},
            {
                "name": "b",
                "type": "sql",
                "query": "SELECT SUM(CAST(country AS INTEGER)) FROM ${table}",
                "mustBe": 9,
            },
        ]
    )
    assert {"a", "b", "valid(country)"} <= set(reasons(verdict))
    assert secret not in str(verdict.to_dict())


@pytest.mark.parametrize(
    ("promised", "type_", "status"),
    [
        pytest.param({"logicalType": "number"}, "INTEGER", Status.PASS, id="whole-numbers-are-numbers"),
        pytest.param({"logicalType": "integer"}, "HUGEINT", Status.PASS, id="sum-of-integers"),
        pytest.param({"logicalType": "integer"}, "DOUBLE", Status.BREACHED, id="no-longer-whole"),
        pytest.param({"logicalType": "timestamp"}, "TIMESTAMP WITH TIME ZONE", Status.PASS, id="zone"),
        pytest.param({"logicalType": "date"}, "TIMESTAMP", Status.BREACHED, id="date-and-time"),
        pytest.param({"logicalType": "array"}, "VARCHAR[]", Status.PASS, id="array"),
        pytest.param({"logicalType": "object"}, "STRUCT(a INTEGER)", Status.PASS, id="struct"),
        pytest.param({"logicalType": "string"}, "UUID", Status.PASS, id="uuid"),
        pytest.param({"physicalType": "text"}, "VARCHAR", Status.PASS, id="text-is-varchar"),
        pytest.param({"physicalType": "int"}, "BIGINT", Status.WARN, id="wider"),
        pytest.param({"physicalType": "decimal(10,2)"}, "DECIMAL(10,2)", Status.PASS, id="decimal"),
        pytest.param({"physicalType": "decimal(10,2)"}, "DECIMAL(12,2)", Status.WARN, id="wider-decimal"),
        pytest.param(
            {"physicalType": "decimal(10,2)"}, "DECIMAL(8,2)", Status.BREACHED, id="narrower-decimal"
        ),
        pytest.param({"physicalType": "decimal"}, "DECIMAL(8,2)", Status.PASS, id="no-digits-promised"),
        pytest.param({"physicalType": "bigint"}, "INTEGER", Status.BREACHED, id="narrower"),
        pytest.param({}, "BLOB", Status.PASS, id="nothing-promised"),
    ],
)
def test_types(tmp_path: Path, promised: dict[str, str], type_: str, status: Status) -> None:
    made = document(customProperties=None)
    made["schema"][0]["properties"] = [{"name": "c", **promised}]
    made["schema"][0]["physicalName"] = "t"
    with closing(connect("duckdb", tmp_path)) as connection:
        connection.execute(f"CREATE TABLE t (c {type_})")
        verdict = Shop(connection, "duckdb").judge_contract(Contract.from_text(yaml.safe_dump(made)))
    assert verdict.status is status


def test_library_rules_take_one_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    with closing(sqlite3.connect(tmp_path / "x")) as connection:
        shop = Shop(connection, "sqlite")
        shop.fill()
        connection.set_trace_callback(seen.append)
        shop.judge(quality=[{"metric": "rowCount", "mustBe": 3}])
    assert sum('FROM "orders"' in statement for statement in seen) == 1


def test_a_database_that_is_gone_is_not_a_breach(tmp_path: Path) -> None:
    connection = connect("duckdb", tmp_path)
    Shop(connection, "duckdb").fill()
    connection.close()
    with pytest.raises(UnavailableError):
        Shop(connection, "duckdb").judge()


def test_another_database_is_refused_with_those_that_work() -> None:
    with pytest.raises(
        ValueError, match="dialect='oracle': contracts can be judged on duckdb, postgres, sqlite, mysql"
    ):
        Database(object(), "oracle")
