"""What the destination remembers of loads, and when that is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.sync.files import SyncFiles
from airflow_ext.sync.model import SyncStatus
from airflow_ext.sync.tables import SyncTable

BOTH = pytest.mark.parametrize("to_postgres", [False, True], ids=["duckdb", "postgres"])


def rows_of(status: Any) -> int:
    assert status.status is SyncStatus.SUCCEEDED, status.reason
    ((table),) = status.result.tables
    rows: int = table.rows
    return rows


def write(source: Any, syncs: Any, to_postgres: bool) -> Callable[[str], Any]:
    """Return what runs a statement in the destination."""

    def run(statement: str) -> Any:
        if to_postgres:
            return source(statement)
        import duckdb

        with duckdb.connect(str(syncs.file)) as connection:
            return connection.execute(statement).fetchall()

    return run


@BOTH
def test_a_dropped_table_is_loaded_from_the_beginning_also_when_the_first_try_dies(
    source: Any, syncs: Any, landing: Path, local: dict[str, Any], to_postgres: bool
) -> None:
    source(
        "CREATE TABLE ok AS SELECT 1 AS n",
        "CREATE VIEW t AS SELECT g AS id, g * 1000 / (SELECT n FROM ok) AS x FROM generate_series(1, 10) g",
    )
    for name in ("a", "b"):
        (landing / f"{name}.csv").write_text("id\n" + "".join(f"{n}\n" for n in range(5)))
    run = write(source, syncs, to_postgres)
    files = SyncFiles("f", path="*.csv", types={"id": "bigint"})
    for name, table, options in (
        ("cursor", SyncTable("t", mode="append", cursor="id"), {}),
        ("windowed", SyncTable("t", mode="append", cursor="id"), {"window": ("1", "11")}),
        ("files", files, local),
    ):
        options = {**options, "name": name, "dataset": name, "to_postgres": to_postgres}
        assert rows_of(syncs(table, **options)) == 10
        run(f"DROP TABLE {name}.{table.name}")

        source("UPDATE ok SET n = 0")
        (landing / "c.csv").write_text("id\nnone\n")
        status = syncs(table, **options)
        assert (status.status, status.table) == (SyncStatus.FAILED, table.name)
        # One that is killed cannot drop the table it has made.
        run(f"CREATE TABLE {name}.{table.name} (id bigint, x bigint)")

        source("UPDATE ok SET n = 1")
        (landing / "c.csv").unlink()
        assert rows_of(syncs(table, **options)) == 10, name
        assert run(f"SELECT count(*) FROM {name}.{table.name}") == [(10,)]


def test_a_dropped_table_is_forgotten_by_every_sync_that_loads_it_and_no_other_is(
    source: Any, syncs: Any
) -> None:
    for name in ("FlightDays", "other"):
        source(f'CREATE TABLE "{name}" AS SELECT g AS id FROM generate_series(1, 10) g')
    first, second = (
        SyncTable("FlightDays", mode="append", cursor="id", where=f"id % 2 = {n}") for n in (0, 1)
    )
    other = SyncTable("other", mode="append", cursor="id")
    for name, table in (("first", first), ("second", second), ("third", other)):
        rows_of(syncs(table, name=name, to_postgres=True))
    source("DROP TABLE raw.flight_days")
    assert rows_of(syncs(first, name="first", to_postgres=True)) == 5
    assert rows_of(syncs(second, name="second", to_postgres=True)) == 5
    assert rows_of(syncs(other, name="third", to_postgres=True)) == 0
    assert source("SELECT count(*), count(DISTINCT id) FROM raw.flight_days") == [(10, 10)]


@pytest.mark.parametrize(("to_postgres", "change"), [(False, "to zoned"), (True, "to plain")])
def test_a_cursor_whose_timestamps_get_or_lose_a_zone_goes_on_in_utc(
    source: Any, syncs: Any, monkeypatch: pytest.MonkeyPatch, to_postgres: bool, change: str
) -> None:
    before, after = ("timestamp", "timestamptz") if change == "to zoned" else ("timestamptz", "timestamp")
    monkeypatch.setenv("TZ", "America/New_York")
    source(
        f"ALTER DATABASE {source.name} SET timezone TO 'America/New_York'",
        f"CREATE TABLE t (id int, at {before})",
        "INSERT INTO t VALUES (1, '2026-01-02 11:00+00'), (2, '2026-01-02 12:00+00')",
    )
    table = SyncTable("t", mode="append", cursor="at")
    assert rows_of(syncs(table, to_postgres=to_postgres)) == 2
    source(
        f"ALTER TABLE t ALTER at TYPE {after} USING at AT TIME ZONE 'UTC'",
        "INSERT INTO t VALUES (3, '2026-01-02 13:00+00'), (4, '2026-01-02 11:30+00')",
    )
    assert [rows_of(syncs(table, to_postgres=to_postgres)) for _ in range(2)] == [1, 0]
    statement = "SELECT id, CAST(at AS varchar) FROM raw.t ORDER BY id"
    if to_postgres:
        found = source("SET TIME ZONE 'UTC'; " + statement)
    else:
        found = syncs.rows("SELECT id, CAST(epoch(t.at) AS bigint) FROM raw.t ORDER BY id")
        found = [(number, f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}") for number, at in found]
    assert [(number, text[:19]) for number, text in found] == [
        (number, f"2026-01-02 {number + 10}:00:00") for number in (1, 2, 3)
    ]


def test_a_cursor_of_another_kind_is_for_the_author_to_fix(source: Any, syncs: Any) -> None:
    source("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1), (2)")
    table = SyncTable("t", mode="append", cursor="id")
    assert rows_of(syncs(table)) == 2
    source("ALTER TABLE t ALTER id TYPE timestamptz USING '2026-01-01'::timestamptz")
    status = syncs(table)
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    assert "cursor='id' of table 't' has become timestamp[us, tz=UTC]" in status.reason
    assert "drop the table in the destination" in status.reason


def refused(status: Any) -> str:
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    reason: str = status.reason
    return reason


@BOTH
def test_rows_that_another_sync_has_appended_are_not_appended_again(
    source: Any, syncs: Any, to_postgres: bool
) -> None:
    source("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 10) g")
    table = SyncTable("t", mode="append", cursor="id")
    assert rows_of(syncs(table, name="old", to_postgres=to_postgres)) == 10
    told = refused(syncs(table, name="new", to_postgres=to_postgres))
    assert "table 't': sync 'old' (old) has appended the same rows" in told
    assert "state_key='<dag id>/<task id>'" in told
    run = write(source, syncs, to_postgres)
    assert run("SELECT count(*) FROM raw.t") == [(10,)]
    source("INSERT INTO t VALUES (11)")
    assert rows_of(syncs(table, name="old", to_postgres=to_postgres)) == 1

    part = SyncTable("t", mode="append", cursor="id", where="id > 100")
    assert rows_of(syncs(part, name="part", to_postgres=to_postgres)) == 0, "other rows of the same table"
    run("DELETE FROM raw.t")
    assert rows_of(syncs(table, name="new", to_postgres=to_postgres)) == 11, "an empty table has none"


def test_windows_that_another_sync_has_appended_are_refused_and_others_are_not(
    source: Any, syncs: Any
) -> None:
    source("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 30) g")
    table = SyncTable("t", mode="append", cursor="id")
    first, second, third = (str(10 * n + 1) for n in range(3))
    assert rows_of(syncs(table, name="old", window=(first, second))) == 10
    assert rows_of(syncs(table, name="new", window=(second, third))) == 10
    assert "'old' (old) has appended the same rows" in refused(
        syncs(table, name="new", window=(first, second))
    )
    assert "would double them" in refused(syncs(table, name="cursor")), "it would load all windows"
    assert syncs.rows("SELECT count(*), count(DISTINCT id) FROM raw.t") == [(20, 20)]


def test_files_that_another_sync_has_appended_are_refused_and_others_are_not(
    syncs: Any, landing: Path, local: dict[str, Any]
) -> None:
    for name in ("a1", "a2", "b1"):
        (landing / f"{name}.csv").write_text("id\n1\n")
    assert rows_of(syncs(SyncFiles("t", path="a*.csv"), name="old", **local)) == 2
    assert rows_of(syncs(SyncFiles("t", path="b*.csv"), name="new", **local)) == 1
    everything = SyncFiles("t", path="*.csv")
    assert "'old' (old) has appended the same rows" in refused(syncs(everything, name="new", **local))
    assert syncs.rows("SELECT count(*) FROM raw.t") == [(3,)]
