"""The backend as Airflow uses it, against the local server."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from typing import Any
from urllib.parse import quote

import pytest
from airflow.sdk import Connection, Variable
from airflow.sdk._shared.secrets_masker import redact
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowSecretsBackendAccessDenied
from airflow.sdk.observability import stats

from airflow_ext.secrets.vault import VaultBackend
from airflow_ext.testing.vault import LocalVault
from tests.paths import ROOT
from tests.unit.secrets.conftest import MakeBackend

CLASS = "airflow_ext.secrets.vault.VaultBackend"


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, credentials: dict[str, str]) -> None:
    """Configure Airflow as for the hashicorp provider, but for the class name."""
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", CLASS)
    kwargs = {"connections_path": "connections", "mount_point": "secret", **credentials}
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))


# ------------------------------------------------------------------------------------- through Airflow


@pytest.mark.usefixtures("configured")
def test_airflow_finds_connections_and_variables(vault: LocalVault, password: str) -> None:
    fields = {"conn_type": "postgres", "host": "db", "login": "me", "password": password, "port": "5432"}
    vault.write("secret/connections/warehouse", {**fields, "extra": {"sslmode": "require"}})
    vault.write("secret/variables/colour", {"value": "blue-green"})
    found = Connection.get("warehouse")
    assert (found.host, found.login, found.password, found.port) == ("db", "me", password, 5432)
    assert found.extra_dejson == {"sslmode": "require"}
    assert Variable.get("colour") == "blue-green"


@pytest.mark.usefixtures("configured")
def test_a_thousand_lookups_in_a_task_are_one_login_and_one_read(vault: LocalVault) -> None:
    vault.write("secret/connections/warehouse", {"conn_uri": "postgres://db/app"})
    assert {Connection.get("warehouse").host for _ in range(1000)} == {"db"}
    assert len(vault.calls()) == 2


@pytest.mark.usefixtures("configured")
def test_what_vault_does_not_have_comes_from_the_next_backend(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", "http://elsewhere")
    assert Connection.get("elsewhere").host == "elsewhere"
    with pytest.raises(AirflowNotFoundException):
        Connection.get("nowhere")
    assert len(vault.calls(path="secret/data/connections/*", status=404)) == 2


@pytest.mark.usefixtures("configured")
def test_an_outage_is_not_told_as_a_missing_connection(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "http://a-wrong-one")
    vault.seal()
    with pytest.raises(AirflowSecretsBackendAccessDenied) as raised:
        Connection.get("warehouse")
    assert f"Vault at {vault.url} is sealed or not ready (status 503)" in str(raised.value)
    assert "secret/data/connections/warehouse is not known from before: try again" in str(raised.value)
    assert "".join(traceback.format_exception(raised.value)).count("Traceback") == 1


@pytest.mark.usefixtures("configured")
def test_a_denied_path_is_told_with_path_status_and_remedy(vault: LocalVault) -> None:
    vault.policy("airflow", {})
    with pytest.raises(AirflowSecretsBackendAccessDenied) as raised:
        Connection.get("warehouse")
    assert "denied secret/data/connections/warehouse (status 403)" in str(raised.value)
    assert 'path "secret/data/connections/warehouse" { capabilities = ["read"] }' in str(raised.value)


@pytest.mark.usefixtures("configured")
def test_a_hundred_config_options_are_one_login_and_one_read(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault
) -> None:
    """Airflow makes a new backend for each option it reads."""
    from airflow.sdk.configuration import conf

    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY_SECRET", "fernet")
    monkeypatch.delenv("AIRFLOW__CORE__FERNET_KEY", raising=False)
    vault.write("secret/config/fernet", {"value": "from-vault"})
    assert {conf.get("core", "fernet_key") for _ in range(100)} == {"from-vault"}
    assert len(vault.calls()) == 2


@pytest.mark.usefixtures("configured")
def test_the_server_finds_options_while_it_starts_and_connections_later(vault: LocalVault) -> None:
    """The api-server uses its own class of connections and its own dispatcher."""
    vault.write("secret/config/database", {"value": "sqlite:////tmp/from-vault.db"})
    vault.write("secret/connections/warehouse", {"conn_uri": "postgres://me:pass-word@db/app"})
    program = (
        "from airflow.configuration import conf\n"
        "print(conf.get('database', 'sql_alchemy_conn'))\n"
        "from airflow.models import Connection\n"
        "found = Connection.get_connection_from_secrets('warehouse')\n"
        "from airflow._shared.secrets_masker import redact\n"
        "print(type(found).__module__, found.host, redact('pass-word'))"
    )
    asked = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_SECRET": "database", "_AIRFLOW_PROCESS_CONTEXT": "server"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **asked, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout.splitlines()  # among lines of Airflow's log
    assert "sqlite:////tmp/from-vault.db" in told, done.stdout + done.stderr
    assert told[-1] == "airflow.models.connection db ***", done.stdout + done.stderr


def test_reads_are_counted(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, make_backend: MakeBackend
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(stats, "incr", counted.append)
    vault.write("secret/variables/colour", {"value": "blue"})
    backend = make_backend()
    for _ in range(5):
        backend.get_variable("colour")
    assert counted == ["airflow_ext.vault.reads.vault"]


# ---------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize("folder", ["connections", "/connections/"], ids=["plain", "slashes"])
def test_a_miss_is_none(make_backend: MakeBackend, folder: str) -> None:
    backend = make_backend(connections_path=folder)
    assert backend.get_conn_value("x") is None
    assert backend.get_connection("x") is None
    assert backend.get_variable("x") is None
    assert backend.get_config("x") is None


def test_several_folders_are_tried_in_order(vault: LocalVault, make_backend: MakeBackend) -> None:
    vault.write("secret/shared/connections/a", {"conn_uri": "http://shared-a"})
    vault.write("secret/shared/connections/b", {"conn_uri": "http://shared-b"})
    vault.write("secret/connections/b", {"conn_uri": "http://own-b"})
    backend = make_backend(connections_path=["connections", "shared/connections"])
    assert backend.get_conn_value("a") == "http://shared-a"
    assert backend.get_conn_value("b") == "http://own-b"


def test_global_secrets_path_is_tried_last(vault: LocalVault, make_backend: MakeBackend) -> None:
    vault.write("secret/shared/connections/a", {"conn_uri": "http://shared-a"})
    backend = make_backend(global_secrets_path="shared/connections")
    assert backend.get_conn_value("a") == "http://shared-a"


def test_no_folder_means_no_call(vault: LocalVault, make_backend: MakeBackend) -> None:
    backend = make_backend(connections_path=None, variables_path=None, config_path=None)
    assert (backend.get_conn_value("x"), backend.get_variable("x"), backend.get_config("x")) == (None,) * 3
    assert vault.calls() == []


def test_without_a_mount_point_the_id_names_it(vault: LocalVault, make_backend: MakeBackend) -> None:
    vault.mount("team")
    vault.write("team/connections/a", {"conn_uri": "http://team-a"})
    backend = make_backend(mount_point=None)
    assert backend.get_conn_value("team/a") == "http://team-a"
    assert backend.get_conn_value("a") is None


def test_an_empty_folder_means_the_top_of_the_mount(vault: LocalVault, make_backend: MakeBackend) -> None:
    vault.mount("team")
    vault.write("team/a", {"value": "at-the-top"})
    assert make_backend(mount_point="team", variables_path="").get_variable("a") == "at-the-top"


def test_kv_version_1(vault: LocalVault, make_backend: MakeBackend) -> None:
    vault.mount("kv1", version=1)
    vault.write("kv1/connections/a", {"conn_uri": "http://one"})
    assert make_backend(mount_point="kv1", kv_engine_version="1").get_conn_value("a") == "http://one"


@pytest.mark.parametrize("enabled", [True, False], ids=["enabled", "switched off"])
def test_a_team_has_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, make_backend: MakeBackend, enabled: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    vault.write("secret/connections/a", {"conn_uri": "http://all"})
    vault.write("secret/connections/red/a", {"conn_uri": "http://red"})
    backend = make_backend(use_team_secrets_path=str(enabled))
    assert backend.get_conn_value("a", team_name="red") == ("http://red" if enabled else "http://all")
    assert backend.get_conn_value("a") == "http://all"


@pytest.mark.parametrize("mount", ["secret", None], ids=["configured mount", "mount in the id"])
def test_without_a_team_no_id_reaches_into_the_folder_of_one(
    monkeypatch: pytest.MonkeyPatch,
    vault: LocalVault,
    make_backend: MakeBackend,
    caplog: pytest.LogCaptureFixture,
    mount: str | None,
) -> None:
    """Airflow 3.3 tells workers no team, so ``red/a`` of any task would be red's ``a``."""
    vault.write("secret/connections/red/a", {"conn_uri": "http://red"})
    vault.write("secret/variables/red/a", {"value": "red"})
    below = "" if mount else "secret/"
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    backend = make_backend(mount_point=mount)
    assert backend.get_conn_value(f"{below}red/a") is None
    assert backend.get_variable(f"{below}red/a") is None
    assert backend.get_config(f"{below}red/a") is None
    assert vault.calls() == []
    assert f"'{below}red/a' is not looked up: with [core] multi_team" in caplog.text
    assert backend.get_conn_value(f"{below}a", team_name="red") == "http://red"
    shared = make_backend(mount_point=mount, use_team_secrets_path=False)
    assert shared.get_conn_value(f"{below}red/a") == "http://red"
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "False")
    assert backend.get_conn_value(f"{below}red/a") == "http://red"


def test_an_id_cannot_leave_its_folder(vault: LocalVault, make_backend: MakeBackend) -> None:
    vault.write("secret/variables/a", {"value": "other folder"})
    assert make_backend().get_conn_value("../variables/a") is None
    assert vault.calls() == []


# ------------------------------------------------------------------------------------------- documents


@pytest.mark.parametrize("secret", ["100%", "p@ss:w/ord#1?", "päss wörd", "%41bc%", '"quo\\ted"'], ids=ascii)
@pytest.mark.parametrize("kind", ["uri", "fields"])
def test_odd_passwords_arrive_as_they_are(
    vault: LocalVault, make_backend: MakeBackend, secret: str, kind: str
) -> None:
    uri = {"conn_uri": f"postgres://me:{quote(secret, safe='')}@db:5432/app"}
    fields = {"conn_type": "postgres", "host": "db", "login": "me", "password": secret, "port": 5432}
    vault.write("secret/connections/a", uri if kind == "uri" else fields)
    found = make_backend().get_connection("a")
    assert (found.password, found.host, found.port) == (secret, "db", 5432)


@pytest.mark.parametrize(
    "document",
    [
        {"conn_uri": "postgres://me:can/ary@db"},
        {"conn_uri": "a://canary://b://c"},
        {"conn_type": "http", "port": "canary"},
        {"conn_type": "http", "extra": "{canary"},
        {"surprise": "canary"},
        {},
    ],
    ids=["slash", "schemes", "port", "extra", "key", "empty"],
)
def test_a_malformed_connection_fails_loudly_and_shows_no_value(
    vault: LocalVault, make_backend: MakeBackend, document: dict[str, Any]
) -> None:
    vault.write("secret/connections/a", document)
    with pytest.raises(AirflowSecretsBackendAccessDenied, match=r"connections/a|'a'") as raised:
        make_backend().get_connection("a")
    assert "canary" not in f"{raised.value} {raised.value.__cause__!r} {raised.value.__context__!r}"


def test_a_variable_without_a_value_fails_loudly(vault: LocalVault, make_backend: MakeBackend) -> None:
    vault.write("secret/variables/a", {"val": "canary"})
    with pytest.raises(AirflowSecretsBackendAccessDenied, match="secret/variables/a has no key 'value'"):
        make_backend().get_variable("a")


# ---------------------------------------------------------------------------------------------- errors


def test_on_request_errors_fall_through_with_a_warning(
    vault: LocalVault, make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make_backend(on_error="fall_through")
    vault.seal()
    assert backend.get_connection("a") is None
    assert backend.get_variable("a") is None
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "is sealed" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"auth_type": "kubernetes"}, ValueError, "auth_type='kubernetes' needs kubernetes_role"),
        ({"on_error": "ignore"}, ValueError, "on_error='ignore'"),
        ({"soft_ttl": "soon"}, ValueError, "soft_ttl='soon'"),
        ({"timeout": "soon"}, ValueError, "timeout='soon'"),
        ({"use_team_secrets_path": "maybe"}, ValueError, "use_team_secrets_path='maybe'"),
        ({"allow_redirects": True}, ValueError, "allow_redirects=True is not accepted"),
        ({"conections_path": "x"}, TypeError, "conections_path; did you mean connections_path"),
        (
            {"mountpoint": "x", "qqq": 1},
            TypeError,
            "does not know mountpoint, qqq; it knows connections_path",
        ),
    ],
    ids=["auth type", "on_error", "number", "timeout", "switch", "redirects", "typo", "unknown"],
)
def test_wrong_arguments_are_named_at_once(
    make_backend: MakeBackend, arguments: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        make_backend(**arguments)


def test_arguments_may_come_as_text(make_backend: MakeBackend, vault: LocalVault) -> None:
    vault.write("secret/shared/connections/a", {"conn_uri": "http://shared-a"})
    backend = make_backend(
        connections_path='["connections", "shared/connections"]',
        kv_engine_version="2",
        timeout="[1, 2.5]",
        soft_ttl="10",
        breaker_failures="2",
        verify="false",
        request_header="true",
    )
    assert backend.get_conn_value("a") == "http://shared-a"


def test_arguments_of_other_logins_are_ignored_as_before(
    make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    make_backend(radius_secret="x", radius_port=1812)
    assert "ignores radius_port, radius_secret" in caplog.text


def test_what_hvac_takes_is_passed_on(vault: LocalVault, make_backend: MakeBackend) -> None:
    backend = make_backend(verify="/nowhere/ca.pem", namespace="a/b", cert=["c", "k"], strict_http=True)
    settings = backend.client.settings
    assert (settings.verify, settings.namespace, settings.cert) == ("/nowhere/ca.pem", "a/b", ("c", "k"))
    assert settings.strict_http is True


def test_making_a_backend_sends_nothing_and_loads_nothing_heavy(
    vault: LocalVault, make_backend: MakeBackend
) -> None:
    make_backend()
    assert vault.calls() == []
    program = (
        f"import sys; from {CLASS.rpartition('.')[0]} import VaultBackend; VaultBackend(token='t');"
        " sys.exit(bool({'hvac', 'requests'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT).returncode == 0


# --------------------------------------------------------------------------------------------- masking


@pytest.mark.parametrize("kind", ["uri", "fields"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_every_secret_is_masked_before_it_is_returned(
    vault: LocalVault, make_backend: MakeBackend, password: str, kind: str, asynchronous: bool
) -> None:
    odd = password + " p@ss/1"
    document: dict[str, Any] = {"conn_uri": f"postgres://me:{quote(odd, safe='')}@db/app?token={password}tok"}
    if kind == "fields":
        document = {"conn_type": "x", "password": odd, "extra": {"deep": [{"token": f"{password}tok"}]}}
    vault.write("secret/connections/a", document)
    backend = make_backend()
    found = asyncio.run(backend.aget_connection("a")) if asynchronous else backend.get_connection("a")
    assert found.password == odd
    for seen in (odd, quote(odd), quote(odd, safe=""), json.dumps(odd), f"{password}tok", found.get_uri()):
        assert password not in str(redact(f"before {seen} after"))


def test_variables_and_options_are_masked(
    vault: LocalVault, make_backend: MakeBackend, password: str
) -> None:
    vault.write("secret/variables/a", {"value": f"{password}-v"})
    vault.write("secret/config/a", {"value": f"{password}-c"})
    backend = make_backend()
    backend.get_variable("a")
    backend.get_config("a")
    assert redact(f"{password}-v {password}-c") == "*** ***"


def test_a_masker_that_was_renewed_after_a_fork_learns_secrets_again(
    vault: LocalVault, make_backend: MakeBackend, password: str
) -> None:
    from airflow.sdk._shared.secrets_masker import reset_secrets_masker

    vault.write("secret/variables/a", {"value": password})
    backend = make_backend()
    backend.get_variable("a")
    pid = os.fork()
    if pid == 0:  # the child ends here, whatever happens
        ended = 1
        try:
            reset_secrets_masker()
            backend.get_variable("a")
            ended = 0 if redact(password) == "***" else 2
        finally:
            os._exit(ended)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ----------------------------------------------------------------------------------------------- async


def test_a_hanging_vault_does_not_keep_the_event_loop_waiting(
    vault: LocalVault, make_backend: MakeBackend
) -> None:
    vault.write("secret/connections/a", {"conn_uri": "http://a"})
    backend = make_backend(timeout=5)
    backend.get_variable("warms up")
    vault.hang(0.4, path="secret/data/connections/a")

    async def look() -> tuple[Any, float]:
        lookup = asyncio.create_task(backend.aget_connection("a"))
        lag = 0.0
        while not lookup.done():
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            lag = max(lag, time.perf_counter() - before - 0.005)
        return await lookup, lag

    found, lag = asyncio.run(look())
    assert found.host == "a"
    assert lag < 0.2  # far below the 0.4 s of the call; an idle machine shows a few milliseconds


@pytest.mark.usefixtures("configured")
def test_airflow_uses_the_asynchronous_lookup(vault: LocalVault) -> None:
    vault.write("secret/connections/a", {"conn_uri": "http://a"})
    found = asyncio.run(Connection.async_get("a"))
    assert found.host == "a"
    vault.seal()
    with pytest.raises(AirflowSecretsBackendAccessDenied, match="is sealed"):
        asyncio.run(Connection.async_get("b"))


# ----------------------------------------------------------------------------------------------- check


def test_the_check_looks_at_the_configured_folders(vault: LocalVault, make_backend: MakeBackend) -> None:
    found = make_backend(variables_path="variables", config_path=None).check()
    assert found.ok
    assert set(found.capabilities) == {
        "secret/data/connections/airflow-ext-probe",
        "secret/data/variables/airflow-ext-probe",
    }
    assert {call.status for call in vault.calls(path="secret/*")} == {404}


def test_backends_with_equal_settings_share_a_client(make_backend: MakeBackend) -> None:
    assert make_backend().client is make_backend(variables_path="other").client
    assert make_backend().client is not make_backend(soft_ttl=5).client
    assert isinstance(make_backend(), VaultBackend)
