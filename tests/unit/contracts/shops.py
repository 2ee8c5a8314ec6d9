"""A table of orders in a real database of each kind."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from airflow_ext.contracts import Contract, Verdict
from airflow_ext.contracts.judge import judge
from airflow_ext.contracts.sql import Database
from tests.unit.contracts.samples import contract

NOW = datetime(2013, 1, 8, tzinfo=UTC)
ROWS = [
    ("2013-01-05", 1, "DE", 10.5),
    ("2013-01-05", 2, "FR", 0.0),
    ("2013-01-05", 3, None, 7.25),
    ("2013-01-06", 3, "xx", -1.0),
]


class Shop:
    """A database with a table of orders."""

    def __init__(self, connection: Any, dialect: str) -> None:
        self.connection = connection
        self.dialect = dialect
        self.table = "orders" if dialect == "sqlite" else "shop.orders"

    def do(self, *statements: str) -> None:
        with closing(self.connection.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)
        self.connection.commit()

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(query)
            rows = [tuple(row) for row in cursor.fetchall()]
        if self.dialect == "postgres":
            self.connection.rollback()
        return rows

    def judge(self, partition: str = "2013-01-05", **changes: Any) -> Verdict:
        return self.judge_contract(contract(table=self.table, **changes), partition)

    def judge_contract(
        self, promised: Contract, partition: str = "2013-01-05", now: datetime = NOW, **arguments: Any
    ) -> Verdict:
        with Database(self.connection, self.dialect) as database:
            return judge(promised, partition, database, now=now, **arguments)

    def fill(self) -> None:
        if self.dialect != "sqlite":
            self.do("CREATE SCHEMA shop")
        self.do(
            f"CREATE TABLE {self.table} (day DATE, id INTEGER, country VARCHAR(20), amount DOUBLE PRECISION)"
        )
        for day, number, country, amount in ROWS:
            text = "NULL" if country is None else f"'{country}'"
            self.do(f"INSERT INTO {self.table} VALUES ('{day}', {number}, {text}, {amount})")


def reasons(verdict: Verdict) -> dict[str, str]:
    """Return expected and actual of each reason, by its rule."""
    return {reason.rule: f"{reason.expected} / {reason.actual}" for reason in verdict.reasons}
