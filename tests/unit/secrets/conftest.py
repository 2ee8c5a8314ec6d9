"""A local server with an AppRole, and nothing left of it in Airflow afterwards."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk._shared.secrets_masker import _secrets_masker
from airflow.sdk.configuration import clear_secrets_backends_cache
from airflow.sdk.execution_time.context import set_current_context

from airflow_ext.secrets._vault_leases import BOOK
from airflow_ext.secrets.vault import VaultBackend
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.client import forget_shared_clients
from tests.unit.vault.leased import connect, eventually, roles

READABLE = ("connections", "variables", "config", "shared/connections")

CLASS = "airflow_ext.secrets.vault.VaultBackend"
DOCUMENT = {"conn_type": "postgres", "host": "db", "schema": "app", "lease": {"path": "database/creds/etl"}}

MakeBackend = Callable[..., VaultBackend]
Task = Callable[..., Any]


class Store:
    """What a task keeps over its tries."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any, **_: Any) -> None:
        self.values[key] = json.loads(json.dumps(value))


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


@pytest.fixture
def task() -> Iterator[Task]:
    """Run a block as a task would."""

    @contextmanager
    def run(task_id: str = "load", store: Any = None, try_number: int = 1) -> Iterator[None]:
        ti = SimpleNamespace(dag_id="d", run_id="r", task_id=task_id, map_index=-1, try_number=try_number)
        context: Any = {"ti": ti, "task_state_store": store or Store()}
        with set_current_context(context):
            yield

    yield run
    BOOK.close_all()


@pytest.fixture
def leasing(
    monkeypatch: pytest.MonkeyPatch, vault: LocalVault, postgres: LocalPostgres, credentials: dict[str, str]
) -> Iterator[None]:
    """A connection ``warehouse`` whose credentials are leased."""
    connect(vault, postgres)
    may = {
        "secret/data/connections/*": ["read"],
        "database/*": ["read"],
        "auth/token/create": ["update", "create"],
    }
    vault.policy("airflow", may | {"auth/token/revoke-accessor": ["update"]})
    vault.write("secret/connections/warehouse", DOCUMENT)
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", CLASS)
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(credentials))
    yield
    BOOK.close_all()
    eventually(lambda: not roles(postgres))
