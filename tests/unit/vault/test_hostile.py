"""Certificates nobody vouches for, clocks that disagree, and two processes that renew one token."""

from __future__ import annotations

import http.server
import json
import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.exceptions import VaultUnavailableError
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault import VaultClient, VaultSettings
from airflow_ext.vault._warden import answered
from airflow_ext.vault.lease_model import LeaseSpec, Owner
from airflow_ext.vault.leases import LeaseSession
from tests.unit.vault.certificates import self_signed
from tests.unit.vault.conftest import Clock, MakeClient
from tests.unit.vault.leased import connect, eventually, roles


class _Handler(http.server.BaseHTTPRequestHandler):
    tokens: list[str | None] = []  # noqa: RUF012  # what reached the server

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("X-Vault-Token"))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        raw = json.dumps({"data": {"data": {"host": "db"}, "metadata": {"version": 1}}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server that speaks TLS, and its certificate."""
    own = self_signed(tmp_path, "own")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # refused handshakes are what is tested
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    _Handler.tokens.clear()
    yield f"https://127.0.0.1:{server.server_port}", own
    server.shutdown()
    thread.join()
    server.server_close()


def test_only_a_certificate_that_is_trusted_gets_the_token(
    tls: tuple[str, Path], tmp_path: Path, make_client: MakeClient
) -> None:
    url, own = tls
    for verify in (None, str(self_signed(tmp_path, "other"))):
        client = make_client(url=url, auth_type="token", token="hvs.mine", verify=verify)
        with pytest.raises(VaultUnavailableError, match="no certificate trusted here"):
            client.read("secret", "connections/x")
    assert _Handler.tokens == []
    client = make_client(url=url, auth_type="token", token="hvs.mine", verify=str(own))
    assert client.read("secret", "connections/x").document is not None
    assert _Handler.tokens == ["hvs.mine"]


def test_the_warden_trusts_no_other_certificates_either(tls: tuple[str, Path], tmp_path: Path) -> None:
    url, own = tls
    call = ("auth/token/revoke-self", "hvs.mine", None)
    assert not answered({"url": url, "verify": None}, *call)
    assert not answered({"url": url, "verify": str(self_signed(tmp_path, "other"))}, *call)
    assert _Handler.tokens == []
    assert answered({"url": url, "verify": str(own)}, *call)


def test_the_warden_is_told_the_trust_of_the_client(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_client(verify="/ca.pem", cert=("/c.pem", "/k.pem"))
    assert pair.transport.trust() == ("/ca.pem", ("/c.pem", "/k.pem"))
    assert make_client(verify=False, cert="/both.pem").transport.trust() == (False, ("/both.pem",))
    monkeypatch.setattr("hvac.v1.VAULT_CLIENT_CERT", "/c.pem")  # it reads the environment when it is imported
    monkeypatch.setattr("hvac.v1.VAULT_CLIENT_KEY", "/k.pem")
    assert make_client(verify="/ca.pem").transport.trust() == ("/ca.pem", ("/c.pem", "/k.pem"))


@pytest.mark.parametrize("skew", [-300, 86400], ids=["behind", "a day ahead"])
def test_clocks_may_disagree(
    vault: LocalVault, postgres: LocalPostgres, make_client: MakeClient, clock: Clock, skew: int
) -> None:
    """Only lifetimes are used, so Vault's clock may say what it wants; the database's may be ahead by less than a lease."""
    vault.advance(skew)
    connect(vault, postgres, ttl=600)
    vault.policy("etl", {"database/creds/*": ["read"], "auth/token/create": ["create", "update"]})
    role_id, secret_id = vault.approle("etl", policies=["etl"])
    client = make_client(auth_type="approle", role_id=role_id, secret_id=secret_id)
    session = LeaseSession(client, Owner("d", "r", "t"), warden=False, threaded=False, clock=clock)
    spec = LeaseSpec("database/creds/etl")
    first = session.credentials(spec).data
    import psycopg2

    account = {"user": first["username"], "password": first["password"], "dbname": "postgres"}
    psycopg2.connect(host="127.0.0.1", port=postgres.port, **account).close()
    for _ in range(10):
        clock.advance(100)
        vault.advance(100)
        session.renew_due()
        assert session.credentials(spec).data == first
    assert session.close()
    eventually(lambda: not roles(postgres))


def test_two_processes_renew_one_token(vault: LocalVault) -> None:
    vault.policy("reader", {"secret/data/connections/*": ["read"]})
    vault.write("secret/connections/x", {"host": "db"})
    role_id, secret_id = vault.approle("airflow", policies=["reader"], token_ttl=100)
    clock = Clock()
    settings = VaultSettings(url=vault.url, auth_type="approle", role_id=role_id, secret_id=secret_id)
    client = VaultClient(settings, clock=clock, sleep=clock.sleep)
    token = client.token()
    clock.advance(60)
    vault.advance(60)
    pid = os.fork()
    client.auth.renew()
    if pid == 0:
        os._exit(0 if client.token() == token else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    clock.advance(60)  # past the end it had at first
    vault.advance(60)
    assert client.read("secret", "connections/x").document is not None
    assert client.token() == token
    assert len(vault.calls(path="auth/token/renew-self", status=200)) == 2
    assert len(vault.calls(path="auth/approle/login")) == 1
    client.close()
