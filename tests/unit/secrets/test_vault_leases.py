"""Connections whose credentials are leased, as Airflow looks them up."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection
from airflow.sdk._shared.secrets_masker import redact
from airflow.sdk.configuration import clear_secrets_backends_cache
from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

from airflow_ext.exceptions import InvalidError
from airflow_ext.hooks.vault import vault_connection
from airflow_ext.secrets._vault_leases import BOOK, STATE_KEY
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from tests.unit.secrets.conftest import DOCUMENT, MakeBackend, Store, Task
from tests.unit.vault.leased import eventually, roles

pytestmark = pytest.mark.usefixtures("leasing")


def test_a_task_gets_credentials_of_its_own_and_another_task_others(
    postgres: LocalPostgres, vault: LocalVault, task: Task
) -> None:
    with task("one"):
        found = [Connection.get("warehouse") for _ in range(20)]
        assert {each.login for each in found} == set(roles(postgres))
        assert (found[0].host, found[0].schema, found[0].conn_type) == ("db", "app", "postgres")
        assert "***" in str(redact(f"{found[0].login} {found[0].password}"))
        assert found[0].password not in str(redact(f"{found[0].get_uri()} {found[0].password}"))
    assert len(vault.calls(path="database/creds/etl")) == 1
    with task("two"):
        assert Connection.get("warehouse").login != found[0].login
        eventually(
            lambda: found[0].login not in roles(postgres)
        )  # one process after the other, as in dag.test()


def test_a_lease_is_in_the_log_once_and_in_the_audit_file_each_time(
    make_backend: MakeBackend, task: Task, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    backend = make_backend(audit_file=str(file))
    caplog.set_level(logging.INFO, "airflow_ext.vault.audit")
    with task():
        for _ in range(3):
            assert backend.get_connection("warehouse") is not None
    assert len([each for each in caplog.messages if '"kind": "lease"' in each]) == 1
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    leases = [each for each in lines if each["kind"] == "lease"]
    assert [each["source"] for each in leases] == ["lease", "cache", "cache"]
    assert len({each["lease_id"] for each in leases}) == 1


@pytest.mark.parametrize("process", ["server", "parsing"])
def test_nothing_is_leased_outside_of_tasks(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, process: str
) -> None:
    if process == "server":
        monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    found = Connection.get("warehouse")
    assert (found.host, found.login, found.password or "") == ("db", "leased-per-task", "")
    assert asyncio.run(Connection.async_get("warehouse")).login == "leased-per-task"
    assert not vault.calls(path="database/*")


def test_a_uri_keeps_all_but_its_user(vault: LocalVault, make_backend: MakeBackend, task: Task) -> None:
    uri = "postgres://old:old@db:5432/app?sslmode=require"
    vault.write("secret/connections/a", {"conn_uri": uri, "lease": "database/creds/etl"})
    with task():
        found = make_backend().get_connection("a")
    assert (found.host, found.port, found.schema, found.extra_dejson) == (
        "db",
        5432,
        "app",
        {"sslmode": "require"},
    )
    assert found.login.startswith("v-")


def test_the_asynchronous_lookup_leases_too(postgres: LocalPostgres, task: Task) -> None:
    with task():
        found = asyncio.run(Connection.async_get("warehouse"))
        assert [found.login] == roles(postgres)
        assert Connection.get("warehouse").login == found.login


def test_a_block_has_credentials_of_its_own_that_end_with_it(
    postgres: LocalPostgres, vault: LocalVault, task: Task
) -> None:
    with task():
        with vault_connection("warehouse", ttl="10m") as connection:
            assert roles(postgres) == [connection.login]
            assert Connection.get("warehouse").login == connection.login
            with vault_connection("warehouse") as inner:
                assert inner.login != connection.login
        eventually(lambda: not roles(postgres))
        with pytest.raises(ZeroDivisionError), vault_connection("warehouse"):
            _ = 1 / 0
        eventually(lambda: not roles(postgres))


def test_a_block_outside_of_a_task_or_with_a_senseless_limit_is_refused(
    vault: LocalVault, task: Task
) -> None:
    with pytest.raises(InvalidError, match="which only tasks get"), vault_connection("warehouse"):
        pass
    vault.write("secret/connections/plain", {"conn_uri": "http://plain"})
    with task():
        with vault_connection("plain") as connection:
            assert connection.host == "plain"
        for ttl in ("10m", "soon"):
            with pytest.raises(InvalidError, match="ttl="), vault_connection("plain", ttl=ttl):
                pass


def test_a_static_role_is_read_anywhere_and_not_longer_than_its_password_lives(
    vault: LocalVault, postgres: LocalPostgres
) -> None:
    postgres.execute("CREATE ROLE app LOGIN")
    try:
        settings = {"db_name": "main", "username": "app", "rotation_period": 60}
        vault.admin("POST", "database/static-roles/app", settings)
        vault.write("secret/connections/app", {**DOCUMENT, "lease": {"path": "database/static-creds/app"}})
        first = Connection.get("app")
        assert first.login == "app"
        assert Connection.get("app").password == first.password
        assert len(vault.calls(path="database/static-creds/app")) == 1
        assert redact(first.password) == "***"
    finally:
        postgres.execute("DROP ROLE app")


@pytest.mark.parametrize("try_number", [1, 2], ids=["resumed", "next try"])
def test_what_an_earlier_process_left_is_revoked_by_the_next(
    vault: LocalVault, postgres: LocalPostgres, task: Task, try_number: int
) -> None:
    """The process before was killed with its warden, or Vault was down at its end."""
    store = Store()
    with task(store=store):
        Connection.get("warehouse")
        left = roles(postgres)
        record = store.values[STATE_KEY]["sessions"][0]
        assert record["leases"] == [vault.leases()[0].id]
        assert Connection.get("warehouse").password not in json.dumps(store.values)
        for session in BOOK._sessions.values():
            session.closed = True  # as after SIGKILL: nothing is revoked any more
            assert session._warden is not None
            session._warden.dismiss(done=True)
        BOOK._sessions.clear()
        BOOK._swept.clear()
        if try_number == 1:  # a task that was deferred goes on with the same try, in another process
            over = subprocess.Popen(["true"])
            over.wait()
            record["maker"]["pid"] = over.pid
    with task(store=store, try_number=try_number):
        Connection.get("warehouse")
        eventually(lambda: len(roles(postgres)) == 1 and roles(postgres) != left)


def test_leases_that_share_a_token_are_all_written_down(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, credentials: dict[str, str], task: Task
) -> None:
    monkeypatch.setenv(
        "AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(credentials | {"lease_scope": "shared"})
    )
    clear_secrets_backends_cache()
    may = {"secret/data/connections/*": ["read"], "database/*": ["read"]}
    vault.policy("airflow", may | {"sys/leases/revoke": ["update"]})
    store, ids = Store(), set()
    with task(store=store):
        Connection.get("warehouse")
        for _ in range(25):
            with vault_connection("warehouse"):
                ids |= {each.id for each in vault.leases()}
        told = [each["leases"] for each in store.values[STATE_KEY]["sessions"]]
        assert [vault.leases()[0].id] in told, "the one in use, however many blocks there were"
        assert len(told) == 20
        assert {each for some in told for each in some} <= ids


def test_a_block_that_is_over_its_limit_gets_no_other_credentials(
    monkeypatch: pytest.MonkeyPatch, postgres: LocalPostgres, task: Task
) -> None:
    with task():
        with vault_connection("warehouse", ttl=600):
            (session,) = BOOK._blocks.sessions()
            monkeypatch.setattr(session, "_clock", lambda: time.monotonic() + 601)
            session.renew_due()
            eventually(lambda: not roles(postgres))
            with pytest.raises(AirflowSecretsBackendAccessDenied, match="has ended"):
                Connection.get("warehouse")
        assert Connection.get("warehouse").login in roles(postgres)


@pytest.mark.parametrize(
    "lease",
    [
        {},
        {"path": 7},
        {"path": "../sys/seal"},
        {"path": "sys/leases"},
        {"path": "database"},
        {"path": "a b/c"},
        {"path": "database/creds/etl", "tll": 5},
        {"path": "database/creds/etl", "ttl": "soon"},
        {"path": "database/creds/etl", "fields": {"login": "nothing"}},
    ],
    ids=str,
)
def test_a_malformed_lease_fails_loudly(
    vault: LocalVault, make_backend: MakeBackend, task: Task, lease: Any
) -> None:
    vault.write("secret/connections/a", {**DOCUMENT, "lease": lease})
    with task(), pytest.raises(AirflowSecretsBackendAccessDenied, match="lease"):
        make_backend().get_connection("a")


def test_a_lease_that_vault_denies_or_cannot_give_is_told(vault: LocalVault, task: Task) -> None:
    vault.policy("airflow", {"secret/data/connections/*": ["read"]})
    with task(), pytest.raises(AirflowSecretsBackendAccessDenied, match='path "database/creds/etl"'):
        Connection.get("warehouse")
    with task("other"):
        vault.seal()
        with pytest.raises(AirflowSecretsBackendAccessDenied, match="sealed"):
            Connection.get("warehouse")
