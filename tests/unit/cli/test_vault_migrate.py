"""``vault migrate`` on connections and variables of the environment and of a metadata database of this module."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
from airflow import settings
from airflow.models import Connection, Variable
from airflow.models.base import Base
from airflow.models.crypto import get_fernet
from airflow.models.team import Team
from airflow.sdk.configuration import clear_secrets_backends_cache
from airflow.utils.session import create_session
from cryptography.fernet import Fernet

from airflow_ext.cli.main import main
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.client import forget_shared_clients
from tests.unit.cli.metadata import sqlite_metadata


@pytest.fixture
def password() -> str:
    return secrets.token_urlsafe(18)


@pytest.fixture(scope="module", autouse=True)
def _tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with sqlite_metadata(tmp_path_factory.mktemp("metadata")):
        tables = [Base.metadata.tables[each] for each in ("team", "connection", "variable")]
        Base.metadata.create_all(settings.get_engine(), tables=tables)
        yield


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalVault]:
    with LocalVault() as server:
        server.policy("migrate", {"secret/*": ["create", "read", "update"], "kv1/*": ["create", "read"]})
        kwargs = {"url": server.url, "token": server.token(policies=["migrate"])}
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "airflow_ext.secrets.vault.VaultBackend")
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", Fernet.generate_key().decode())
        get_fernet.cache_clear()
        yield server
        forget_shared_clients()
        clear_secrets_backends_cache()
        get_fernet.cache_clear()
        with create_session() as session:
            for model in (Connection, Variable, Team):
                session.query(model).delete()


def add(*rows: Connection | Variable | Team) -> None:
    with create_session() as session:
        session.add_all(rows)


def unreadable() -> tuple[Connection, Variable]:
    """Return rows that were encrypted with another key."""
    other = Fernet(Fernet.generate_key())
    connection = Connection(conn_id="lost", conn_type="http", host="db")
    connection._password, connection.is_encrypted = other.encrypt(b"gone").decode(), True  # as it is stored
    variable = Variable(key="lost", val="x")
    variable._val, variable.is_encrypted = other.encrypt(b"gone").decode(), True  # as it is stored
    return connection, variable


def test_what_a_team_has_goes_to_the_folder_of_that_team(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, capsys: pytest.CaptureFixture[str], password: str
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    add(Team(name="red"), Team(name="Blue_1"))
    add(
        Connection(conn_id="warehouse", conn_type="http", password=password, team_name="red"),
        Connection(conn_id="lake", conn_type="http", password=password),
        Connection(conn_id="red/lake", conn_type="http", password=password),
        Variable(key="colour", val=password, team_name="red"),
    )
    monkeypatch.setenv("AIRFLOW_CONN__BLUE_1___DB", f"http://me:{password}@db")
    monkeypatch.setenv("AIRFLOW_VAR__GREEN___X", password)
    assert main(["vault", "migrate", "--write"]) == 1
    told = capsys.readouterr().out
    assert (
        "connection warehouse of team red (from metadata): written to secret/data/connections/red/warehouse"
        in told
    )
    assert "connection lake (from metadata): written to secret/data/connections/lake" in told
    assert "connection red/lake (from metadata): FAILED (no lookup would find it" in told
    assert "variable colour of team red (from metadata): written to secret/data/variables/red/colour" in told
    assert (
        "connection db of team Blue_1 (from environment): written to secret/data/connections/Blue_1/db"
        in told
    )
    assert (
        "variable _green___x (from environment): FAILED (Airflow takes a name with ___ for a team's" in told
    )
    assert "4 written, 2 failed" in told
    assert password not in told
    assert {each.path for each in vault.calls(method="POST", path="secret/*")} == {
        *("secret/data/connections/red/warehouse", "secret/data/connections/lake"),
        *("secret/data/variables/red/colour", "secret/data/connections/Blue_1/db"),
    }


@pytest.mark.parametrize("why", ["multi_team is off", "one folder for all", "a route"])
def test_what_a_team_has_becomes_nobody_elses(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    more = {"one folder for all": "use_team_secrets_path", "a route": "routes"}.get(why, "exclude")
    value = {"use_team_secrets_path": "false", "routes": '[{"pattern": ".*", "path": "x"}]', "exclude": "-"}[
        more
    ]
    monkeypatch.setenv(f"AIRFLOW__SECRETS__BACKEND_KWARG__{more.upper()}", value)
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", str(why != "multi_team is off"))
    add(Team(name="red"))
    add(Connection(conn_id="a", conn_type="http", team_name="red"))
    monkeypatch.setenv("AIRFLOW_CONN__RED___B", "http://db")
    assert main(["vault", "migrate", "--write"]) == 1
    told = capsys.readouterr().out
    for key in ("a", "b"):
        assert f"connection {key} of team red" in told
    assert told.count("FAILED (it is of team red, and would be everybody's in Vault") == 2
    assert not vault.calls(method="POST")


def test_what_cannot_be_decrypted_fails_by_itself(
    vault: LocalVault, capsys: pytest.CaptureFixture[str], password: str
) -> None:
    vault.write("secret/variables/lost", {"value": "the good one"})
    add(*unreadable(), Connection(conn_id="sound", conn_type="http", password=password))
    add(Variable(key="sound", val=password))
    assert main(["vault", "migrate", "--write", "--only", "sound"]) == 0
    assert "2 written" in capsys.readouterr().out
    assert main(["vault", "migrate", "--write", "--overwrite"]) == 1
    told = capsys.readouterr().out
    assert (
        "connection lost (from metadata): FAILED (it cannot be read (InvalidToken): is [core] fernet_key"
        in told
    )
    assert "variable lost (from metadata): FAILED (it cannot be decrypted: is [core] fernet_key" in told
    assert "2 written, 2 failed" in told
    assert vault.admin("GET", "secret/data/variables/lost")["data"] == {"value": "the good one"}
    assert vault.admin("GET", "secret/data/variables/sound")["data"] == {"value": password}
    assert password not in told


@pytest.mark.usefixtures("vault")
def test_a_pattern_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vault", "migrate", "--only", "("]) == 1
    assert "--only '(' is no regular expression: missing )" in capsys.readouterr().err


def test_what_a_route_keeps_elsewhere_is_copied_there(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.mount("kv1", version=1)
    routes = [{"pattern": "old_.*", "mount": "kv1", "path": "conns", "kv": 1}]
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARG__ROUTES", json.dumps(routes))
    monkeypatch.setenv("AIRFLOW_CONN_OLD_A", "http://db")
    assert main(["vault", "migrate", "--write"]) == 0
    assert "connection old_a (from environment): written to kv1/conns/old_a" in capsys.readouterr().out
    forget_shared_clients()  # as another run would
    assert main(["vault", "migrate", "--write"]) == 0
    assert "1 in Vault already" in capsys.readouterr().out
