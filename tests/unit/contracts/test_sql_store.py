"""Verdicts in a database, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.contracts import Reason, Status, Verdict
from airflow_ext.contracts.availability import Availability
from airflow_ext.contracts.claims import LEASE_SECONDS, Claim
from airflow_ext.contracts.head import Head, Promise
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.sql_store import SqlVerdictStore
from airflow_ext.exceptions import DeniedError, StoreUnavailableError
from airflow_ext.testing.postgres import LocalPostgres

ASSET = "contract/orders/v1"
RULE = PartitionRule()
WRITERS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    with LocalPostgres(tmp_path_factory.mktemp("verdicts")) as server:
        yield server


class Opener:
    """Opens a database without Airflow."""

    def __init__(self, server: LocalPostgres | None, place: str) -> None:
        self.name = "verdicts"
        self.server = server
        self.place = place
        self.prepared = 0
        self.down = False

    async def aprepare(self) -> None:
        self.prepared += 1

    def forget(self) -> None:
        """There is nothing to forget."""

    def open(self) -> tuple[Any, str]:
        if self.down:
            raise OSError("connection refused\nwith more lines")
        if self.server is not None:
            return self.server.connect(self.place), "postgres"
        return sqlite3.connect(self.place, timeout=30, isolation_level=None), "sqlite"


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "sqlite":
        return Opener(None, str(tmp_path / "verdicts.db"))
    server: LocalPostgres = request.getfixturevalue("server")
    database = f"v{abs(hash(tmp_path))}"
    server.create_database(database)
    return Opener(server, database)


@pytest.fixture
def store(opener: Opener) -> SqlVerdictStore:
    return SqlVerdictStore(opener)


def verdict(partition: str = "2013-01-05", status: Status = Status.PASS, version: str = "1.2.0") -> Verdict:
    return Verdict("orders", version, partition, status)


async def heads(store: SqlVerdictStore, *assets: str, **known: Head) -> dict[str, Any]:
    return dict([item async for item in store.aheads({asset: known.get(asset) for asset in assets})])


def test_without_tables_nothing_is_published(store: SqlVerdictStore) -> None:
    assert store.head(ASSET) == Head()
    assert store.verdict(ASSET, "2013-01-05") is None
    assert asyncio.run(heads(store, ASSET)) == {ASSET: Head()}


def test_a_verdict_comes_back_as_it_went_in(store: SqlVerdictStore, opener: Opener) -> None:
    made = Verdict.of(
        reasons=[Reason("valid(id)", "0", "1'; --%s?", columns=("id",))],
        skipped=["100 % in words"],
        judged=1,
        contract="orders",
        version="1.2.0",
        partition="2013-01-05",
        owner="shop",
    )
    promise = Promise(Availability("06:00", grace=60), status="deprecated", owner="shop")
    published = store.publish(made, rule=RULE, promise=promise)
    assert published == made.numbered(1)
    assert store.verdict(ASSET, "2013-01-05") == published
    key = (ASSET, "2013-01-05")
    assert asyncio.run(store.averdicts([key, (ASSET, "2013-01-06")])) == {key: published}
    assert opener.prepared == 1
    head = store.head(ASSET)
    assert (head.rule, head.promise, head.seq) == (RULE, promise, 1)


def test_a_repair_gets_a_higher_number_and_counts(store: SqlVerdictStore) -> None:
    store.publish(verdict(status=Status.BREACHED), rule=RULE)
    store.publish(verdict("2013-01-06"), rule=RULE)
    assert store.publish(verdict(), rule=RULE).seq == 3
    found = store.verdict(ASSET, "2013-01-05")
    assert found is not None
    assert (found.status, found.seq) == (Status.PASS, 3)


def test_many_publishers_at_once_overwrite_nothing(opener: Opener) -> None:
    """They also all find no tables."""
    days = [f"2013-01-{day:02}" for day in range(1, WRITERS + 1)]

    def publish(day: str) -> list[int]:
        mine = SqlVerdictStore(opener)
        return [mine.publish(verdict(day), rule=RULE).seq for _ in range(3)]

    with ThreadPoolExecutor(WRITERS) as pool:
        numbers = [number for found in pool.map(publish, days) for number in found]
    assert sorted(numbers) == list(range(1, 3 * WRITERS + 1))
    head = SqlVerdictStore(opener).head(ASSET)
    assert sorted(head.entries) == days
    for day in days:
        found = SqlVerdictStore(opener).verdict(ASSET, day)
        assert found is not None
        assert found.seq == head.entries[day].seq


def test_all_contracts_cost_one_question_per_poll(store: SqlVerdictStore) -> None:
    assets = [f"contract/c{n}/v1" for n in range(250)]
    for n in range(3):
        store.publish(Verdict(f"c{n}", "1.0.0", "2013-01-05", Status.PASS), rule=RULE)
    store.reads = 0
    first = asyncio.run(heads(store, *assets))
    assert len(first) == 250
    assert first["contract/c2/v1"].entries["2013-01-05"].status is Status.PASS
    assert store.reads == 3  # two chunks of assets, the news of one

    async def again() -> dict[str, Any]:
        return dict([item async for item in store.aheads(first)])

    store.reads = 0
    assert asyncio.run(again()) == first
    assert store.reads == 2


def test_what_was_published_long_ago_is_forgotten(opener: Opener) -> None:
    store = SqlVerdictStore(opener, kept=3)
    for day in range(1, 6):
        store.publish(verdict(f"2013-01-0{day}"), rule=RULE)
    kept = [day for day in range(1, 6) if store.verdict(ASSET, f"2013-01-0{day}") is not None]
    assert kept == [3, 4, 5]


def test_a_database_that_does_not_answer_is_one_error(store: SqlVerdictStore, opener: Opener) -> None:
    store.publish(verdict(), rule=RULE)
    opener.down = True
    for call in (
        lambda: store.publish(verdict(), rule=RULE),
        lambda: store.head(ASSET),
        lambda: asyncio.run(store.averdicts([(ASSET, "2013-01-05")])),
    ):
        with pytest.raises(StoreUnavailableError, match=r"OSError: connection refused$"):
            call()
    found = asyncio.run(heads(store, ASSET, "contract/b/v1"))
    assert {type(value) for value in found.values()} == {StoreUnavailableError}


@pytest.mark.parametrize(
    "text", ["nonsense", "[]", json.dumps("x" * 1_100_000)], ids=["text", "list", "huge"]
)
def test_what_is_no_verdict_is_an_error_of_that_contract_only(
    store: SqlVerdictStore, opener: Opener, text: str
) -> None:
    store.publish(verdict(), rule=RULE)
    store.publish(Verdict("others", "1.0.0", "2013-01-05", Status.PASS), rule=RULE)
    connection, dialect = opener.open()
    mark = "%s" if dialect == "postgres" else "?"
    for table, column in (("ext_verdict_heads", "head"), ("ext_verdicts", "verdict")):
        connection.cursor().execute(
            f"UPDATE {table} SET {column} = {mark} WHERE asset = {mark}", (text, ASSET)
        )
    connection.commit()
    connection.close()
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        store.verdict(ASSET, "2013-01-05")
    found = asyncio.run(heads(store, ASSET, "contract/others/v1"))
    assert isinstance(found[ASSET], StoreUnavailableError)
    assert isinstance(found["contract/others/v1"], Head)


def test_tables_that_may_not_be_made_are_said_to_be_that(server: LocalPostgres) -> None:
    server.create_database("denied")
    server.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC", database="denied")
    server.execute("CREATE ROLE visitor LOGIN")

    class Visitor(Opener):
        def open(self) -> tuple[Any, str]:
            connection = server.connect("denied")
            connection.cursor().execute("SET ROLE visitor")
            connection.commit()
            return connection, "postgres"

    with pytest.raises(DeniedError, match=r"may not make or write.*sql_store\.DDL"):
        SqlVerdictStore(Visitor(server, "denied")).publish(verdict(), rule=RULE)


def test_of_many_who_see_a_late_partition_one_tells(store: SqlVerdictStore) -> None:
    """Also the first ones, who make the tables."""
    keys = [(ASSET, "2013-01-05"), (ASSET, "2013-01-06")]

    def ask(token: int, now: float = 1000.0) -> list[Claim]:
        found = store.claim_late(keys, token=str(token), now=now)
        return [found[key] for key in keys]

    assert not store.late_claimed(*keys[0])
    with ThreadPoolExecutor(WRITERS) as pool:
        claims = [claim for found in pool.map(ask, range(WRITERS)) for claim in found]
    assert sorted(claims) == [Claim.MINE] * 2 + [Claim.OTHERS] * (2 * WRITERS - 2)
    assert store.late_claimed(*keys[0])

    later = 1000.0 + LEASE_SECONDS + 1
    store.note_late_told(*keys[0], token="0", now=1000.0)
    assert ask(99, later) == [Claim.TOLD, Claim.MINE], "who claimed the second is dead"
    store.note_late_told(*keys[1], token="99", now=later + 31 * 86_400)
    assert not store.late_claimed(*keys[0]), "rows of long ago are pruned"
