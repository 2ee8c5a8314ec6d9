"""A task whose process is gone: what it leased goes too, by its warden or with the lifetime of its token."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from benchmarks._vault_lease_cases import Stage, canaries, wardens
from tests.paths import ROOT
from tests.unit.vault.certificates import self_signed
from tests.unit.vault.leased import MAY, connect, eventually, roles, sessions

TRUST = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "VAULT_CACERT", "VAULT_CAPATH")


@pytest.fixture(autouse=True)
def _database(vault: LocalVault, postgres: LocalPostgres) -> Iterator[None]:
    connect(vault, postgres, ttl=600, max_ttl=3600)
    vault.policy("etl", MAY)
    yield
    eventually(lambda: not roles(postgres))


TASK = """
import os, sys, time
from airflow_ext.vault import VaultClient, VaultSettings
from airflow_ext.vault.lease_model import LeaseSpec, Owner
from airflow_ext.vault.leases import LeaseSession
url, role_id, secret_id, port, scope, token_ttl, warden = sys.argv[1:]
client = VaultClient(VaultSettings(url=url, auth_type="approle", role_id=role_id, secret_id=secret_id))
session = LeaseSession(
    client, Owner("d", "r", "t"), scope=scope, token_ttl=int(token_ttl), warden=warden == "yes"
)
given = session.credentials(LeaseSpec("database/creds/etl")).data
import psycopg2
held = psycopg2.connect(
    host="127.0.0.1", port=port, dbname="postgres", user=given["username"], password=given["password"]
)
print("ready", flush=True)
time.sleep(60)
"""


def _start(
    vault: LocalVault,
    postgres: LocalPostgres,
    *,
    scope: str = "child",
    ttl: int = 300,
    warden: bool = True,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    role_id, secret_id = vault.approle("etl", policies=["etl"])
    words = [vault.url, role_id, secret_id, str(postgres.port), scope, str(ttl), "yes" if warden else "no"]
    return subprocess.Popen(
        [sys.executable, "-c", TASK, *words],
        stdout=subprocess.PIPE,
        start_new_session=True,
        cwd=ROOT,
        env={each: value for each, value in os.environ.items() if each not in TRUST} | (environment or {}),
    )


def _kill(task: subprocess.Popen[bytes]) -> None:
    """Kill a task and all its processes, as the supervisor does."""
    os.killpg(task.pid, signal.SIGKILL)
    task.communicate()


@pytest.mark.parametrize("scope", ["child", "shared"])
def test_a_killed_process_leaves_no_role_and_no_session(
    vault: LocalVault, postgres: LocalPostgres, scope: str
) -> None:
    vault.policy("etl", MAY | {"sys/leases/revoke": ["update"]})
    started = [_start(vault, postgres, scope=scope) for _ in range(4)]
    for each in started:
        assert each.stdout is not None
        assert each.stdout.readline() == b"ready\n"
    assert (len(roles(postgres)), sessions(postgres)) == (4, 4)
    for each in started:
        os.killpg(each.pid, signal.SIGKILL)  # as the supervisor does
    eventually(lambda: not roles(postgres) and not sessions(postgres), seconds=2)
    for each in started:
        each.communicate()


def test_a_lost_worker_leaves_nothing_longer_than_the_lifetime_of_a_token(
    vault: LocalVault, postgres: LocalPostgres
) -> None:
    """No helper survives either: only the token's end is left."""
    started = _start(vault, postgres, ttl=3, warden=False)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    time.sleep(3.5)
    assert len(roles(postgres)) == 1, "renewed by its thread"
    os.killpg(started.pid, signal.SIGKILL)
    eventually(lambda: not roles(postgres) and not sessions(postgres), seconds=4)
    started.communicate()


def test_a_leased_password_is_in_the_memory_of_its_task_alone(
    vault: LocalVault, postgres: LocalPostgres
) -> None:
    """Not in that of the warden, its environment or command line, nor in a file of what tasks share."""
    role_id, secret_id = vault.approle("etl", policies=["etl"])
    try:
        seen = canaries(Stage(vault, postgres, role_id, secret_id))
    except PermissionError:
        pytest.skip("this system lets nobody but root look into the memory of a process")
    assert seen["task"] > 0
    assert (seen["warden"], seen["files"]) == (0, 0)


def test_a_warden_outlives_the_signal_that_ends_a_service(vault: LocalVault, postgres: LocalPostgres) -> None:
    """``systemctl stop`` and the like tell every process of the service to end, and kill the task later."""
    task = _start(vault, postgres)
    assert task.stdout is not None
    assert task.stdout.readline() == b"ready\n"
    (warden,) = wardens(task.pid)
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(warden, each)
    _kill(task)
    eventually(lambda: not roles(postgres) and not sessions(postgres))


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "VAULT_CAPATH"])
def test_a_warden_trusts_whom_its_task_trusts(postgres: LocalPostgres, tmp_path: Path, name: str) -> None:
    own = self_signed(tmp_path, "own")
    if name == "VAULT_CAPATH":
        subprocess.run(["openssl", "rehash", tmp_path], check=True)
    with LocalVault(certificate=own) as vault:
        connect(vault, postgres)
        vault.policy("etl", MAY)
        trusted = {name: str(tmp_path if name == "VAULT_CAPATH" else own)}
        task = _start(vault, postgres, environment=trusted)
        assert task.stdout is not None
        assert task.stdout.readline() == b"ready\n"
        _kill(task)
        eventually(lambda: not roles(postgres) and not sessions(postgres))
