"""Cases of the Vault benchmark that have one side: ours."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from airflow_ext.secrets.vault import VaultBackend
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.client import forget_shared_clients


def backend(vault: LocalVault, **arguments: Any) -> VaultBackend:
    """Return a backend with an AppRole of its own, and no client left of before."""
    forget_shared_clients()
    role_id, secret_id = vault.approle("airflow", policies=["airflow"])
    return VaultBackend(url=vault.url, auth_type="approle", role_id=role_id, secret_id=secret_id, **arguments)


def forked_tasks(vault: LocalVault, count: int, *, shared: bool) -> int:
    """Return the calls of so many task processes of one worker, each of which looks one connection up."""
    ours = backend(vault, shared_cache=shared)
    ours.client.reader.share()  # as before the supervisor's fork
    ours.client.token()
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
    forget_shared_clients()
    return len(vault.calls())


def many_ids(vault: LocalVault, count: int) -> tuple[float, float, int]:
    """Look so many connections up; return the seconds, the megabytes this adds, and the calls."""
    for number in range(count):
        vault.write(f"secret/connections/id{number}", {"conn_type": "http", "password": secrets.token_hex(9)})
    vault.forget_calls()
    ours, before, started = backend(vault), _memory(), time.perf_counter()
    for number in range(count):
        if ours.get_conn_value(f"id{number}") is None:
            raise RuntimeError(f"id{number} was not found")
    return time.perf_counter() - started, _memory() - before, len(vault.calls())


def _memory() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def import_cost() -> float:
    """Return the milliseconds that importing the backend adds to what a task has imported anyway; best of five."""
    program = (
        "import gc, time, airflow.sdk.execution_time.task_runner, airflow.sdk.execution_time.supervisor\n"
        "gc.collect()  # what Airflow has left to collect falls due at any moment, and is not ours\n"
        "started = time.perf_counter(); import airflow_ext.secrets.vault\n"
        "print((time.perf_counter() - started) * 1000)"
    )
    found = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        found.append(float(done.stdout.split()[-1]))
    return min(found)


def config_options(kind: str, python: str | Path, count: int) -> int:
    """Return the calls of reading one configuration option so many times from Vault.

    :param kind: Path of the backend's class.
    :param python: The interpreter of its environment.
    """
    program = (
        "from airflow.sdk.configuration import conf\n"
        f"print({{conf.get('core', 'fernet_key') for _ in range({count})}})"
    )
    with LocalVault() as vault, tempfile.TemporaryDirectory() as home:
        vault.policy("airflow", {"secret/data/config/*": ["read"]})
        vault.write("secret/config/fernet", {"value": "from-vault"})
        role_id, secret_id = vault.approle("airflow", policies=["airflow"])
        kwargs = {"url": vault.url, "auth_type": "approle", "role_id": role_id, "secret_id": secret_id}
        env = {
            **os.environ,
            "AIRFLOW_HOME": home,
            "AIRFLOW__SECRETS__BACKEND": kind,
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs),
            "AIRFLOW__CORE__FERNET_KEY_SECRET": "fernet",
        }
        env.pop("AIRFLOW__CORE__FERNET_KEY", None)
        command = [str(python), "-c", program]
        done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, check=True)
        if "from-vault" not in done.stdout:
            raise RuntimeError(f"the option did not come from Vault: {done.stdout}")
        return len(vault.calls())
