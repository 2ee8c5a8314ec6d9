"""Routes, patterns, bundles, prefetch and teams; audit lines; one login before a fork."""

from __future__ import annotations

import gc
import json
import logging
import os
import secrets
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from airflow.sdk._shared.secrets_masker import redact
from airflow.sdk.execution_time import supervisor

from airflow_ext.secrets.vault import VaultBackend
from airflow_ext.testing.vault import LocalVault
from tests.unit.secrets.conftest import MakeBackend


def test_routes_say_where_ids_of_a_pattern_are(vault: LocalVault, make_backend: MakeBackend) -> None:
    vault.mount("team")
    vault.mount("old", version=1)
    vault.policy("airflow", {"team/*": ["read"], "old/*": ["read"], "secret/data/*": ["read"]})
    vault.write("team/red/db/warehouse", {"conn_uri": "http://red"})
    vault.write("old/conns/legacy_a", {"conn_uri": "http://old"})
    vault.write("secret/connections/other", {"conn_uri": "http://other"})
    routes = [
        {"pattern": "(red|blue)__(.*)", "mount": "team", "path": "{1}/db/{2}"},
        {"pattern": "legacy_.*", "mount": "old", "path": "conns", "kv": 1, "kind": "connection"},
    ]
    backend = make_backend(routes=json.dumps(routes))
    assert backend.get_conn_value("red__warehouse") == "http://red"
    assert backend.get_conn_value("legacy_a") == "http://old"
    assert backend.get_conn_value("other") == "http://other"
    assert backend.get_variable("legacy_a") is None
    assert [each.path for each in backend.places("variable", "legacy_a")] == ["variables/legacy_a"]


@pytest.mark.parametrize(
    "arguments",
    [{"include": "wh_.*"}, {"exclude": ["loc.*", "x"]}, {"include": '["wh_.*"]', "exclude": "wh_no"}],
    ids=["include", "exclude", "both"],
)
def test_ids_that_are_left_out_cost_no_call(
    vault: LocalVault, make_backend: MakeBackend, arguments: dict[str, Any]
) -> None:
    backend = make_backend(**arguments)
    assert backend.get_conn_value("local") is None
    assert vault.calls() == []
    backend.get_conn_value("wh_a")
    assert len(vault.calls(path="secret/data/*")) == 1


def test_a_bundle_is_one_read_for_many_connections(vault: LocalVault, make_backend: MakeBackend) -> None:
    entries = {f"c{number}": f"http://h{number}" for number in range(40)}
    vault.write("secret/connections/all", {**entries, "f": {"conn_type": "http", "host": "f"}, "bad": 7})
    vault.write("secret/connections/alone", {"conn_uri": "http://alone"})
    backend = make_backend(bundles="connections/all", on_error="fall_through")
    assert [backend.get_connection(f"c{number}").host for number in range(40)] == [f"h{n}" for n in range(40)]
    assert backend.get_connection("f").host == "f"
    assert len(vault.calls()) == 2
    assert backend.get_connection("alone").host == "alone"
    assert backend.get_connection("bad") is None


def test_ten_thousand_ids_are_one_read_from_a_bundle_and_all_masked(
    vault: LocalVault, make_backend: MakeBackend
) -> None:
    made = {f"c{number}": {"conn_type": "http", "password": secrets.token_hex(9)} for number in range(10_000)}
    vault.write("secret/connections/all", made)
    backend = make_backend(bundles="connections/all")
    for key, fields in made.items():
        assert json.loads(str(backend.get_conn_value(key))) == fields
    assert len(vault.calls()) == 2
    assert str(redact(f"x {made['c5000']['password']}")) == "x ***"


def test_ids_that_are_missing_cost_a_call_each_and_are_remembered(
    vault: LocalVault, make_backend: MakeBackend
) -> None:
    backend = make_backend()
    for _ in range(2):
        for number in range(100):
            assert backend.get_conn_value(f"missing_{number}") is None
    assert len(vault.calls(path="auth/*")) == 1
    assert len(vault.calls(path="secret/data/*")) == 100


def test_prefetch_reads_together_with_one_login(vault: LocalVault, make_backend: MakeBackend) -> None:
    for number in range(20):
        vault.write(f"secret/connections/c{number}", {"conn_uri": f"http://h{number}"})
    backend = make_backend(prefetch=[f"c{number}" for number in range(20)])
    assert vault.calls() == []
    assert backend.get_conn_value("c7") == "http://h7"
    assert len(vault.calls()) == 21
    vault.seal()
    assert backend.get_conn_value("c19") == "http://h19"


def test_a_worker_of_one_team_is_told_so(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, make_backend: MakeBackend
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    vault.write("secret/connections/red/a", {"conn_uri": "http://red"})
    assert make_backend(team_name="red").get_conn_value("a") == "http://red"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"routes": [{"path": "x"}]}, "routes: each is an object"),
        ({"routes": [{"pattern": "(", "path": "x"}]}, "no regular expression"),
        ({"routes": "{"}, "routes is text that is no JSON"),
        ({"routes": [{"pattern": "x", "kind": "pool"}]}, "routes: kind='pool'"),
        ({"include": "["}, "no JSON"),
        ({"bundles": "x", "mount_point": None}, "bundles need mount_point"),
        ({"lease_scope": "none"}, "lease_scope='none'"),
    ],
    ids=["no pattern", "pattern", "text", "kind", "include", "bundles", "scope"],
)
def test_wrong_layouts_are_named(make_backend: MakeBackend, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make_backend(**arguments)


def test_every_access_is_one_audit_line_without_values(
    vault: LocalVault, make_backend: MakeBackend, password: str, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    vault.write("secret/connections/a", {"conn_type": "http", "login": "me", "password": password})
    backend = make_backend(audit_file=str(file))
    for key in ("a", "a", "b"):
        backend.get_connection(key)
    vault.seal()
    with pytest.raises(Exception, match="sealed"):
        backend.get_variable("v")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(each["id"], each["source"], each["found"]) for each in lines] == [
        *(("a", "vault", True), ("a", "cache", True), ("b", "vault", False), ("v", "error", False)),
    ]
    assert lines[0]["version"] == 1
    assert lines[0]["path"] == "secret/connections/a"
    assert lines[0]["ms"] > 0
    assert password not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_memory_serves_is_not_in_the_log_not_even_while_vault_does_not_answer(
    vault: LocalVault, make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    vault.write("secret/connections/a", {"conn_uri": "http://a"})
    backend = make_backend(clock=lambda: now[0])
    caplog.set_level(logging.INFO, "airflow_ext.vault.audit")
    for seconds in (0.0, 61.0):
        now[0] += seconds
        for _ in range(3):
            assert backend.get_connection("a") is not None
        vault.seal()
    told = [json.loads(each.partition(": ")[2])["source"] for each in caplog.messages if "access" in each]
    assert told == ["vault", "stale"]


def test_a_supervisor_logs_in_once_for_all_the_tasks_it_forks(
    vault: LocalVault, make_backend: MakeBackend
) -> None:
    vault.write("secret/connections/a", {"conn_uri": "http://a"})
    _run_tasks(make_backend(), 5)
    assert len(vault.calls(path="auth/approle/login")) == 1
    assert len(vault.calls(path="secret/*")) == 5


@pytest.mark.parametrize(("later", "logins"), [(61, 1), (5, 2)], ids=["looked up in time", "told by a task"])
def test_a_token_that_died_in_the_supervisor_is_replaced_for_all_tasks(
    vault: LocalVault, make_backend: MakeBackend, later: float, logins: int
) -> None:
    """Within a minute after it was looked up, the first task that finds it dead says so."""
    vault.write("secret/connections/a", {"conn_uri": "http://a"})
    now = [1000.0]
    backend = make_backend(clock=lambda: now[0])
    _run_tasks(backend, 1)
    vault.expire_tokens()
    vault.forget_calls()
    now[0] += later
    _run_tasks(backend, 20)
    assert len(vault.calls(path="auth/approle/login")) == logins
    assert len(vault.calls(path="secret/data/connections/a", status=200)) == 20


def _run_tasks(backend: VaultBackend, count: int) -> None:
    """Look a connection up in forked processes; the fork of a task happens below ``supervise_task``."""
    gc.collect()  # else backends that tests before this one left behind would log in, too

    def fork_many() -> None:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                ended = 1
                try:
                    ended = 0 if backend.get_conn_value("a") == "http://a" else 2
                finally:
                    os._exit(ended)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    code = fork_many.__code__.replace(co_name="supervise_task")
    scope = {**globals(), "__name__": supervisor.__name__}
    FunctionType(code, scope, None, None, fork_many.__closure__)()
