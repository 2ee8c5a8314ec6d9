"""Rows put aside, and values shown, on real DuckDB, SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from airflow_ext.contracts import Contract, Status, Verdict
from airflow_ext.contracts.judge import judge
from airflow_ext.contracts.quarantine import Quarantined, quarantine_rows, set_rows_aside
from airflow_ext.contracts.row_rules import samples
from airflow_ext.contracts.sql import Database, QueryError
from airflow_ext.exceptions import InvalidError
from tests.unit.contracts.samples import column, document
from tests.unit.contracts.shops import NOW, Shop


def promised(shop: Shop, change: Any = None, **own: Any) -> Contract:
    own = {"quarantineTable": f"{shop.table}_quarantine", **own}
    made = document(
        customProperties=[{"property": f"airflow.{k}", "value": v} for k, v in own.items() if v is not None]
    )
    made["schema"][0]["physicalName"] = shop.table
    if change:
        change(made)
    return Contract.from_text(yaml.safe_dump(made))


def put_aside(shop: Shop, contract: Contract, day: str = "2013-01-05", **arguments: Any) -> Quarantined:
    with Database(shop.connection, shop.dialect) as database:
        return quarantine_rows(contract, day, database, **{"publication": "run1", "now": NOW, **arguments})


def kept(shop: Shop) -> list[tuple[Any, ...]]:
    return shop.ask(
        f"SELECT ext_rule, ext_publication, id, country, amount FROM {shop.table}_quarantine ORDER BY 1, 2, 3, 5"
    )


BAD = (
    "('2013-01-05', 7, 'x''; DROP', -2.5)",
    "('2013-01-05', 7, 'DE', 1.0)",
    "('2013-01-05', NULL, 'DE', 1.0)",
)


@pytest.fixture
def bad(shop: Shop) -> Shop:
    for row in BAD:
        shop.do(f"INSERT INTO {shop.table} VALUES {row}")
    return shop


def test_rows_that_break_a_rule_are_put_aside_once(bad: Shop) -> None:
    contract = promised(bad)
    expected = [
        ("primaryKey(id)", "run1", 7, "DE", 1.0),
        ("primaryKey(id)", "run1", 7, "x'; DROP", -2.5),
        ("required(id)", "run1", None, "DE", 1.0),
        ("valid(amount)", "run1", 7, "x'; DROP", -2.5),
        ("valid(country)", "run1", 7, "x'; DROP", -2.5),
    ]
    for _ in range(2):
        done = put_aside(bad, contract)
        assert sorted(kept(bad), key=str) == sorted(expected, key=str)
    assert done.rows == {"primaryKey(id)": 2, "required(id)": 1, "valid(amount)": 1, "valid(country)": 1}
    assert done.tables == {"orders": f"{bad.table}_quarantine"}
    assert (done.total, done.capped) == (5, ())
    tags = bad.ask(
        f"SELECT DISTINCT ext_contract, ext_version, ext_partition, ext_quarantined_at FROM {bad.table}_quarantine"
    )
    assert tags == [("orders", "1.2.0", "2013-01-05", "2013-01-08T00:00:00+00:00")]
    assert bad.ask(f"SELECT COUNT(*) FROM {bad.table}") == [(7,)]


def test_only_rules_asked_for_and_no_more_rows_than_the_cap(bad: Shop) -> None:
    done = put_aside(bad, promised(bad), rules={"primaryKey(id)", "rowCount(table)"}, limit=1)
    assert (done.rows, done.capped) == ({"primaryKey(id)": 1}, ("primaryKey(id)",))


def test_a_later_publication_keeps_what_an_earlier_put_aside(bad: Shop) -> None:
    put_aside(bad, promised(bad), rules={"valid(amount)"})
    bad.do(f"UPDATE {bad.table} SET amount = 1 WHERE amount = -2.5")
    assert put_aside(bad, promised(bad), publication="run2").rows["primaryKey(id)"] == 2
    assert [row[:2] for row in kept(bad) if row[0] == "valid(amount)"] == [("valid(amount)", "run1")]


def test_a_column_that_came_later_is_added(bad: Shop) -> None:
    put_aside(bad, promised(bad), rules={"valid(amount)"})
    bad.do(f"ALTER TABLE {bad.table} ADD COLUMN note VARCHAR(9)", f"UPDATE {bad.table} SET note = 'n'")
    put_aside(bad, promised(bad), rules={"valid(country)"})
    assert bad.ask(f"SELECT note FROM {bad.table}_quarantine ORDER BY ext_rule") == [(None,), ("n",)]


def test_a_partition_without_failures_leaves_nothing(shop: Shop) -> None:
    done = put_aside(shop, promised(shop))
    assert done.rows == {}
    assert kept(shop) == []


def test_without_a_quarantine_table_nothing_happens(bad: Shop) -> None:
    assert put_aside(bad, promised(bad, quarantineTable=None)) == Quarantined()


def test_a_table_of_somebody_else_is_not_written(bad: Shop) -> None:
    bad.do(f"CREATE TABLE {bad.table}_quarantine (a INTEGER)")
    with pytest.raises(InvalidError, match=r"no column ext_contract.*airflow\.quarantineTable"):
        put_aside(bad, promised(bad))
    with pytest.raises(InvalidError, match="itself"):
        put_aside(bad, promised(bad, quarantineTable=bad.table))


def test_a_failure_undoes_all_of_it(bad: Shop) -> None:
    put_aside(bad, promised(bad))
    before = kept(bad)
    if bad.dialect == "sqlite":  # has no types to clash: a trigger stands for whatever fails in the middle
        bad.do(
            f"CREATE TRIGGER no BEFORE INSERT ON {bad.table}_quarantine WHEN NEW.ext_rule = 'valid(country)' "
            "BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    else:
        bad.do(
            f"ALTER TABLE {bad.table}_quarantine DROP COLUMN country",
            f"ALTER TABLE {bad.table}_quarantine ADD COLUMN country INTEGER",
        )
        before = [(*row[:3], None, row[4]) for row in before]
    with pytest.raises(QueryError):
        put_aside(bad, promised(bad))
    assert sorted(kept(bad), key=str) == sorted(before, key=str)
    assert bad.judge().rows == 6


@pytest.mark.parametrize("arguments", [{"publication": ""}, {"publication": "x" * 251}, {"limit": 0}])
def test_arguments_out_of_bounds_are_refused(shop: Shop, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match=next(iter(arguments))):
        put_aside(shop, promised(shop), **arguments)


def test_samples_are_off_unless_allowed_and_never_of_classified_columns(bad: Shop) -> None:
    rules = ("valid(country)", "valid(amount)", "primaryKey(id)", "required(id)")

    def shown(**changes: Any) -> list[str]:
        contract = promised(bad, **changes)
        with Database(bad.connection, bad.dialect) as database:
            return [str(sample) for sample in samples(contract, "2013-01-05", database, rules)]

    def classify(made: dict[str, Any]) -> None:
        column(made, "country")["classification"] = "restricted"
        column(made, "amount")["classification"] = "public"

    assert shown() == []
    assert shown(samples=3) == [
        'valid(country): country holds "x\'; DROP"',
        "valid(amount): amount holds '-2.5'",
        "primaryKey(id): id holds '7'",
    ]
    assert shown(samples=3, change=classify) == [
        "valid(amount): amount holds '-2.5'",
        "primaryKey(id): id holds '7'",
    ]


def _published(shop: Shop, contract: Contract) -> Verdict:
    with Database(shop.connection, shop.dialect) as database:
        verdict = judge(contract, "2013-01-05", database, now=NOW)
        return set_rows_aside(contract, verdict, database, publication="run1")


def test_the_good_rows_can_be_used_if_nothing_else_is_wrong(bad: Shop) -> None:
    verdict = _published(bad, promised(bad))
    assert verdict.status is Status.QUARANTINED
    assert verdict.quarantine is not None
    assert (verdict.quarantine.what, verdict.quarantine.rows) == ("rows", 5)
    assert verdict.quarantine.table == f"{bad.table}_quarantine"

    def more(made: dict[str, Any]) -> None:
        made["schema"][0]["quality"] = [{"metric": "rowCount", "mustBe": 99}]

    assert _published(bad, promised(bad, more)).status is Status.BREACHED
    assert len(kept(bad)) == 5
