"""Leases, database roles, other logins, wrapping and namespaces of the local server."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg2
import pytest

from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from tests.unit.vault.leased import CREATION, connect, eventually, roles, sessions


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


def test_credentials_are_real_roles_that_end_with_their_lease(
    root: httpx.Client, vault: LocalVault, postgres: LocalPostgres
) -> None:
    connect(vault, postgres, ttl=60, max_ttl=100)
    told = root.get("database/creds/etl").json()
    assert told["lease_id"].startswith("database/creds/etl/")
    assert (told["renewable"], told["lease_duration"]) == (True, 60)
    login = {"user": told["data"]["username"], "password": told["data"]["password"]}
    session = psycopg2.connect(host="127.0.0.1", port=postgres.port, dbname="postgres", **login)
    assert roles(postgres) == [login["user"]]
    renewed = root.put("sys/leases/renew", json={"lease_id": told["lease_id"], "increment": 90}).json()
    assert (renewed["lease_duration"], renewed["warnings"]) == (90, None)
    vault.advance(50)
    capped = root.put("sys/leases/renew", json={"lease_id": told["lease_id"], "increment": 90}).json()
    assert capped["lease_duration"] <= 50
    assert "exceeded the effective max_ttl" in capped["warnings"][0]
    vault.advance(51)
    eventually(lambda: not roles(postgres) and not sessions(postgres))
    with pytest.raises(psycopg2.OperationalError):
        session.cursor().execute("SELECT 1")
    session.close()
    assert root.put("sys/leases/renew", json={"lease_id": told["lease_id"]}).status_code == 400


def test_leases_end_with_the_token_that_made_them_and_its_parent(
    vault: LocalVault, postgres: LocalPostgres, nobody: httpx.Client
) -> None:
    connect(vault, postgres)
    vault.policy("etl", {"database/creds/etl": ["read"], "auth/token/create": ["create", "update"]})
    parent = vault.token(policies=["etl"])
    child = nobody.post("auth/token/create", headers={"X-Vault-Token": parent}, json={"ttl": "5m"}).json()[
        "auth"
    ]
    for token in (child["client_token"], parent):
        assert nobody.get("database/creds/etl", headers={"X-Vault-Token": token}).status_code == 200
    assert len(roles(postgres)) == 2
    assert nobody.post("auth/token/revoke-self", headers={"X-Vault-Token": parent}).status_code == 204
    eventually(lambda: not roles(postgres))
    assert vault.leases() == []


def test_a_revocation_that_fails_is_kept_and_tried_again(
    root: httpx.Client, vault: LocalVault, postgres: LocalPostgres
) -> None:
    connect(vault, postgres)
    lease = {"lease_id": root.get("database/creds/etl").json()["lease_id"]}
    vault.fail_revocations(1)
    assert root.put("sys/leases/revoke", json={**lease, "sync": True}).status_code == 400
    assert "refused" in root.put("sys/leases/lookup", json=lease).json()["data"]["revoke_error"]
    assert root.request("LIST", "sys/leases/lookup/database/creds/etl/").json()["data"]["keys"]
    vault.advance(11)
    eventually(lambda: not roles(postgres))
    assert root.put("sys/leases/lookup", json=lease).status_code == 400
    assert root.put("sys/leases/revoke", json={**lease, "sync": True}).status_code == 204


def test_a_role_without_statements_of_its_own_is_dropped_and_a_prefix_revokes_all(
    root: httpx.Client, vault: LocalVault, postgres: LocalPostgres
) -> None:
    connect(vault, postgres, creation=CREATION, revocation=())
    for _ in range(3):
        root.get("database/creds/etl")
    assert len(roles(postgres)) == 3
    assert root.put("sys/leases/revoke-prefix/database/creds/etl", json={"sync": True}).status_code == 204
    assert roles(postgres) == []


def test_a_static_role_keeps_its_name_and_changes_its_password(
    root: httpx.Client, vault: LocalVault, postgres: LocalPostgres
) -> None:
    connect(vault, postgres)
    postgres.execute("CREATE ROLE app LOGIN")
    try:
        settings = {"db_name": "main", "username": "app", "rotation_period": 60}
        assert root.post("database/static-roles/app", json=settings).status_code == 204
        first = root.get("database/static-creds/app").json()["data"]
        assert (first["username"], first["rotation_period"]) == ("app", 60)
        assert first["ttl"] <= 60
        psycopg2.connect(
            host="127.0.0.1", port=postgres.port, dbname="postgres", user="app", password=first["password"]
        ).close()
        assert root.post("database/rotate-role/app").status_code == 204
        assert root.get("database/static-creds/app").json()["data"]["password"] != first["password"]
        second = root.get("database/static-creds/app").json()["data"]["password"]
        vault.advance(61)
        eventually(lambda: root.get("database/static-creds/app").json()["data"]["password"] != second)
    finally:
        postgres.execute("DROP ROLE app")


def test_a_role_the_database_refuses_is_an_error_and_no_lease(
    root: httpx.Client, vault: LocalVault, postgres: LocalPostgres
) -> None:
    connect(vault, postgres, creation=('CREATE ROLE "{{name}}"; SELECT no_such_thing();',))
    assert root.get("database/creds/etl").status_code == 500
    assert (roles(postgres), vault.leases()) == ([], [])
    assert root.get("database/creds/unknown").status_code == 400


# ---------------------------------------------------------------------------------------- other logins


def _jwt(claims: dict[str, Any]) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in ({}, claims)
    ]
    return ".".join([*parts, "signature"])


def test_other_logins_let_the_right_ones_in(vault: LocalVault, nobody: httpx.Client) -> None:
    import jwt
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    vault.login_role("userpass", "ann", policies=["p"], password="right")
    names: dict[str, Any] = {
        "bound_service_account_names": ["worker"],
        "bound_service_account_namespaces": ["data"],
    }
    vault.login_role("kubernetes", "airflow", policies=["p"], **names)
    vault.login_role("github", "team", policies=["p"], bound={"token": "ghp-1"})
    vault.login_role("jwt", "airflow", policies=["p"], bound_audiences=["vault"])
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()
    vault.admin("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [public]})
    account = {"namespace": "data", "serviceaccount": {"name": "worker"}}
    signed = jwt.encode({"sub": "me", "aud": "vault", "exp": time.time() + 60}, key, algorithm="ES256")
    late = jwt.encode({"sub": "me", "aud": "vault", "exp": time.time() - 60}, key, algorithm="ES256")
    for path, right, wrong, status in (
        ("userpass/login/ann", {"password": "right"}, {"password": "no"}, 400),
        (
            "kubernetes/login",
            {"role": "airflow", "jwt": _jwt({"kubernetes.io": account})},
            {"role": "airflow", "jwt": _jwt({"kubernetes.io": {**account, "namespace": "x"}})},
            403,
        ),
        ("github/login", {"token": "ghp-1"}, {"token": "ghp-2"}, 400),
        ("jwt/login", {"role": "airflow", "jwt": signed}, {"role": "airflow", "jwt": late}, 400),
    ):
        told = nobody.post(f"auth/{path}", json=right).json()
        assert told["auth"]["policies"] == ["default", "p"]
        assert nobody.post(f"auth/{path}", json=wrong).status_code == status


def test_a_wrapped_secret_id_is_good_for_one_unwrapping(vault: LocalVault, nobody: httpx.Client) -> None:
    role_id, _ = vault.approle("airflow", policies=[])
    wrapper = vault.wrapped_secret_id("airflow")
    looked = nobody.post("sys/wrapping/lookup", json={"token": wrapper}).json()["data"]
    assert looked["creation_path"] == "auth/approle/role/airflow/secret-id"
    told = nobody.post("sys/wrapping/unwrap", headers={"X-Vault-Token": wrapper}).json()
    login = {"role_id": role_id, "secret_id": told["data"]["secret_id"]}
    assert nobody.post("auth/approle/login", json=login).status_code == 200
    assert nobody.post("sys/wrapping/unwrap", headers={"X-Vault-Token": wrapper}).status_code == 400


def test_a_namespace_has_mounts_and_policies_of_its_own(
    vault: LocalVault, root: httpx.Client, nobody: httpx.Client
) -> None:
    vault.admin("POST", "sys/namespaces/team", {})
    team = {"X-Vault-Namespace": "team"}
    vault.admin("POST", "sys/mounts/kv", {"type": "kv-v2"}, namespace="team")
    assert root.post("kv/data/a", json={"data": {"one": 1}}, headers=team).status_code == 200
    assert root.get("team/kv/data/a").json()["data"]["data"] == {"one": 1}
    assert root.get("kv/data/a").status_code == 404
    vault.admin("POST", "sys/auth/approle", {"type": "approle"}, namespace="team")
    vault.admin(
        "PUT",
        "sys/policies/acl/p",
        {"policy": 'path "kv/data/*" { capabilities = ["read"] }'},
        namespace="team",
    )
    vault.admin(
        "POST", "auth/approle/role/r", {"token_policies": ["p"], "bind_secret_id": False}, namespace="team"
    )
    role_id = vault.admin("GET", "auth/approle/role/r/role-id", namespace="team")["role_id"]
    told = nobody.post("auth/approle/login", json={"role_id": role_id}, headers=team).json()
    nobody.headers["X-Vault-Token"] = told["auth"]["client_token"]
    assert nobody.get("kv/data/a", headers=team).status_code == 200
    assert nobody.get("secret/data/a").status_code == 403
    assert nobody.get("kv/data/a", headers={"X-Vault-Namespace": "nowhere"}).status_code == 404


def test_transit_and_pki_are_real(vault: LocalVault, root: httpx.Client) -> None:
    from cryptography import x509

    vault.mount("transit", kind="transit")
    vault.mount("pki", kind="pki")
    root.post("transit/keys/k")
    plain = base64.b64encode(b"hello").decode()
    sealed = root.post("transit/encrypt/k", json={"plaintext": plain}).json()["data"]["ciphertext"]
    root.post("transit/keys/k/rotate")
    assert root.post("transit/decrypt/k", json={"ciphertext": sealed}).json()["data"]["plaintext"] == plain
    assert root.post("transit/decrypt/k", json={"ciphertext": "vault:v1:AAAA"}).status_code == 400
    root.post("pki/roles/web", json={"allowed_domains": ["example.com"]})
    issued = root.post("pki/issue/web", json={"common_name": "a.example.com", "ttl": "1h"}).json()["data"]
    found, authority = (
        x509.load_pem_x509_certificate(issued[name].encode()) for name in ("certificate", "issuing_ca")
    )
    found.verify_directly_issued_by(authority)
    assert root.post("pki/issue/web", json={"common_name": "a.other.com"}).status_code == 400
