"""What the check tells about a Vault, and that it reads no secret."""

from __future__ import annotations

import pytest

from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.check import check
from tests.unit.vault.conftest import MakeClient

FOLDERS = [("secret", "connections")]


def test_a_vault_in_order_has_no_problems_and_no_secret_is_read(
    vault: LocalVault, make_client: MakeClient
) -> None:
    found = check(make_client(), FOLDERS)
    assert found.ok
    assert (found.reachable, found.sealed, found.logged_in) == (True, False, True)
    assert found.version
    assert found.token_ttl is not None
    assert 3500 < found.token_ttl <= 3600
    assert found.capabilities == {"secret/data/connections/airflow-ext-probe": ("read",)}
    assert [call.status for call in vault.calls(path="secret/*")] == [404]  # the probe; nothing is there


def test_the_root_token_has_no_end_and_may_all(vault: LocalVault, make_client: MakeClient) -> None:
    found = check(make_client(auth_type="token", token=vault.root_token), FOLDERS)
    assert found.ok
    assert found.token_ttl is None


@pytest.mark.parametrize(
    ("mount", "version", "told"),
    [
        ("nowhere", 2, "mount 'nowhere' does not exist"),
        ("secret", 1, "mount 'secret' is KV version 2, but kv_engine_version=1: set it to 2"),
        ("transit", 2, "mount 'transit'"),
    ],
    ids=["no mount", "version", "other engine"],
)
def test_a_wrong_mount_is_told_also_to_a_token_that_may_all(
    vault: LocalVault, make_client: MakeClient, mount: str, version: int, told: str
) -> None:
    vault.mount("transit", kind="transit")
    client = make_client(auth_type="token", token=vault.root_token, kv_engine_version=version)
    found = check(client, [(mount, "connections"), (mount, "variables")])
    assert len(found.problems) == 1
    assert told in found.problems[0]


def test_a_wrong_version_is_told_in_place_of_a_policy_for_it(make_client: MakeClient) -> None:
    found = check(make_client(kv_engine_version=1), FOLDERS)
    assert found.problems == ("mount 'secret' is KV version 2, but kv_engine_version=1: set it to 2",)


def test_a_missing_policy_is_written_out(make_client: MakeClient) -> None:
    found = check(make_client(), [*FOLDERS, ("secret", "variables")])
    assert found.logged_in
    assert len(found.problems) == 1
    assert 'path "secret/data/variables/*" { capabilities = ["read"] }' in found.problems[0]


def test_a_sealed_vault_is_told(vault: LocalVault, make_client: MakeClient) -> None:
    client = make_client()
    vault.seal()
    found = check(client, FOLDERS)
    assert (found.reachable, found.sealed, found.logged_in) == (True, True, False)
    assert "is sealed" in found.problems[0]


def test_a_vault_that_is_not_there_is_told(vault: LocalVault, make_client: MakeClient) -> None:
    client = make_client()
    vault.stop()
    found = check(client, FOLDERS)
    assert not found.reachable
    assert "check url" in found.problems[0]


@pytest.mark.parametrize("kind", ["approle", "token"])
def test_refused_credentials_are_told(vault: LocalVault, make_client: MakeClient, kind: str) -> None:
    arguments = {"approle": {"role_id": "no", "secret_id": "such"}, "token": {"token": "no-such-token"}}[kind]
    found = check(make_client(auth_type=kind, **arguments), FOLDERS)
    assert found.reachable
    assert not found.logged_in
    assert len(found.problems) == 1
    assert "no-such-token" not in found.problems[0]


def test_a_token_that_may_not_look_itself_up_is_not_told_as_dead_for_sure(
    vault: LocalVault, make_client: MakeClient
) -> None:
    root = make_client(auth_type="token", token=vault.root_token)
    body = {"policies": ["reader"], "no_default_policy": True}
    made = root.transport.request("POST", "auth/token/create", token=root.token(), body=body)
    found = check(make_client(auth_type="token", token=made.body["auth"]["client_token"]), FOLDERS)
    (problem,) = found.problems
    assert "expired or was revoked, or lacks the policy 'default'" in problem
