from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from airflow_ext.exceptions import InvalidError, SyncFailedError
from airflow_ext.sync.sql_source import SqlTable, choose_reader
from airflow_ext.sync.tables import SyncTable, Window

READERS = pytest.mark.parametrize("reader", ["connectorx", "pyarrow"])


@pytest.fixture
def engine(source: Any) -> Iterator[sa.Engine]:
    engine = sa.create_engine(source.url)
    yield engine
    engine.dispose()


def rows(engine: sa.Engine, table: SyncTable, *, reader: str, **window: Any) -> list[dict[str, Any]]:
    read = SqlTable(engine, table, reader=reader, chunk_rows=2)
    return [row for batch in read.batches(**window) for row in batch.to_pylist()]


def test_the_row_by_row_reader_is_never_chosen() -> None:
    assert choose_reader("auto", "postgresql") == "connectorx"
    assert choose_reader("auto", "mysql") == "pyarrow"
    assert choose_reader("connectorx", "sqlite") == "connectorx"
    assert choose_reader("pyarrow", "postgresql") == "pyarrow"


@pytest.mark.parametrize(
    ("wanted", "dialect", "told"),
    [
        pytest.param("sqlalchemy", "postgresql", "auto, connectorx, pyarrow", id="unknown"),
        pytest.param("connectorx", "oracle", "does not read oracle", id="dialect not read"),
    ],
)
def test_a_wrong_reader_is_refused(wanted: str, dialect: str, told: str) -> None:
    with pytest.raises(InvalidError, match=told):
        choose_reader(wanted, dialect)


def test_both_readers_give_the_same_rows_and_types(source: Any, engine: sa.Engine) -> None:
    source(
        """CREATE TABLE kinds (id int, small smallint, big bigint, money numeric(12,2), fine numeric(30,20),
        free numeric, ratio real, exact double precision, note text, code char(3), day date, clock time,
        local timestamp, moment timestamptz, flag boolean, doc json, docb jsonb, key uuid, raw bytea,
        numbers int[], words text[], span interval, address inet, wide numeric(38,10))""",
        r"""INSERT INTO kinds VALUES (1, 2, 9007199254740993, 1234567890.12, 1.12345678901234567890,
        12345.678901234567, 1.5, 2.25, 'täxt: 100%', 'ab', '2013-01-02', '10:11:12.123456',
        '9999-12-31 03:04:05.123456', '2013-01-02 03:04:05.123456+02', true, '{"a": [1, 2]}', '{"b": null}',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\x00ff10', '{1,NULL}', '{"x","y z"}', '26 hours', '10.0.0.1',
        1234567890123456789012345678.1234567891),
        (2,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,
        NULL,NULL,NULL,NULL), (3,0,0,0,0,0,0,0,'','','0001-01-01','00:00','0001-01-01','0001-01-01 00:00+00',
        false,'null','"s"',NULL,'','{}','{}','0','::1',0)""",
    )
    table = SyncTable("kinds", mode="append")
    fast = SqlTable(engine, table, reader="connectorx", chunk_rows=2)
    slow = SqlTable(engine, table, reader="pyarrow", chunk_rows=2)
    assert fast.schema == slow.schema
    by_id = sorted(rows(engine, table, reader="connectorx"), key=lambda row: row["id"])
    others = sorted(rows(engine, table, reader="pyarrow"), key=lambda row: row["id"])
    for row in [*by_id, *others]:  # the two differ in blanks inside JSON texts, which mean nothing
        row["doc"], row["docb"] = ((text and text.replace(" ", "")) for text in (row["doc"], row["docb"]))
    assert by_id == others
    first = by_id[0]
    assert first["big"] == 9007199254740993
    assert first["money"] == Decimal("1234567890.12")
    assert first["fine"] == Decimal("1.12345678901234567890")
    assert first["wide"] == Decimal("1234567890123456789012345678.1234567891")
    assert first["free"] == Decimal("12345.678901235"), "rounded to nine digits, not cut"
    assert first["local"].isoformat() == "9999-12-31T03:04:05.123456"
    assert first["moment"].isoformat() == "2013-01-02T01:04:05.123456+00:00"
    assert (first["numbers"], first["words"]) == ("[1,null]", '["x","y z"]')
    assert (first["key"], first["raw"]) == ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", b"\x00\xff\x10")
    assert (first["span"], first["address"]) == ("26:00:00", "10.0.0.1/32")
    assert all(value is None for name, value in by_id[1].items() if name != "id")
    assert (by_id[2]["doc"], by_id[1]["doc"]) == ("null", None), "JSON null is not SQL null"


@READERS
def test_an_empty_table_still_has_its_schema(source: Any, engine: sa.Engine, reader: str) -> None:
    source("CREATE TABLE nothing (id int, price numeric(8,3))")
    read = SqlTable(engine, SyncTable("nothing", mode="append"), reader=reader, chunk_rows=10)
    (batch,) = read.batches()
    assert batch.num_rows == 0
    assert [str(field.type) for field in batch.schema] == ["int32", "decimal128(8, 3)"]


@READERS
def test_a_window_a_condition_and_a_choice_of_columns_limit_what_is_read(
    source: Any, engine: sa.Engine, reader: str
) -> None:
    source(
        'CREATE TABLE "Events" (id int, "When" timestamp, note text, kind text)',
        """INSERT INTO "Events" VALUES (1, '2013-01-01 00:00', 'a', '50%'), (2, '2013-01-01 12:00', 'b', '50%'),
        (3, '2013-01-02 00:00', 'c', '50%'), (4, NULL, 'd', '50%'), (5, '2013-01-01 13:00', 'e', 'x')""",
    )
    table = SyncTable(
        "Events",
        mode="window",
        cursor="When",
        columns=["id", "When"],
        where="kind LIKE '50%' AND id::text <> ':1'",
    )
    window = {"start": "2013-01-01T00:00:00+00:00", "end": "2013-01-02T00:00:00+00:00"}
    read = SqlTable(engine, table, reader=reader, chunk_rows=10)
    start, end = read.bounds(Window(**window))
    found = [row for batch in read.batches(start=start, end=end) for row in batch.to_pylist()]
    assert sorted(row["id"] for row in found) == [1, 2]
    assert set(found[0]) == {"id", "When"}


@READERS
def test_a_zoned_cursor_is_compared_in_utc(source: Any, engine: sa.Engine, reader: str) -> None:
    source(
        "CREATE TABLE moments (at timestamptz)",
        "INSERT INTO moments VALUES ('2013-01-01 23:30+00'), ('2013-01-02 00:30+02')",
    )
    read = SqlTable(engine, SyncTable("moments", mode="window", cursor="at"), reader=reader, chunk_rows=10)
    start, end = read.bounds(Window(start="2013-01-01T22:00", end="2013-01-01T23:00"))
    assert sum(batch.num_rows for batch in read.batches(start=start, end=end)) == 1


@pytest.mark.parametrize(
    ("table", "told"),
    [
        pytest.param(SyncTable("nope", mode="append"), "table 'nope' does not exist", id="table"),
        pytest.param(SyncTable("t", schema="s", mode="append"), r"table 's\.t' does not exist", id="schema"),
        pytest.param(SyncTable("t", primary_key="key"), "no column key; the source has id, doc", id="key"),
        pytest.param(
            SyncTable("t", mode="append", cursor="day"), r"cursor=\['day'\].*no column day", id="cursor"
        ),
        pytest.param(SyncTable("t", mode="append", columns=["id", "x"]), "no column x", id="columns"),
    ],
)
def test_what_the_source_does_not_have_is_named(
    source: Any, engine: sa.Engine, table: SyncTable, told: str
) -> None:
    source("CREATE TABLE t (id int, doc json)")
    with pytest.raises(InvalidError, match=told):
        SqlTable(engine, table, reader="connectorx", chunk_rows=10)


def test_a_cursor_must_order_rows(source: Any, engine: sa.Engine) -> None:
    source("CREATE TABLE t (id int, doc json)")
    read = SqlTable(engine, SyncTable("t", mode="append", cursor="doc"), reader="connectorx", chunk_rows=10)
    with pytest.raises(InvalidError, match="cursor='doc'"):
        _ = read.cursor_type


@READERS
def test_a_source_that_fails_half_way_is_an_error_and_not_an_end(
    source: Any, engine: sa.Engine, reader: str
) -> None:
    source("CREATE TABLE n AS SELECT g FROM generate_series(1, 1000) g")
    table = SyncTable("n", mode="append", where="1 / (900 - g) < 10")
    with pytest.raises(SyncFailedError, match="division by zero") as caught:
        rows(engine, table, reader=reader)
    assert caught.value.table == "n"
    for where in ("g > 1\n  AND idd = 1", "g ==== 1"):
        with pytest.raises(InvalidError, match=re.escape(f"where={where!r} of table 'n': ")):
            rows(engine, SyncTable("n", mode="append", where=where), reader=reader)


@READERS
def test_sqlite_is_read_with_declared_types(tmp_path: Path, reader: str) -> None:
    file = tmp_path / "s.db"
    with sqlite3.connect(file) as connection:
        connection.execute(
            "CREATE TABLE t (id INTEGER, day DATE, price NUMERIC(10,2), name TEXT, at TIMESTAMP)"
        )
        connection.execute(
            "INSERT INTO t VALUES (5000000000, '2013-01-02', 12.34, 'x', '2013-01-02 03:04:05.000000'),"
            " (2, NULL, NULL, NULL, NULL)"
        )
    connection.close()
    engine = sa.create_engine(f"sqlite:///{file}")
    try:
        found = rows(engine, SyncTable("t", mode="append"), reader=reader)
    finally:
        engine.dispose()
    assert found[0]["id"] == 5000000000
    assert found[0]["price"] == Decimal("12.34")
    assert found[0]["day"].isoformat() == "2013-01-02"
    assert found[0]["at"].isoformat() == "2013-01-02T03:04:05"
    assert found[1]["price"] is None


@READERS
def test_whole_numbers_in_a_sqlite_numeric_column_are_decimals(tmp_path: Path, reader: str) -> None:
    """SQLite keeps them as integers, and a day may hold nothing else."""
    database = tmp_path / "whole.sqlite"
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE amounts (id integer primary key, amount numeric(10, 2))")
    connection.executemany("INSERT INTO amounts VALUES (?, ?)", [(1, -5), (2, None), (3, 7)])
    connection.commit()
    connection.close()
    engine = sa.create_engine(f"sqlite:///{database}")
    table = SyncTable("amounts", mode="replace")
    found = {row["id"]: row["amount"] for row in rows(engine, table, reader=reader)}
    engine.dispose()
    assert found == {1: Decimal("-5.00"), 2: None, 3: Decimal("7.00")}


@READERS
def test_a_timestamp_in_sqlite_lies_in_one_window_however_it_is_written(tmp_path: Path, reader: str) -> None:
    written = {
        "2026-01-01 23:59:59.999600": 1,
        "2026-01-02 00:00:00": 2,
        "2026-01-02 00:00:00.000000": 2,
        "2026-01-02T00:00:00": 2,
        "2026-01-02 00:00:00.0004": 2,
        "2026-01-02 11:59:59.9996": 2,
        "2026-01-02T23:59:59": 2,
        "2026-01-03 00:00:00": 3,
    }
    if reader == "pyarrow":  # connectorx refuses them
        written |= {"2026-01-02 01:59:59.999999+02:00": 1, "2026-01-01T22:00:00.5-02:00": 2, "2026-01-03": 3}
    database = tmp_path / "moments.sqlite"
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE t (id INTEGER, day INTEGER, at DATETIME)")
    rows_of_days = [(number, day, text) for number, (text, day) in enumerate(written.items())]
    connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows_of_days)
    connection.commit()
    connection.close()
    engine = sa.create_engine(f"sqlite:///{database}")
    table = SyncTable("t", mode="window", cursor="at")
    read = SqlTable(engine, table, reader=reader, chunk_rows=10)
    found = []
    for day in (1, 2, 3):
        start, end = read.bounds(Window(start=f"2026-01-0{day}", end=f"2026-01-0{day + 1}"))
        found += [(row["id"], day) for row in rows(engine, table, reader=reader, start=start, end=end)]
    assert sorted(found) == [(number, day) for number, day, _ in rows_of_days]

    start, end = read.bounds(Window(start="2026-01-02T00:00:00.000400", end="2026-01-02T11:59:59.999600"))
    inside = rows(engine, table, reader=reader, start=start, end=end)
    assert "2026-01-02 00:00:00.000400" in {str(row["at"]) for row in inside}
    assert all(str(row["at"]) != "2026-01-02 00:00:00" and row["at"].hour < 11 for row in inside)
    everything = read.bounds(Window(start="0001-01-01", end="9999-12-31T23:59:59.999999"))
    assert len(rows(engine, table, reader=reader, start=everything[0], end=everything[1])) == len(written)
    engine.dispose()


def sqlite(file: Path, *statements: str) -> sa.Engine:
    connection = sqlite3.connect(file)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return sa.create_engine(f"sqlite:///{file}")


@pytest.mark.parametrize(
    ("kind", "value", "arrived"),
    [
        pytest.param("integer", "2.5", None, id="cut"),
        pytest.param("integer", "'two'", None, id="text"),
        pytest.param("numeric(10,2)", "1.239", None, id="too many digits"),
        pytest.param("numeric(10,2)", "'x'", None, id="no number"),
        pytest.param("numeric(10,2)", "0.1 + 0.2", Decimal("0.30"), id="float"),
        pytest.param("numeric", "9007199254740993", Decimal(9007199254740993), id="beyond a double"),
        pytest.param("numeric", "1.5", Decimal("1.5"), id="decimal"),
        pytest.param("integer", "9007199254740993", 9007199254740993, id="integer"),
    ],
)
def test_a_value_of_sqlite_arrives_as_it_is_or_fails_the_run(
    tmp_path: Path, kind: str, value: str, arrived: Any
) -> None:
    engine = sqlite(tmp_path / "s", f"CREATE TABLE t (n {kind})", f"INSERT INTO t VALUES (1), ({value})")
    table = SyncTable("t", mode="replace")
    if arrived is None:
        with pytest.raises(
            SyncFailedError, match=r"column 'n': the value .* does not fit .*, its declared type"
        ):
            rows(engine, table, reader="pyarrow")
    else:
        assert [row["n"] for row in rows(engine, table, reader="pyarrow")] == [1, arrived]
    engine.dispose()


def test_what_sqlite_keeps_in_a_column_may_be_of_several_kinds(tmp_path: Path) -> None:
    engine = sqlite(
        tmp_path / "s",
        "CREATE TABLE t (id integer primary key, price numeric, amount numeric(10,2), at timestamp)",
        "INSERT INTO t VALUES (1, NULL, 2, '2026-01-02T03:04:05Z'), (2, 1.5, 2.5, '2026-01-02 03:04:05.000001')",
    )
    found = rows(engine, SyncTable("t", mode="replace"), reader=choose_reader("auto", engine.dialect.name))
    engine.dispose()
    assert [(row["price"], row["amount"], str(row["at"])) for row in found] == [
        (None, Decimal(2), "2026-01-02 03:04:05"),
        (Decimal("1.5"), Decimal("2.5"), "2026-01-02 03:04:05.000001"),
    ]
