"""What any Vault-compatible server must do for us: run against the local one, and against a real one.

With ``VAULT_ADDR`` and ``VAULT_TOKEN`` of a Vault or OpenBao in dev mode each of these tests runs there as well. They
speak to the server by HTTP alone and leave nothing behind; PostgreSQL is ours, so that server must run on this machine.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from airflow_ext.exceptions import InvalidError, VaultDeniedError
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.remote_vault import RemoteVault
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault import VaultClient, VaultSettings, admin
from airflow_ext.vault.check import check
from airflow_ext.vault.lease_model import LeaseSpec, Owner
from airflow_ext.vault.leases import LeaseSession
from airflow_ext.vault.sweeping import is_alive, revoke_record
from tests.unit.vault.conftest import Clock
from tests.unit.vault.leased import CREATION, REVOCATION, eventually, roles

# Taken before a fixture empties the environment.
REAL = (os.environ.get("VAULT_ADDR", ""), os.environ.get("VAULT_TOKEN", ""))

Make = Callable[..., VaultClient]


@pytest.fixture(params=["local", *(["real"] if all(REAL) else [])])
def server(request: pytest.FixtureRequest) -> Iterator[RemoteVault]:
    with ExitStack() as stack:
        if request.param == "local":
            ours = stack.enter_context(LocalVault())
            place = (ours.url, ours.root_token)
        else:
            place = REAL
        yield stack.enter_context(RemoteVault(*place))


@pytest.fixture
def kv(server: RemoteVault) -> str:
    return server.mount("kv", version="2")


@pytest.fixture
def make(server: RemoteVault, kv: str, clock: Clock) -> Iterator[Make]:
    """Return what makes clients that may read below ``connections``."""
    policy = server.policy(
        "reader", {f"{kv}/data/connections/*": ["read"], f"{kv}/metadata/*": ["list", "read"]}
    )
    with ExitStack() as stack:

        def made(**arguments: Any) -> VaultClient:
            settings = VaultSettings(**({**server.approle(policy), **arguments}))
            client = VaultClient(settings, clock=clock, sleep=clock.sleep)
            stack.callback(client.close)
            return client

        yield made


def _write(server: RemoteVault, kv: str, path: str, data: dict[str, Any]) -> None:
    server.admin("POST", f"{kv}/data/{path}", {"data": data})


def test_reading_new_versions_and_nothing(server: RemoteVault, kv: str, make: Make, clock: Clock) -> None:
    client = make()
    assert client.read(kv, "connections/x").document is None
    _write(server, kv, "connections/x", {"host": "ä %@", "port": 5432})
    clock.advance(31)
    for version in (1, 2):
        document = client.read(kv, "connections/x").document
        assert document is not None
        assert (document.version, document.data) == (version, {"host": "ä %@", "port": 5432})
        _write(server, kv, "connections/x", {"host": "ä %@", "port": 5432})
        clock.advance(61)
    server.admin("DELETE", f"{kv}/data/connections/x")
    assert client.read(kv, "connections/x").document is None
    assert list(admin.list_names(client, kv, "connections")) == ["x"]


def test_a_denied_path_a_wrong_mount_and_a_wrong_version(server: RemoteVault, kv: str, make: Make) -> None:
    client = make()
    with pytest.raises(VaultDeniedError, match=f"{kv}/data/elsewhere/x") as denied:
        client.read(kv, "elsewhere/x")
    assert denied.value.status == 403
    with pytest.raises((VaultDeniedError, InvalidError)):
        client.read(f"nowhere-{server.ending}", "connections/x")
    kv1 = server.mount("kv", version="1")
    server.admin("POST", f"{kv1}/connections/x", {"host": "db"})
    policy = server.policy("both", {f"{kv1}/*": ["read"], f"{kv1}/data/*": ["read"]})
    wrong = make(**server.approle(policy))
    with pytest.raises(InvalidError, match="is KV version 1"):
        wrong.read(kv1, "connections/x")
    document = make(**server.approle(policy), kv_engine_version=1).read(kv1, "connections/x").document
    assert document is not None
    assert (document.data, document.version) == ({"host": "db"}, None)


def test_a_revoked_token_is_replaced_and_a_refused_login_told(
    server: RemoteVault, kv: str, make: Make, clock: Clock
) -> None:
    _write(server, kv, "connections/x", {"host": "db"})
    client = make()
    first = client.token()
    server.admin("POST", "auth/token/revoke", {"token": first})
    clock.advance(61)
    assert client.read(kv, "connections/x").document is not None
    assert client.token() != first
    with pytest.raises(VaultDeniedError, match="refused the AppRole login"):
        make(secret_id=secrets.token_hex(8)).token()


def test_a_wrapped_secret_id_and_a_user(server: RemoteVault, kv: str, make: Make) -> None:
    _write(server, kv, "connections/x", {"host": "db"})
    policy, mount = server.policy("user", {f"{kv}/data/*": ["read"]}), server.auth("approle")
    path = f"auth/{mount}/role/wrapped"
    server.admin("POST", path, {"token_policies": [policy]})
    role_id, wrapper = server.admin("GET", f"{path}/role-id")["role_id"], server.wrapped(f"{path}/secret-id")
    given = {"role_id": role_id, "secret_id": wrapper, "secret_id_wrapped": True}
    assert make(**given).read(kv, "connections/x").document is not None
    with pytest.raises(VaultDeniedError, match="did not unwrap"):
        make(**given).token()
    users, password = server.auth("userpass"), secrets.token_urlsafe(12)
    server.admin("POST", f"auth/{users}/users/me", {"password": password, "token_policies": [policy]})
    user = {"auth_type": "userpass", "auth_mount_point": users, "role_id": None, "secret_id": None}
    from airflow_ext.vault.logins import Credentials

    client = make(**user, credentials=Credentials(username="me", password=password))
    assert client.read(kv, "connections/x").document is not None


def test_writing_compares_versions_and_transit_turns_texts(server: RemoteVault, kv: str, make: Make) -> None:
    transit = server.mount("transit")
    server.admin("POST", f"{transit}/keys/k")
    policy = server.policy("writer", {f"{kv}/*": ["create", "read", "update"], f"{transit}/*": ["update"]})
    client = make(**server.approle(policy))
    assert admin.write(client, kv, "a", {"one": 1}, cas=0) == 1
    with pytest.raises(VaultDeniedError) as refused:
        admin.write(client, kv, "a", {"one": 2}, cas=0)
    assert refused.value.status == 400
    assert (admin.metadata(client, kv, "a") or {})["current_version"] == 1
    assert admin.metadata(client, kv, "b") is None
    hidden = admin.transit(client, "encrypt", transit, "k", ["ä", "b"])
    assert admin.transit(client, "decrypt", transit, "k", hidden) == ["ä", "b"]


def test_the_check_finds_what_is_allowed(kv: str, make: Make) -> None:
    found = check(make(), [(kv, "connections"), (kv, "closed")])
    assert (found.reachable, found.sealed, found.logged_in) == (True, False, True)
    assert found.capabilities[f"{kv}/data/connections/airflow-ext-probe"] == ("read",)
    assert [each.partition(" ")[0] for each in found.problems] == [f"{kv}/data/closed/airflow-ext-probe"]


@pytest.mark.parametrize("scope", ["child", "login"])
def test_a_lease_is_a_real_role_that_ends_with_its_session(
    server: RemoteVault, make: Make, postgres: LocalPostgres, clock: Clock, scope: str
) -> None:
    database = server.mount("database")
    config = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": ["*"],
        "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/postgres?sslmode=disable",
        "username": postgres.user,
        "password": postgres.password,
    }
    server.admin("POST", f"{database}/config/main", config)
    statements = {"creation_statements": list(CREATION), "revocation_statements": list(REVOCATION)}
    server.admin(
        "POST", f"{database}/roles/etl", {"db_name": "main", **statements, "default_ttl": 60, "max_ttl": 600}
    )
    may = {f"{database}/creds/etl": ["read"], "auth/token/create": ["create", "update"]}
    policy = server.policy("etl", {**may, "auth/token/revoke-accessor": ["update"]})
    client, spec = make(**server.approle(policy)), LeaseSpec(f"{database}/creds/etl")

    def session() -> LeaseSession:
        arguments: dict[str, Any] = {"scope": scope, "warden": False, "threaded": False, "clock": clock}
        return LeaseSession(client, Owner("dag", "run", "task"), **arguments)

    one, two = session(), session()
    names = [each.credentials(spec).data["username"] for each in (one, two)]
    assert set(roles(postgres)) == set(names)
    clock.advance(21)
    one.renew_due()
    assert one.credentials(spec).data["username"] == names[0]
    record = two.ids()
    if scope == "child":
        told = server.admin("POST", "auth/token/lookup-accessor", {"accessor": record["accessors"][0]})
        assert told["meta"]["dag_id"] == "dag"
    assert one.close()
    eventually(lambda: roles(postgres) == [names[1]])
    assert is_alive(client, record)
    assert revoke_record(client, record)  # as the sweep does
    eventually(lambda: roles(postgres) == [])
    two.close()
