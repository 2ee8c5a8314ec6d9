"""Connection lookups through Vault: calls per task, and what an outage costs.

The server is the local Vault-compatible one; it counts the calls it gets. Each side is a process of its own that
looks one connection up through Airflow's ``Connection.get``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_ext.testing.vault import LocalVault
from benchmarks import _vault_cases as cases
from benchmarks import _vault_lease_cases as held
from benchmarks.peers import peer_python
from benchmarks.report import Report, quick_asked

OURS = "airflow_ext.secrets.vault.VaultBackend"
PEER = "airflow.providers.hashicorp.secrets.vault.VaultBackend"
LOOKUPS = 1_000
OUTAGE_LOOKUPS = 100
ROOT = Path(__file__).parents[1]


class Side:
    """One process that looks connections up."""

    def __init__(self, process: subprocess.Popen[str], vault: LocalVault) -> None:
        self._process = process
        self._vault = vault
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        assert process.stdin is not None  # noqa: S101
        self._out, self._in = process.stdout, process.stdin
        next(line for line in self._out if line == "ready\n")

    def look_up(self) -> dict[str, Any]:
        """Do all lookups once more; returns what was found, the seconds and the server's calls."""
        before = len(self._vault.calls())
        self._in.write("go\n")
        self._in.flush()
        answer = next(line for line in self._out if line.startswith("{"))  # among lines of Airflow's log
        told: dict[str, Any] = json.loads(answer)
        return {**told, "calls": len(self._vault.calls()) - before}


@contextmanager
def side(
    vault: LocalVault, backend: str, python: str | Path, *, count: int, **arguments: Any
) -> Iterator[Side]:
    """Start a process with a secrets backend, its credentials and further arguments."""
    role_id, secret_id = vault.approle("airflow", policies=["airflow"])
    kwargs = {
        "connections_path": "connections",
        "mount_point": "secret",
        "url": vault.url,
        "auth_type": "approle",
        "role_id": role_id,
        "secret_id": secret_id,
        **arguments,
    }
    with tempfile.TemporaryDirectory() as home:
        env = {
            **os.environ,
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__SECRETS__BACKEND": backend,
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs),
        }
        process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("_lookups.py")), str(count)],
            env=env,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield Side(process, vault)
        finally:
            process.kill()
            process.wait()


def new_vault() -> LocalVault:
    """Return a server with one connection and a policy that may read it."""
    vault = LocalVault()
    vault.policy("airflow", {"secret/data/connections/*": ["read"]})
    vault.write("secret/connections/warehouse", {"conn_uri": "postgres://db/app"})
    return vault


def measure(backend: str, python: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of the lookups of one task, and of those during an outage."""
    with new_vault() as vault, side(vault, backend, python, count=LOOKUPS) as task:
        healthy = task.look_up()
    # What was read before the outage shall be too old to be served unasked.
    aged = {"soft_ttl": 0.001} if backend == OURS else {}
    with new_vault() as vault, side(vault, backend, python, count=OUTAGE_LOOKUPS, **aged) as task:
        task.look_up()
        vault.seal()
        outage = task.look_up()
    return healthy, outage


def each_case(backend: str, python: str | Path, *, quick: bool) -> dict[str, dict[str, Any]]:
    """Return the figures of the cases any backend has, with calls and logins counted by the server."""
    cases_ = {
        "warm": (LOOKUPS, {}),
        "tasks": (20 if quick else 200, {}),
        "denied": (100, {"connections_path": "closed"}),
    }
    hang: tuple[int, dict[str, Any]] = (10, {"timeout": [0.5, 1.5] if backend == OURS else 1.5})
    wanted: dict[str, tuple[int, dict[str, Any]]] = {**cases_, **({} if quick else {"hang": hang})}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("_vault_peer.py"))],
            env={**os.environ, "AIRFLOW_HOME": home, "PYTHONPATH": str(ROOT) if backend == OURS else ""},
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            for case, (count, arguments) in wanted.items():
                with new_vault() as vault:
                    role_id, secret_id = vault.approle("airflow", policies=["airflow"])
                    given = {
                        "url": vault.url,
                        "auth_type": "approle",
                        "role_id": role_id,
                        "secret_id": secret_id,
                    }
                    if case == "hang":
                        vault.hang(30, times=1000)
                    told = {"case": case, "backend": backend, "arguments": given | arguments, "count": count}
                    assert process.stdin is not None  # noqa: S101  # it is a pipe
                    assert process.stdout is not None  # noqa: S101
                    process.stdin.write(json.dumps(told) + "\n")
                    process.stdin.flush()
                    line = next(
                        line for line in process.stdout if line.startswith("{")
                    )  # among lines of a log
                    calls, logins = len(vault.calls()), len(vault.calls(path="auth/approle/login"))
                    found[case] = {**json.loads(line), "calls": calls, "logins": logins}
                    vault.heal()
        finally:
            process.kill()
            process.wait()
    return found


def main() -> int:
    quick = quick_asked(__doc__ or "")
    report = Report("vault", quick=quick)
    if quick:
        for name in (
            "the same of the hashicorp provider",
            "outages, options, lost workers, canaries, many ids",
        ):
            report.skip(name)
        quick_cases(report)
        return report.finish()
    report.say("installing the hashicorp provider in an environment of its own")
    python = peer_python("hashicorp", ["apache-airflow-providers-hashicorp"])
    report.say("hashicorp provider: lookups")
    peer_healthy, peer_outage = measure(PEER, python)
    peer = each_case(PEER, python, quick=False)
    peer_options = cases.config_options(PEER, python, 100)
    report.say("ours: lookups")
    healthy, outage = measure(OURS, sys.executable)
    if healthy["found"] != LOOKUPS:
        raise RuntimeError(f"the lookups themselves failed: {healthy}")
    limits = [
        ("calls of 1,000 connection lookups in one task", healthy["calls"], 2, "calls", peer_healthy),
        (
            "time of 100 lookups of a known connection while Vault is sealed",
            outage["seconds"],
            1,
            "s",
            peer_outage,
        ),
        ("calls of those 100 lookups", outage["calls"], 10, "calls", peer_outage["calls"]),
    ]
    for name, value, limit, unit, theirs in limits:
        report.bar(name, value, "<=", limit, unit=unit, peers={"hashicorp": theirs})
    served = "lookups of a known connection served while Vault is sealed, of 100"
    report.bar(
        served,
        outage["found"],
        "==",
        OUTAGE_LOOKUPS,
        unit="lookups",
        peers={"hashicorp": peer_outage["found"]},
    )
    judge(report, each_case(OURS, sys.executable, quick=False), peer)
    options = cases.config_options(OURS, sys.executable, 100)
    name = "calls of reading an option 100 times"
    report.bar(name, options, "<=", 2, unit="calls", peers={"hashicorp": peer_options})
    one_sided(report)
    leases(report, kills=50)
    return report.finish()


def judge(report: Report, ours: dict[str, dict[str, Any]], peer: dict[str, dict[str, Any]]) -> None:
    """Hold the figures of each case against their bars."""
    bars = [
        ("median of a lookup that was made before", "warm", "p50_ms", 0.02, "ms"),
        ("calls of 100 denied lookups", "denied", "calls", 102, "calls"),
        ("logins of 100 denied lookups", "denied", "logins", 1, "logins"),
        ("first lookup while Vault hangs (read timeout 1.5 s)", "hang", "first_s", 2, "s"),
        ("ten more lookups while Vault hangs", "hang", "rest_s", 3.5, "s"),
        ("lag of the event loop while Vault hangs", "hang", "lag_ms", 50, "ms"),
    ]
    for name, case, key, limit, unit in bars:
        if case in ours:
            theirs = {"hashicorp": peer[case][key]} if case in peer else {}
            report.bar(name, ours[case][key], "<=", limit, unit=unit, peers=theirs)
    count = 20 if report.quick else 200
    for shared, limit in ((False, count + 2), (True, 5)):
        with new_vault() as vault:
            calls = cases.forked_tasks(vault, count, shared=shared)
        name = f"calls of {count} tasks of a worker{', which share what they read' if shared else ''}"
        report.bar(
            name,
            calls,
            "<=",
            limit,
            unit="calls",
            peers={"hashicorp": peer["tasks"]["calls"]} if peer else {},
        )


def quick_cases(report: Report) -> None:
    """Measure the cases that take seconds."""
    report.say("ours: lookups")
    judge(report, each_case(OURS, sys.executable, quick=True), {})
    leases(report, kills=3)


def one_sided(report: Report) -> None:
    """Measure what has no side of a peer."""
    report.bar("import of the backend", cases.import_cost(), "<=", 60, unit="ms")
    with new_vault() as vault:
        seconds, megabytes, calls = cases.many_ids(vault, 10_000)
    peers = {"calls": calls, "seconds": round(seconds, 1)}
    report.bar("memory of 10,000 ids looked up in one process", megabytes, "<=", 200, unit="MB", peers=peers)
    report.bar("time of a lookup among 10,000 ids", seconds / 10, "<=", 10, unit="ms")


def leases(report: Report, *, kills: int) -> None:
    """Measure what becomes of leases."""
    report.say(f"{kills} processes with a leased session, killed")
    with held.stage(kills) as stage:
        found = held.killed_tasks(stage, kills)
        if found["held"] != (kills, kills):
            raise RuntimeError(f"not all of {kills} held a role and a session: {found}")
        report.bar(f"roles 2 s after {kills} kills", found["left"][0], "==", 0, unit="roles", peers=found)
        report.bar(f"sessions 2 s after {kills} kills", found["left"][1], "==", 0, unit="sessions")
        if report.quick:
            return
        lost = held.lost_worker(stage, ttl=5)
        if lost["held"] != (1, 1):
            raise RuntimeError(f"the lost worker held nothing: {lost}")
        report.bar(
            "roles after a token's lifetime, worker lost", lost["left"][0], "==", 0, unit="roles", peers=lost
        )
        report.say("eight hours of renewals")
        gaps, names = held.eight_hours(stage)
        report.bar(
            "lookups without living credentials in 8 hours",
            gaps,
            "==",
            0,
            unit="lookups",
            peers={"roles": names},
        )
        seen = held.canaries(stage)
        if not seen["task"]:
            raise RuntimeError("the search of memory finds nothing at all")
        name = "secrets in a warden's memory, and in files"
        report.bar(name, seen["warden"] + seen["files"], "==", 0, unit="hits", peers=seen)


if __name__ == "__main__":
    sys.exit(main())
