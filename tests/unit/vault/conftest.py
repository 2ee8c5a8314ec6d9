"""A local server, a clock and a client for each test."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault import VaultClient, VaultSettings


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


MakeClient = Callable[..., VaultClient]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vault() -> Iterator[LocalVault]:
    with LocalVault() as server:
        server.policy("reader", {"secret/data/connections/*": ["read"], "kv1/connections/*": ["read"]})
        yield server


@pytest.fixture
def password() -> str:
    return secrets.token_urlsafe(18)


@pytest.fixture
def make_client(vault: LocalVault, clock: Clock) -> Iterator[MakeClient]:
    """Return what makes clients: by AppRole with the policy ``reader``, unless told otherwise."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> VaultClient:
            if "auth_type" not in arguments:
                role_id, secret_id = vault.approle("airflow", policies=["reader"])
                arguments |= {"auth_type": "approle", "role_id": role_id, "secret_id": secret_id}
            settings = VaultSettings(**({"url": vault.url} | arguments))
            client = VaultClient(settings, clock=clock, sleep=clock.sleep)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture(autouse=True)
def _no_vault_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_CACERT", "VAULT_CAPATH", "VAULT_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
