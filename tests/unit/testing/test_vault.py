"""The local server keeps to the documented interface, as hvac and plain HTTP see it."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_ext.testing.vault import LocalVault
from tests.paths import ROOT


@pytest.fixture
def vault() -> Iterator[LocalVault]:
    with LocalVault() as server:
        yield server


@pytest.fixture
def root(vault: LocalVault) -> Iterator[httpx.Client]:
    headers = {"X-Vault-Token": vault.root_token}
    with httpx.Client(base_url=f"{vault.url}/v1/", headers=headers) as client:
        yield client


@pytest.fixture
def nobody(vault: LocalVault) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{vault.url}/v1/") as client:
        yield client


def test_the_content_type_is_exactly_what_hvac_looks_for(root: httpx.Client) -> None:
    for path in ("sys/mounts", "secret/data/nothing", "nowhere/x"):
        answer = root.get(path)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"


def test_hvac_logs_in_reads_writes_lists_and_renews(vault: LocalVault) -> None:
    import hvac  # type: ignore[import-untyped]  # it ships no types

    vault.policy("all", {"secret/*": ["create", "read", "update", "delete", "list"]})
    client = hvac.Client(url=vault.url, token="")
    try:
        client.auth.approle.login(*vault.approle("airflow", policies=["all"]))
        assert client.is_authenticated()
        kv = client.secrets.kv.v2
        kv.create_or_update_secret("a/b", {"one": 1}, cas=0)
        with pytest.raises(hvac.exceptions.InvalidRequest, match="did not match"):
            kv.create_or_update_secret("a/b", {"one": 2}, cas=0)
        kv.create_or_update_secret("a/b", {"one": 2})
        assert kv.read_secret_version("a/b", raise_on_deleted_version=True)["data"]["data"] == {"one": 2}
        assert kv.read_secret_version("a/b", version=1, raise_on_deleted_version=True)["data"]["data"] == {
            "one": 1
        }
        assert kv.list_secrets("a")["data"]["keys"] == ["b"]
        kv.delete_latest_version_of_secret("a/b")
        with pytest.raises(hvac.exceptions.InvalidPath):
            kv.read_secret_version("a/b", raise_on_deleted_version=True)
        gone = kv.read_secret_version("a/b", raise_on_deleted_version=False)["data"]
        assert gone["data"] is None
        assert gone["metadata"]["deletion_time"]
        kv.undelete_secret_versions("a/b", [2])
        assert kv.read_secret_metadata("a/b")["data"]["current_version"] == 2
        assert client.auth.token.renew_self(increment="10m")["auth"]["lease_duration"] == 600
        client.auth.token.revoke_self()
        assert not client.is_authenticated()
    finally:
        client.adapter.close()


def test_kv_version_1(root: httpx.Client, vault: LocalVault) -> None:
    assert root.post("sys/mounts/old", json={"type": "kv", "options": {"version": "1"}}).status_code == 204
    assert root.put("old/a/b", json={"one": 1}).status_code == 204
    assert root.get("old/a/b").json()["data"] == {"one": 1}
    assert root.request("LIST", "old/a/").json()["data"] == {"keys": ["b"]}
    assert root.get("old/a", params={"list": "true"}).json()["data"] == {"keys": ["b"]}
    assert root.delete("old/a/b").status_code == 204
    missing = root.get("old/a/b")
    assert (missing.status_code, missing.json()) == (404, {"errors": []})


def test_a_merge_patch_changes_single_keys(root: httpx.Client, vault: LocalVault) -> None:
    vault.write("secret/a", {"one": 1, "two": 2})
    headers = {"Content-Type": "application/merge-patch+json"}
    body = json.dumps({"data": {"two": None, "three": 3}})
    assert root.patch("secret/data/a", content=body, headers=headers).status_code == 200
    assert root.get("secret/data/a").json()["data"]["data"] == {"one": 1, "three": 3}


def test_only_ten_versions_are_kept(root: httpx.Client, vault: LocalVault) -> None:
    for number in range(12):
        vault.write("secret/a", {"number": number})
    assert root.get("secret/data/a?version=2").status_code == 404
    assert root.get("secret/metadata/a").json()["data"]["oldest_version"] == 3


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("secret/data/nothing", 404, {"errors": []}),
        ("nowhere/x", 404, {"errors": ['no handler for route "nowhere/x". route entry not found.']}),
    ],
    ids=["no secret", "no mount"],
)
def test_what_is_missing(root: httpx.Client, path: str, status: int, body: dict[str, Any]) -> None:
    answer = root.get(path)
    assert (answer.status_code, answer.json()) == (status, body)


def test_a_versioned_engine_hints_at_the_right_path(root: httpx.Client, vault: LocalVault) -> None:
    vault.write("secret/a", {"one": 1})
    answer = root.get("secret/a")
    assert answer.status_code == 404
    assert "versioned K/V" in answer.json()["warnings"][0]


@pytest.mark.parametrize("token", ["", "hvs.unknown"], ids=["none", "unknown"])
def test_without_a_living_token_everything_is_denied(nobody: httpx.Client, token: str) -> None:
    for path in ("secret/data/nothing", "auth/token/lookup-self", "sys/mounts"):
        assert nobody.get(path, headers={"X-Vault-Token": token} if token else {}).status_code == 403


def test_a_path_no_policy_allows_is_denied_whether_or_not_it_exists(
    nobody: httpx.Client, vault: LocalVault
) -> None:
    vault.write("secret/there", {"one": 1})
    nobody.headers["Authorization"] = f"Bearer {vault.token(policies=[])}"
    assert [nobody.get(f"secret/data/{name}").status_code for name in ("there", "not")] == [403, 403]
    assert nobody.get("auth/token/lookup-self").json()["data"]["policies"] == ["default"]


def test_the_longest_pattern_decides_and_deny_wins(
    root: httpx.Client, nobody: httpx.Client, vault: LocalVault
) -> None:
    hcl = (
        'path "secret/data/*" { capabilities = ["read", "list"] }\n'
        "# but not this one\n"
        'path "secret/data/private/*" { capabilities = ["deny"] }\n'
        'path "secret/data/+/shared" { capabilities = ["update"] }\n'
    )
    assert root.put("sys/policies/acl/p", json={"policy": hcl}).status_code == 204
    nobody.headers["X-Vault-Token"] = vault.token(policies=["p"])
    paths = ["secret/data/a", "secret/data/private/a", "secret/data/x/shared", "kv/a"]
    told = nobody.post("sys/capabilities-self", json={"paths": paths}).json()
    assert [told[path] for path in paths] == [["list", "read"], ["deny"], ["update"], ["deny"]]
    assert told["data"][paths[0]] == told[paths[0]]


def test_a_policy_of_another_form_is_refused(root: httpx.Client) -> None:
    policy = 'path "x" { capabilities = ["read"] min_wrapping_ttl = "1s" }'
    assert root.put("sys/policies/acl/p", json={"policy": policy}).status_code == 400


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "missing role_id"),
        ({"role_id": "x"}, "invalid role or secret ID"),
        ({"role_id": "right"}, "missing secret_id"),
        ({"role_id": "right", "secret_id": "x"}, "invalid role or secret ID"),
    ],
    ids=["nothing", "wrong role", "no secret", "wrong secret"],
)
def test_wrong_approle_logins_are_refused(
    nobody: httpx.Client, vault: LocalVault, body: dict[str, str], told: str
) -> None:
    role_id, _ = vault.approle("airflow", policies=[])
    sent = {key: role_id if value == "right" else value for key, value in body.items()}
    answer = nobody.post("auth/approle/login", json=sent)
    assert (answer.status_code, answer.json()) == (400, {"errors": [told]})


def test_secret_ids_are_used_up_and_expire(
    root: httpx.Client, nobody: httpx.Client, vault: LocalVault
) -> None:
    settings = {"token_policies": "a,b", "token_ttl": "90s", "secret_id_num_uses": 1, "secret_id_ttl": "10m"}
    assert root.post("auth/approle/role/r", json=settings).status_code == 204
    role_id = root.get("auth/approle/role/r/role-id").json()["data"]["role_id"]

    def login(secret_id: str) -> httpx.Response:
        return nobody.post("auth/approle/login", json={"role_id": role_id, "secret_id": secret_id})

    first, second = (root.post("auth/approle/role/r/secret-id").json()["data"] for _ in range(2))
    assert first["secret_id_ttl"] == 600
    auth = login(first["secret_id"]).json()["auth"]
    assert (auth["lease_duration"], auth["policies"]) == (pytest.approx(90, abs=1), ["a", "b", "default"])
    assert login(first["secret_id"]).status_code == 400
    vault.advance(601)
    assert login(second["secret_id"]).status_code == 400


def test_tokens_end_with_their_parents_and_with_time(
    root: httpx.Client, nobody: httpx.Client, vault: LocalVault
) -> None:
    parent = root.post("auth/token/create", json={"policies": ["root"], "ttl": "1h"}).json()["auth"]
    use = {"X-Vault-Token": parent["client_token"]}
    child = nobody.post("auth/token/create", json={"policies": ["p"], "ttl": 60}, headers=use).json()["auth"]
    orphan = nobody.post("auth/token/create-orphan", json={"policies": ["p"]}, headers=use).json()["auth"]
    assert nobody.post("auth/token/revoke-self", headers=use).status_code == 204

    def lives(auth: dict[str, str]) -> bool:
        headers = {"X-Vault-Token": auth["client_token"]}
        return nobody.get("auth/token/lookup-self", headers=headers).status_code == 200

    assert [lives(each) for each in (parent, child, orphan)] == [False, False, True]
    vault.advance(33 * 86400)
    assert not lives(orphan)


def test_renewal_counts_from_now_and_ends_at_the_most(
    root: httpx.Client, nobody: httpx.Client, vault: LocalVault
) -> None:
    made = root.post("auth/token/create", json={"policies": ["p"], "ttl": 600, "explicit_max_ttl": 900})
    nobody.headers["X-Vault-Token"] = made.json()["auth"]["client_token"]
    vault.advance(500)
    answer = nobody.post("auth/token/renew-self", json={"increment": "10m"}).json()
    assert answer["auth"]["lease_duration"] == pytest.approx(400, abs=2)
    assert "value is capped" in answer["warnings"][0]


def test_uses_of_a_token_are_counted(root: httpx.Client, nobody: httpx.Client) -> None:
    made = root.post("auth/token/create", json={"policies": ["p"], "num_uses": 2}).json()["auth"]
    nobody.headers["X-Vault-Token"] = made["client_token"]
    assert [nobody.get("auth/token/lookup-self").status_code for _ in range(3)] == [200, 200, 403]


def test_sealing_leaves_only_health(root: httpx.Client, vault: LocalVault) -> None:
    assert root.get("sys/health").status_code == 200
    vault.seal()
    assert root.get("secret/data/a").json() == {"errors": ["Vault is sealed"]}
    assert root.get("sys/health").status_code == 503
    assert root.get("sys/health?sealedcode=299").status_code == 299
    assert root.get("sys/seal-status").json()["sealed"] is True
    vault.unseal()
    assert root.get("secret/data/a").status_code == 404


def test_a_mount_tells_its_version_to_those_who_may_read_below(
    root: httpx.Client, nobody: httpx.Client, vault: LocalVault
) -> None:
    vault.policy("p", {"secret/data/connections/*": ["read"]})
    told = root.get("sys/internal/ui/mounts/secret/connections/x").json()["data"]
    assert told == {"path": "secret/", "type": "kv", "options": {"version": "2"}}
    nobody.headers["X-Vault-Token"] = vault.token(policies=["p"])
    assert nobody.get("sys/internal/ui/mounts/secret").status_code == 200
    vault.mount("other")
    assert nobody.get("sys/internal/ui/mounts/other").status_code == 403


def test_faults_come_as_often_as_asked_for_and_only_where(root: httpx.Client, vault: LocalVault) -> None:
    vault.fail(429, times=2, path="secret/*", retry_after=3)
    assert root.get("sys/health").status_code == 200
    answers = [root.get("secret/data/a") for _ in range(3)]
    assert [each.status_code for each in answers] == [429, 429, 404]
    assert answers[0].headers["Retry-After"] == "3"
    vault.cut()
    with pytest.raises(httpx.RemoteProtocolError):
        root.get("sys/mounts")
    vault.redirect("http://elsewhere:8200")
    assert root.get("secret/data/a").headers["Location"] == "http://elsewhere:8200/v1/secret/data/a"
    vault.fail(500, times=9)
    vault.heal()
    assert root.get("sys/health").status_code == 200


def test_calls_are_listed_with_who_made_them(
    root: httpx.Client, nobody: httpx.Client, vault: LocalVault
) -> None:
    me = root.get("auth/token/lookup-self").json()["data"]["accessor"]
    root.request("LIST", "secret/metadata/")
    root.get("secret/data/a")
    nobody.get("secret/data/a")
    assert [(each.method, each.accessor == me, each.status) for each in vault.calls(path="secret/*")] == [
        ("LIST", True, 404),
        ("GET", True, 404),
        ("GET", False, 403),
    ]
    assert len(vault.calls(method="LIST")) == 1
    assert len(vault.calls(status=403)) == 1
    vault.forget_calls()
    assert vault.calls() == []


def test_what_was_written_survives_a_restart(vault: LocalVault) -> None:
    vault.write("secret/a", {"one": 1})
    url = vault.url
    vault.stop()
    vault.start()
    assert vault.url == url
    answer = httpx.get(f"{url}/v1/secret/data/a", headers={"X-Vault-Token": vault.root_token})
    assert answer.json()["data"]["data"] == {"one": 1}


def test_wrong_use_from_python_is_named(vault: LocalVault) -> None:
    with pytest.raises(ValueError, match="path='nowhere/x' is below none of the mounts secret/"):
        vault.write("nowhere/x", {})
    with pytest.raises(ValueError, match=r"mount\('secret', kind='kv', version=2"):
        vault.mount("secret")


@pytest.mark.parametrize("given", [True, False], ids=["given token", "new token"])
def test_it_runs_as_a_process_of_its_own(tmp_path: Path, given: bool) -> None:
    file = tmp_path / "root-token"
    token = secrets.token_urlsafe(32)
    if given:
        file.write_text(token)
    command = [
        sys.executable,
        "-m",
        "airflow_ext.testing.vault",
        "--port",
        "0",
        "--root-token-file",
        str(file),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            headers = {"X-Vault-Token": file.read_text()}
            assert httpx.get(f"{told['url']}/v1/sys/mounts", headers=headers).status_code == 200
            assert told["pid"] == process.pid
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    assert (file.read_text() == token) is given
    assert given or file.stat().st_mode & 0o777 == 0o600
