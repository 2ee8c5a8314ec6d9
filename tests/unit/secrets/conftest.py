"""A local server with an AppRole, and nothing left of it in Airflow afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.sdk._shared.secrets_masker import _secrets_masker
from airflow.sdk.configuration import clear_secrets_backends_cache

from airflow_ext.secrets.vault import VaultBackend
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.client import forget_shared_clients

READABLE = ("connections", "variables", "config", "shared/connections")

MakeBackend = Callable[..., VaultBackend]


@pytest.fixture
def vault() -> Iterator[LocalVault]:
    with LocalVault() as server:
        rules = {f"secret/data/{folder}/*": ["read"] for folder in READABLE}
        server.policy("airflow", rules | {"kv1/*": ["read"], "team/data/*": ["read"]})
        yield server


@pytest.fixture
def credentials(vault: LocalVault) -> dict[str, str]:
    """Return the arguments that the hashicorp provider's class would be given, too."""
    role_id, secret_id = vault.approle("airflow", policies=["airflow"])
    return {"url": vault.url, "auth_type": "approle", "role_id": role_id, "secret_id": secret_id}


@pytest.fixture
def make_backend(credentials: dict[str, str]) -> MakeBackend:
    def make(**arguments: Any) -> VaultBackend:
        return VaultBackend(**(credentials | arguments))

    return make


@pytest.fixture
def password() -> str:
    return secrets.token_urlsafe(18)


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_CACERT", "VAULT_CAPATH", "VAULT_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    yield
    forget_shared_clients()
    clear_secrets_backends_cache()
    _secrets_masker().reset_masker()
