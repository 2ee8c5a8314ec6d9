"""Tokens that are given and cannot be made anew: which 403 is theirs, and that none is their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_ext.exceptions import VaultDeniedError
from airflow_ext.testing.vault import LocalVault
from tests.unit.vault.conftest import Clock, MakeClient

X = ("secret", "connections/x")
READ = "secret/data/connections/x"
LOOKUP = "auth/token/lookup-self"


def test_a_token_needs_no_login(vault: LocalVault, make_client: MakeClient) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    make_client(auth_type="token", token=vault.token(policies=["reader"])).read(*X)
    assert [each.path for each in vault.calls()] == [READ]


def test_an_expired_token_is_told_apart_from_a_denied_path(
    vault: LocalVault, make_client: MakeClient
) -> None:
    token = vault.token(policies=["reader"])
    client = make_client(auth_type="token", token=token)
    vault.expire_tokens()
    for number in range(100):
        with pytest.raises(VaultDeniedError, match=r"denied .* expired or was revoked") as raised:
            client.read("secret", f"connections/{number % 10}")
        assert token not in str(raised.value)
    assert (raised.value.status, raised.value.path) == (403, "secret/data/connections/9")
    assert len(vault.calls(path=LOOKUP)) == 1
    assert len(vault.calls()) <= 12


def test_a_token_file_is_read_again_when_its_token_has_died(
    vault: LocalVault, make_client: MakeClient, tmp_path: Path
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    file = tmp_path / "token"
    file.write_text(vault.token(policies=["reader"]) + "\n")
    client = make_client(auth_type="token", token_path=str(file))
    client.token()
    vault.expire_tokens()
    file.write_text(vault.token(policies=["reader"]) + "\n")
    assert client.read(*X).document is not None


def test_a_token_file_that_is_renewed_after_a_denial_is_read_again(
    vault: LocalVault, make_client: MakeClient, clock: Clock, tmp_path: Path
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    file = tmp_path / "token"
    file.write_text(vault.token(policies=["reader"]))
    client = make_client(auth_type="token", token_path=str(file))
    vault.expire_tokens()
    with pytest.raises(VaultDeniedError, match="expired or was revoked"):
        client.read(*X)
    file.write_text(vault.token(policies=["reader"]))
    clock.advance(31)
    assert client.read(*X).document is not None


def test_a_missing_token_file_is_named(make_client: MakeClient, tmp_path: Path) -> None:
    file = tmp_path / "nowhere"
    with pytest.raises(VaultDeniedError, match=r"nowhere.* cannot be read"):
        make_client(auth_type="token", token_path=str(file)).read(*X)


def test_a_token_outlives_a_wrong_403(vault: LocalVault, make_client: MakeClient, clock: Clock) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client(auth_type="token", token=vault.token(policies=["reader"]))
    vault.fail(403, times=2)
    for _ in range(5):
        with pytest.raises(VaultDeniedError, match="lookup-self was refused too"):
            client.read(*X)
    vault.heal()
    assert client.read("secret", "connections/other").document is None
    clock.advance(31)
    assert client.read(*X).document is not None
    assert len(vault.calls(path=LOOKUP)) == 1


def test_a_token_that_may_not_look_itself_up_stays_in_use(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    root = make_client(auth_type="token", token=vault.root_token)
    body = {"policies": ["reader"], "no_default_policy": True}
    made = root.transport.request("POST", "auth/token/create", token=root.token(), body=body)
    client = make_client(auth_type="token", token=made.body["auth"]["client_token"])
    for _ in range(3):
        assert client.read(*X).document is not None
        with pytest.raises(VaultDeniedError, match=r"secret/data/other/x .* lacks the policy 'default'"):
            client.read("secret", "other/x")
        assert client.read("secret", "connections/never-asked").document is None
        clock.advance(61)
    assert len(vault.calls(path=LOOKUP)) == 3
    assert len(vault.calls(path=READ)) == 3


def test_an_approle_token_stays_in_use_where_its_secret_id_is_used_up(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    client.read(*X)
    clock.advance(61)
    vault.fail(403, times=1, path="secret/data/connections/y")
    vault.fail(403, times=1, path=LOOKUP)
    vault.fail(400, times=100, path="auth/approle/login")
    for number in range(5):
        with pytest.raises(VaultDeniedError, match=r"connections/y .* refused the AppRole login"):
            client.read("secret", "connections/y")
        assert client.read("secret", f"connections/{number}").document is None
    assert client.read(*X).source == "vault"
    assert len(vault.calls(path="auth/approle/login")) == 2


def test_an_empty_token_file_is_named(make_client: MakeClient, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("\n")
    with pytest.raises(VaultDeniedError, match=r"token' is empty: put a token there"):
        make_client(auth_type="token", token_path=str(file)).read(*X)
