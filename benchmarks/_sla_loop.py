"""How long the scheduler's loop takes with a monitor beside it, and without one."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from sqlalchemy import text

from airflow_ext.testing.airflow_client import wait_until
from airflow_ext.testing.processes import ProcessHome
from benchmarks._dbt_stage import LOOPS
from benchmarks._sla_stage import Stage, stage, vacuum
from benchmarks.report import Report

COUNT, EACH = 10_000, 1_500
SETTLE, MEASURE = 5.0, 25.0
PHASES = (False, True, True, False)
"""Whether the monitor runs; in an order in which a machine that grows slower or faster counts for both."""
_LOOP = re.compile(r"Ran scheduling loop in ([\d.]+) ms")
_CREATE = """
    UPDATE dag SET next_dagrun = date_trunc('hour', now()), next_dagrun_create_after = date_trunc('hour', now()),
        next_dagrun_data_interval_start = date_trunc('hour', now()),
        next_dagrun_data_interval_end = date_trunc('hour', now())
    WHERE dag_id = ANY(SELECT 'hourly_' || n FROM generate_series(CAST(:low AS int), CAST(:high AS int)) n)
"""
_STOP = "UPDATE dag SET next_dagrun_create_after = NULL"
_WRITTEN = f"SELECT count(*) >= {COUNT} FROM ext_sla_policy WHERE materialised_until IS NOT NULL"


def loop_part(home: Path, report: Report, *, quick: bool) -> None:  # noqa: ARG001  # it has no small case
    """Add the bar."""
    report.say(f"loop: a scheduler that creates runs of {COUNT} DAGs")
    loops: dict[bool, list[float]] = {False: [], True: []}
    created: dict[bool, int] = {False: 0, True: 0}
    with (
        stage(home, count=COUNT, start=datetime.now(UTC)) as ready,
        ProcessHome(home / "components") as processes,
    ):
        with ready.engine.begin() as connection:
            # No slot: tasks are scheduled and never start, so nothing else takes the machine's time.
            connection.execute(text("UPDATE slot_pool SET slots = 0"))
        log = home / "scheduler.log"
        env = {**ready.environment, **LOOPS}
        processes.spawn([sys.executable, "-m", "airflow", "scheduler", "--skip-serve-logs"], log=log, env=env)
        with _monitor(processes, ready, home):
            wait_until(
                lambda: ready.query(_WRITTEN)[0][0], timeout=180, what="the monitor has written a day ahead"
            )
        vacuum(ready.engine)
        for number, watched in enumerate(PHASES):
            times, runs = _phase(processes, ready, home, log, number=number, watched=watched)
            report.say(
                f"loop: {'with' if watched else 'without'} a monitor: {_text(times)}, {runs} runs created"
            )
            loops[watched] += times
            created[watched] += runs
    report.bar(
        "the scheduler's loop with a monitor beside it, median, as a multiple of that without",
        median(loops[True]) / median(loops[False]),
        "<=",
        1.15,
        unit="times",
        peers={
            "with": _text(loops[True]),
            "without": _text(loops[False]),
            "runs created": {"with": created[True], "without": created[False]},
        },
    )


def _phase(
    processes: ProcessHome, ready: Stage, home: Path, log: Path, *, number: int, watched: bool
) -> tuple[list[float], int]:
    with _monitor(processes, ready, home, wanted=watched):
        if watched:
            time.sleep(3 * SETTLE)  # its first looks go through all policies
        with ready.engine.begin() as connection:
            connection.execute(text(_CREATE), {"low": 1 + number * EACH, "high": (number + 1) * EACH})
        time.sleep(SETTLE)
        begin = log.stat().st_size
        time.sleep(MEASURE)
        with log.open("rb") as file:
            file.seek(begin)
            times = [float(value) for value in _LOOP.findall(file.read().decode(errors="replace"))]
    runs = int(str(ready.query("SELECT count(*) FROM dag_run")[0][0]))
    with ready.engine.begin() as connection:
        connection.execute(text(_STOP))
        connection.execute(text("DELETE FROM dag_run"))
    if not times or not runs:
        raise RuntimeError(f"the scheduler did nothing: {log.read_text()[-2000:]}")
    return times, runs


@contextmanager
def _monitor(processes: ProcessHome, ready: Stage, home: Path, *, wanted: bool = True) -> Iterator[None]:
    if not wanted:
        yield
        return
    words = [sys.executable, "-m", "airflow", "ext", "sla", "monitor"]
    process = processes.spawn(words, log=home / "monitor.log", env=ready.environment)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


def _text(times: Sequence[float]) -> str:
    ordered = sorted(times)
    return f"{len(ordered)} loops, median {median(ordered):.0f} ms, 95th percentile {ordered[int(len(ordered) * 0.95)]:.0f} ms"
