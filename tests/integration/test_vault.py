"""Leased connections on a real Airflow with real PostgreSQL roles, and that no secret is to be seen anywhere."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from airflow_ext.testing.airflow_client import AirflowClient
from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault import VaultClient, VaultSettings
from airflow_ext.vault.lease_model import LeaseSpec, Owner
from airflow_ext.vault.leases import LeaseSession
from tests.paths import ROOT
from tests.unit.vault.leased import eventually, roles, sessions

DAG_ID = "vault_leases"
STATEMENTS = re.compile(
    r"^-- creation_statements\n(.*?)^-- revocation_statements\n(.*?)^```", re.MULTILINE | re.DOTALL
)
"""Of the page that says what a role should have."""

# What a server makes nobody else knows: the manager notes it, so that it can be looked for.
ACCOUNTS = """
CREATE ROLE app_owner;
GRANT CREATE ON DATABASE postgres TO app_owner;
CREATE ROLE manager LOGIN CREATEROLE PASSWORD '{password}';
GRANT pg_signal_backend TO manager;
GRANT app_owner TO manager WITH ADMIN OPTION;
CREATE SCHEMA leased AUTHORIZATION app_owner;
CREATE SCHEMA noted AUTHORIZATION manager CREATE TABLE made (login text, password text);
"""
NOTE = "INSERT INTO noted.made VALUES ('{{name}}', '{{password}}');"


@pytest.fixture(scope="module")
def canary(vault: LocalVault, postgres: LocalPostgres) -> str:
    """A password with characters that are written differently in many places; the connections are in Vault."""
    password = f'{secrets.token_urlsafe(9)} /ä"%{secrets.token_urlsafe(9)}'
    _let_make_roles(vault, postgres)
    document = {"conn_type": "postgres", "host": "127.0.0.1", "port": postgres.port, "schema": "postgres"}
    leased = {"lease": {"path": "database/creds/etl"}, "extra": {"dbt": {"role": "app_owner"}}}
    vault.write("secret/connections/vault_warehouse", {**document, **leased})
    vault.write("secret/connections/vault_canary", {**document, "login": "me", "password": password})
    return password


def _let_make_roles(vault: LocalVault, postgres: LocalPostgres) -> None:
    """As an account that is no superuser, by the statements of the page."""
    found = STATEMENTS.search((ROOT / "docs" / "vault-leases.md").read_text())
    assert found is not None
    creation, revocation = found.groups()
    password = secrets.token_urlsafe(18)
    postgres.execute(ACCOUNTS.format(password=password))
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/postgres"
    vault.database(url, username="manager", password=password)
    vault.database_role("etl", creation=[creation, NOTE], revocation=[revocation], ttl=600)


def _made(postgres: LocalPostgres) -> dict[str, str]:
    """Return the passwords of all the logins that there were."""
    return {str(login): str(password) for login, password in postgres.execute("SELECT * FROM noted.made")}


@pytest.fixture(scope="module")
def run(airflow: LocalAirflow, canary: str, scratch: Path, vault: LocalVault) -> dict[str, Any]:
    """One run whose tasks end in all ways; returns their states."""
    client = airflow.client
    client.wait_for_dags([DAG_ID])
    run_id = client.trigger(DAG_ID)

    _until(lambda: (scratch / "sleep.1.json").exists())
    client.request(
        "PATCH", f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/sleep", json={"new_state": "failed"}
    )
    for task_id in ("defer", "version"):
        _until(partial(_heard, airflow, run_id, task_id))
    (scratch / "go_on").touch()
    vault.write("secret/connections/vault_version", {"conn_type": "http"})
    ended = {"success", "failed"}
    _until(lambda: set(client.states(DAG_ID, run_id).values()) <= ended)
    return {"run_id": run_id, "states": client.states(DAG_ID, run_id)}


def _until(look: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.2)


def _heard(airflow: LocalAirflow, run_id: str, task_id: str) -> bool:
    """Tell whether the scheduler has taken in that a task's process ended, before which no trigger should fire."""
    task = f"task_id={task_id}, run_id={run_id}"
    lines = airflow.log_of("scheduler").read_text(errors="replace").splitlines()
    return any("TaskInstance Finished:" in line and task in line for line in lines)


def _note(scratch: Path, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((scratch / f"{task_id}.1.json").read_text())
    return found


def test_every_way_to_end_leaves_no_role_and_no_session(
    run: dict[str, Any], scratch: Path, postgres: LocalPostgres, vault: LocalVault
) -> None:
    """Success, failure, deferral, the user marking a task as failed (SIGTERM, then SIGKILL), and SIGKILL."""
    failed = {"fail": "failed", "kill": "failed", "sleep": "failed"}
    well = dict.fromkeys(("succeed", "defer", "decorated", "version", "build", "build_again"), "success")
    assert run["states"] == {**well, **failed}
    _until(lambda: not Path(f"/proc/{_note(scratch, 'sleep')['pid']}").exists())
    eventually(lambda: not roles(postgres) and not sessions(postgres), seconds=2)
    holders = set(run["states"]) - {"version", "build", "build_again"}
    names = {_note(scratch, each)["login"] for each in holders}
    assert len(names) == len(holders), "two tasks shared a lease"
    assert vault.leases() == []
    # Each left a table, which did not keep its role.
    left = dict(postgres.execute("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'leased'"))
    assert names <= set(left) <= set(_made(postgres))
    assert set(left.values()) == {"app_owner"}


def test_dbt_builds_with_a_login_that_is_gone_afterwards(
    run: dict[str, Any], client: AirflowClient, postgres: LocalPostgres, vault: LocalVault
) -> None:
    """And the next one replaces what it built; the tables belong to a role that stays."""
    ((login, role, before),) = postgres.execute("SELECT login, role, before FROM marts.built")
    assert login != before
    assert {login, before} <= set(_made(postgres))
    assert role == "app_owner"
    assert postgres.execute("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'marts'") == [
        ("built", "app_owner")
    ]
    assert not {login, before} & set(roles(postgres))
    assert vault.leases() == []
    for task_id in ("build", "build_again"):
        log = client.log(DAG_ID, run["run_id"], task_id)
        assert "dbt: 1 pass, 1 success" in log


def test_a_sensor_waits_in_the_triggerer_for_a_new_version(
    run: dict[str, Any], client: AirflowClient
) -> None:
    assert client.xcom(DAG_ID, run["run_id"], "version") == 1


def test_a_deferred_task_gets_new_credentials_when_it_resumes(
    run: dict[str, Any], client: AirflowClient
) -> None:
    first, second = client.xcom(DAG_ID, run["run_id"], "defer")
    assert first.startswith("***") or first != second


def test_the_logins_are_few_and_nothing_is_leased_by_commands(
    run: dict[str, Any], airflow: LocalAirflow, vault: LocalVault
) -> None:
    assert (
        len(vault.calls(path="auth/approle/login")) <= 14
    )  # processes of four components, three workers, a trigger
    made = len(vault.calls(path="database/creds/etl"))
    shown = airflow.command("connections", "get", "vault_warehouse", "--output", "json").stdout
    assert "leased-per-task" in shown
    assert len(vault.calls(path="database/creds/etl")) == made


COMMANDS = """
import json, sys
from airflow.models import Variable
from airflow.models.dagrun import DagRun
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.utils.session import create_session
from sqlalchemy import select
from airflow_ext.cli.main import main
from airflow_ext.secrets._vault_leases import STATE_KEY

record, dag_id, run_id = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
with create_session() as session:
    number = session.scalar(select(DagRun.id).where(DagRun.run_id == run_id, DagRun.dag_id == dag_id))
    given = {"dag_run_id": number, "dag_id": dag_id, "run_id": run_id, "task_id": "version", "map_index": -1}
    session.add(TaskStateStoreModel(**given, key=STATE_KEY, value=json.dumps({"sessions": [record]})))
    Variable.set("migrated_variable", "of-the-metadata", session=session)
some = ["--only", "migrated.*"]
for words in (
    ["leases"], ["sweep", "--dry-run"], ["sweep"], ["sweep"],
    ["migrate", *some], ["migrate", *some, "--write"], ["migrate", *some, "--write"],
):
    print("##", *words)
    print("status", main(["vault", *words]))
"""


def test_the_commands_find_what_tasks_left_and_copy_what_is_elsewhere(
    run: dict[str, Any], airflow: LocalAirflow, vault: LocalVault, postgres: LocalPostgres
) -> None:
    """``leases``, ``sweep`` and ``migrate``, each as it would be run by hand; ``version`` is a task that leased nothing."""
    client = VaultClient(VaultSettings(url=vault.url, token=vault.root_token))
    left = LeaseSession(client, Owner(DAG_ID, run["run_id"], "version"), warden=False, threaded=False)
    left.credentials(LeaseSpec("database/creds/etl"))
    password = secrets.token_urlsafe(18)
    command = [airflow.python, "-c", COMMANDS, json.dumps(left.ids()), DAG_ID, run["run_id"]]
    kwargs = json.dumps({"url": vault.url, "token": vault.root_token})
    environment = {
        **airflow.environment,
        "AIRFLOW__SECRETS__BACKEND_KWARGS": kwargs,
        "AIRFLOW_CONN_MIGRATED_URI": f"postgres://me:{password}@db/app",
        "AIRFLOW_CONN_MIGRATED_BAD": '{"conn_type": "postgres", "pasword": "' + password + '"}',
    }
    done = subprocess.run(
        command, cwd=airflow.home, env=environment, capture_output=True, text=True, check=False
    )
    client.close()
    assert done.returncode == 0, done.stdout + done.stderr
    told = dict(zip(COMMAND_NAMES, done.stdout.split("## ")[1:], strict=True))
    name = f"{DAG_ID}/{run['run_id']}/version"
    assert f"lives    over     {name}" in told["leases"]
    assert f"ended    over     {DAG_ID}/{run['run_id']}/kill" in told["leases"]
    assert f"would revoke {name}" in told["dry"]
    assert f"revoked {name}" in told["sweep"]
    eventually(lambda: not roles(postgres))
    # The second may come while the leases of the first are still being revoked: that is done behind Vault's answer.
    assert "NOT revoked" not in told["sweep again"]
    assert "status 0" in told["sweep again"]
    assert (
        "connection migrated_uri (from environment): would go to secret/data/connections/migrated_uri"
        in told["plan"]
    )
    assert "variable migrated_variable (from metadata): would go to" in told["plan"]
    assert "FAILED (connections/migrated_bad has keys no connection has (pasword)" in told["plan"]
    assert "2 to be written, 1 failed; nothing was written" in told["plan"]
    assert "2 written, 1 failed" in told["write"]
    assert "2 in Vault already, 1 failed" in told["write again"]
    assert "status 1" in told["write"]
    assert vault.admin("GET", "secret/data/variables/migrated_variable")["data"] == {
        "value": "of-the-metadata"
    }
    assert vault.admin("GET", "secret/data/connections/migrated_uri")["data"] == {
        "conn_uri": environment["AIRFLOW_CONN_MIGRATED_URI"]
    }
    assert password not in done.stdout + done.stderr


COMMAND_NAMES = ("leases", "dry", "sweep", "sweep again", "plan", "write", "write again")


def _tables_with(postgres: LocalPostgres, texts: set[str]) -> list[str]:
    """Return the tables of Airflow's metadata, XComs and rendered fields among them, that hold one of some texts."""
    tables = postgres.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database="airflow"
    )
    looks = [
        f"SELECT '{name}' FROM \"{name}\" AS each WHERE each::text ~ '{'|'.join(texts)}'"
        for (name,) in tables
    ]
    return [str(row[0]) for row in postgres.execute(" UNION ".join(looks), database="airflow")]


def test_no_secret_is_to_be_seen_anywhere(
    run: dict[str, Any],
    canary: str,
    airflow: LocalAirflow,
    client: AirflowClient,
    postgres: LocalPostgres,
    scratch: Path,
) -> None:
    """In no log, XCom, rendered field or file: a kept password in each way it may be written, and all leased ones."""
    pieces = {canary.partition(" ")[0], canary.rpartition("%")[2]}
    forms = {canary, quote(canary), quote(canary, safe=""), json.dumps(canary)[1:-1], *pieces}
    made = _made(postgres)
    forms |= set(made.values())
    # What tasks print on purpose is masked in their log; LocalExecutor repeats it in the scheduler's output
    # as it was printed, whatever backend a secret is from: docs/vault.md, Masking.
    printed = re.compile(rb"could not use|connected with")
    seen = [
        f"{path}: {form!r}"
        for folder in (airflow.home, scratch / "marts", *Path("/dev/shm").glob("airflow-ext-vault-*"))  # noqa: S108
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
        for line in path.read_bytes().splitlines()
        if not (path.parent.name == "components" and printed.search(line))
        for form in forms
        if form.encode() in line
    ]
    assert not seen
    assert {each.name for each in scratch.glob("marts/**/*.json")} >= {"run_results.json", "manifest.json"}
    assert not _tables_with(postgres, set(made.values()))
    path = f"/dags/{DAG_ID}/dagRuns/{run['run_id']}/taskInstances"
    told = json.dumps(client.request("GET", path), ensure_ascii=False)
    told += json.dumps([client.xcom(DAG_ID, run["run_id"], each) for each in ("succeed", "defer")])
    assert "***" in told
    assert not [form for form in forms if form in told]
    logs = "".join(each.read_text() for each in airflow.home.glob(f"logs/dag_id={DAG_ID}/**/*.log"))
    assert "connected with" in logs
    assert '"process": "task"' in logs.replace("\\", "")
