"""The ledger under load: a day ahead, an hour of spread ends, a full burst, six dead hours, nothing but misses.

DAGs and terminal runs are rows written by SQL in a database that ``airflow db migrate`` made; the clock is the benchmark's.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from benchmarks._sla_stage import Stage, seconds, stage, vacuum
from benchmarks.report import Report

START = datetime(2026, 3, 2, 0, 31, tzinfo=UTC)
TICK = timedelta(seconds=10)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
HOURS = 24


def live(ready: Stage, hour: datetime, *, minutes: int, burst: bool) -> list[float]:
    """Tick through one hour in which every DAG runs once, and return the seconds of each tick.

    :param burst: Whether all runs end in the last second before they are due, instead of spread over 25 minutes.
    """
    took = []
    parts = 1 if burst else 25
    size = -(-ready.count // parts)
    for step in range(minutes * 6):
        now = hour + step * TICK
        minute, second = divmod(step * 10, 60)
        if burst and step == 30 * 6 - 1:
            ready.add_runs(hour, first=30 * MINUTE - timedelta(seconds=1), spread=1, low=1, high=ready.count)
        if not burst and second == 0 and minute < parts:
            low, high = 1 + minute * size, min(ready.count, (minute + 1) * size)
            ready.add_runs(hour, first=minute * MINUTE, spread=1, low=low, high=high)
        more = True
        while more:
            report = ready.tick(now)
            took.append(report.seconds)
            more = report.more
    return took


def catch_up(ready: Stage, first: datetime, hours: int) -> tuple[float, float]:
    """Write the runs of some hours without a monitor, then let it come back.

    :returns: Seconds until nothing is due, and until nothing else is left to do.
    """
    for step in range(hours):
        ready.add_runs(first + step * HOUR, first=5 * MINUTE, spread=1200, low=1, high=ready.count)
    vacuum(ready.engine)
    ready.now = first + hours * HOUR - MINUTE
    begin = time.perf_counter()
    judged = 0.0
    more = True
    while more:
        report = ready.monitor.tick()
        more = report.more
        if report.judged.looked:
            judged = time.perf_counter() - begin
    return judged, time.perf_counter() - begin


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def ledger_part(home: Path, report: Report, *, quick: bool) -> None:
    """Add the bars about writing ahead, ticks, catching up and many misses."""
    count = 1_000 if quick else 10_000
    report.say(f"ledger: PostgreSQL, airflow db migrate, {count} DAGs")
    with stage(home, count=count, start=START) as ready:
        _measure(ready, report, quick=quick)


def _measure(ready: Stage, report: Report, *, quick: bool) -> None:
    ready.settle(START - HOUR)  # imports and connections
    count = ready.count * HOURS
    report.say(f"{ready.count} DAGs: reading their policies and writing {HOURS} hours ahead")
    ready.monitor = ready.replica("bench")  # a monitor that starts
    with ready.engine.begin() as connection:
        for table in ("occurrence", "policy_task", "policy_version", "policy"):
            connection.exec_driver_sql(f"TRUNCATE ext_sla_{table} CASCADE")
    whole = seconds(lambda: ready.settle(START))
    with ready.engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE ext_sla_occurrence CASCADE")
        connection.exec_driver_sql("UPDATE ext_sla_policy SET materialised_until = NULL")
    vacuum(ready.engine)
    ready.monitor._last.pop("write", None)  # noqa: SLF001  it is time to write
    ahead = seconds(lambda: ready.settle(START + TICK))
    ((written,),) = ready.query("SELECT count(*) FROM ext_sla_occurrence")
    if written != count:
        raise RuntimeError(f"{written} occurrences instead of {count}")
    peers = {"with reading all policies": round(whole, 2), "occurrences": count}
    report.bar("materialise a day ahead", ahead, "<=", 5, unit="s", peers=peers)
    vacuum(ready.engine)
    hour = START.replace(minute=0) + HOUR
    report.say("one hour of spread ends, then one in which all end in the last second")
    spread = live(ready, hour, minutes=60, burst=False)
    burst = live(ready, hour + HOUR, minutes=60, burst=True)
    both = spread + burst
    report.bar("tick, median", 1000 * median(both), "<=", 10, unit="ms", peers={"ticks": len(both)})
    report.bar("tick, 99th percentile", 1000 * percentile(both, 0.99), "<=", 250, unit="ms")
    report.bar("tick, the longest of the full burst", 1000 * max(burst), "<=", 250, unit="ms")
    states: dict[object, object] = {
        row[0]: row[1] for row in ready.query("SELECT state, count(*) FROM ext_sla_occurrence GROUP BY 1")
    }
    if states.get("met") != 2 * ready.count or states.get("missed"):
        raise RuntimeError(f"judged wrongly: {states}")
    hours = 2 if quick else 6
    report.say(f"{hours} hours without a monitor")
    judged, whole = catch_up(ready, hour + 2 * HOUR, hours)
    ((met,),) = ready.query("SELECT count(*) FROM ext_sla_occurrence WHERE state = 'met'")
    if met != (2 + hours) * ready.count:
        raise RuntimeError(f"{met} met after catching up")
    done = {
        "with reading all policies and writing ahead": round(whole, 2),
        "occurrences": hours * ready.count,
    }
    report.bar(f"catch-up after {hours} dead hours", judged, "<=", 5, unit="s", peers=done)
    report.say("an hour in which no DAG runs at all")
    ready.now = hour + (2 + hours) * HOUR + 31 * MINUTE
    missed = seconds(lambda: ready.monitor.once())
    ((rows,),) = ready.query("SELECT count(*) FROM ext_sla_outbox WHERE state = 'pending'")
    if rows != ready.count:
        raise RuntimeError(f"{rows} messages in the outbox")
    report.bar("as many misses at once, incidents and messages written", missed, "<=", 5, unit="s")
