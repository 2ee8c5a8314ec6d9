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


def main() -> int:
    quick = quick_asked(__doc__ or "")
    report = Report("vault", quick=quick)
    peers: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    if not quick:
        report.say("installing the hashicorp provider in an environment of its own")
        python = peer_python("hashicorp", ["apache-airflow-providers-hashicorp"])
        report.say("hashicorp provider: lookups")
        healthy, outage = measure(PEER, python)
        peers = ({"hashicorp": healthy}, {"hashicorp": outage})
    report.say("ours: lookups")
    healthy, outage = measure(OURS, sys.executable)
    if healthy["found"] != LOOKUPS:
        raise RuntimeError(f"the lookups themselves failed: {healthy}")
    report.bar(
        "calls of 1,000 connection lookups in one task",
        healthy["calls"],
        "<=",
        2,
        unit="calls",
        peers=peers[0],
    )
    report.bar(
        "lookups of a known connection served while Vault is sealed, of 100",
        outage["found"],
        "==",
        OUTAGE_LOOKUPS,
        unit="lookups",
        peers=peers[1],
    )
    report.bar("time of those 100 lookups", outage["seconds"], "<=", 1, unit="s")
    report.bar("calls of those 100 lookups", outage["calls"], "<=", 10, unit="calls")
    if quick:
        report.skip("the same of the hashicorp provider")
    one_sided(report, kills=10 if quick else 50)
    return report.finish()


def one_sided(report: Report, *, kills: int) -> None:
    """Measure what has no side of a peer in this run."""
    policy = {f"secret/data/{folder}/*": ["read"] for folder in ("connections", "config")}
    with new_vault() as vault:
        vault.policy("airflow", policy)
        median = cases.warm_lookup(vault, LOOKUPS)
        report.bar("median of a lookup that was made before", median, "<=", 0.02, unit="ms")
        vault.forget_calls()
        report.bar("calls of 200 tasks of a worker", cases.forked_tasks(vault, 200), "<=", 202, unit="calls")
        vault.forget_calls()
        calls, tokens = cases.denied_lookups(vault, 100)
        report.bar("calls of 100 denied lookups", calls, "<=", 102, unit="calls")
        report.bar("new tokens of those", tokens, "==", 0, unit="tokens")
        vault.forget_calls()
        report.bar(
            "calls of reading an option 100 times", cases.config_options(vault, 100), "<=", 2, unit="calls"
        )
    with new_vault() as vault:
        first, rest = cases.hanging(vault)
        report.bar(
            "first lookup while Vault hangs", first, "<=", 2, unit="s", peers={"ten more": round(rest, 2)}
        )
    report.bar("import of the backend", cases.import_cost(), "<=", 60, unit="ms")
    report.say(f"{kills} processes with a leased session, killed")
    found = cases.killed_tasks(kills)
    if found["held"] != (kills, kills):
        raise RuntimeError(f"not all of {kills} held a role and a session: {found}")
    report.bar(f"roles 2 s after {kills} kills", found["left"][0], "==", 0, unit="roles", peers=found)
    report.bar(f"sessions 2 s after {kills} kills", found["left"][1], "==", 0, unit="sessions")


if __name__ == "__main__":
    sys.exit(main())
