"""Cases of the Vault benchmark that have one side: ours."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from airflow_ext.secrets.vault import VaultBackend
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.client import forget_shared_clients

CREATION = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"
REVOCATION = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';",
    'DROP ROLE IF EXISTS "{{name}}";',
)

HOLDER = """
import sys, time
from airflow_ext.vault import VaultClient, VaultSettings
from airflow_ext.vault.lease_model import LeaseSpec, Owner
from airflow_ext.vault.leases import LeaseSession
import psycopg2
url, role_id, secret_id, port, number = sys.argv[1:]
client = VaultClient(VaultSettings(url=url, auth_type="approle", role_id=role_id, secret_id=secret_id))
session = LeaseSession(client, Owner("bench", "r", number))
given = session.credentials(LeaseSpec("database/creds/etl")).data
held = psycopg2.connect(
    host="127.0.0.1", port=port, dbname="postgres", user=given["username"], password=given["password"]
)
print("ready", flush=True)
time.sleep(600)
"""


def backend(vault: LocalVault, **arguments: Any) -> VaultBackend:
    """Return a backend with an AppRole of its own, and no client left of before."""
    forget_shared_clients()
    role_id, secret_id = vault.approle("airflow", policies=["airflow"])
    return VaultBackend(url=vault.url, auth_type="approle", role_id=role_id, secret_id=secret_id, **arguments)


def warm_lookup(vault: LocalVault, count: int) -> float:
    """Return the median milliseconds of a lookup that was made before."""
    ours = backend(vault)
    ours.get_conn_value("warehouse")
    times = []
    for _ in range(count):
        started = time.perf_counter()
        ours.get_conn_value("warehouse")
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def forked_tasks(vault: LocalVault, count: int) -> int:
    """Return the calls of so many task processes of one worker, each of which looks one connection up."""
    ours = backend(vault)
    ours.client.token()  # as the supervisor's fork does
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            ended = 1
            try:
                ended = 0 if ours.get_conn_value("warehouse") else 2
            finally:
                os._exit(ended)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            raise RuntimeError("a lookup failed in a forked task")
    return len(vault.calls())


def denied_lookups(vault: LocalVault, count: int) -> tuple[int, int]:
    """Return the calls of so many denied lookups, and the tokens made for them beside the first."""
    ours = backend(vault, connections_path="closed", on_error="fall_through")
    for number in range(count):
        ours.get_conn_value(f"c{number}")
    return len(vault.calls()), len(vault.calls(path="auth/approle/login")) - 1


def hanging(vault: LocalVault) -> tuple[float, float]:
    """Return the seconds of the first lookup while Vault hangs, and of ten after it."""
    ours = backend(vault, on_error="fall_through")
    ours.client.token()
    vault.hang(30, times=1000)
    started = time.perf_counter()
    ours.get_conn_value("warehouse")
    first = time.perf_counter() - started
    for number in range(10):
        ours.get_conn_value(f"c{number}")
    rest = time.perf_counter() - started - first
    vault.heal()
    return first, rest


def import_cost() -> float:
    """Return the milliseconds that importing the backend adds to what a task has imported anyway; best of five."""
    program = (
        "import time, airflow.sdk.execution_time.task_runner, airflow.sdk.execution_time.supervisor\n"
        "started = time.perf_counter(); import airflow_ext.secrets.vault\n"
        "print((time.perf_counter() - started) * 1000)"
    )
    found = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        found.append(float(done.stdout.split()[-1]))
    return min(found)


def killed_tasks(count: int) -> dict[str, Any]:
    """Kill so many processes that hold a leased session, and return what is left after two seconds."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as home, LocalVault() as vault:
        settings = {"max_connections": str(count + 50)}
        with LocalPostgres(Path(home) / "postgres", settings=settings) as postgres:
            url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/postgres"
            vault.database(url, username=postgres.user, password=postgres.password)
            vault.database_role("etl", creation=[CREATION], revocation=REVOCATION)
            may = {"database/creds/etl": ["read"], "auth/token/create": ["create", "update"]}
            vault.policy("etl", may)
            role_id, secret_id = vault.approle("etl", policies=["etl"])
            words = [vault.url, role_id, secret_id, str(postgres.port)]
            started = [
                subprocess.Popen(
                    [sys.executable, "-c", HOLDER, *words, str(number)],
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                    cwd=root,
                )
                for number in range(count)
            ]
            for each in started:
                if each.stdout is None or each.stdout.readline() != b"ready\n":
                    raise RuntimeError("a process got no lease")
            held = _left(postgres)
            began = time.monotonic()
            for each in started:
                os.killpg(each.pid, signal.SIGKILL)
            gone = 0.0
            while time.monotonic() - began < 2:
                if not gone and _left(postgres) == (0, 0):
                    gone = time.monotonic() - began
                time.sleep(0.02)
            left = _left(postgres)
            for each in started:
                each.communicate()
            vault.stop()
            return {"held": held, "left": left, "gone_after_s": round(gone, 3)}


def _left(postgres: LocalPostgres) -> tuple[int, int]:
    roles = postgres.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'")
    sessions = postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'v-%'")
    return int(roles[0][0]), int(sessions[0][0])


def config_options(vault: LocalVault, count: int) -> int:
    """Return the calls of reading one configuration option so many times from Vault."""
    vault.write("secret/config/fernet", {"value": "from-vault"})
    forget_shared_clients()
    role_id, secret_id = vault.approle("airflow", policies=["airflow"])
    kwargs = {"url": vault.url, "auth_type": "approle", "role_id": role_id, "secret_id": secret_id}
    program = (
        "from airflow.sdk.configuration import conf\n"
        f"print({{conf.get('core', 'fernet_key') for _ in range({count})}})"
    )
    with tempfile.TemporaryDirectory() as home:
        env = {
            **os.environ,
            "AIRFLOW_HOME": home,
            "AIRFLOW__SECRETS__BACKEND": "airflow_ext.secrets.vault.VaultBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs),
            "AIRFLOW__CORE__FERNET_KEY_SECRET": "fernet",
        }
        env.pop("AIRFLOW__CORE__FERNET_KEY", None)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=env,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
    if "from-vault" not in done.stdout:
        raise RuntimeError(f"the option did not come from Vault: {done.stdout}")
    return len(vault.calls())
