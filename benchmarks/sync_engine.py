"""The embedded engine beside raw connectorx, and kill -9 of its process."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow_ext.sync.backend import SyncRequest
from airflow_ext.sync.dlt_backend import DltBackend
from airflow_ext.sync.dlt_job import DltPair
from airflow_ext.sync.model import RunStatus
from airflow_ext.sync.tables import SyncTable
from airflow_ext.testing.postgres import LocalPostgres
from benchmarks.report import Report

ROWS, MANY = 1_000_000, 10_000_000
PAIRS = 5
POINTS = 12
TABLE = """CREATE TABLE {name} AS SELECT g::bigint AS id, (g % 1000)::int AS customer, (g * 1.37)::numeric(12, 2) AS amount,
timestamptz '2026-01-01' + g * interval '1 s' AS changed, date '2026-01-01' + (g % 365)::int AS day, 'name ' || g AS name,
g % 7 = 0 AS flag, g * 0.5::float8 AS ratio FROM generate_series(1, {rows}) g"""
CHANGE = "UPDATE big SET customer = customer + 1, changed = timestamptz '2027-01-01' + id * interval '1 s' WHERE id <= {rows}"


def engine_part(report: Report, *, quick: bool, parts: Sequence[str] = ("speed", "kills")) -> None:
    """Measure the embedded engine.

    :param parts: ``speed`` wants a quiet machine, ``kills`` does not.
    """
    with tempfile.TemporaryDirectory() as folder, LocalPostgres(Path(folder) / "postgres") as server:
        server.create_database("shop")
        stage = _Stage(server, Path(folder))
        if "speed" in parts:
            _speed(report, stage, quick=quick)
        if "kills" in parts:
            _kills(report, stage, [2, 8] if quick else range(POINTS))


def _speed(report: Report, stage: _Stage, *, quick: bool) -> None:
    rows = ROWS // 10 if quick else ROWS
    report.say(f"a source of {rows} rows")
    stage.make("big", rows)
    others = {} if quick else _others(report, stage)
    _beside_connectorx(report, stage, rows, pairs=2 if quick else PAIRS, others=others)
    _changed_rows(report, stage, rows, changed=rows // 100)
    if quick:
        report.skip("10M rows, other ways, and ten of the twelve kills")
        return
    report.say(f"a source of {MANY} rows")
    stage.server.execute(TABLE.format(name="many", rows=MANY), database="shop")
    told = stage.operator("many", mode="replace")
    report.bar(
        "10M rows PostgreSQL -> DuckDB: peak memory of the engine",
        told["peak_mb"],
        "<=",
        1024,
        unit="MB",
        peers={"rows/s": round(MANY / told["seconds"][0])},
    )
    stage.server.execute("DROP TABLE many", database="shop")


class _Stage:
    """A source database and fresh destinations."""

    def __init__(self, server: LocalPostgres, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self._runs = 0

    @property
    def url(self) -> str:
        return self.server.url("shop")

    def make(self, name: str, rows: int) -> None:
        for statement in (
            TABLE.format(name=name, rows=rows),
            f"ALTER TABLE {name} ADD PRIMARY KEY (id)",
            f"CREATE INDEX ON {name} (changed)",
            f"ANALYZE {name}",
        ):
            self.server.execute(statement, database="shop")

    def way(self, way: str, **told: Any) -> dict[str, Any]:
        """Run a way of moving rows as a process, and tell what it took, starting it included."""
        self._runs += 1
        home = self.folder / f"run{self._runs}"
        home.mkdir()
        words = {"url": self.url, "file": str(home / "there.duckdb"), "folder": str(home / "state"), **told}
        script = str(Path(__file__).with_name("_sync_load.py"))
        root = str(Path(__file__).parents[1])
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, script, way, json.dumps(words)],
            env={
                "AIRFLOW_HOME": str(home),
                "PATH": os.environ["PATH"],
                "PYTHONPATH": root,
                "HOME": str(home),
            },
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        whole = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"{way} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        subprocess.run(["rm", "-rf", str(home)], check=True)
        return {**answer, "whole": whole}

    def operator(self, name: str, *, before: tuple[str, ...] = ("",), **table: Any) -> dict[str, Any]:
        return self.way("operator", before=before, table={"name": name, **table})


def _beside_connectorx(
    report: Report, stage: _Stage, rows: int, *, pairs: int, others: dict[str, Any]
) -> None:
    """Compare a task's execute with a process that does the same with connectorx, in turn."""
    stage.way("connectorx", name="big")  # files into the page cache
    raw, ours, peaks = [], [], []
    for number in range(pairs):
        report.say(f"pair {number + 1} of {pairs}: connectorx alone, the operator")
        raw.append(stage.way("connectorx", name="big")["whole"])
        told = stage.operator("big", mode="replace")
        assert told["rows"] == [rows]  # noqa: S101  # a benchmark of rows that are not there is none
        ours.append(told["seconds"][0])
        peaks.append(told["peak_mb"])
    ratio = statistics.median(alone / own for alone, own in zip(raw, ours, strict=True))
    report.bar(
        f"{rows:,} rows PostgreSQL -> DuckDB: speed of the operator, by raw connectorx",
        ratio,
        ">=",
        0.8,
        unit="x",
        peers={
            "ours, s": [round(value, 2) for value in ours],
            "connectorx, s": [round(value, 2) for value in raw],
            "ours, rows/s": round(rows / statistics.median(ours)),
            **others,
        },
    )
    report.bar(
        f"{rows:,} rows PostgreSQL -> DuckDB: peak memory of the engine", max(peaks), "<=", 1024, unit="MB"
    )


def _changed_rows(report: Report, stage: _Stage, rows: int, *, changed: int) -> None:
    report.say(f"{changed} changed rows of {rows}, and none")
    starts = [stage.way("imports")["whole"] for _ in range(3)]
    told = stage.operator(
        "big", before=("", CHANGE.format(rows=changed), "", ""), primary_key=["id"], cursor="changed"
    )
    assert told["rows"] == [rows, changed, 0, 0]  # noqa: S101  # see above
    seconds = [round(value, 2) for value in told["seconds"]]
    report.bar(
        f"{changed:,} changed rows of {rows:,}, cursor and merge",
        told["seconds"][1],
        "<=",
        1.5,
        unit="s",
        peers={"first load and merge, s": seconds[0]},
    )
    report.bar(
        "nothing new: seconds over start-up",
        min(told["seconds"][2:]) - min(starts),
        "<=",
        0.3,
        unit="s",
        peers={"whole, s": seconds[2:], "start-up, s": [round(value, 2) for value in starts]},
    )


def _others(report: Report, stage: _Stage) -> dict[str, Any]:
    found, part = {}, ROWS // 20
    stage.server.execute(TABLE.format(name="part", rows=part), database="shop")
    for label, rows, way, told in (
        ("COPY and read_csv", ROWS, "copy", {"name": "big"}),
        ("dlt, backend pyarrow", ROWS, "dlt", {"name": "big", "backend": "pyarrow"}),
        (f"dlt as it is, {part} rows", part, "dlt", {"name": "part", "backend": "sqlalchemy"}),
    ):
        report.say(f"{label}")
        done = stage.way(way, **told)
        report.say(f"     {done['whole']:.2f} s, {rows / done['whole']:.0f} rows/s, {done['peak_mb']:.0f} MB")
        found[label] = {"s": round(done["whole"], 2), "rows/s": round(rows / done["whole"])}
    return found


def _kills(report: Report, stage: _Stage, points: Any) -> None:
    """Kill the engine's process at moments spread over a load, let the next try run, compare with the source."""
    tables = (
        SyncTable("merged", primary_key=["id"], cursor="changed"),
        SyncTable("appended", mode="append", cursor="changed"),
        SyncTable("replaced", mode="replace"),
    )
    for table in tables:
        stage.server.execute(TABLE.format(name=table.name, rows=200_000), database="shop")
    wrong: dict[str, Any] = {}
    kills = 0
    for destination in ("duckdb", "postgres"):
        whole = _load(stage, destination, "whole", tables)
        report.say(
            f"{destination}: a whole load takes {whole:.2f} s; killed at {len(list(points))} moments of it"
        )
        for point in points:
            name = f"kill{point}"
            _load(stage, destination, name, tables, kill_after=whole * (point + 0.5) / POINTS)
            _load(stage, destination, name, tables)
            kills += 1
            if difference := _differences(stage, destination, name, tables):
                wrong[f"{destination} {point}"] = difference
    report.bar(
        f"kill -9 of the engine at {kills} moments: loads after which rows differ from the source",
        len(wrong),
        "==",
        0,
        unit="loads",
        peers=wrong,
    )


def _load(
    stage: _Stage, destination: str, name: str, tables: Any, *, kill_after: float | None = None
) -> float:
    backend = DltBackend(
        DltPair(
            source_url=stage.url,
            destination=destination,
            destination_url=stage.url
            if destination == "postgres"
            else str(stage.folder / f"{name}_file.duckdb"),
            dataset=name,
        ),
        folder=stage.folder / "kills",
    )

    async def run() -> RunStatus:
        handle = await backend.start(SyncRequest(name=f"{name}_{destination}", tables=tables))
        if kill_after is not None:
            await asyncio.sleep(kill_after)
            with suppress(ProcessLookupError):  # it was faster than last time
                os.kill(handle["pid"], signal.SIGKILL)
        while not (status := await backend.poll(handle, wait=60)).status.ended:
            pass
        return status

    started = time.perf_counter()
    status = asyncio.run(run())
    if kill_after is None and status.result is None:
        raise RuntimeError(f"the load failed: {status.reason}")
    return time.perf_counter() - started


def _differences(stage: _Stage, destination: str, name: str, tables: Any) -> dict[str, Any]:
    """Return the tables of which count, keys or sums differ from the source's."""
    import duckdb

    found = {}
    for table in tables:
        sums = f"SELECT count(*), count(DISTINCT id), sum(amount), sum(customer) FROM {{}}.{table.name}"
        source = stage.server.execute(sums.format("public"), database="shop")
        if destination == "postgres":
            there = stage.server.execute(sums.format(name), database="shop")
        else:
            with duckdb.connect(str(stage.folder / f"{name}_file.duckdb"), read_only=True) as file:
                there = file.execute(sums.format(name)).fetchall()
        if [tuple(map(int, row)) for row in there] != [tuple(map(int, row)) for row in source]:
            found[table.name] = str(there)
    return found


def main() -> int:
    """Run this part of the benchmark of syncs; its bars go into the results of ``sync``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only ours and the floor, on a small case")
    parser.add_argument("--part", choices=["speed", "kills"], help="one part only")
    asked = parser.parse_args()
    report = Report("sync", quick=asked.quick, part=True)
    engine_part(report, quick=asked.quick, parts=[asked.part] if asked.part else ["speed", "kills"])
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
