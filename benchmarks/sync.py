"""Waiting for syncs of a vendor: requests, lag of the triggerer's loop, memory, and faults.

The server is the local Fivetran-compatible one; it counts the requests it gets. Each side is a process of its own
that lets many tasks wait on one event loop, as a triggerer does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from benchmarks._sync_faults import faults as outcomes
from benchmarks._sync_kill import POINTS, kill_at
from benchmarks.peers import peer_python
from benchmarks.report import Report
from benchmarks.sync_engine import engine_part

INTERVAL = 5.0
SECONDS = 15.0
WAITING = 200
MANY = 2_000
FAULTS_EACH = 50


def waiting(
    side: str,
    python: str | Path,
    *,
    count: int,
    interval: float = INTERVAL,
    seconds: float = SECONDS,
    slow: float = 0.0,
) -> dict[str, Any]:
    """Return what it costs one process to let ``count`` tasks wait.

    :param slow: Seconds the server takes for every answer.
    """
    with LocalFivetran(legacy=True) as server, tempfile.TemporaryDirectory() as home:
        for number in range(count):
            server.connection(f"s{number}", SyncScript(seconds=100_000)).trigger(server.now(), force=False)
        if slow:
            server.hang(slow, times=10_000)
        script = Path(__file__).with_name("_sync_wait.py")
        words = [side, server.url, server.api_key, server.api_secret, str(count), str(interval), str(seconds)]
        with subprocess.Popen(
            [str(python), str(script), *words],
            env={"AIRFLOW_HOME": home, "PATH": "/usr/bin:/bin", "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None  # noqa: S101  # it is a pipe
            next(line for line in process.stdout if line == "go\n")
            server.forget_calls()
            time.sleep(seconds)
            requests = len(server.calls())
            answer = next(line for line in process.stdout if line.startswith("{"))
    told: dict[str, Any] = json.loads(answer)
    if told["waiting"] != count:
        raise RuntimeError(f"of {count} tasks only {told['waiting']} wait: {told}")
    return {**told, "requests": requests}


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only ours, on a small case")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be given again")
    args = parser.parse_args()
    report = Report("sync", quick=args.quick, part=True)
    for part in args.part or PARTS:
        PARTS[part](report, args.quick)
    return report.finish()


def waits(report: Report, quick: bool) -> None:
    """Measure requests, lag and memory of many that wait; wants a quiet machine."""
    peers: dict[str, Any] = {}
    if quick:
        report.skip("the same of the Fivetran provider")
    else:
        report.say("installing the Fivetran provider in an environment of its own")
        python = peer_python("fivetran", ["airflow-provider-fivetran-async"])
        report.say("Fivetran provider: 200 syncs wait")
        peers = {"fivetran-async": waiting("peer", python, count=WAITING)}
    report.say("ours: 200 syncs wait")
    seconds = 6.0 if quick else SECONDS
    ours = waiting("ours", sys.executable, count=WAITING, seconds=seconds)
    report.bar(
        f"requests of 200 waiting syncs, 5 s tick, {seconds:g} s",
        ours["requests"],
        "<=",
        5,
        unit="requests",
        peers={**peers, "ours": ours},
    )
    report.say("ours: 200 syncs wait, the server answers in 2 s")
    slow = waiting("ours", sys.executable, count=WAITING, seconds=seconds, slow=2.0)
    report.bar(
        "lag of the loop with a server that answers in 2 s, p99",
        slow["lag_p99_ms"],
        "<=",
        20,
        unit="ms",
        peers=slow,
    )
    report.say("ours: 2,000 syncs wait")
    many = waiting("ours", sys.executable, count=MANY, seconds=seconds)
    report.bar(
        "memory of 2,000 waiting syncs, the whole process", many["rss_mb"], "<=", 250, unit="MB", peers=many
    )


def faults(report: Report, quick: bool) -> None:
    """Tell how waits with faults end."""
    each = 5 if quick else FAULTS_EACH
    report.say(f"ours: {each} waits for each kind of fault")
    table = outcomes(each)
    for kind, row in table.items():
        report.say(f"     {kind}: {row['outcomes']}, at most {row['longest_s']} s")
    wrong = sum(each - row["outcomes"].get(row["expected"], 0) for row in table.values())
    report.bar(
        "waits with a fault that did not end as they should", wrong, "==", 0, unit="waits", peers=table
    )


def worker_kills(report: Report, quick: bool) -> None:
    """Kill workers."""
    kills(report, "worker", [5] if quick else list(range(POINTS)))


def triggerer_kills(report: Report, quick: bool) -> None:
    """Kill triggerers."""
    kills(report, "triggerer", [5] if quick else list(range(POINTS)))


def kills(report: Report, role: str, points: list[int]) -> None:
    """Kill processes at points of a sync."""
    report.say(f"ours: kill -9 of a {role} at {len(points)} points of a sync, both vendors")
    cases = [(vendor, point) for vendor in ("fivetran", "airbyte") for point in points]
    with ThreadPoolExecutor(3) as pool:  # they wait most of the time
        results = list(pool.map(lambda case: kill_at(role, *case), cases))
    told = {f"{vendor} {point}": each for (vendor, point), each in zip(cases, results, strict=True)}
    good = {"ended": True, "runs": 1, "forgotten": True}
    wrong = {name: each for name, each in told.items() if each != good}
    report.bar(
        f"of {len(cases)} kills of a {role}, those after which there is not one run that the task ended with",
        len(wrong),
        "==",
        0,
        unit="kills",
        peers=wrong,
    )


def embedded(report: Report, quick: bool) -> None:
    """Measure the embedded engine."""
    engine_part(report, quick=quick)


PARTS: dict[str, Callable[[Report, bool], None]] = {
    "waiting": waits,
    "faults": faults,
    "worker-kills": worker_kills,
    "triggerer-kills": triggerer_kills,
    "embedded": embedded,
}


if __name__ == "__main__":
    sys.exit(main())
