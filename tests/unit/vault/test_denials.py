"""What is behind a 403: a path that is denied, a token that has died, or one that is not known yet."""

from __future__ import annotations

import pytest

from airflow_ext.exceptions import VaultDeniedError
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.settings import CachePolicy
from tests.unit.vault.conftest import Clock, MakeClient

X = ("secret", "connections/x")
READ = "secret/data/connections/x"
LOGIN = "auth/approle/login"
LOOKUP = "auth/token/lookup-self"


def test_a_token_that_died_soon_after_it_was_looked_up_costs_no_known_secret(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client(cache=CachePolicy(soft_ttl=20))
    client.read(*X)
    clock.advance(10)
    vault.expire_tokens()
    clock.advance(21)
    reading = client.read(*X)
    assert (reading.source, reading.document is not None) == ("vault", True)
    assert len(vault.calls(path=LOGIN)) == 2


def test_known_secrets_that_are_denied_are_forgotten_after_one_look_at_the_token(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    for number in range(10):
        vault.write(f"secret/connections/{number}", {"host": "db"})
    client = make_client(cache=CachePolicy(soft_ttl=20))
    for _ in range(2):
        for number in range(10):
            client.read("secret", f"connections/{number}")
        clock.advance(21)
    vault.policy("reader", {})
    vault.forget_calls()
    vault.fail(403, times=5, path=LOOKUP)  # as for a token without the policy default
    for number in range(10):
        for _ in range(3):
            with pytest.raises(VaultDeniedError):
                client.read("secret", f"connections/{number}")
    assert len(vault.calls(path=LOGIN)) == 1
    assert len(vault.calls(path=LOOKUP)) == 1


@pytest.mark.parametrize("refused", [1, 2], ids=["for a moment", "for longer"])
def test_a_token_just_made_that_a_standby_does_not_know_yet_is_no_denial(
    vault: LocalVault, make_client: MakeClient, clock: Clock, refused: int
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    client.token()
    client.after_fork()  # as in a task, whose supervisor logged in just before
    vault.fail(403, times=refused, path=READ)
    vault.fail(403, times=refused - 1, path="sys/capabilities-self")
    assert client.read(*X).document is not None
    assert sum(clock.slept) < 0.5
    assert vault.calls(path=LOOKUP) == []
    vault.fail(403, times=1, path="secret/data/connections/y")
    with pytest.raises(VaultDeniedError):
        client.read("secret", "connections/y")  # by now it is known
    assert len(vault.calls(path=LOGIN)) == 1


def test_a_token_that_died_as_soon_as_it_was_made_is_replaced(
    vault: LocalVault, make_client: MakeClient
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    client.token()
    vault.expire_tokens()
    assert client.read(*X).document is not None
    assert len(vault.calls(path=LOGIN)) == 2
