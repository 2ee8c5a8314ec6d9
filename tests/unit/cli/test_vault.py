"""The commands of the group ``vault``; those that read Airflow's metadata are tried on a real Airflow."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from airflow.sdk.configuration import clear_secrets_backends_cache

from airflow_ext.cli.main import main
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.client import forget_shared_clients


@pytest.fixture
def password() -> str:
    return secrets.token_urlsafe(18)


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, password: str) -> Iterator[LocalVault]:
    with LocalVault() as server:
        may = {f"secret/data/{folder}/*": ["read"] for folder in ("connections", "variables", "config")}
        server.policy("airflow", {**may, "secret/metadata/*": ["list", "read"]})
        role_id, secret_id = server.approle("airflow", policies=["airflow"])
        kwargs = {"url": server.url, "auth_type": "approle", "role_id": role_id, "secret_id": secret_id}
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "airflow_ext.secrets.vault.VaultBackend")
        kwargs["audit_file"] = str(tmp_path / "audit.jsonl")
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))
        server.write("secret/connections/team/warehouse", {"conn_type": "postgres", "password": password})
        lease = {"conn_type": "postgres", "lease": {"path": "database/creds/etl"}}
        server.write("secret/connections/leased", lease)
        yield server
        forget_shared_clients()
        clear_secrets_backends_cache()


def test_check_tells_what_works_and_what_is_missing(
    vault: LocalVault, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vault", "check"]) == 0
    told = capsys.readouterr().out
    assert f"Vault at {vault.url}: reachable" in told
    assert "logged in with approle" in told
    assert 'path "auth/token/create"' in told
    vault.seal()
    assert main(["vault", "check"]) == 1
    assert "sealed" in capsys.readouterr().out


def test_explain_names_path_version_and_keys_but_no_value(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, capsys: pytest.CaptureFixture[str], password: str
) -> None:
    assert main(["vault", "explain", "team/warehouse"]) == 0
    told = capsys.readouterr().out
    assert "secret/data/connections/team/warehouse: version 1, keys conn_type, password; used" in told
    assert password not in told
    assert main(["vault", "explain", "leased"]) == 0
    assert "leased per task from database/creds/etl" in capsys.readouterr().out
    assert not vault.calls(path="database/*")
    assert main(["vault", "explain", "nowhere"]) == 1
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    assert main(["vault", "explain", "team/warehouse"]) == 1
    assert main(["vault", "explain", "warehouse", "--team", "team"]) == 0


def test_explain_agrees_with_the_lookup(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.write("secret/connections/odd", {"conn_type": "http", "pasword": "x"})
    vault.write("secret/connections/uri", {"conn_uri": "no uri"})
    vault.write("secret/variables/v", {"valeu": "x"})
    for words, reason in (
        (["odd"], "has keys no connection has (pasword)"),
        (["uri"], "is no connection URI"),
        (["v", "--kind", "variable"], "has no key 'value'"),
    ):
        assert main(["vault", "explain", *words]) == 1
        told = capsys.readouterr().out
        assert "; refused: " in told
        assert reason in told
    kwargs = json.loads(os.environ["AIRFLOW__SECRETS__BACKEND_KWARGS"]) | {"exclude": ["team/.*"]}
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))
    clear_secrets_backends_cache()
    assert main(["vault", "explain", "team/warehouse"]) == 1
    assert "include and exclude leave 'team/warehouse' out" in capsys.readouterr().out


def test_list_and_audit(vault: LocalVault, capsys: pytest.CaptureFixture[str], password: str) -> None:
    assert main(["vault", "list"]) == 0
    assert capsys.readouterr().out.split() == ["leased", "team/warehouse"]
    from airflow.sdk import Connection

    Connection.get("team/warehouse")
    assert main(["vault", "audit", "--id", "team/warehouse"]) == 0
    told = capsys.readouterr().out
    assert '"source": "vault"' in told
    assert password not in told


def test_a_server_that_cannot_start_says_so_in_one_line(
    vault: LocalVault, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    port = vault.url.rpartition(":")[2]
    with mock.patch("signal.signal"):  # those of the tests stay
        for where, number, told in (
            (tmp_path / "token", port, f"port={port}: it cannot be had (Address already in use)"),
            (tmp_path / "token", "70000", "port=70000: it cannot be had"),
            (tmp_path, "0", f"--root-token-file {tmp_path}: it cannot be used (Is a directory)"),
            (tmp_path / "none" / "token", "0", "it cannot be used (No such file or directory)"),
        ):
            assert main(["vault", "serve-dev", "--port", number, "--root-token-file", str(where)]) == 1
            assert told in capsys.readouterr().err


def test_the_policy_that_a_refused_list_proposes_is_enough(
    vault: LocalVault, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.policy("airflow", {})
    assert main(["vault", "list"]) == 1
    proposed = re.search(r'path "(\S+)" \{ capabilities = \["list"\] \}', capsys.readouterr().err)
    assert proposed is not None
    vault.policy("airflow", {proposed[1]: ["list"]})
    assert main(["vault", "list"]) == 0
    assert capsys.readouterr().out.split() == ["leased", "team/warehouse"]


def test_without_a_backend_the_remedy_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND", raising=False)
    clear_secrets_backends_cache()
    assert main(["vault", "check"]) == 1
    assert "no Vault backend is configured" in capsys.readouterr().err


def test_wrong_arguments_of_the_backend_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "airflow_ext.secrets.vault.VaultBackend")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", '{"mountpoint": "kv"}')
    clear_secrets_backends_cache()
    assert main(["vault", "check"]) == 1
    told = "[secrets] backend_kwargs: VaultBackend does not know mountpoint; did you mean mount_point?"
    assert capsys.readouterr().err == f"airflow-ext: {told}\n"
