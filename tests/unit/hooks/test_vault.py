"""``VaultHook`` on connections as the hashicorp provider writes them, and on those with the scheme as schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_ext.exceptions import InvalidError
from airflow_ext.hooks.vault import VaultHook
from airflow_ext.secrets.vault import VaultBackend
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.client import forget_shared_clients


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    yield
    forget_shared_clients()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Any:
    def read(connection: str | dict[str, Any]) -> VaultBackend:
        text = connection if isinstance(connection, str) else json.dumps(connection)
        monkeypatch.setenv("AIRFLOW_CONN_V", text)
        return VaultHook("v").backend()

    return read


FIELDS = {"conn_type": "vault", "host": "v", "login": "me-me", "password": "pass-word"}


@pytest.mark.parametrize(
    ("connection", "address", "mount", "expected"),
    [
        ("vault://:tok-en@v:8200/airflow", "http://v:8200", "airflow", {"auth_type": "token", "token": "tok-en"}),
        ("vault://me-me:tok-en@v:8200", "http://v:8200", "secret", {"auth_type": "token", "token": "tok-en"}),
        ("vault://:tok-en@v/a%2Fb?use_tls=true", "https://v", "a/b", {}),
        ("vault://:tok-en@v/kv?use_tls=false&kv_engine_version=1", "http://v", "kv", {"kv_engine_version": 1}),
        ("vaults://:tok-en@v:8200/kv", "https://v:8200", "kv", {}),
        ("https://:tok-en@v:8200/kv", "https://v:8200", "kv", {}),
        ("http://:tok-en@v:8200/kv", "http://v:8200", "kv", {}),
        ("vaults://:tok-en@v:8200/kv?use_tls=false", "http://v:8200", "kv", {}),
        (
            "vault://me-me:pass-word@v:8200/kv?auth_type=approle&auth_mount_point=roles",
            *("http://v:8200", "kv"),
            {"role_id": "me-me", "secret_id": "pass-word", "auth_mount_point": "roles"},
        ),
        (
            "vault://me-me:pass-word@v:8200/kv?auth_type=aws_iam&role_id=r&region=eu-west-1",
            *("http://v:8200", "kv"),
            {"role_id": "r", "secret_id": "pass-word", "key_id": "me-me", "region": "eu-west-1"},
        ),
        (
            "vault://me-me:pass-word@v:8200/kv?auth_type=azure&role_id=r&azure_tenant_id=t&azure_resource=u",
            *("http://v:8200", "kv"),
            {"key_id": "me-me", "secret_id": "pass-word", "azure_tenant_id": "t", "azure_resource": "u"},
        ),
        (
            "vault://me-me@v:8200/kv?auth_type=gcp&gcp_key_path=k&gcp_scopes=s",
            *("http://v:8200", "kv"),
            {"role_id": "me-me", "gcp_key_path": "k"},
        ),
        (
            "vault://me-me@v:8200/kv?auth_type=kubernetes&kubernetes_role=r",
            *("http://v:8200", "kv"),
            {"kubernetes_role": "r", "username": None},
        ),
        *(
            (
                f"vault://me-me:pass-word@v:8200/kv?auth_type={kind}&radius_host=h",
                *("http://v:8200", "kv"),
                {"username": "me-me", "password": "pass-word"},
            )
            for kind in ("userpass", "ldap", "radius")
        ),
        (
            FIELDS | {"extra": {"client_kwargs": {"namespace": "n", "verify": False, "timeout": 5}, "use_tls": 1}},
            *("https://v", "secret"),
            {"namespace": "n", "verify": False},
        ),
        (FIELDS | {"extra": {"client_kwargs": '{"namespace": "n"}'}}, "http://v", "secret", {"namespace": "n"}),
        (
            FIELDS | {"schema": "https"},
            *("https://v:8200", "secret"),
            {"auth_type": "approle", "role_id": "me-me", "secret_id": "pass-word"},
        ),
        (
            FIELDS | {"schema": "http", "login": "", "port": 1, "extra": {"mount_point": "kv", "namespace": "n"}},
            *("http://v:1", "kv"),
            {"auth_type": "token", "token": "pass-word", "namespace": "n"},
        ),
    ],
    ids=[
        *("token", "a login alone", "TLS", "no TLS", "vaults", "https", "http", "vaults without TLS"),
        *("approle", "aws_iam", "azure", "gcp", "kubernetes", "userpass", "ldap", "radius"),
        *("client_kwargs", "client_kwargs as text", "scheme as schema", "scheme and mount"),
    ],
)  # fmt: skip
def test_a_connection_is_read_as_the_hashicorp_provider_writes_it(
    read: Any, connection: str | dict[str, Any], address: str, mount: str, expected: dict[str, Any]
) -> None:
    backend = read(connection)
    settings = backend.client.settings
    assert (settings.address, backend.layout.mount_point) == (address, mount)
    found = {**vars(settings.credentials), **vars(settings)}
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("connection", "told"),
    [
        (
            {"conn_type": "postgres", "host": "v"},
            "connection type 'postgres': give one of type vault, vaults",
        ),
        ({"conn_type": "vault", "password": "tok-en"}, "'v': it has no host"),
        (FIELDS | {"extra": {"use_tls": "perhaps"}}, "'v': use_tls='perhaps': give true or false"),
        (FIELDS | {"extra": {"client_kwargs": [1]}}, "'v': client_kwargs is no object"),
        (FIELDS | {"extra": {"client_kwargs": {"allow_redirects": True}}}, "allow_redirects=True is not"),
        (FIELDS | {"extra": {"client_kwargs": {"adapter": "x"}}}, "does not know adapter"),
        (FIELDS | {"extra": {"auth_type": "aws_iam"}}, "auth_type='aws_iam' needs role_id"),
    ],
    ids=["type", "host", "use_tls", "client_kwargs", "redirects", "unknown", "no role"],
)
def test_a_connection_that_cannot_work_is_told(read: Any, connection: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidError, match=told) as raised:
        read(connection)
    assert "pass-word" not in str(raised.value)


def test_the_client_of_such_a_connection_reads_its_mount(read: Any) -> None:
    with LocalVault() as vault:
        vault.mount("kv")
        vault.write("kv/a", {"value": "x"})
        backend = read(f"vault://:{vault.root_token}@{vault.url.removeprefix('http://')}/kv")
        assert backend.client.read(backend.layout.mount_point, "a").document is not None
