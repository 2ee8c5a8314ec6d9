"""Ten thousand promises that break at the same moment: when the first page is there, how many calls it takes, what is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow_ext.notifications.sla_delivery import OutboxSender
from airflow_ext.sla.sender.model import Settings
from benchmarks._sla_sink import sink
from benchmarks._sla_stage import Stage, stage, vacuum
from benchmarks.report import Report

START = datetime(2026, 3, 2, 0, 31, tzinfo=UTC)
DUE = datetime(2026, 3, 2, 1, 30, 5, tzinfo=UTC)
PATIENCE = 240.0
_WAITING = "SELECT count(*) FROM ext_sla_outbox WHERE state = 'pending'"
_STATES = "SELECT state, count(*) FROM ext_sla_outbox GROUP BY state"


def storm_part(home: Path, report: Report, *, quick: bool) -> None:
    """Add the bars about a storm, beside what Airflow's scheduler needs for as many deadlines."""
    count = 1_000 if quick else 10_000
    report.say(f"storm: {count} DAGs that do not run")
    with (
        sink(home) as told,
        stage(home, count=count, start=START, env={"AIRFLOW_EXT_BENCH_SINK": told.url}) as ready,
    ):
        ready.settle(START)
        vacuum(ready.engine)
        ready.now = DUE
        ready.beat()
        begin, whole = time.time(), _tell_all(ready)
        states: dict[Any, Any] = {row[0]: row[1] for row in ready.query(_STATES)}
        peers: dict[str, Any] = {"all told after": round(whole, 1)}
        if quick:
            report.skip("core deadlines doing the same work")
        else:
            peers["core deadlines: one pass of the scheduler's loop"] = _core(ready)
        names = {f"hourly_{number}" for number in range(1, count + 1)}
        calls = {channel: told.calls(channel) for channel in ("keyed", "plain")}
        report.bar(
            f"{count:,} misses at once: the first page",
            min((call["at"] for call in calls["keyed"]), default=begin + PATIENCE) - begin,
            "<=",
            5,
            unit="s",
            peers=peers,
        )
        report.bar(
            f"{count:,} misses at once: calls of one channel",
            max(len(some) for some in calls.values()),
            "<=",
            Settings().channel_calls,
            unit="calls",
            peers={"a call for each": count, "messages by state": states},
        )
        report.bar(
            f"{count:,} misses at once: misses that a channel did not hear of",
            sum(len(names - {name for call in some for name in call["dags"]}) for some in calls.values()),
            "==",
            0,
            unit="misses",
        )


def _tell_all(ready: Stage) -> float:
    """Let the monitor run as a service until everybody is told, and return how many seconds that took."""
    ready.monitor = ready.replica("bench", send=OutboxSender(sessions=ready.sessions, holder="bench"))
    begin = time.monotonic()
    service = threading.Thread(target=ready.monitor.run, daemon=True)
    service.start()
    deadline = begin + PATIENCE
    seen = False
    while time.monotonic() < deadline:
        ((waiting,),) = ready.query(_WAITING)
        seen = seen or bool(waiting)
        if seen and not waiting:
            break
        time.sleep(0.2)
    whole = time.monotonic() - begin
    ready.monitor.stop()
    service.join(timeout=60)
    return whole


def _core(ready: Stage) -> dict[str, Any]:
    """Let Airflow handle as many missed deadlines as its scheduler does, in one pass of its loop."""
    ready.add_runs(DUE, first=timedelta(0), spread=1, low=1, high=ready.count)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._sla_core"],
        env=ready.environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
