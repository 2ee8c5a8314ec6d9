"""Reading, caching and logging in, against the local server."""

from __future__ import annotations

import os
import threading
import traceback

import pytest

from airflow_ext.exceptions import InvalidError, VaultDeniedError, VaultUnavailableError
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault import BreakerPolicy, CachePolicy, Timeouts
from tests.unit.vault.conftest import Clock, MakeClient

X = ("secret", "connections/x")
READ = "secret/data/connections/x"
LOOKUP = "auth/token/lookup-self"
LOGIN = "auth/approle/login"


def test_a_thousand_reads_are_one_login_and_one_read(vault: LocalVault, make_client: MakeClient) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    readings = [client.read(*X) for _ in range(1000)]
    assert [each.path for each in vault.calls()] == [LOGIN, READ]
    assert readings[0].source == "vault"
    assert {each.source for each in readings[1:]} == {"cache"}
    document = readings[-1].document
    assert document is not None
    assert (document.data, document.version, document.path) == ({"host": "db"}, 1, "secret/connections/x")


def test_a_new_value_is_seen_after_the_soft_ttl(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "old"})
    client = make_client()
    client.read(*X)
    vault.write("secret/connections/x", {"host": "new"})
    clock.advance(44)
    assert client.read(*X).document.data == {"host": "old"}  # type: ignore[union-attr]  # it is there
    assert len(vault.calls(path=READ)) == 1
    clock.advance(17)
    assert client.read(*X).document.data == {"host": "new"}  # type: ignore[union-attr]  # it is there
    assert len(vault.calls(path=READ)) == 2


@pytest.mark.parametrize("deleted", [False, True], ids=["never written", "deleted"])
def test_a_missing_secret_is_none_and_remembered_for_a_while(
    vault: LocalVault, make_client: MakeClient, clock: Clock, deleted: bool
) -> None:
    if deleted:
        vault.write("secret/connections/x", {"host": "db"})
        vault.delete("secret/connections/x")
    client = make_client()
    assert [client.read(*X).document for _ in range(50)] == [None] * 50
    assert len(vault.calls(path=READ)) == 1
    vault.write("secret/connections/x", {"host": "db"})
    clock.advance(31)
    assert client.read(*X).document is not None


def test_kv_version_1_is_read_too(vault: LocalVault, make_client: MakeClient) -> None:
    vault.mount("kv1", version=1)
    vault.write("kv1/connections/x", {"host": "db"})
    document = make_client(kv_engine_version=1).read("kv1", "connections/x").document
    assert document is not None
    assert (document.data, document.version) == ({"host": "db"}, None)


# ---------------------------------------------------------------------------------------------- outages


def test_a_sealed_vault_leaves_known_secrets_readable_at_little_cost(
    vault: LocalVault, make_client: MakeClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    client.read(*X)
    clock.advance(61)
    vault.forget_calls()
    vault.seal()
    before = clock.now
    readings = [client.read(*X) for _ in range(100)]
    assert {each.source for each in readings} == {"stale"}
    assert all(each.document is not None and each.document.data == {"host": "db"} for each in readings)
    assert len(vault.calls()) <= 10
    assert clock.now - before < 1
    assert len(caplog.records) == 1
    assert "serving secret/connections/x as read 61 s ago" in caplog.text


def test_after_the_outage_the_new_value_is_read(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "old"})
    client = make_client()
    client.read(*X)
    clock.advance(61)
    vault.seal()
    assert client.read(*X).source == "stale"
    vault.unseal()
    vault.write("secret/connections/x", {"host": "new"})
    clock.advance(11)
    reading = client.read(*X)
    assert reading.source == "vault"
    assert reading.document is not None
    assert reading.document.data == {"host": "new"}


def test_nothing_is_served_past_the_hard_ttl(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    client.read(*X)
    vault.seal()
    clock.advance(3599)
    assert client.read(*X).source == "stale"
    clock.advance(11)
    with pytest.raises(VaultUnavailableError, match="sealed or not ready"):
        client.read(*X)


def test_that_a_secret_is_missing_is_also_known_during_an_outage(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    client = make_client()
    assert client.read(*X).document is None
    clock.advance(31)
    vault.seal()
    assert client.read(*X).document is None


def test_an_unknown_secret_fails_loudly_and_soon_without_a_call(
    vault: LocalVault, make_client: MakeClient
) -> None:
    client = make_client()
    vault.seal()
    for _ in range(100):
        with pytest.raises(VaultUnavailableError):
            client.read(*X)
    assert len(vault.calls()) <= 3


@pytest.mark.parametrize("status", [412, 500, 502, 503])
def test_one_bad_answer_is_asked_again(vault: LocalVault, make_client: MakeClient, status: int) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    vault.fail(status, times=2, path=READ)
    assert client.read(*X).document is not None
    assert len(vault.calls(path=READ)) == 3


def test_a_rate_limit_is_respected_for_as_long_as_vault_says(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    client.token()
    vault.fail(429, times=1, path=READ, retry_after=7)
    for _ in range(3):
        with pytest.raises(VaultUnavailableError):
            client.read(*X)
    assert len(vault.calls(path=READ)) == 1
    clock.advance(7.1)
    assert client.read(*X).document is not None


def test_a_hanging_vault_costs_one_timeout_where_a_value_is_known(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client(timeouts=Timeouts(connect=0.5, read=0.05))
    client.read(*X)
    clock.advance(61)
    vault.hang(30, times=100)
    assert {client.read(*X).source for _ in range(100)} == {"stale"}
    vault.stop()
    assert len(vault.calls(path=READ)) <= 2


def test_the_breaker_lets_one_call_try_when_its_time_is_over(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client(breaker=BreakerPolicy(failures=2, seconds=5))
    client.token()
    vault.fail(500, times=3, path=READ)
    with pytest.raises(VaultUnavailableError):
        client.read(*X)
    assert len(vault.calls(path=READ)) == 2
    clock.advance(2)
    told = r"cannot answer now \(status 500\); it is left alone for another 3 s; secret/data/"
    with pytest.raises(VaultUnavailableError, match=told):
        client.read(*X)
    clock.advance(3.1)
    with pytest.raises(VaultUnavailableError):
        client.read(*X)
    assert len(vault.calls(path=READ)) == 3
    clock.advance(5.1)
    assert client.read(*X).document is not None


def test_a_vault_that_is_gone_is_named_in_the_error(vault: LocalVault, make_client: MakeClient) -> None:
    client = make_client()
    vault.stop()
    with pytest.raises(
        VaultUnavailableError, match=r"broke off its answer \(Connection refused\); "
    ) as raised:
        client.read(*X)
    assert f"Vault at {vault.url} cannot be reached" in str(raised.value)
    assert "".join(traceback.format_exception(raised.value)).count("Traceback") == 1


# ---------------------------------------------------------------------------------------- login, refusal


def test_a_denied_path_makes_no_new_token(vault: LocalVault, make_client: MakeClient, clock: Clock) -> None:
    client = make_client()
    for number in range(100):
        with pytest.raises(VaultDeniedError, match="secret/data/other/") as raised:
            client.read("secret", f"other/{number}")
        clock.advance(0.5)
    assert raised.value.status == 403
    assert len(vault.calls(path=LOGIN)) == 1
    assert len(vault.calls(path="auth/token/lookup-self")) <= 1
    assert len(vault.calls()) <= 102


def test_a_denied_path_is_remembered(vault: LocalVault, make_client: MakeClient) -> None:
    client = make_client()
    for _ in range(50):
        with pytest.raises(VaultDeniedError, match="a policy with path"):
            client.read("secret", "other/x")
    assert len(vault.calls(path="secret/data/other/x")) == 1


def test_a_dead_token_is_replaced_by_one_login(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    client.read(*X)
    vault.expire_tokens()
    clock.advance(61)
    assert client.read(*X).source == "vault"
    assert len(vault.calls(path=LOGIN)) == 2


def test_before_tasks_a_token_is_looked_up_once_a_minute(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    client = make_client()
    first = client.token()
    for _ in range(6):
        client.auth.check()
        clock.advance(30)
    assert client.token() == first
    assert len(vault.calls(path=LOOKUP)) == 2
    vault.seal()
    clock.advance(61)
    client.auth.check()  # an outage is not the end of a token
    assert client.token() == first


def test_a_token_that_may_not_look_itself_up_is_not_replaced_again_and_again(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    client = make_client()
    client.token()
    vault.fail(403, times=100, path=LOOKUP)
    for _ in range(10):
        clock.advance(61)
        client.auth.check()
    assert len(vault.calls(path=LOGIN)) == 2
    given = make_client(auth_type="token", token=vault.token(policies=["reader"]))
    vault.forget_calls()
    given.token()
    given.auth.check()
    assert vault.calls() == []  # there is no other one


def test_a_token_about_to_end_is_replaced_before_it_is_used(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    role_id, secret_id = vault.approle("short", policies=["reader"], token_ttl=120)
    client = make_client(auth_type="approle", role_id=role_id, secret_id=secret_id)
    client.read(*X)
    clock.advance(118)
    vault.advance(118)
    client.read(*X)
    assert len(vault.calls(path=LOGIN)) == 2
    assert not vault.calls(status=403)


def test_a_refused_login_is_not_repeated_for_a_while(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    role_id, _ = vault.approle("airflow", policies=["reader"])
    client = make_client(auth_type="approle", role_id=role_id, secret_id="wrong-secret-id")
    for number in range(20):
        with pytest.raises(VaultDeniedError, match="refused the AppRole login") as raised:
            client.read("secret", f"connections/{number}")
        assert "wrong-secret-id" not in str(raised.value)
    assert len(vault.calls(path=LOGIN)) == 1
    clock.advance(31)
    with pytest.raises(VaultDeniedError):
        client.read(*X)
    assert len(vault.calls(path=LOGIN)) == 2


def test_approle_at_another_mount(vault: LocalVault, make_client: MakeClient) -> None:
    role_id, secret_id = vault.approle("airflow", policies=["reader"], mount="team-a")
    client = make_client(auth_type="approle", role_id=role_id, secret_id=secret_id, auth_mount_point="team-a")
    assert client.token()
    assert [each.path for each in vault.calls()] == ["auth/team-a/login"]


# ------------------------------------------------------------------------------------- wrong settings


@pytest.mark.parametrize(("configured", "real"), [(2, 1), (1, 2)], ids=["2 for 1", "1 for 2"])
def test_the_wrong_engine_version_is_no_missing_secret(
    vault: LocalVault, make_client: MakeClient, configured: int, real: int
) -> None:
    vault.mount("other", version=real)
    vault.write("other/connections/x", {"host": "db"})
    vault.policy("reader", {"other/*": ["read"]})
    client = make_client(kv_engine_version=configured)
    for _ in range(2):
        with pytest.raises(InvalidError, match=f"is KV version {real}, but kv_engine_version={configured}"):
            client.read("other", "connections/x")


def test_a_denial_for_the_wrong_engine_version_says_so(vault: LocalVault, make_client: MakeClient) -> None:
    with pytest.raises(VaultDeniedError, match="is KV version 2: set kv_engine_version=2"):
        make_client(kv_engine_version=1).read(*X)


def test_a_mount_that_does_not_exist_is_no_missing_secret(vault: LocalVault, make_client: MakeClient) -> None:
    client = make_client(auth_type="token", token=vault.root_token)
    with pytest.raises(InvalidError, match="mount 'sekret' does not exist"):
        client.read("sekret", "connections/x")


def test_a_failed_tls_handshake_names_the_remedy(vault: LocalVault, make_client: MakeClient) -> None:
    client = make_client(url=vault.url.replace("http://", "https://"))
    with pytest.raises(VaultUnavailableError, match="check https in url, set verify"):
        client.read(*X)


def test_a_page_instead_of_json_is_an_outage(vault: LocalVault, make_client: MakeClient) -> None:
    client = make_client()
    client.token()
    vault.html(times=3, path=READ)
    with pytest.raises(VaultUnavailableError, match=r"no JSON \(200, text/html\)"):
        client.read(*X)


def test_an_answer_that_breaks_off_is_asked_again(vault: LocalVault, make_client: MakeClient) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    client.token()
    vault.cut(times=1, path=READ)
    assert client.read(*X).document is not None


def test_the_token_does_not_follow_a_redirect_to_another_address(
    vault: LocalVault, make_client: MakeClient
) -> None:
    client = make_client()
    client.token()
    with LocalVault() as elsewhere:
        vault.redirect(elsewhere.url, path=READ)
        with pytest.raises(VaultUnavailableError, match="set url to the active node"):
            client.read(*X)
        assert elsewhere.calls() == []


def test_a_redirect_on_the_same_address_is_followed(vault: LocalVault, make_client: MakeClient) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client()
    vault.redirect(vault.url, path=READ)
    assert client.read(*X).document is not None


# --------------------------------------------------------------------------------- threads and processes


def test_many_threads_at_once_make_one_login_and_one_read(vault: LocalVault, make_client: MakeClient) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client, gate, found = make_client(), threading.Barrier(16), []

    def look() -> None:
        gate.wait()
        found.append(client.read(*X).document)

    threads = [threading.Thread(target=look) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 16
    assert all(found)
    assert [each.path for each in vault.calls()] == [LOGIN, READ]


def test_a_forked_child_uses_the_token_but_not_the_connection(
    vault: LocalVault, make_client: MakeClient
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    vault.write("secret/connections/y", {"host": "db"})
    client = make_client()
    client.read(*X)
    pid = os.fork()
    if pid == 0:  # the child ends here, whatever happens
        ended = 1
        try:
            client.read(*X)
            ended = 0 if client.read("secret", "connections/y").source == "vault" else 2
        finally:
            os._exit(ended)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    client.read("secret", "connections/y")
    assert len(vault.calls(path=LOGIN)) == 1
    assert len(vault.calls(path="secret/data/connections/y")) == 2


def test_no_secret_is_printed(vault: LocalVault, make_client: MakeClient, password: str) -> None:
    vault.write("secret/connections/x", {"password": password})
    client = make_client()
    reading = client.read(*X)
    secret_id = client.settings.secret_id
    assert secret_id is not None
    shown = f"{reading!r} {reading.document!r} {client.settings!r} {client!r}"
    assert password not in shown
    assert secret_id not in shown


def test_the_cache_forgets_the_oldest_of_very_many(
    vault: LocalVault, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_ext.vault.cache.MOST_ENTRIES", 3)
    client = make_client(cache=CachePolicy(soft_ttl=60))
    for number in range(5):
        client.read("secret", f"connections/{number}")
    vault.forget_calls()
    client.read("secret", "connections/4")
    client.read("secret", "connections/0")
    assert [each.path for each in vault.calls()] == ["secret/data/connections/0"]
