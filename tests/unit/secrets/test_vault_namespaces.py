"""Leases of connections whose route leads to another namespace: they come from there, and end there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_ext.hooks.vault import configured_backend, vault_connection
from airflow_ext.secrets._vault_leases import BOOK, STATE_KEY
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.sweeping import client_of, is_alive, revoke_record
from tests.unit.secrets.conftest import CLASS, DOCUMENT, Store, Task
from tests.unit.vault.leased import CREATION, REVOCATION, connect, eventually, roles

MAY = {
    "secret/data/connections/*": ["read"],
    "database/*": ["read"],
    "auth/token/create": ["create", "update"],
    "auth/token/revoke-accessor": ["update"],
}
ROUTES = [{"pattern": "red_.*", "namespace": "red", "path": "connections/{id}"}]


@pytest.fixture(autouse=True)
def _two_namespaces(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, postgres: LocalPostgres
) -> Iterator[None]:
    """Let the root namespace and ``red`` each have ``database/creds/etl``; roles of ``red`` say so."""
    connect(vault, postgres)
    password = secrets.token_urlsafe(12)
    vault.policy("airflow", MAY)
    vault.login_role("userpass", "airflow", policies=["airflow"], password=password)
    vault.admin("POST", "sys/namespaces/red", {})

    def red(path: str, body: dict[str, Any]) -> None:
        vault.admin("POST", path, body, namespace="red")

    red("sys/mounts/secret", {"type": "kv-v2"})
    red("sys/mounts/database", {"type": "database"})
    red("sys/auth/userpass", {"type": "userpass"})
    red("auth/userpass/users/airflow", {"password": password, "token_policies": ["airflow"]})
    rules = "\n".join(f'path "{path}" {{ capabilities = {json.dumps(may)} }}' for path, may in MAY.items())
    red("sys/policies/acl/airflow", {"policy": rules})
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/postgres"
    account = {"username": postgres.user, "password": postgres.password, "allowed_roles": ["*"]}
    red("database/config/main", {"connection_url": url, **account})
    creation = [*CREATION, "COMMENT ON ROLE \"{{name}}\" IS 'red';"]
    statements = {"creation_statements": creation, "revocation_statements": list(REVOCATION)}
    red("database/roles/etl", {"db_name": "main", **statements, "default_ttl": 600, "max_ttl": 3600})
    red("secret/data/connections/red_lake", {"data": DOCUMENT})
    vault.write("secret/connections/warehouse", DOCUMENT)
    arguments = {"url": vault.url, "auth_type": "userpass", "username": "airflow", "password": password}
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", CLASS)
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(arguments | {"routes": ROUTES}))
    yield
    BOOK.close_all()
    eventually(lambda: not roles(postgres))


def _reds(postgres: LocalPostgres) -> list[str]:
    rows = postgres.execute(
        "SELECT rolname FROM pg_roles WHERE shobj_description(oid, 'pg_authid') = 'red' AND rolname LIKE 'v-%'"
    )
    return [str(row[0]) for row in rows]


def test_a_lease_comes_from_the_namespace_of_its_document(postgres: LocalPostgres, task: Task) -> None:
    with task("one"):
        found, other = Connection.get("red_lake"), Connection.get("warehouse")
        assert _reds(postgres) == [found.login]
        assert other.login != found.login
        assert Connection.get("red_lake").login == found.login
    with task("two"):
        Connection.get("warehouse")  # both leases of the task before are over, as one follows the other
        eventually(lambda: not {found.login, other.login} & set(roles(postgres)))


def test_a_block_leases_from_the_namespace_of_its_document(postgres: LocalPostgres, task: Task) -> None:
    with task(), vault_connection("red_lake") as connection:
        assert _reds(postgres) == [connection.login]


def test_a_static_role_is_of_the_namespace_of_its_document(
    vault: LocalVault, postgres: LocalPostgres
) -> None:
    names = {"": "app", "red": "red_app"}
    for name in names.values():
        postgres.execute(f"CREATE ROLE {name} LOGIN")
    try:
        for namespace, name in names.items():
            settings = {"db_name": "main", "username": name, "rotation_period": 60}
            vault.admin("POST", "database/static-roles/app", settings, namespace=namespace)
        document = {**DOCUMENT, "lease": {"path": "database/static-creds/app"}}
        vault.admin("POST", "secret/data/connections/red_app", {"data": document}, namespace="red")
        vault.write("secret/connections/app", document)
        assert [Connection.get(each).login for each in ("red_app", "app")] == ["red_app", "app"]
    finally:
        for name in names.values():
            postgres.execute(f"DROP ROLE {name}")


def _left_behind(store: Store) -> dict[str, Any]:
    """Lease from both namespaces and end without revoking; return what was written down of ``red``."""
    Connection.get("warehouse")
    Connection.get("red_lake")
    for session in BOOK._sessions.values():
        session.closed = True
        assert session._warden is not None
        session._warden.dismiss(done=True)
    BOOK._sessions.clear()
    (record,) = [each for each in store.values[STATE_KEY]["sessions"] if each["namespace"] == "red"]
    return dict(record)


def test_the_next_try_revokes_what_is_left_in_each_namespace_it_asks(
    postgres: LocalPostgres, task: Task
) -> None:
    store = Store()
    with task(store=store):
        _left_behind(store)
        assert len(roles(postgres)) == 2
    with task(store=store, try_number=2):
        fresh = {Connection.get(each).login for each in ("warehouse", "red_lake")}
        eventually(lambda: set(roles(postgres)) == fresh)


def test_a_sweep_revokes_with_the_client_of_the_record(postgres: LocalPostgres, task: Task) -> None:
    store = Store()
    with task(store=store):
        record = _left_behind(store)
    backend = configured_backend()
    assert is_alive(backend.client, record) is None
    assert not revoke_record(backend.client, record)
    client = client_of(backend.lease_clients(), record)
    assert is_alive(client, record)
    assert revoke_record(client, record)
    eventually(lambda: not _reds(postgres))
    assert client_of(backend.lease_clients(), {**record, "namespace": "blue"}) is backend.client
    for each in store.values[STATE_KEY]["sessions"]:
        revoke_record(client_of(backend.lease_clients(), each), each)
