"""One real local Airflow for the whole run: PostgreSQL metadata, LocalExecutor, everything on free ports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_ext.cli.dbt import index
from airflow_ext.dbt.selection import Selection
from airflow_ext.testing.airflow_client import AirflowClient
from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault

MAIL = {
    "notifier": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
    "smtp_conn_id": "contracts_mail",
    "from_email": "airflow@example.com",
    "to": "{{ notice.channel }}",
}
"""Where contracts tell; the connection is made by the test that has a mail server."""


@pytest.fixture(scope="session")
def postgres(work: Path) -> Iterator[LocalPostgres]:
    """A PostgreSQL server; ``create_database`` gives a test one of its own."""
    shutil.rmtree(work / "postgres", ignore_errors=True)
    with LocalPostgres(work / "postgres", settings={"max_connections": "200"}) as server:
        yield server


@pytest.fixture(scope="session")
def vault(postgres: LocalPostgres) -> Iterator[LocalVault]:
    """The Vault-compatible server that has connections whose id begins with ``vault_``, and makes roles in PostgreSQL."""
    with LocalVault() as server:
        may = {
            "secret/data/connections/*": ["read"],
            "database/creds/*": ["read"],
            "secret/metadata/*": ["read", "list"],
        }
        leases = {"auth/token/create": ["create", "update"], "auth/token/revoke-accessor": ["update"]}
        server.policy("airflow", {**may, **leases})
        yield server


@pytest.fixture(scope="session")
def airflow(work: Path, postgres: LocalPostgres, vault: LocalVault) -> Iterator[LocalAirflow]:
    """The Airflow all integration tests share; its DAGs are in ``tests/integration/dags``.

    Environment variable ``AIRFLOW_EXT_TEST_WORK`` tells those DAGs a folder to read and write.
    """
    shutil.rmtree(work / "airflow", ignore_errors=True)
    scratch = work / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    shutil.copytree(Path(__file__).parent / "dags" / "dbt_shop", scratch / "shop")
    index(scratch / "shop", adapter="duckdb", selections=[Selection.of("+orders", None, None, "cautious")])
    postgres.create_database("airflow")
    role_id, secret_id = vault.approle("airflow", policies=["airflow"])
    secrets = {"url": vault.url, "auth_type": "approle", "role_id": role_id, "secret_id": secret_id}
    only_connections = {"include": "vault_.*", "variables_path": None, "config_path": None}
    with LocalAirflow(
        work / "airflow",
        dags={"tests": Path(__file__).parent / "dags"},
        metadata_url=postgres.url("airflow", driver="postgresql+psycopg2"),
        env={
            "AIRFLOW_EXT_TEST_WORK": str(scratch),
            "AIRFLOW__AIRFLOW_EXT__CONTRACT_CHANNELS": json.dumps({"email": MAIL}),
            "AIRFLOW__SECRETS__BACKEND": "airflow_ext.secrets.vault.VaultBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(
                {**secrets, **only_connections, "shared_cache": True}
            ),
            # A killed worker is noticed within a minute, not within five.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "45",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
        },
    ) as running:
        yield running


@pytest.fixture
def client(airflow: LocalAirflow) -> AirflowClient:
    """A client of the shared Airflow, as administrator."""
    return airflow.client


@pytest.fixture(scope="session")
def scratch(airflow: LocalAirflow, work: Path) -> Path:
    """The folder that the test DAGs know as ``AIRFLOW_EXT_TEST_WORK``."""
    return work / "scratch"
