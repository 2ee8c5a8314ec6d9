from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.exceptions import InvalidError
from airflow_ext.sync.backend import SyncRequest
from airflow_ext.sync.model import SyncStatus
from airflow_ext.sync.tables import SyncTable, Window

FLIGHTS = SyncTable("flights", mode="window", cursor="flight_date")
FIRST, SECOND = ("2013-01-01", "2013-01-02"), ("2013-01-02", "2013-01-03")
Until = Callable[[Callable[[], bool]], None]


def tables_of(status: Any) -> dict[str, Any]:
    assert status.status is SyncStatus.SUCCEEDED, status.reason
    found: dict[str, Any] = status.result.to_dict()["tables"]
    return found


def flights(source: Any) -> None:
    source(
        "CREATE TABLE flights (id int, flight_date date, carrier text)",
        "INSERT INTO flights SELECT g, date '2013-01-01' + g / 10, 'UA' FROM generate_series(0, 29) g",
    )


def test_a_window_makes_the_destination_equal_to_the_source_for_that_window(source: Any, syncs: Any) -> None:
    flights(source)
    assert tables_of(syncs(FLIGHTS, window=FIRST))["flights"] == {
        "rows": 10,
        "schema_changes": [{"kind": "table_added"}],
    }
    for _ in range(2):  # the second load changes nothing
        assert tables_of(syncs(FLIGHTS, window=SECOND))["flights"] == {"rows": 10, "schema_changes": []}
    by_day = "SELECT flight_date::text, count(*), min(carrier) FROM raw.flights GROUP BY 1 ORDER BY 1"
    assert syncs.rows(by_day) == [("2013-01-01", 10, "UA"), ("2013-01-02", 10, "UA")]

    source(
        "DELETE FROM flights WHERE id IN (3, 12)",  # 3 lies outside the window and stays
        "UPDATE flights SET carrier = 'AA' WHERE id = 13",
    )
    assert tables_of(syncs(FLIGHTS, window=SECOND))["flights"]["rows"] == 9
    assert syncs.rows(by_day) == [("2013-01-01", 10, "UA"), ("2013-01-02", 9, "AA")]

    source("DELETE FROM flights WHERE flight_date = '2013-01-02'")
    assert tables_of(syncs(FLIGHTS, window=SECOND))["flights"]["rows"] == 0
    assert syncs.rows(by_day) == [("2013-01-01", 10, "UA")]


def test_a_mode_that_changed_does_not_delete_by_the_old_window(source: Any, syncs: Any) -> None:
    flights(source)
    syncs(FLIGHTS, window=SECOND)
    source("DELETE FROM flights WHERE id = 12")
    merged = SyncTable("flights", mode="merge", primary_key="id")
    assert tables_of(syncs(merged))["flights"]["rows"] == 29
    assert syncs.rows("SELECT count(*), count(DISTINCT id) FROM raw.flights") == [(30, 30)]


def test_each_mode_in_one_run_and_once_more(source: Any, syncs: Any) -> None:
    for name in ("merged", "appended", "replaced"):
        source(
            f"CREATE TABLE {name} (id int PRIMARY KEY, changed timestamp, name text)",
            f"INSERT INTO {name} SELECT g, timestamp '2013-01-01' + g * interval '1 h', 'old'"
            " FROM generate_series(1, 4) g",
        )
    tables = (
        SyncTable("merged", primary_key="id"),
        SyncTable("appended", mode="append", cursor="changed"),
        SyncTable("replaced", mode="replace"),
    )
    assert [table["rows"] for table in tables_of(syncs(*tables)).values()] == [4, 4, 4]
    for name in ("merged", "appended", "replaced"):
        source(
            f"DELETE FROM {name} WHERE id = 1",
            f"UPDATE {name} SET name = 'new' WHERE id = 2",
            f"INSERT INTO {name} VALUES (5, '2013-01-01 04:00', 'new')",  # as late as the last one seen
        )
    assert [table["rows"] for table in tables_of(syncs(*tables)).values()] == [4, 1, 4]
    assert syncs.rows("SELECT id, name FROM raw.merged ORDER BY id") == [
        *[(1, "old"), (2, "new"), (3, "old"), (4, "old"), (5, "new")]
    ]
    assert syncs.rows("SELECT id, name FROM raw.appended ORDER BY id") == [
        *[(1, "old"), (2, "old"), (3, "old"), (4, "old"), (5, "new")]
    ]
    assert syncs.rows("SELECT id, name FROM raw.replaced ORDER BY id") == [
        *[(2, "new"), (3, "old"), (4, "old"), (5, "new")]
    ]
    assert [table["rows"] for table in tables_of(syncs(*tables)).values()] == [4, 0, 4]


def test_a_fresh_worker_continues_from_the_cursor_in_the_destination(source: Any, syncs: Any) -> None:
    source("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1), (2)")
    table = SyncTable("t", mode="append", cursor="id")
    assert tables_of(syncs(table))["t"]["rows"] == 2
    shutil.rmtree(syncs.folder)
    source("INSERT INTO t VALUES (3)")
    assert tables_of(syncs(table))["t"] == {"rows": 1, "schema_changes": []}
    assert syncs.rows("SELECT count(*), count(DISTINCT id) FROM raw.t") == [(3, 3)]


def test_types_arrive_in_duckdb(source: Any, syncs: Any) -> None:
    source(
        """CREATE TABLE kinds (id int, price numeric(12,2), moment timestamptz, local timestamp, day date,
        doc jsonb, numbers int[], key uuid, raw bytea, flag boolean, ratio double precision, span interval)""",
        r"""INSERT INTO kinds VALUES (1, 1234567890.12, '2013-01-02 03:04:05+02', '2013-01-02 03:04:05',
        '2013-01-02', '{"a": null}', '{1,2}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\x00ff', true, 2.5,
        '1 day')""",
    )
    assert tables_of(syncs(SyncTable("kinds", mode="replace")))["kinds"]["rows"] == 1
    assert dict(syncs.rows("SELECT column_name, column_type FROM (DESCRIBE raw.kinds)")) == {
        "id": "INTEGER",
        "price": "DECIMAL(12,2)",
        "moment": "TIMESTAMP WITH TIME ZONE",
        "local": "TIMESTAMP",
        "day": "DATE",
        "doc": "JSON",
        "numbers": "JSON",
        "key": "UUID",
        "raw": "BLOB",
        "flag": "BOOLEAN",
        "ratio": "DOUBLE",
        "span": "VARCHAR",
    }
    row = syncs.rows(
        "SELECT price, moment::text, local::text, doc, numbers, raw, span, key::text FROM raw.kinds"
    )[0]
    assert row[0] == Decimal("1234567890.12")
    assert row[1].startswith("2013-01-02 ")
    assert row[2:-1] == ("2013-01-02 03:04:05", '{"a": null}', "[1,2]", b"\x00\xff", "1 day")
    assert row[-1] == "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


def test_types_arrive_in_postgres(source: Any, syncs: Any) -> None:
    source(
        """CREATE TABLE kinds (id int, price numeric(12,2), moment timestamptz, local timestamp, day date,
        doc jsonb, numbers int[], raw bytea, note text, flag boolean, key uuid)""",
        r"""INSERT INTO kinds VALUES (1, 12.30, '2013-01-02 03:04:05+02', '2013-01-02 03:04:05',
        '2013-01-02', '{"a": "x,\"y"}', '{1,NULL}', '\x00ff', E'two\nlines, "quoted"', true,
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '', NULL, NULL)""",
    )
    tables = (SyncTable("kinds", mode="window", cursor="id"),)
    for _ in range(2):
        assert tables_of(syncs(*tables, window=("1", "5"), to_postgres=True))["kinds"]["rows"] == 2
    assert (
        source(
            "SELECT * FROM raw.kinds EXCEPT SELECT id, price, moment, local, day, doc, "
            "to_jsonb(numbers), raw, note, flag, key FROM public.kinds"
        )
        == []
    )
    assert source("SELECT count(*), count(raw) FROM raw.kinds") == [(2, 1)]


def test_columns_that_come_go_or_change_their_type_are_reported(source: Any, syncs: Any) -> None:
    source("CREATE TABLE t (id int, gone text, n int)", "INSERT INTO t VALUES (1, 'a', 1)")
    table = SyncTable("t", primary_key="id")
    syncs(table)
    source("ALTER TABLE t DROP gone", "ALTER TABLE t ADD fresh date", "ALTER TABLE t ALTER n TYPE bigint")
    assert tables_of(syncs(table))["t"]["schema_changes"] == [
        {"kind": "column_added", "column": "fresh", "type": "date32[day]"},
        {"kind": "column_removed", "column": "gone"},
        {"kind": "column_retyped", "column": "n", "type": "int64"},
    ]
    assert syncs.rows("SELECT id, gone, n FROM raw.t") == [(1, None, 1)]


def test_rows_the_destination_refuses_fail_the_run_and_do_not_block_the_next(source: Any, syncs: Any) -> None:
    flights(source)
    table = SyncTable("flights", mode="window", cursor="flight_date", columns=["id", "flight_date"])
    syncs(table, window=FIRST)
    source("ALTER TABLE flights ALTER id TYPE text USING 'x' || id")
    status = syncs(table, window=FIRST)
    assert (status.status, status.table, status.fixable) == (SyncStatus.FAILED, "flights", False)
    assert "Could not convert string 'x" in status.reason
    assert syncs.rows("SELECT count(*) FROM raw.flights") == [(10,)], "the window is as it was"
    source("ALTER TABLE flights ALTER id TYPE int USING substr(id, 2)::int")
    assert tables_of(syncs(table, window=FIRST))["flights"]["rows"] == 10
    assert syncs.rows("SELECT count(*) FROM raw.flights") == [(10,)]


def test_a_missing_table_or_column_is_for_the_author_to_fix(source: Any, syncs: Any) -> None:
    flights(source)
    status = syncs(SyncTable("flight", mode="append"))
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    assert "table 'flight' does not exist" in status.reason


def test_a_source_that_does_not_answer_fails_without_its_password(
    source: Any, syncs: Any, until: Until
) -> None:
    url = source.url.replace(f":{source.server.port}/", ":1/")
    status = syncs(FLIGHTS, window=FIRST, source_url=url)
    assert (status.status, status.fixable) == (SyncStatus.FAILED, False)
    assert "127.0.0.1" in status.reason
    assert source.server.password not in status.reason + str(syncs.messages)


def _leaks(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_credentials_and_the_environment_stay_where_they_are(
    source: Any, syncs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flights(source)
    monkeypatch.setenv("SOURCES__CREDENTIALS", "from the user's own environment")
    before = dict(os.environ)
    assert syncs(FLIGHTS, window=FIRST, to_postgres=True).status is SyncStatus.SUCCEEDED
    source("ALTER TABLE flights ALTER id TYPE text USING 'x'")
    assert syncs(FLIGHTS, window=FIRST, to_postgres=True).status is SyncStatus.FAILED
    assert _leaks(tmp_path, source.server.password) == []
    assert dict(os.environ) == before
    assert not list(syncs.folder.rglob("*.toml"))


class Blocked:
    """Holds the destination table so that a load hangs exactly where it writes."""

    def __init__(self, source: Any, until: Until) -> None:
        self.source = source
        self._until = until

    def __enter__(self) -> Blocked:
        self._connection = self.source.server.connect(self.source.name)
        self._connection.cursor().execute("LOCK TABLE raw.flights IN ACCESS EXCLUSIVE MODE")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def wait(self, loads: int = 1) -> None:
        asked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'raw.flights'::regclass"
        self._until(lambda: self.source(asked)[0][0] >= loads)


async def end_of(backend: Any, handle: Any) -> Any:
    while not (status := await backend.poll(handle, wait=60)).status.ended:
        pass
    return status


def killed_while_loading(source: Any, syncs: Any, until: Until, *tables: SyncTable, run: str = "") -> None:
    """Kill the worker where it writes raw.flights; each other table has arrived by then."""
    backend = syncs.backend(to_postgres=True)
    others = [table.name for table in tables if table.name != "flights"]
    before = {name: source(f"SELECT count(*) FROM raw.{name}") for name in others}

    async def killed() -> SyncStatus:
        window = Window(start=SECOND[0], end=SECOND[1])
        handle = await backend.start(SyncRequest(name="job", tables=tables, window=window, run=run))
        await asyncio.to_thread(blocked.wait)

        def arrived() -> bool:
            return all(source(f"SELECT count(*) FROM raw.{name}") != before[name] for name in others)

        await asyncio.to_thread(until, arrived)
        os.kill(handle["pid"], signal.SIGKILL)
        return SyncStatus((await end_of(backend, handle)).status)

    with Blocked(source, until) as blocked:
        assert asyncio.run(killed()) is SyncStatus.FAILED


def test_what_a_killed_try_had_not_committed_is_loaded_by_the_next(
    source: Any, syncs: Any, until: Until
) -> None:
    flights(source)
    tables_of(syncs(FLIGHTS, window=FIRST, to_postgres=True))
    killed_while_loading(source, syncs, until, FLIGHTS)
    assert source("SELECT count(*) FROM raw.flights") == [(10,)], "the window is as it was"
    for window in (SECOND, ("2013-01-03", "2013-01-04")):
        assert tables_of(syncs(FLIGHTS, window=window, to_postgres=True))["flights"]["rows"] == 10
    assert source("SELECT count(*), count(DISTINCT flight_date) FROM raw.flights") == [(30, 3)]


def test_a_cancelled_sync_stops_soon_and_leaves_nothing_half_written(
    source: Any, syncs: Any, until: Until
) -> None:
    flights(source)
    tables_of(syncs(FLIGHTS, window=FIRST, to_postgres=True))
    backend = syncs.backend(to_postgres=True)

    async def cancelled() -> tuple[Any, int]:
        handle = await backend.start(
            SyncRequest(name="job", tables=(FLIGHTS,), window=Window(start=SECOND[0], end=SECOND[1]))
        )
        await asyncio.to_thread(blocked.wait)
        await backend.cancel(handle, patience=1)
        return await backend.poll(handle, wait=30), handle["pid"]

    with Blocked(source, until) as blocked:
        status, pid = asyncio.run(cancelled())
    assert status.status is SyncStatus.CANCELLED
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    # PostgreSQL may still finish the statement it was in; it does all of it or nothing.
    assert source("SELECT count(*) FROM raw.flights")[0][0] in (10, 20)


def test_a_worker_whose_parent_is_gone_ends(source: Any, syncs: Any, until: Until) -> None:
    flights(source)
    tables_of(syncs(FLIGHTS, window=FIRST, to_postgres=True))
    backend = syncs.backend(to_postgres=True)

    async def orphaned() -> None:
        handle = await backend.start(
            SyncRequest(name="job", tables=(FLIGHTS,), window=Window(start=SECOND[0], end=SECOND[1]))
        )
        await asyncio.to_thread(blocked.wait)
        limits = await asyncio.to_thread(Path(f"/proc/{handle['pid']}/limits").read_text)
        assert re.search(r"Max core file size +0 +0 ", limits), "a core dump would hold the passwords"
        run = backend._runs[handle["run"]]
        run._process.stdin.close()  # what the system does for a parent that was killed
        while not (await backend.poll(handle, wait=30)).status.ended:
            pass

    with Blocked(source, until) as blocked:
        asyncio.run(orphaned())


def test_a_handle_of_another_process_is_refused(syncs: Any) -> None:
    with pytest.raises(InvalidError, match="was not started by this process"):
        asyncio.run(syncs.backend().poll({"backend": "dlt", "run": "elsewhere"}))


def test_two_syncs_of_one_table_at_once_do_not_touch_each_others_rows(
    source: Any, syncs: Any, until: Until
) -> None:
    flights(source)
    tables_of(syncs(FLIGHTS, window=("2013-01-03", "2013-01-04"), to_postgres=True))
    backend = syncs.backend(to_postgres=True)

    async def both() -> list[Any]:
        handles = []
        for number, (start, end) in enumerate((FIRST, SECOND), start=1):
            window = Window(start=start, end=end)
            request = SyncRequest(name=f"job{number}", tables=(FLIGHTS,), window=window)
            handles.append(await backend.start(request))
            await asyncio.to_thread(blocked.wait, number)  # it has staged its rows, and waits
        blocked.__exit__()
        return [await end_of(backend, handle) for handle in handles]

    with Blocked(source, until) as blocked:
        statuses = asyncio.run(both())
    assert [tables_of(status)["flights"]["rows"] for status in statuses] == [10, 10]
    by_day = "SELECT flight_date::text, count(*), count(DISTINCT id) FROM raw.flights GROUP BY 1 ORDER BY 1"
    assert source(by_day) == [(f"2013-01-0{day}", 10, 10) for day in (1, 2, 3)]


def test_an_append_is_done_once_per_run_or_window_whatever_dies(
    source: Any, syncs: Any, until: Until
) -> None:
    flights(source)
    source("CREATE TABLE carriers AS SELECT 'UA' AS carrier")
    tables = (SyncTable("flights", mode="append", cursor="flight_date"), SyncTable("carriers", mode="append"))
    tables_of(syncs(*tables, window=FIRST, run="first", to_postgres=True))
    killed_while_loading(source, syncs, until, *tables, run="second")
    counts = "SELECT (SELECT count(*) FROM raw.flights), (SELECT count(*) FROM raw.carriers)"
    assert source(counts) == [(10, 2)], "one table had been committed, the other not"

    for _ in range(2):  # the retry, and clearing a task that has succeeded
        shutil.rmtree(syncs.folder)  # on another worker
        status = syncs(*tables, window=SECOND, run="second", to_postgres=True)
        assert {name: table["rows"] for name, table in tables_of(status).items()} == {
            "flights": 10,
            "carriers": 1,
        }
        assert source(counts) == [(20, 2)]
    assert any("not appended again" in text for _, text in syncs.messages)

    third = ("2013-01-03", "2013-01-04")
    tables_of(syncs(*tables, window=third, run="third", to_postgres=True))
    assert source(counts) == [(30, 3)], "another request is loaded"


def in_every_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_what_libraries_print_and_torn_lines_do_not_stop_a_sync(
    source: Any, syncs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flights(source)
    code = """import os, sys
print("agent loaded")
os.write(int(sys.orig_argv[-1]), b'{"event": "ro\\n')
"""
    in_every_worker(tmp_path, monkeypatch, code)
    assert tables_of(syncs(FLIGHTS, window=FIRST))["flights"]["rows"] == 10


def test_a_run_ends_with_its_process_even_if_a_child_of_it_holds_the_pipes(
    syncs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_ext.sync.dlt_backend.DRAIN_SECONDS", 0.5)
    code = """import os, subprocess, sys
if "airflow_ext.sync.dlt_worker" in sys.orig_argv:
    print("about to die", flush=True)
    subprocess.Popen(["sleep", "15"], pass_fds=[int(sys.orig_argv[-1])])
    os._exit(1)
"""
    in_every_worker(tmp_path, monkeypatch, code)
    started = time.monotonic()
    status = syncs(FLIGHTS, window=FIRST)
    assert time.monotonic() - started < 12
    assert status.status is SyncStatus.FAILED
    assert "ended with status 1\nabout to die" in status.reason
