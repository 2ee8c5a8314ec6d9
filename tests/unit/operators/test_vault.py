"""Operators and the sensor on Vault, against the local server and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from airflow.sdk._shared.secrets_masker import _secrets_masker, redact
from airflow.sdk.configuration import clear_secrets_backends_cache
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred
from structlog.testing import capture_logs

from airflow_ext.operators import vault as operators
from airflow_ext.sensors.vault import VaultSecretVersionSensor
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from airflow_ext.triggers.vault import VaultSecretVersionTrigger
from airflow_ext.vault.client import forget_shared_clients
from tests.unit.vault.leased import connect, roles


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalVault]:
    with LocalVault() as server:
        everything = ["create", "read", "update", "list", "sudo"]
        server.policy(
            "admin", dict.fromkeys(("secret/*", "database/*", "transit/*", "pki/*", "sys/*"), everything)
        )
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "airflow_ext.secrets.vault.VaultBackend")
        kwargs = {"url": server.url, "token": server.token(policies=["admin"]), "breaker_seconds": 0.3}
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))
        yield server
        forget_shared_clients()
        clear_secrets_backends_cache()
        _secrets_masker().reset_masker()


def run(name: str, **arguments: Any) -> Any:
    return getattr(operators, name)(task_id="t", **arguments).execute({})


def stored(vault: LocalVault, path: str) -> Any:
    return vault.admin("GET", f"secret/data/{path}")["data"]


def test_a_secret_is_written_with_made_passwords_once_and_only_names_are_told(vault: LocalVault) -> None:
    arguments = {"path": "connections/a", "data": {"login": "me"}, "generate": {"password": 24}, "cas": 0}
    told = run("VaultWriteSecretOperator", **arguments)
    assert told == {"path": "secret/connections/a", "version": 1, "keys": ["login", "password"]}
    password = stored(vault, "connections/a")["password"]
    assert len(password) == 24
    assert redact(password) == "***"
    with pytest.raises(
        AirflowFailException, match=r"\(status 400\): the secret has another version than cas=0"
    ):
        run("VaultWriteSecretOperator", **arguments)
    assert run("VaultReadSecretOperator", path="connections/a") == told
    with pytest.raises(AirflowFailException, match="is not there"):
        run("VaultReadSecretOperator", path="connections/b")
    with pytest.raises(AirflowFailException, match="path="):
        run("VaultReadSecretOperator", path="../sys/seal")


def test_passwords_in_databases_are_changed(vault: LocalVault, postgres: LocalPostgres) -> None:
    postgres.execute("CREATE ROLE app LOGIN")
    postgres.execute("CREATE ROLE manager LOGIN SUPERUSER PASSWORD 'first-password'")
    try:
        url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/postgres"
        vault.database(url, username="manager", password="first-password")
        settings = {"db_name": "main", "username": "app", "rotation_period": 3600}
        vault.admin("POST", "database/static-roles/app", settings)
        before = vault.admin("GET", "database/static-creds/app")["password"]
        run("VaultRotateStaticRoleOperator", role="app")
        assert vault.admin("GET", "database/static-creds/app")["password"] != before
        run("VaultRotateRootOperator", database="main")
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(
                host="127.0.0.1",
                port=postgres.port,
                dbname="postgres",
                user="manager",
                password="first-password",
            )
        run("VaultRotateStaticRoleOperator", role="app")  # Vault itself still gets in
        with pytest.raises(AirflowFailException, match="does database have the static role 'unknown'"):
            run("VaultRotateStaticRoleOperator", role="unknown")
        with pytest.raises(AirflowFailException, match="does database have the database 'unknown'"):
            run("VaultRotateRootOperator", database="unknown")
    finally:
        vault.stop()
        postgres.execute("DROP ROLE app")
        postgres.execute("DROP ROLE manager")


def test_leases_are_revoked_by_id_and_prefix(vault: LocalVault, postgres: LocalPostgres) -> None:
    connect(vault, postgres)
    for _ in range(3):
        vault.admin("GET", "database/creds/etl")
    run("VaultRevokeOperator", lease_id=vault.leases()[0].id)
    assert len(roles(postgres)) == 2
    run("VaultRevokeOperator", prefix="database/creds/etl")
    assert roles(postgres) == []
    with pytest.raises(ValueError, match="either lease_id or prefix"):
        operators.VaultRevokeOperator(task_id="t")


def test_payloads_are_encrypted_and_decrypted_into_a_private_file(vault: LocalVault, tmp_path: Path) -> None:
    vault.mount("transit", kind="transit")
    sealed = run("VaultEncryptOperator", key="k", texts=["one-secret", "zwei ä"])
    assert all(each.startswith("vault:v1:") for each in sealed)
    file = tmp_path / "plain"
    file.touch(mode=0o644)
    assert run("VaultDecryptOperator", key="k", ciphertexts=sealed, file=str(file)) == str(file)
    assert file.read_text() == "one-secret\nzwei ä\n"
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AirflowFailException, match="was every ciphertext made with it"):
        run("VaultDecryptOperator", key="k", ciphertexts=["vault:v1:AAAA"], file=str(file))


def test_a_certificate_is_issued_into_a_folder(vault: LocalVault, tmp_path: Path) -> None:
    vault.mount("pki", kind="pki")
    vault.admin("POST", "pki/roles/web", {"allowed_domains": ["example.com"]})
    folder = tmp_path / "tls"
    told = run(
        "VaultIssueCertificateOperator", role="web", common_name="a.example.com", folder=str(folder), ttl="1h"
    )
    assert set(told) == {"serial_number", "expiration", "folder"}
    assert "PRIVATE KEY" in (folder / "key.pem").read_text()
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert "CERTIFICATE" in (folder / "ca.pem").read_text()
    with pytest.raises(
        AirflowFailException, match=r"the role 'web', and does it allow common_name='other\.org'"
    ):
        run("VaultIssueCertificateOperator", role="web", common_name="other.org", folder=str(folder))


def test_what_was_done_is_one_line_without_values(vault: LocalVault, tmp_path: Path) -> None:
    vault.mount("transit", kind="transit")
    with capture_logs() as told:
        run("VaultWriteSecretOperator", path="a", data={"login": "canary"}, generate={"password": 20})
        run("VaultReadSecretOperator", path="a")
        sealed = run("VaultEncryptOperator", key="k", texts=["canary"])
        run("VaultDecryptOperator", key="k", ciphertexts=sealed, file=str(tmp_path / "plain"))
        run("VaultRevokeOperator", prefix="database/creds/etl")
    assert [each["event"] for each in told if each["log_level"] == "info"] == [
        "Wrote secret/a: version 1, keys login, password",
        "Read secret/a: version 1, keys login, password",
        "Encrypted 1 texts with transit/k",
        f"Decrypted 1 texts with transit/k into {tmp_path / 'plain'}",
        "Revoked all leases below database/creds/etl",
    ]


def test_a_missing_policy_is_written_out(vault: LocalVault) -> None:
    vault.policy("admin", {"secret/data/*": ["read"]})
    told = r'path "secret/data/a" \{ capabilities = \["create", "update"\] \} would allow it'
    with pytest.raises(AirflowFailException, match=told) as raised:
        run("VaultWriteSecretOperator", path="a", data={"key": "value"})
    assert "".join(traceback.format_exception(raised.value)).count("Traceback") == 1
    with pytest.raises(
        AirflowFailException, match=r'revoke-prefix/x" \{ capabilities = \["update", "sudo"\]'
    ):
        run("VaultRevokeOperator", prefix="x")


def test_the_sensor_waits_for_a_new_version(vault: LocalVault) -> None:
    sensor = VaultSecretVersionSensor(task_id="t", path="connections/a", newer_than="1")
    for expected in (False, False, True):
        found = sensor.poke({})
        assert found.is_done is expected
        vault.write("secret/connections/a", {"one": 1})
    assert sensor.execute({}) == 3
    assert not vault.calls(path="secret/data/*")


def test_the_sensor_waits_in_the_triggerer_and_many_ask_together(vault: LocalVault) -> None:
    """An outage is waited out."""
    vault.write("secret/connections/a", {"one": 1})
    sensor = VaultSecretVersionSensor(task_id="t", path="/connections/a/", newer_than=1, poll_interval=0.2)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({})
    path, arguments = deferred.value.trigger.serialize()
    assert path == "airflow_ext.triggers.vault.VaultSecretVersionTrigger"
    vault.forget_calls()
    vault.fail(503, times=3, path="secret/metadata/*")

    async def one() -> Any:
        return (await anext(VaultSecretVersionTrigger(**arguments).run())).payload

    async def wait() -> list[Any]:
        waiting = [asyncio.create_task(one()) for _ in range(50)]
        await asyncio.sleep(0.3)
        vault.write("secret/connections/a", {"one": 2})
        return list(await asyncio.gather(*waiting))

    events = asyncio.run(wait())
    assert {sensor.execute_complete({}, each) for each in events} == {2}
    assert len(vault.calls(path="secret/metadata/*")) < 50
    assert not vault.calls(path="secret/data/*")


def test_the_sensor_ends_when_denied_or_late(vault: LocalVault) -> None:
    sensor = VaultSecretVersionSensor(task_id="t", path="a", mount="closed", timeout=5)
    late = VaultSecretVersionTrigger(path="a", poll_interval=0.1, deadline=time.time() - 1)
    denied = VaultSecretVersionTrigger(path="a", mount="closed")

    async def event(trigger: VaultSecretVersionTrigger) -> Any:
        return (await anext(trigger.run())).payload

    with pytest.raises(AirflowFailException, match="closed/metadata/a"):
        sensor.execute_complete({}, asyncio.run(event(denied)))
    with pytest.raises(AirflowSensorTimeout, match="no version above 0 after 5 s"):
        sensor.execute_complete({}, asyncio.run(event(late)))
    for unknown in (None, {"status": "well"}):
        with pytest.raises(ValueError, match="is none of VaultSecretVersionTrigger"):
            sensor.execute_complete({}, unknown)
    with pytest.raises(AirflowFailException, match="newer_than='x'"):
        VaultSecretVersionSensor(task_id="t", path="a", newer_than="x").execute({})
