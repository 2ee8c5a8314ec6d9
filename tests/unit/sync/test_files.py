"""Files as source and as destination, through real worker processes."""

from __future__ import annotations

import gzip
from dataclasses import replace
from decimal import Decimal
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from airflow_ext.exceptions import InvalidError, SyncFailedError
from airflow_ext.sync.direct import DirectEngine
from airflow_ext.sync.dlt_job import DltJob
from airflow_ext.sync.files import SyncFiles
from airflow_ext.sync.model import SchemaChange, SyncStatus
from airflow_ext.sync.tables import SyncTable


def rows_of(status: Any) -> dict[str, int]:
    assert status.status is SyncStatus.SUCCEEDED, status.reason
    return {table.name: table.rows for table in status.result.tables}


def test_each_format_arrives_with_its_types_and_no_file_twice(
    syncs: Any, landing: Path, local: dict[str, Any]
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (landing / "a.csv").write_text('id,Country,zip,price\n1,NA,01234,2.50\n2,"",,\n')
    with gzip.open(landing / "b.csv.gz", "wt") as file:
        file.write('id,Country,zip,price\n3,"x,\ny",5,7\n')
    (landing / "x.jsonl").write_text(
        '{"id": 1, "tags": ["a"], "n": 1}\n\n{"id": 2, "n": 1.5, "late": true}\n'
    )
    parquet.write_table(
        pa.table(
            {
                "id": pa.array([1, 2], pa.uint8()),
                "s": [{"a": 1}, None],
                "at": pa.array([0, 1000], pa.timestamp("ns")),
            }
        ),
        landing / "p.parquet",
    )
    tables = (
        SyncFiles("c", path="*.csv*", mode="append", types={"zip": "text", "price": "decimal(9,2)"}),
        SyncFiles("j", path="*.jsonl", mode="merge", primary_key="id"),
        SyncFiles("p", path="*.parquet", mode="replace"),
    )
    assert rows_of(syncs(*tables, **local)) == {"c": 3, "j": 2, "p": 2}
    assert syncs.rows("SELECT id, country, zip, price FROM raw.c ORDER BY id") == [
        (1, "NA", "01234", Decimal("2.50")),
        (2, "", None, None),
        (3, "x,\ny", "5", Decimal("7.00")),
    ]
    assert syncs.rows("SELECT * FROM raw.j ORDER BY id") == [(1, '["a"]', 1.0, None), (2, None, 1.5, True)]
    assert syncs.rows("SELECT p.id, p.s, p.at::text FROM raw.p ORDER BY 1") == [
        *[(1, '{"a": 1}', "1970-01-01 00:00:00"), (2, None, "1970-01-01 00:00:00.000001")]
    ]

    (landing / "c.csv").write_text("id,Country,zip,price\n4,DE,1,1\n")
    (landing / "x.jsonl").write_text('{"id": 2, "n": 2}\n')
    assert rows_of(syncs(*tables, **local)) == {"c": 1, "j": 1, "p": 2}
    assert syncs.rows("SELECT count(*), sum(n) FROM raw.j") == [(2, 3.0)]

    (landing / "c.csv").write_text("id,Country,zip,price\n4,DE,1,1\n5,DE,1,1\n")
    status = syncs(*tables, **local)
    assert (status.status, status.table) == (SyncStatus.FAILED, "c")
    assert "c.csv has changed since it was appended" in status.reason
    assert syncs.rows("SELECT count(*) FROM raw.c") == [(4,)]


def test_a_window_names_the_files_and_bounds_the_rows(
    syncs: Any, landing: Path, local: dict[str, Any]
) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        (landing / day).mkdir()
        (landing / day / "part.csv").write_text(f"id,at\n1,{day}T00:00:00Z\n2,2026-01-09T00:00:00Z\n")
    table = SyncFiles("w", path="{window_start}/*.csv", mode="window", cursor="at")
    for _ in range(2):
        assert rows_of(syncs(table, window=("2026-01-01", "2026-01-02"), **local)) == {"w": 1}
    assert rows_of(syncs(table, window=("2026-01-02", "2026-01-03"), **local)) == {"w": 1}
    assert syncs.rows("SELECT count(*), count(DISTINCT w.at) FROM raw.w") == [(2, 2)]
    status = syncs(table, window=("../2026-01-01", "2026-01-02"), **local)
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    assert "cannot stand in a path" in status.reason


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param("id\n1\nx\n", "four.csv", id="a value that does not fit"),
        pytest.param("id,n\n1\n", "four.csv: CSV parse error", id="a row cut short"),
        pytest.param(None, "no file matches", id="nothing there"),
    ],
)
def test_a_file_that_cannot_be_read_leaves_the_table_as_it_was(
    syncs: Any, landing: Path, local: dict[str, Any], content: str | None, told: str
) -> None:
    (landing / "four.csv").write_text("id\n4\n")
    table = SyncFiles("t", path="*.csv", mode="replace", types={"id": "bigint"})
    assert rows_of(syncs(table, **local)) == {"t": 1}
    (landing / "four.csv").unlink() if content is None else (landing / "four.csv").write_text(content)
    status = syncs(table, **local)
    assert (status.status, status.table) == (SyncStatus.FAILED, "t")
    assert told in status.reason
    assert syncs.rows("SELECT id FROM raw.t") == [(4,)]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def test_files_of_a_remote_store_go_through_fsspec(syncs: Any, landing: Path) -> None:
    import fsspec

    (landing / "a.csv").write_text("id\n1\n2\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(landing))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        table = SyncFiles("t", path="*.csv")
        there = {
            "source_url": "",
            "base": f"http://127.0.0.1:{server.server_port}",
            "filesystems": {"http": fsspec.filesystem("http").to_json()},
        }
        assert [rows_of(syncs(table, **there)) for _ in range(2)] == [{"t": 2}, {"t": 0}]
        server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"path": " "}, "give a path", id="no path"),
        pytest.param({"path": "../*.csv"}, "'..' would leave the source connection's path", id="parent"),
        pytest.param({"path": "a/%2E%2e/b.csv"}, "'..' would leave", id="parent, encoded"),
        pytest.param({"path": "a", "format": "xls"}, "csv, jsonl, parquet, tsv", id="unknown format"),
        pytest.param({"path": "a", "cursor": "at"}, "only mode='window'", id="cursor"),
        pytest.param({"path": "a", "types": {"a": "varchar"}}, "the types are text", id="unknown type"),
    ],
)
def test_wrong_arguments_name_what_is_right(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SyncFiles("t", **arguments)


def parquet_rows(folder: Path, table: str) -> list[dict[str, Any]]:
    from pyarrow import parquet

    files = sorted((folder / "raw" / table).glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def test_tables_become_parquet_files_and_a_pending_package_is_finished_first(
    source: Any, syncs: Any, tmp_path: Path
) -> None:
    out = tmp_path / "lake"
    source("CREATE TABLE t (id int, price numeric(9,2), doc jsonb)", "INSERT INTO t VALUES (1, 2.5, '{}')")
    tables = (SyncTable("t", mode="append", cursor="id"),)
    blocked = tmp_path / "lake" / "raw"
    assert rows_of(syncs(*tables, files=out)) == {"t": 1}
    assert parquet_rows(out, "t") == [{"id": 1, "price": Decimal("2.50"), "doc": "{}"}]

    source("INSERT INTO t VALUES (2)")
    (blocked / "t").rename(blocked / "kept")
    (blocked / "t").write_text("in the way")  # the package is made, and cannot be written
    assert syncs(*tables, files=out).status is SyncStatus.FAILED
    (blocked / "t").unlink()
    (blocked / "kept").rename(blocked / "t")
    source("INSERT INTO t VALUES (3)")
    status = syncs(*tables, files=out)
    assert rows_of(status) == {"t": 1}
    assert [dict(package["tables"]) for package in status.result.finished_pending] == [{"t": 1}]
    assert sorted(row["id"] for row in parquet_rows(out, "t")) == [1, 2, 3]


def test_files_take_no_merge(source: Any, syncs: Any, tmp_path: Path) -> None:
    source("CREATE TABLE t (id int)")
    status = syncs(SyncTable("t", primary_key="id"), files=tmp_path / "lake")
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    assert "into files go append and replace" in status.reason


def test_a_path_outside_or_of_a_scheme_that_nothing_reads_is_for_the_author_to_fix() -> None:
    from airflow.sdk import Connection

    from airflow_ext.hooks._sync_files import file_source

    connection = Connection(conn_id="lake", conn_type="fs", extra='{"path": "/landing"}')
    base, systems = file_source(connection, ["a/*.csv"])
    assert (base, list(systems)) == ("/landing", ["file"])
    for inside in ("/landing/a.csv", "file:///landing/a.csv", "a..csv"):
        assert file_source(connection, [inside])[0] == "/landing"
    for outside in ("/etc/a.csv", "/landing2/a.csv", "file:///etc/a.csv", "simplecache::file:///etc/a.csv"):
        with pytest.raises(InvalidError, match="lies outside of '/landing', the path of connection 'lake'"):
            file_source(connection, [outside])
    database = Connection(conn_id="src", conn_type="sqlite", host="/s.db")
    with pytest.raises(InvalidError, match=r"'src' has the type 'sqlite', which has no files.*type 'fs'"):
        file_source(database, ["*.csv"])
    with pytest.raises(InvalidError, match="nosuch:// cannot be read here"):
        file_source(connection, ["nosuch://bucket/a.csv"])


def test_of_rows_with_the_same_key_the_last_one_counts(
    syncs: Any, landing: Path, local: dict[str, Any]
) -> None:
    for number in range(8):
        (landing / f"{number}.csv").write_text(f"id,version\n1,{number}\n")
    tables = (
        SyncFiles("merged", path="*.csv", mode="merge", primary_key="id"),
        SyncFiles("versions", path="*.csv", mode="scd2", primary_key="id"),
    )
    for number in range(20):  # in this process: what is written side by side ends in another order each time
        pair = replace(syncs.backend(**local).pair, dataset=f"n{number}", parallel=1)
        DirectEngine(
            DltJob(pair=pair, name="job", folder=syncs.folder, tables=tables), tell=lambda _: None
        ).run()
        for table in ("merged", "versions"):
            assert syncs.rows(f"SELECT id, version FROM n{number}.{table}") == [(1, 7)]


def test_a_whole_number_that_no_double_holds_is_not_changed_to_fit_one(
    syncs: Any, landing: Path, local: dict[str, Any]
) -> None:
    (landing / "n.jsonl").write_text('{"n": 1}\n{"n": 2.5}\n{"n": 9007199254740993}\n')
    job = DltJob(
        pair=syncs.backend(**local).pair,
        name="job",
        folder=syncs.folder,
        tables=(SyncFiles("t", path="*.jsonl", mode="replace"),),
    )
    with pytest.raises(SyncFailedError, match="n: 9007199254740993 does not fit the column's type, a double"):
        DirectEngine(job, tell=lambda _: None).run()
    exact = SyncFiles("u", path="*.jsonl", mode="replace", types={"n": "decimal(20,1)"})
    DirectEngine(replace(job, tables=(exact,)), tell=lambda _: None).run()
    assert syncs.rows("SELECT max(n) FROM raw.u") == [(Decimal("9007199254740993.0"),)]


def test_where_no_file_matches_it_says_what_it_looked_for(
    syncs: Any, landing: Path, local: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(landing)
    events: list[dict[str, Any]] = []
    tables = (
        SyncFiles("a", path="oders/*.csv"),
        SyncFiles("m", path="oders/*.csv", mode="merge", primary_key="id"),
    )
    pair = replace(syncs.backend(**local).pair, parallel=1)
    for number, base in enumerate((str(landing), "")):
        job = DltJob(pair=replace(pair, base=base), name=f"job{number}", folder=syncs.folder, tables=tables)
        DirectEngine(job, tell=events.append).run()
    told = [event["text"] for event in events if event["event"] == "log" and event["level"] == "warning"]
    searched = f"no file matches '{landing}/oders/*.csv'"
    assert told[:2] == [f"table 'a': {searched}", f"table 'm': {searched}"]
    assert told[2] == f"table 'a': {searched}, for the source connection has no path in its extra"


def test_a_column_that_only_some_files_have_is_not_removed(
    syncs: Any, landing: Path, local: dict[str, Any]
) -> None:
    (landing / "a.csv").write_text("id\n1\n")
    (landing / "c.csv").write_text("id,extra\n3,x\n")
    job = DltJob(
        pair=syncs.backend(**local).pair,
        name="job",
        folder=syncs.folder,
        tables=(
            SyncFiles("some", path="*.csv", mode="merge", primary_key="id"),
            SyncFiles("every", path="*.csv", mode="replace"),
        ),
    )
    DirectEngine(job, tell=lambda _: None).run()
    (landing / "d.csv").write_text("id,late\n4,y\n")
    changed = [table.schema_changes for table in DirectEngine(job, tell=lambda _: None).run().tables]
    added = SchemaChange(kind="column_added", column="late", type="string")
    assert changed == [(added,), (added,)]
    (landing / "e.csv").write_text("id\n5\n")
    (landing / "c.csv").unlink()
    result = DirectEngine(job, tell=lambda _: None).run()
    removed = SchemaChange(kind="column_removed", column="extra")
    assert [table.schema_changes for table in result.tables] == [(), (removed,)]
    assert result.columns["some"]["before"] == result.columns["some"]["now"]
    assert syncs.rows("SELECT * FROM raw.some ORDER BY id") == [
        *[(1, None, None), (3, "x", None), (4, None, "y"), (5, None, None)]
    ]
    (landing / "f.csv").write_text("id\n")
    assert [table.schema_changes for table in DirectEngine(job, tell=lambda _: None).run().tables] == [
        (),
        (),
    ], "a column without a value has no type"
