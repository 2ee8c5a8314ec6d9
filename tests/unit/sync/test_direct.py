"""What the direct engine promises where things go wrong: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.exceptions import SyncFailedError
from airflow_ext.sync.backend import SyncRequest
from airflow_ext.sync.direct import DirectEngine
from airflow_ext.sync.dlt_job import DltJob
from airflow_ext.sync.model import SyncStatus
from airflow_ext.sync.names import normal
from airflow_ext.sync.tables import SyncTable


def rows_of(status: Any) -> int:
    assert status.status is SyncStatus.SUCCEEDED, status.reason
    ((table),) = status.result.tables
    rows: int = table.rows
    return rows


@pytest.mark.parametrize("to_postgres", [False, True], ids=["duckdb", "postgres"])
def test_scd2_keeps_every_version(source: Any, syncs: Any, to_postgres: bool) -> None:
    source("CREATE TABLE t (id int, city text, doc jsonb)")
    source("INSERT INTO t VALUES (1, 'a', '{}'), (2, 'b', NULL), (3, 'c', NULL)")
    table = SyncTable("t", mode="scd2", primary_key="id")
    read = source if to_postgres else syncs.rows
    assert rows_of(syncs(table, to_postgres=to_postgres)) == 3
    source(
        "UPDATE t SET city = 'x' WHERE id = 2", "DELETE FROM t WHERE id = 3", "INSERT INTO t VALUES (4, 'd')"
    )
    assert [rows_of(syncs(table, to_postgres=to_postgres)) for _ in range(2)] == [2, 0]
    assert read("SELECT id, city, _valid_to IS NULL FROM raw.t ORDER BY id, _valid_from") == [
        *[(1, "a", True), (2, "b", False), (2, "x", True), (3, "c", False), (4, "d", True)]
    ]
    assert read(
        "SELECT count(*) FROM raw.t o JOIN raw.t n ON o.id = n.id AND o._valid_to = n._valid_from"
    ) == [(1,)]


@pytest.mark.parametrize("to_postgres", [False, True], ids=["duckdb", "postgres"])
def test_rows_at_the_last_cursor_value_are_neither_lost_nor_doubled(
    source: Any, syncs: Any, to_postgres: bool
) -> None:
    source("CREATE TABLE t (id int, at timestamptz, doc jsonb)")
    source(
        """INSERT INTO t VALUES (1, '2026-01-01', '{"a": 1}'), (2, '2026-01-02', NULL), (2, '2026-01-02', NULL)"""
    )
    appended = SyncTable("t", mode="append", cursor="at")
    read = source if to_postgres else syncs.rows
    assert rows_of(syncs(appended, to_postgres=to_postgres)) == 3
    source("INSERT INTO t VALUES (2, '2026-01-02', NULL), (3, '2026-01-02', NULL), (4, '2026-01-03', NULL)")
    assert [rows_of(syncs(appended, to_postgres=to_postgres)) for _ in range(2)] == [3, 0]
    assert read("SELECT id, count(*) FROM raw.t GROUP BY id ORDER BY id") == [(1, 1), (2, 3), (3, 1), (4, 1)]

    merged = SyncTable("t", schema="public", primary_key="id", cursor="at")
    assert rows_of(syncs(merged, name="m", dataset="m", to_postgres=to_postgres)) == 4, "the last of each key"
    source("""UPDATE t SET doc = '[]' WHERE id = 4""")
    assert [rows_of(syncs(merged, name="m", dataset="m", to_postgres=to_postgres)) for _ in range(2)] == [
        1,
        0,
    ]
    assert read("SELECT count(*), count(DISTINCT id), count(doc) FROM m.t") == [(4, 4, 2)]


def test_a_text_cursor_follows_the_order_of_the_source(syncs: Any, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "source.db")) as source:
        source.execute("CREATE TABLE t (code text COLLATE NOCASE)")
        source.execute("INSERT INTO t VALUES ('b'), ('C')")
        source.commit()
        table, url = SyncTable("t", mode="append", cursor="code"), f"sqlite:///{tmp_path}/source.db"
        assert rows_of(syncs(table, source_url=url)) == 2
        source.execute("INSERT INTO t VALUES ('a'), ('D')")  # after b and C comes D, before them a
        source.commit()
    assert [rows_of(syncs(table, source_url=url)) for _ in range(2)] == [1, 0]


def test_a_key_that_is_null_is_refused(source: Any, syncs: Any) -> None:
    source("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1), (NULL)")
    status = syncs(SyncTable("t", primary_key="id"))
    assert (status.status, status.table) == (SyncStatus.FAILED, "t")
    assert "null in 1 rows" in status.reason


def test_tables_side_by_side_and_one_that_fails(source: Any, syncs: Any) -> None:
    for number in range(4):
        source(f"CREATE TABLE t{number} AS SELECT g AS id FROM generate_series(1, 1000) g")
    source("CREATE VIEW bad AS SELECT 1 / (500 - id) AS id FROM t0")
    good = [SyncTable(f"t{number}", mode="replace") for number in range(4)]
    status = syncs(*good, SyncTable("bad", mode="replace"), parallel=4)
    assert (status.status, status.table) == (SyncStatus.FAILED, "bad")
    assert "division by zero" in status.reason
    assert {table.name: table.rows for table in syncs(*good, parallel=4).result.tables} == dict.fromkeys(
        ["t0", "t1", "t2", "t3"], 1000
    )
    made = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'raw' AND table_name = 'bad'"
    assert syncs.rows(made) == [], "half a table is no table"


@pytest.mark.parametrize("to_postgres", [False, True], ids=["duckdb", "postgres"])
def test_a_source_that_dies_in_the_middle_leaves_the_table_as_it_was(
    source: Any, syncs: Any, until: Any, to_postgres: bool
) -> None:
    source("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 5) g")
    table = SyncTable("t", mode="replace")
    assert rows_of(syncs(table, to_postgres=to_postgres)) == 5
    source(
        "ALTER TABLE t RENAME TO real",
        "CREATE VIEW t AS SELECT id FROM real UNION ALL "
        "SELECT g + 0 * length(pg_sleep(CASE WHEN g = 150000 THEN 60 ELSE 0 END)::text) FROM generate_series(1, 200000) g",
    )
    asleep = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    backend = syncs.backend(to_postgres=to_postgres)

    async def dies() -> Any:
        handle = await backend.start(SyncRequest(name="job", tables=(table,)))
        await asyncio.to_thread(until, lambda: source(asleep))
        source(f"SELECT pg_terminate_backend(pid) FROM ({asleep}) AS asleep")
        while not (status := await backend.poll(handle, wait=60)).status.ended:
            pass
        return status

    status = asyncio.run(dies())
    assert (status.status, status.table, status.fixable) == (SyncStatus.FAILED, "t", False)
    assert source.server.password not in status.reason
    read = source if to_postgres else syncs.rows
    assert read("SELECT count(*) FROM raw.t") == [(5,)]
    source("DROP VIEW t", "ALTER TABLE real RENAME TO t")
    assert rows_of(syncs(table, to_postgres=to_postgres)) == 5


def test_the_other_driver_of_postgres_does_as_well(
    source: Any, syncs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import sys; sys.modules['psycopg'] = None")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    source("CREATE TABLE t AS SELECT g AS id, 'x' || g AS text FROM generate_series(1, 3000) g")
    url = source.url.replace("postgresql://", "postgresql+psycopg2://")
    table = SyncTable("t", mode="replace")
    assert rows_of(syncs(table, to_postgres=True, source_url=url, chunk_rows=1000)) == 3000
    source("CREATE VIEW bad AS SELECT 1 / (2500 - id) AS id FROM t")
    status = syncs(SyncTable("bad", mode="append"), to_postgres=True, source_url=url, chunk_rows=1000)
    assert (status.status, status.table) == (SyncStatus.FAILED, "bad")
    assert "division by zero" in status.reason
    assert source("SELECT to_regclass('raw.bad')") == [(None,)]


HOLDER = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def test_a_file_another_process_holds_is_waited_for_and_then_given_up(source: Any, syncs: Any) -> None:
    source("CREATE TABLE t AS SELECT 1 AS id")
    table = SyncTable("t", mode="append")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(syncs.file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        status = syncs(table, lock_seconds=0.5)
        assert (status.status, status.fixable) == (SyncStatus.FAILED, False)
        assert "another process has held the DuckDB file for 0.5 s" in status.reason
        assert any("waiting for another process" in text for _, text in syncs.messages)
        holder.stdin.close()
    assert rows_of(syncs(table)) == 1
    assert syncs.rows("SELECT count(*) FROM raw.t") == [(1,)]


def test_a_table_another_writer_holds_is_given_up_after_a_while(source: Any, syncs: Any) -> None:
    source("CREATE TABLE t AS SELECT 1 AS id")
    table = SyncTable("t", mode="append")
    assert rows_of(syncs(table, to_postgres=True)) == 1
    with source.server.connect(source.name) as writer:
        writer.cursor().execute("LOCK TABLE raw.t IN ACCESS EXCLUSIVE MODE")
        status = syncs(table, to_postgres=True, lock_seconds=0.5)
        assert (status.status, status.table) == (SyncStatus.FAILED, "t")
        assert "lock timeout" in status.reason
    assert rows_of(syncs(table, to_postgres=True)) == 1
    assert source("SELECT count(*) FROM raw.t") == [(2,)]


def test_the_same_task_on_two_workers_at_once_appends_once(
    source: Any, syncs: Any, until: Any, tmp_path: Path
) -> None:
    source("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 10) g")
    table = SyncTable("t", mode="append", cursor="id")
    assert rows_of(syncs(table, to_postgres=True)) == 10
    source("INSERT INTO t SELECT g FROM generate_series(11, 15) g")

    def waits(kind: str) -> bool:
        return bool(source(f"SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = '{kind}'"))

    async def both() -> list[Any]:
        handles = []
        for kind, folder in (("relation", "one"), ("advisory", "two")):
            syncs.folder = tmp_path / folder
            backend = syncs.backend(to_postgres=True)
            handles.append((backend, await backend.start(SyncRequest(name="job", tables=(table,)))))
            await asyncio.to_thread(until, lambda kind=kind: waits(kind))
        blocker.rollback()
        ended = []
        for backend, handle in handles:
            while not (status := await backend.poll(handle, wait=60)).status.ended:
                pass
            ended.append(rows_of(status))
        return ended

    with source.server.connect(source.name) as blocker:
        blocker.cursor().execute("LOCK TABLE raw.t IN ACCESS EXCLUSIVE MODE")
        assert asyncio.run(both()) == [5, 0]
    assert source("SELECT count(*), count(DISTINCT id) FROM raw.t") == [(15, 15)]


def test_a_full_disk_loses_nothing(
    source: Any, syncs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source("CREATE TABLE t AS SELECT g AS id, md5(g::text) AS text FROM generate_series(1, 1000) g")
    table = SyncTable("t", mode="replace")
    assert rows_of(syncs(table)) == 1000
    source("INSERT INTO t SELECT g, md5(g::text) || md5((g + 1)::text) FROM generate_series(1001, 400000) g")
    folder = tmp_path / "site"
    folder.mkdir()
    # A file that may not grow answers a write as a full disk does.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))"
    (folder / "sitecustomize.py").write_text(limit)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(folder))
        status = syncs(table)
    assert (status.status, status.table) == (SyncStatus.FAILED, "t")
    assert "write" in status.reason.lower()
    assert syncs.rows("SELECT count(*) FROM raw.t") == [(1000,)]
    assert rows_of(syncs(table)) == 400_000


def test_a_column_that_vanishes_between_two_loads(source: Any, syncs: Any) -> None:
    source("CREATE TABLE t (id int PRIMARY KEY, a int, b int)", "INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)")
    table = SyncTable("t", primary_key="id", columns=["id", "a"])
    assert rows_of(syncs(table)) == 2
    source("ALTER TABLE t DROP a")
    status = syncs(table)
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    assert "no column a; the source has id, b" in status.reason
    assert syncs.rows("SELECT sum(a) FROM raw.t") == [(3,)]


@pytest.mark.parametrize(
    "name", ["FlightDate", "flight-date", "IDs", "1st", "a__b", "end_", "HTTPCode2X", "ä b", "x+y*z@w|v"]
)
def test_names_are_those_of_dlt(name: str) -> None:
    from dlt.common.schema import Schema

    assert normal(name) == Schema("names").naming.normalize_identifier(name)


def test_a_file_may_have_the_name_of_the_schema(source: Any, syncs: Any) -> None:
    source("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
    syncs.file = syncs.file.with_name("raw.duckdb")
    table = SyncTable("t", primary_key="id")
    assert [rows_of(syncs(table)) for _ in range(2)] == [1, 1]
    assert syncs.rows("SELECT id FROM raw.raw.t") == [(1,)]


def test_two_columns_of_one_name_are_for_the_author_to_fix(source: Any, syncs: Any) -> None:
    source('CREATE TABLE t (id int, "Id" int)')
    status = syncs(SyncTable("t", mode="append"))
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    assert "'id' and 'Id' would both arrive as 'id'" in status.reason


@pytest.mark.parametrize("to_postgres", [False, True], ids=["duckdb", "postgres"])
def test_a_first_load_that_fails_leaves_no_table_behind(source: Any, syncs: Any, to_postgres: bool) -> None:
    source("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 1000) g")
    read = source if to_postgres else syncs.rows
    tables = (
        "SELECT table_schema FROM information_schema.tables WHERE table_schema = 'raw' AND table_name = 't'"
    )
    job = DltJob(
        pair=syncs.backend(to_postgres=to_postgres, parallel=1).pair,
        name="job",
        folder=syncs.folder,
        tables=(SyncTable("t", mode="replace", where="1 / (900 - id) < 10"),),
    )
    with pytest.raises(SyncFailedError, match="division by zero"):
        DirectEngine(job, tell=lambda _: None).run()
    assert read(tables) == []
    # A table that was there stays, empty or not.
    DirectEngine(
        replace(job, tables=(SyncTable("t", mode="replace", where="id < 0"),)), tell=lambda _: None
    ).run()
    with pytest.raises(SyncFailedError, match="division by zero"):
        DirectEngine(job, tell=lambda _: None).run()
    assert read(tables) == [("raw",)]
