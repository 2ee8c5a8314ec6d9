"""Waiting for syncs of a vendor: requests, lag of the triggerer's loop, memory, and faults.

The server is the local Fivetran-compatible one; it counts the requests it gets. Each side is a process of its own
that lets many tasks wait on one event loop, as a triggerer does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from benchmarks._sync_faults import faults
from benchmarks._sync_kill import POINTS, kill_at
from benchmarks.peers import peer_python
from benchmarks.report import Report, quick_asked
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
    quick = quick_asked(__doc__ or "")
    report = Report("sync", quick=quick)
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
        "lag of the loop with a server that answers in 2 s, p99", slow["lag_p99_ms"], "<=", 20, unit="ms"
    )
    report.say("ours: 2,000 syncs wait")
    many = waiting("ours", sys.executable, count=MANY, seconds=seconds)
    report.bar(
        "memory of 2,000 waiting syncs, the whole process", many["rss_mb"], "<=", 250, unit="MB", peers=many
    )
    each = 5 if quick else FAULTS_EACH
    report.say(f"ours: {each} waits for each kind of fault")
    table = faults(each)
    for kind, row in table.items():
        report.say(f"     {kind}: {row['outcomes']}, at most {row['longest_s']} s")
    wrong = sum(each - row["outcomes"].get(row["expected"], 0) for row in table.values())
    report.bar(
        "waits with a fault that did not end as they should", wrong, "==", 0, unit="waits", peers=table
    )
    points = [0, 5] if quick else list(range(POINTS))
    report.say(f"ours: kill -9 of a worker at {len(points)} points of a sync, both vendors")
    cases = [(vendor, point) for vendor in ("fivetran", "airbyte") for point in points]
    with ThreadPoolExecutor(4) as pool:  # they wait most of the time
        results = list(pool.map(lambda case: kill_at(*case), cases))
    kills = {f"{vendor} {point}": told for (vendor, point), told in zip(cases, results, strict=True)}
    good = {"ended": True, "runs": 1, "forgotten": True}
    report.bar(
        "kills of a worker after which there is not one run that the next try ended with",
        sum(told != good for told in kills.values()),
        "==",
        0,
        unit="kills",
        peers={name: told for name, told in kills.items() if told != good},
    )
    report.skip("kill -9 of the triggerer")
    engine_part(report, quick=quick)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
