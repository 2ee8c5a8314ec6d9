"""Destinations that dlt writes: a real PostgreSQL into a SQLite file, through dlt's SQLAlchemy destination."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import mysql

from airflow_ext.sync.dlt_appends import AppendLog
from airflow_ext.sync.dlt_databases import mysql_types
from airflow_ext.sync.dlt_job import DltJob, DltPair
from airflow_ext.sync.model import SyncStatus
from airflow_ext.sync.tables import SyncTable


class Lite:
    """A SQLite file; its main schema is the dataset."""

    def __init__(self, syncs: Any, file: Path) -> None:
        self.syncs = syncs
        self.file = file

    def __call__(self, *tables: SyncTable, **more: Any) -> Any:
        return self.syncs(
            *tables,
            destination="sqlalchemy",
            destination_options={"credentials": f"sqlite:///{self.file}"},
            dataset="main",
            **more,
        )

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.file) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture
def lite(syncs: Any, tmp_path: Path) -> Lite:
    return Lite(syncs, tmp_path / "there.db")


def job_of(lite: Lite, table: SyncTable, *, run: str) -> DltJob:
    pair = DltPair(source_url="", destination="sqlalchemy")
    return DltJob(pair=pair, name="job", folder=lite.syncs.folder, tables=(table,), run=run)


def counted(status: Any) -> dict[str, int | None]:
    assert status.status is SyncStatus.SUCCEEDED, status.reason
    return {table.name: table.rows for table in status.result.tables}


def test_each_mode_and_once_more_on_a_fresh_worker(source: Any, lite: Lite, tmp_path: Path) -> None:
    source(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL, n numeric(10,2), j jsonb, v text)",
        "INSERT INTO t SELECT i, '2024-01-01'::timestamptz + i * interval '1 day', i / 4.0, '{\"a\": 1}', 'old' "
        "FROM generate_series(0, 9) AS i",
        *(f"CREATE VIEW {mode} AS SELECT * FROM t" for mode in ("m", "a", "r", "w", "s", "c", "f")),
    )
    tables = [
        SyncTable("m", primary_key="id"),
        SyncTable("a", mode="append", primary_key="id"),
        SyncTable("r", mode="replace"),
        SyncTable("s", mode="scd2", primary_key="id"),
        SyncTable("c", primary_key="id", cursor="at"),
        SyncTable("f", mode="append", cursor="at"),
    ]
    windowed = SyncTable("w", mode="window", cursor="at")
    day = ("2024-01-03", "2024-01-05")
    assert counted(lite(*tables, run="1")) == dict.fromkeys("marscf", 10)
    assert counted(lite(windowed, window=day, name="w")) == {"w": 2}
    source(
        "DELETE FROM t WHERE id IN (2, 9)",
        "UPDATE t SET v = 'new' WHERE id = 3",
        "INSERT INTO t VALUES (10, '2024-02-01', 2.5, null, 'late')",
    )
    lite.syncs.folder = tmp_path / "another worker"
    again = counted(lite(*tables, run="2"))
    assert (again["m"], again["a"], again["r"]) == (9, 9, 9)
    assert (again["c"], again["f"]) == (1, 1)
    assert lite.rows("SELECT count(*), count(DISTINCT id) FROM f") == [(11, 11)]
    counted(lite(windowed, window=day, name="w"))
    assert lite.rows("SELECT id, v FROM w") == [(3, "new")]
    counted(lite(windowed, window=("2024-01-05", "2024-01-06"), name="w"))
    assert lite.rows("SELECT id FROM w ORDER BY id") == [(3,), (4,)]
    assert lite.rows("SELECT count(*), sum(v = 'new'), sum(n) FROM m") == [(11, 1, 13.75)]
    assert lite.rows("SELECT count(*) FROM a") == [(19,)]
    assert lite.rows("SELECT count(*), min(v) FROM r") == [(9, "late")]
    assert lite.rows(
        "SELECT id, v, _valid_to IS NULL FROM s WHERE id IN (2, 3, 10) ORDER BY id, _valid_from"
    ) == [
        (2, "old", 0),
        (3, "old", 0),
        (3, "new", 1),
        (10, "late", 1),
    ]
    assert lite.rows("SELECT j, at FROM m WHERE id = 1") == [('{"a": 1}', "2024-01-02 00:00:00.000000")]


def test_a_window_whose_rows_are_gone_is_emptied_and_a_mode_that_changed_forgets_the_one_before(
    source: Any, lite: Lite
) -> None:
    source("CREATE TABLE t (id int, day date)", "INSERT INTO t VALUES (1, '2024-01-01'), (2, '2024-01-02')")
    windowed = SyncTable("t", mode="window", cursor="day")
    assert counted(lite(windowed, window=("2024-01-01", "2024-01-03"))) == {"t": 2}
    source("DELETE FROM t WHERE id = 2")
    assert counted(lite(windowed, window=("2024-01-02", "2024-01-03"))) == {"t": 0}
    assert lite.rows("SELECT id, day FROM t") == [(1, "2024-01-01")]
    source("DELETE FROM t", "INSERT INTO t VALUES (5, '2024-01-05')")
    assert counted(lite(SyncTable("t", primary_key="id"))) == {"t": 1}
    assert lite.rows("SELECT id FROM t ORDER BY id") == [(1,), (5,)]
    source("INSERT INTO t VALUES (5, '2024-01-05')")
    counted(lite(windowed, window=("2024-01-05", "2024-01-06")))
    assert lite.rows("SELECT id FROM t ORDER BY id") == [(1,), (5,), (5,)], "no key in this mode"


def test_versions_are_not_mixed_with_rows_that_have_none_and_a_table_that_was_dropped_begins_anew(
    source: Any, lite: Lite
) -> None:
    source("CREATE TABLE t (id int, v text)", "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    counted(lite(SyncTable("t", primary_key="id", cursor="id")))
    versions = SyncTable("t", mode="scd2", primary_key="id", cursor="id")
    status = lite(versions)
    assert status.fixable
    assert "loaded without versions of its rows before; drop it in the destination" in status.reason
    lite.rows("DROP TABLE t")
    assert counted(lite(versions)) == {"t": 2}
    assert lite.rows("SELECT id, _valid_to FROM t ORDER BY id") == [(1, None), (2, None)]


def test_an_append_whose_try_died_before_it_could_say_so_is_not_added_again(source: Any, lite: Lite) -> None:
    source("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
    table = SyncTable("t", mode="append")
    assert counted(lite(table, run="1")) == {"t": 1}
    # What a try leaves that is killed between the end of the load and its own.
    (load_id,) = [load for (load,) in lite.rows("SELECT load_id FROM _dlt_loads")]
    log = AppendLog(job_of(lite, table, run="1"))
    log.begin()
    log.loading(load_id, {"t": 1})
    assert counted(lite(table, run="1")) == {"t": 1}
    assert lite.rows("SELECT id FROM t") == [(1,)]
    assert counted(lite(table, run="2")) == {"t": 1}
    assert lite.rows("SELECT id FROM t") == [(1,), (1,)]


def test_a_table_that_is_refused_takes_no_other_with_it(source: Any, lite: Lite) -> None:
    """Neither doubles rows that another table has appended nor stays behind for ever."""
    for name in ("a", "b"):
        source(f"CREATE TABLE {name} (id int, v text)", f"INSERT INTO {name} VALUES (1, 'x')")
    tables = [SyncTable(name, mode="append", cursor="id") for name in ("a", "b")]
    counted(lite(*tables))
    lite.rows("CREATE UNIQUE INDEX one ON b (v)")
    source("INSERT INTO a VALUES (2, 'x')", "INSERT INTO b VALUES (2, 'x')")
    status = lite(*tables)
    assert (status.status, status.reason) == (SyncStatus.FAILED, "load: UNIQUE constraint failed: b.v")
    source("UPDATE b SET v = 'y' WHERE id = 2")
    assert counted(lite(*tables)) == {"a": 0, "b": 1}
    assert [lite.rows(f"SELECT id FROM {name}") for name in ("a", "b")] == [[(1,), (2,)], [(1,), (2,)]]


def test_a_value_that_does_not_fit_its_column_fails_the_run(source: Any, lite: Lite) -> None:
    source("CREATE TABLE t (id int PRIMARY KEY, n text)", "INSERT INTO t VALUES (1, '1')")
    source("CREATE TABLE u (id int PRIMARY KEY, n int)", "INSERT INTO u VALUES (1, 1)")
    tables = SyncTable("t", primary_key="id"), SyncTable("u", primary_key="id")
    counted(lite(*tables))
    source("ALTER TABLE t ALTER n TYPE int USING n::int", "INSERT INTO t VALUES (2, 2)")
    assert [change.kind for change in lite(*tables).result.tables[0].schema_changes] == ["column_retyped"]
    assert lite.rows("SELECT n FROM t ORDER BY id") == [("1",), ("2",)]
    source("ALTER TABLE u ALTER n TYPE text", "INSERT INTO u VALUES (2, 'x')")
    status = lite(*tables)
    assert status.status is SyncStatus.FAILED
    assert "column 'n' is string now and bigint in the destination" in status.reason
    assert lite.rows("SELECT n FROM u") == [(1,)]


def test_what_the_database_would_change_without_a_word_fails_the_run(source: Any, lite: Lite) -> None:
    source(
        "CREATE TABLE t (id int, n numeric(38,18), c text)",
        "INSERT INTO t VALUES (1, 0.1, '%'), (2, 123456789012345, '%')",
    )
    table = SyncTable("t", mode="replace")
    counted(lite(table))
    source("UPDATE t SET n = 0.1234567890123456789 WHERE id = 1")
    assert "'n' holds 0.123456789012345679, of which SQLite keeps about 15 digits" in lite(table).reason
    source("ALTER TABLE t ALTER n TYPE double precision", "UPDATE t SET n = 'NaN' WHERE id = 1")
    lite.rows("DROP TABLE t")
    assert "'n' holds NaN or infinity, which sqlite does not have" in lite(table).reason
    status = lite(SyncTable("t", mode="window", cursor="c"), window=("%", "%z"))
    assert (status.fixable, "ends at the text '%'" in status.reason) == (True, True)


def test_a_server_that_holds_some_texts_for_equal_is_told_not_to() -> None:
    """MySQL and MariaDB take "a", "A" and "a " for one key unless the column says otherwise, and cut text at 64 KB."""
    from dlt.common.destination import DestinationCapabilitiesContext

    dialect = mysql.dialect()
    types = mysql_types({"utf8mb4_0900_bin", "utf8mb4_bin"})(
        DestinationCapabilitiesContext.generic_capabilities(), dialect
    )
    text = types.to_destination_type({"data_type": "text"})
    binary = types.to_destination_type({"data_type": "binary"})
    assert text.compile(dialect) == "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"
    assert binary.compile(dialect) == "LONGBLOB"


def test_what_dlt_cannot_do_is_refused_by_name(source: Any, syncs: Any) -> None:
    source("CREATE TABLE t (id int PRIMARY KEY)")
    table = SyncTable("t", mode="scd2", primary_key="id")
    for destination, reason in (
        ("snowflake", "pip install 'dlt[snowflake]"),
        ("nonsense", "'nonsense': dlt refuses it"),
        ("os.system", "'os.system': give the name of a destination of dlt"),
        ("dummy", "'dummy': give the name of a destination of dlt"),
        ("filesystem", "into files go append and replace"),
    ):
        status = syncs(table, destination=destination)
        assert status.status is SyncStatus.FAILED
        assert status.fixable
        assert reason in status.reason
