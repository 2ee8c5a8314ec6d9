"""Every way to log in, against the local server or what else is asked for a token."""

from __future__ import annotations

import base64
import http.server
import json
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_ext.exceptions import VaultDeniedError, VaultUnavailableError
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.logins import Credentials
from tests.unit.vault.conftest import Clock, MakeClient

POLICIES = ["reader"]


def jwt_of(claims: dict[str, Any]) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in ({}, claims)
    ]
    return ".".join([*parts, "signature"])


@pytest.fixture
def metadata_server() -> Iterator[str]:
    """What clouds offer to their machines."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if "audience" in query and self.headers["Metadata-Flavor"] == "Google":
                text = jwt_of({"sub": "machine", "aud": query["audience"][0]})
            elif "/oauth2/token" in self.path and self.headers["Metadata"] == "true":
                text = json.dumps({"access_token": jwt_of({"sub": "identity"})})
            else:
                text = json.dumps(
                    {"compute": {"subscriptionId": "s-1", "resourceGroupName": "g", "name": "vm"}}
                )
            self._answer(text)

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self._answer(json.dumps({"access_token": jwt_of({"appid": form["client_id"][0]})}))

        def _answer(self, text: str) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["userpass", "ldap", "radius"])
def test_a_user_and_a_password(vault: LocalVault, make_client: MakeClient, password: str, kind: str) -> None:
    vault.login_role(kind, "ann", policies=POLICIES, password=password)
    client = make_client(auth_type=kind, credentials=Credentials(username="Ann", password=password))
    assert client.token()
    wrong = make_client(auth_type=kind, credentials=Credentials(username="ann", password="wrong-password"))
    with pytest.raises(VaultDeniedError, match="check username and password") as raised:
        wrong.token()
    assert "wrong-password" not in str(raised.value)


@pytest.mark.parametrize("kind", ["userpass", "ldap", "radius"])
@pytest.mark.parametrize("name", ["ann@corp.example", "corp\\ann lee", "50%40"])
def test_odd_user_names_arrive_as_they_are(
    vault: LocalVault, make_client: MakeClient, password: str, kind: str, name: str
) -> None:
    vault.login_role(kind, name, policies=POLICIES, password=password)
    assert make_client(auth_type=kind, credentials=Credentials(username=name, password=password)).token()


@pytest.mark.parametrize("name", ["ann/lee", "..", "."])
def test_user_names_that_would_be_another_path_are_refused(make_client: MakeClient, name: str) -> None:
    with pytest.raises(ValueError, match=rf"username='{re.escape(name)}': .* path"):
        make_client(auth_type="ldap", credentials=Credentials(username=name, password="x"))


def test_a_service_account_whose_token_is_read_anew_each_time(
    vault: LocalVault, make_client: MakeClient, tmp_path: Path
) -> None:
    names = {"bound_service_account_names": ["worker"], "bound_service_account_namespaces": ["data"]}
    vault.login_role("kubernetes", "airflow", policies=POLICIES, mount="k8s", **names)
    file = tmp_path / "token"
    who = Credentials(kubernetes_role="airflow", kubernetes_jwt_path=str(file))
    client = make_client(auth_type="kubernetes", auth_mount_point="k8s", credentials=who)
    with pytest.raises(VaultDeniedError, match=r"kubernetes_jwt_path=.* cannot be read"):
        client.token()
    file.write_text(jwt_of({"kubernetes.io": {"namespace": "data", "serviceaccount": {"name": "worker"}}}))
    again = make_client(auth_type="kubernetes", auth_mount_point="k8s", credentials=who)
    assert again.token()


@pytest.mark.parametrize("kind", ["jwt", "oidc"])
def test_a_signed_token(vault: LocalVault, make_client: MakeClient, kind: str) -> None:
    import jwt
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()
    vault.login_role("jwt", "airflow", policies=POLICIES)
    vault.admin("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [public]})
    token = jwt.encode({"sub": "me"}, key, algorithm="ES256")
    assert make_client(auth_type=kind, credentials=Credentials(jwt_role="airflow", jwt_token=token)).token()
    with pytest.raises(VaultDeniedError, match="jwt_role, and issuer"):
        make_client(auth_type=kind, credentials=Credentials(jwt_role="other", jwt_token=token)).token()


def test_github_and_a_certificate(vault: LocalVault, make_client: MakeClient, tmp_path: Path) -> None:
    token = f"ghp-{secrets.token_urlsafe(9)}"
    vault.login_role("github", "team", policies=POLICIES, bound={"token": token})
    assert make_client(auth_type="github", token=token).token()
    vault.login_role("cert", "worker", policies=POLICIES, bound={"name": "worker"})
    who = Credentials(cert_role="worker")
    with pytest.raises(VaultUnavailableError, match="cert or verify cannot be read"):
        make_client(auth_type="cert", cert=("/nowhere/c", "/nowhere/k"), credentials=who).token()
    pair = (str(tmp_path / "c"), str(tmp_path / "k"))
    for each in pair:
        Path(each).touch()
    assert make_client(auth_type="cert", cert=pair, credentials=who).token()


@pytest.mark.parametrize("source", ["arguments", "environment"])
def test_aws_is_asked_with_a_signed_request_that_holds_no_secret(
    vault: LocalVault, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    bound = {"iam_request_headers": "Credential=AKIDEXAMPLE/", "iam_request_body": "GetCallerIdentity"}
    vault.login_role("aws", "airflow", policies=POLICIES, bound=bound)
    who, secret = Credentials(key_id="AKIDEXAMPLE"), secrets.token_urlsafe(20)
    if source == "environment":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        assert make_client(auth_type="aws_iam", role_id="airflow").token()
    else:
        assert make_client(auth_type="aws_iam", role_id="airflow", secret_id=secret, credentials=who).token()


def test_a_google_service_account_or_machine(
    vault: LocalVault, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, metadata_server: str
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(encoding, form, serialization.NoEncryption()).decode()
    account = {"client_email": "a@b.example", "private_key_id": "1", "private_key": pem}
    vault.login_role("gcp", "airflow", policies=POLICIES, bound={"jwt": {"sub": "a@b.example"}})
    who = Credentials(gcp_key=json.dumps(account))
    assert make_client(auth_type="gcp", role_id="airflow", credentials=who).token()
    monkeypatch.setenv("GCE_METADATA_HOST", metadata_server)
    vault.login_role("gcp", "machine", policies=POLICIES, bound={"jwt": {"sub": "machine"}})
    assert make_client(auth_type="gcp", role_id="machine").token()


def test_an_azure_identity_or_application(
    vault: LocalVault, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, metadata_server: str
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://{metadata_server}")
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", f"http://{metadata_server}")
    bound = {"jwt": {"sub": "identity"}, "subscription_id": "s-1", "vm_name": "vm"}
    vault.login_role("azure", "machine", policies=POLICIES, bound=bound)
    vault.login_role("azure", "app", policies=POLICIES, bound={"jwt": {"appid": "client"}})
    assert make_client(auth_type="azure", role_id="machine").token()
    who = Credentials(azure_tenant_id="t", key_id="client")
    assert make_client(auth_type="azure", role_id="app", secret_id="s", credentials=who).token()
    assert all(each.path == "auth/azure/login" for each in vault.calls())


def test_a_wrapped_secret_id_is_unwrapped_once(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    role_id, _ = vault.approle("airflow", policies=POLICIES, token_ttl=60)
    wrapped = {"auth_type": "approle", "role_id": role_id, "secret_id": vault.wrapped_secret_id("airflow")}
    client = make_client(**wrapped, secret_id_wrapped=True)
    first = client.token()
    clock.advance(61)
    assert client.token() != first  # logs in again with the same secret id
    assert len(vault.calls(path="sys/wrapping/unwrap")) == 1
    with pytest.raises(VaultDeniedError, match="was used already"):
        make_client(**wrapped, secret_id_wrapped=True).token()


def test_a_token_is_renewed_when_half_of_it_is_over_and_replaced_at_its_end(
    vault: LocalVault, make_client: MakeClient, clock: Clock
) -> None:
    role_id, secret_id = vault.approle("airflow", policies=POLICIES, token_ttl=600, token_max_ttl=1500)
    client = make_client(auth_type="approle", role_id=role_id, secret_id=secret_id)
    first = client.token()
    for _ in range(100):
        clock.advance(20)
        vault.advance(20)
        client.auth.renew()
        if clock.now < 2000:
            assert client.token() == first
    assert client.token() != first
    assert not vault.calls(status=403)
    assert len(vault.calls(path="auth/approle/login")) == 2
