"""Cases of the Vault benchmark that hold leases, with real PostgreSQL roles."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault import VaultClient, VaultSettings
from airflow_ext.vault.lease_model import LeaseSpec, Owner
from airflow_ext.vault.leases import LeaseSession

CREATION = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"
REVOCATION = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';",
    'DROP ROLE IF EXISTS "{{name}}";',
)
ETL = LeaseSpec("database/creds/etl")

HOLDER = """
import json, sys, time
from airflow_ext.vault import VaultClient, VaultSettings
from airflow_ext.vault.lease_model import LeaseSpec, Owner
from airflow_ext.vault.leases import LeaseSession
import psycopg2
url, role_id, secret_id, port, number, ttl = sys.argv[1:]
client = VaultClient(VaultSettings(url=url, auth_type="approle", role_id=role_id, secret_id=secret_id))
session = LeaseSession(client, Owner("bench", "r", number), token_ttl=int(ttl))
given = session.credentials(LeaseSpec("database/creds/etl")).data
held = psycopg2.connect(
    host="127.0.0.1", port=port, dbname="postgres", user=given["username"], password=given["password"]
)
print(json.dumps({"password": given["password"], "secret_id": secret_id}), flush=True)
time.sleep(600)
"""


@dataclass(frozen=True)
class Stage:
    """A server, a database, and the words a holder is started with."""

    vault: LocalVault
    postgres: LocalPostgres
    role_id: str
    secret_id: str

    def start(self, count: int, *, ttl: int = 300) -> list[subprocess.Popen[bytes]]:
        """Start processes that hold a leased session; they say so when they do."""
        words = [self.vault.url, self.role_id, self.secret_id, str(self.postgres.port)]
        return [
            subprocess.Popen(
                [sys.executable, "-c", HOLDER, *words, str(number), str(ttl)],
                stdout=subprocess.PIPE,
                start_new_session=True,
                cwd=Path(__file__).parents[1],
            )
            for number in range(count)
        ]

    def left(self) -> tuple[int, int]:
        """Return how many roles and sessions of leases there are."""
        roles = self.postgres.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'")
        sessions = self.postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'v-%'")
        return int(roles[0][0]), int(sessions[0][0])

    def gone_after(self, seconds: float) -> tuple[float, tuple[int, int]]:
        """Return after how many seconds nothing was left (0 if never), and what is left at the end of the time."""
        began, gone = time.monotonic(), 0.0
        while time.monotonic() - began < seconds:
            if not gone and self.left() == (0, 0):
                gone = time.monotonic() - began
            time.sleep(0.02)
        return round(gone, 3), self.left()


@contextmanager
def stage(connections: int) -> Iterator[Stage]:
    """Start both servers."""
    with tempfile.TemporaryDirectory() as home, LocalVault() as vault:
        settings = {"max_connections": str(connections + 50)}
        with LocalPostgres(Path(home) / "postgres", settings=settings) as postgres:
            url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/postgres"
            vault.database(url, username=postgres.user, password=postgres.password)
            vault.database_role("etl", creation=[CREATION], revocation=REVOCATION, ttl=600, max_ttl=3600)
            may = {"database/creds/etl": ["read"], "auth/token/create": ["create", "update"]}
            vault.policy("etl", may)
            role_id, secret_id = vault.approle("etl", policies=["etl"])
            try:
                yield Stage(vault, postgres, role_id, secret_id)
            finally:
                vault.stop()


def _told(process: subprocess.Popen[bytes]) -> dict[str, str]:
    line = process.stdout.readline() if process.stdout is not None else b""
    if not line:
        raise RuntimeError("a process got no lease")
    found: dict[str, str] = json.loads(line)
    return found


def killed_tasks(stage: Stage, count: int) -> dict[str, Any]:
    """Kill so many processes that hold a leased session, and return what is left after two seconds."""
    started = stage.start(count)
    for each in started:
        _told(each)
    held = stage.left()
    for each in started:
        os.killpg(each.pid, signal.SIGKILL)
    gone, left = stage.gone_after(2)
    for each in started:
        each.communicate()
    return {"held": held, "left": left, "gone_after_s": gone}


def lost_worker(stage: Stage, *, ttl: int) -> dict[str, Any]:
    """Kill a process and its warden at once, as a machine that is gone; what is left after its token's lifetime?"""
    (process,) = stage.start(1, ttl=ttl)
    _told(process)
    (warden,) = wardens(process.pid)
    held = stage.left()
    os.kill(warden, signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    gone, left = stage.gone_after(ttl + 1)
    process.communicate()
    return {"held": held, "left": left, "gone_after_s": gone, "token_ttl_s": ttl}


def wardens(process: int) -> list[int]:
    """Return the wardens that watch a process."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended meanwhile
            if any(each.endswith(b"_warden.py") for each in words) and str(process).encode() in words:
                found.append(int(folder.name))
    return found


def memory_of(process: int) -> bytes:
    """Return all that a process has in memory."""
    found = []
    with Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            place, rights, *_ = line.split()
            if not rights.startswith("r") or "[v" in line:
                continue
            start, end = (int(each, 16) for each in place.split("-"))
            try:
                memory.seek(start)
                found.append(memory.read(end - start))
            except (OSError, ValueError):
                continue  # not backed by anything
    return b"".join(found)


def canaries(stage: Stage) -> dict[str, int]:
    """Return how often a leased password and the secret id are found where they must not be.

    The task itself is looked at as well: there the password must be found, or the search would prove nothing.
    """
    (process,) = stage.start(1)
    told = _told(process)
    (warden,) = wardens(process.pid)
    texts = [each.encode() for each in told.values()]
    outside = memory_of(warden)
    for name in ("environ", "cmdline"):
        outside += Path(f"/proc/{warden}/{name}").read_bytes()
    shared = b"".join(each.read_bytes() for each in Path("/dev/shm").glob("airflow-ext-vault-*/*"))  # noqa: S108
    inside = memory_of(process.pid).count(told["password"].encode())
    process.kill()
    process.communicate()
    return {
        "task": inside,
        "warden": sum(outside.count(each) for each in texts),
        "files": sum(shared.count(each) for each in texts),
    }


class Time:
    """Passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def eight_hours(stage: Stage) -> tuple[int, int]:
    """Hold a lease for eight hours that pass in a moment; return the lookups without a living role, and the roles."""
    clock, gaps, names = Time(), 0, set()
    role_id, secret_id = stage.vault.approle("long", policies=["etl"], token_ttl=900)
    settings = VaultSettings(url=stage.vault.url, auth_type="approle", role_id=role_id, secret_id=secret_id)
    client = VaultClient(settings, clock=clock)
    owner = Owner("bench", "r", secrets.token_hex(4))
    session = LeaseSession(client, owner, threaded=False, warden=False, clock=clock)
    pause = 0.0
    for second in range(0, 8 * 3600, 20):
        if second >= pause:
            pause = second + session.renew_due()
        if second % 60 == 0:
            name = session.credentials(ETL).data["username"]
            names.add(name)
            rows = stage.postgres.execute(f"SELECT count(*) FROM pg_roles WHERE rolname = '{name}'")
            gaps += rows[0][0] != 1
        clock.now += 20
        stage.vault.advance(20)
    session.close()
    client.close()
    return gaps, len(names)
