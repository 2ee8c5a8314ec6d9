"""Leases of a task: real PostgreSQL roles, made once, renewed, and gone when their session is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest

from airflow_ext.exceptions import InvalidError, VaultDeniedError, VaultUnavailableError
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.lease_model import LeaseSpec, Owner
from airflow_ext.vault.leases import LeaseSession
from tests.unit.vault.conftest import Clock, MakeClient
from tests.unit.vault.leased import MAY, connect, eventually, roles, sessions

ETL = LeaseSpec("database/creds/etl")
OWNER = Owner("flights", "manual__1", "load")

MakeSession = Callable[..., LeaseSession]


@pytest.fixture
def make_session(
    vault: LocalVault, postgres: LocalPostgres, make_client: MakeClient, clock: Clock
) -> Iterator[MakeSession]:
    made: list[LeaseSession] = []
    connect(vault, postgres, ttl=600, max_ttl=3600)
    vault.policy("etl", MAY)

    def make(client: dict[str, Any] | None = None, token_ttl: int = 300, **arguments: Any) -> LeaseSession:
        role_id, secret_id = vault.approle("etl", policies=["etl"], **(client or {}))
        client_ = make_client(auth_type="approle", role_id=role_id, secret_id=secret_id)
        defaults: dict[str, Any] = {
            "threaded": False,
            "warden": False,
            "clock": clock,
            "token_ttl": token_ttl,
        }
        made.append(LeaseSession(client_, OWNER, **(defaults | arguments)))
        return made[-1]

    yield make
    vault.heal()
    for each in made:
        each.close()
    eventually(lambda: not roles(postgres))


def test_one_lease_serves_a_task_and_ends_with_it(
    vault: LocalVault, postgres: LocalPostgres, make_session: MakeSession
) -> None:
    session = make_session()
    given = [session.credentials(ETL).fields(ETL) for _ in range(100)]
    assert len({each["login"] for each in given}) == 1
    assert roles(postgres) == [given[0]["login"]]
    connection = psycopg2.connect(
        host="127.0.0.1",
        port=postgres.port,
        dbname="postgres",
        user=given[0]["login"],
        password=given[0]["password"],
    )
    assert session.close()
    eventually(lambda: not roles(postgres) and not sessions(postgres))
    connection.close()
    with pytest.raises(InvalidError, match="has ended"):
        session.credentials(ETL)
    assert len(vault.calls(path="database/creds/etl")) == 1


def test_the_token_of_a_task_tells_vault_whose_it_is(vault: LocalVault, make_session: MakeSession) -> None:
    told: list[Any] = []
    session = make_session(remember=told.append)
    session.credentials(ETL)
    (accessor,) = told[-1]["accessors"]
    known = vault.admin("POST", "auth/token/lookup-accessor", {"accessor": accessor})
    assert (known["meta"]["dag_id"], known["meta"]["task_id"], known["ttl"]) == ("flights", "load", 300)
    assert told[-1]["leases"] == [each.id for each in vault.leases()]
    assert session.credentials(ETL).data["password"] not in str(told)


def test_a_path_that_gives_no_lease_is_refused_before_anything_is_booked(
    vault: LocalVault, make_session: MakeSession, caplog: pytest.LogCaptureFixture
) -> None:
    vault.write("secret/connections/a", {"username": "me", "password": "x"})
    vault.policy("etl", {**MAY, "secret/data/connections/*": ["read"]})
    told: list[Any] = []
    session = make_session(remember=told.append)
    caplog.set_level(logging.INFO, "airflow_ext.vault.leases")
    with pytest.raises(InvalidError, match="'secret/data/connections/a': this path gives no lease"):
        session.credentials(LeaseSpec("secret/data/connections/a"))
    assert session.close()
    assert (told, caplog.messages) == ([], [])


def test_two_tasks_have_leases_of_their_own(postgres: LocalPostgres, make_session: MakeSession) -> None:
    one, two = make_session(), make_session()
    assert one.credentials(ETL).data["username"] != two.credentials(ETL).data["username"]
    one.close()
    eventually(lambda: roles(postgres) == [two.credentials(ETL).data["username"]])


@pytest.mark.parametrize("scope", ["child", "login", "shared"])
def test_eight_hours_are_renewed_without_a_gap(
    vault: LocalVault, postgres: LocalPostgres, make_session: MakeSession, clock: Clock, scope: str
) -> None:
    vault.policy("etl", MAY | {"sys/leases/revoke": ["update"]})
    session = make_session(client={"token_ttl": 900}, scope=scope)
    pause, names = 0.0, set()
    for second in range(0, 8 * 3600, 20):
        if second >= pause:
            pause = second + session.renew_due()
        if second % 300 == 0:
            given = session.credentials(ETL)
            names.add(given.data["username"])
            assert given.data["username"] in roles(postgres)
        clock.advance(20)
        vault.advance(20)
    assert 8 <= len(names) <= 20  # the longest time of a role is an hour
    assert session.close()


def test_leases_of_a_worker_whose_token_is_near_its_longest_time_outlive_it(
    vault: LocalVault, postgres: LocalPostgres, make_session: MakeSession, clock: Clock
) -> None:
    session = make_session(client={"token_ttl": 900, "token_max_ttl": 1800})
    session.client.token()  # as the worker does before it forks its tasks
    for _ in range(17):
        clock.advance(100)
        vault.advance(100)
        session.client.auth.renew()
    first = session.credentials(ETL).data["username"]
    for _ in range(60):
        clock.advance(20)
        vault.advance(20)
        session.renew_due()
    vault._routes.tick()  # the token of before has ended by now
    assert first in roles(postgres)
    assert session.credentials(ETL).data["username"] == first
    assert session.close()
    eventually(lambda: vault.tokens() == 0)  # also the one it logged in for


def test_a_token_of_the_worker_that_lives_shortly_is_renewed_in_time(make_session: MakeSession) -> None:
    session = make_session(client={"token_ttl": 40})
    session.credentials(ETL)
    assert session.renew_due() <= 20


def test_shared_leases_that_ended_with_the_token_of_the_worker_are_not_given(
    vault: LocalVault, postgres: LocalPostgres, make_session: MakeSession, clock: Clock
) -> None:
    vault.policy("etl", MAY | {"sys/leases/revoke": ["update"]})
    session = make_session(client={"token_ttl": 900, "token_max_ttl": 1000}, scope="shared")
    first = session.credentials(ETL).data["username"]
    for _ in range(55):
        clock.advance(20)
        vault.advance(20)
        session.renew_due()
    vault._routes.tick()
    assert session.credentials(ETL).data["username"] != first
    assert session.credentials(ETL).data["username"] in roles(postgres)


def test_a_token_that_cannot_be_replaced_is_used_as_long_as_it_lives(
    vault: LocalVault, make_session: MakeSession, clock: Clock
) -> None:
    session = make_session(client={"token_ttl": 900, "secret_id_num_uses": 1})
    session.client.token()
    for _ in range(5):
        clock.advance(300)
        vault.advance(300)
        session.client.auth.renew()
    assert session.credentials(ETL).data["username"]
    assert len(vault.calls(path="auth/approle/login", status=400)) == 1


def test_a_policy_without_child_tokens_costs_a_login_instead(
    vault: LocalVault, make_session: MakeSession, caplog: pytest.LogCaptureFixture
) -> None:
    vault.policy("etl", {"database/creds/*": ["read"]})
    session = make_session()
    with caplog.at_level("INFO"):
        session.credentials(ETL)
    assert session.scope == "login"
    assert len(vault.calls(path="auth/approle/login")) == 2
    assert (
        vault.admin("POST", "auth/token/lookup-accessor", {"accessor": session.ids()["accessors"][0]})["ttl"]
        <= 300
    )
    assert "no child token" in caplog.text


def test_a_refused_renewal_makes_the_next_lookup_rotate(
    vault: LocalVault, make_session: MakeSession, clock: Clock
) -> None:
    session = make_session(client={"token_ttl": 7200}, token_ttl=7200)
    first = session.credentials(ETL).data["username"]
    vault.fail(400, path="sys/leases/renew")
    clock.advance(201)
    vault.advance(201)
    session.renew_due()
    assert session.credentials(ETL).data["username"] == first  # it lives on for a while
    clock.advance(201)
    vault.advance(201)
    assert session.credentials(ETL).data["username"] != first


def test_a_token_that_dies_mid_task_is_replaced_at_the_next_lookup(
    vault: LocalVault, postgres: LocalPostgres, make_session: MakeSession, clock: Clock
) -> None:
    session = make_session()
    first = session.credentials(ETL).data["username"]
    vault.expire_tokens()
    eventually(lambda: not roles(postgres))
    clock.advance(101)
    session.renew_due()
    assert session.credentials(ETL).data["username"] not in ("", first)


def test_an_outage_during_renewal_is_survived_and_nothing_stale_is_given(
    vault: LocalVault, make_session: MakeSession, clock: Clock
) -> None:
    session = make_session(client={"token_ttl": 7200}, token_ttl=7200)
    first = session.credentials(ETL).data["username"]
    vault.seal()
    clock.advance(210)
    session.renew_due()
    assert session.credentials(ETL).data["username"] == first
    with pytest.raises(VaultUnavailableError):
        session.credentials(LeaseSpec("database/creds/other"))
    vault.unseal()
    clock.advance(30)
    session.renew_due()
    clock.advance(500)
    assert session.credentials(ETL).data["username"] == first


def test_a_denied_or_unknown_role_is_told(vault: LocalVault, make_session: MakeSession) -> None:
    session = make_session()
    with pytest.raises(VaultDeniedError, match="is the role known"):
        session.credentials(LeaseSpec("database/creds/unknown"))
    with pytest.raises(VaultDeniedError, match='path "aws/creds/x"'):
        session.credentials(LeaseSpec("aws/creds/x"))


def test_the_server_down_at_the_end_leaves_ids_and_a_helper_that_goes_on(
    vault: LocalVault, postgres: LocalPostgres, make_session: MakeSession, caplog: pytest.LogCaptureFixture
) -> None:
    session = make_session(warden=True)
    session.credentials(ETL)
    vault.seal()
    assert not session.close()
    assert "goes on trying" in caplog.text
    assert len(roles(postgres)) == 1
    vault.unseal()
    eventually(lambda: not roles(postgres), seconds=8)


def test_a_block_may_set_a_hard_limit(
    vault: LocalVault, postgres: LocalPostgres, make_session: MakeSession
) -> None:
    session = make_session(max_ttl=60)
    session.credentials(ETL)
    vault.advance(61)
    eventually(lambda: not roles(postgres))


@pytest.mark.parametrize("scope", ["child", "login", "shared"])
def test_the_hard_limit_holds_whatever_token_is_used(
    vault: LocalVault, postgres: LocalPostgres, make_session: MakeSession, clock: Clock, scope: str
) -> None:
    vault.policy("etl", MAY | {"sys/leases/revoke": ["update"]})
    session = make_session(max_ttl=60, scope=scope)
    first = session.credentials(ETL).data["username"]
    assert session.renew_due() <= 60
    for _ in range(2):
        clock.advance(29)
        vault.advance(29)
        session.renew_due()
        assert session.credentials(ETL).data["username"] == first
    clock.advance(3)
    vault.advance(3)
    session.renew_due()
    eventually(lambda: not roles(postgres))
    with pytest.raises(InvalidError, match="has ended"):
        session.credentials(ETL)


def test_a_token_of_a_login_is_not_granted_longer_than_the_hard_limit(
    vault: LocalVault, postgres: LocalPostgres, make_session: MakeSession, clock: Clock
) -> None:
    """So Vault ends it also where the process hangs, and nothing renews or revokes any more."""
    session = make_session(max_ttl=60, scope="login")
    session.credentials(ETL)
    clock.advance(40)
    vault.advance(40)
    session.renew_due()
    vault.advance(21)
    eventually(lambda: not roles(postgres))


def test_a_shared_lease_that_the_database_keeps_is_not_told_as_revoked(
    vault: LocalVault, postgres: LocalPostgres, make_session: MakeSession, caplog: pytest.LogCaptureFixture
) -> None:
    vault.policy("etl", MAY | {"sys/leases/revoke": ["update"]})
    session = make_session(scope="shared", warden=True)
    connect(vault, postgres, revocation=())
    name = session.credentials(ETL).data["username"]
    postgres.execute("CREATE TABLE kept (x int)")
    try:
        postgres.execute(f'ALTER TABLE kept OWNER TO "{name}"')
        with caplog.at_level("INFO"):
            assert not session.close()
        assert "Revoked" not in caplog.text
        assert "goes on trying" in caplog.text
        assert roles(postgres) == [name]
    finally:
        postgres.execute("DROP TABLE kept")
    eventually(lambda: not roles(postgres), seconds=8)  # by the helper, before the server tries again


def test_the_end_of_a_session_whose_client_may_not_log_in_any_more_is_no_error(
    vault: LocalVault, make_session: MakeSession, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    session = make_session(client={"secret_id_num_uses": 1}, scope="shared")
    session.credentials(ETL)
    clock.advance(3600)
    assert not session.close()
    assert "refused the AppRole login" in caplog.text
    vault.expire_leases()


def test_a_shared_lease_that_a_policy_keeps_is_told(
    vault: LocalVault, make_session: MakeSession, caplog: pytest.LogCaptureFixture
) -> None:
    session = make_session(scope="shared")
    session.credentials(ETL)
    with caplog.at_level("INFO"):
        assert not session.close()
    assert "Revoked" not in caplog.text
    assert 'path "sys/leases/revoke"' in caplog.text
    vault.expire_leases()
