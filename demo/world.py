"""Everything the story needs, started for it and ended with it: databases, servers and an Airflow, below one folder."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault
from demo.mail import Mailbox
from demo.source import DATABASE, FlightsSource

DAGS = Path(__file__).parents[1] / "dags"
DAG_IDS = ("flights_ingest", "flights_marts", "delay_alerts", "delay_digest")
POOL = "warehouse"
READER_SECRET = "AIRFLOW_EXT_DEMO_SOURCE_PASSWORD"  # noqa: S105  a name, not a value
"""Environment variable with the password of the account that makes readers of the source; a random one without it.
No child inherits it: only the Vault-compatible server knows it."""

READER = (
    "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE sync_readers;",
)
NO_READER = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';",
    'DROP ROLE IF EXISTS "{{name}}";',
)


class World:
    """The running parts of the demo; a context manager.

    :param home: Folder that holds all state; what it holds from an earlier demo is used again.
    :param progress: Called with a short text before each part starts.
    """

    def __init__(self, home: Path, *, progress: Callable[[str], None]) -> None:
        self.home = home.resolve()
        self.warehouse = self.home / "warehouse.duckdb"
        self._progress = progress
        self._stack = ExitStack()
        self.vault = LocalVault()
        self.mailbox = Mailbox(self.home / "mail")
        self.postgres = LocalPostgres(self.home / "postgres")
        self.source = FlightsSource(self.postgres)
        self.airflow: LocalAirflow

    def __enter__(self) -> World:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self._progress("PostgreSQL (the operational system, and Airflow's metadata)")
        stack.enter_context(self.postgres)
        self._progress("the flights of 2013")
        self.source.load_archive()
        self._progress("a Vault-compatible server and a mail server")
        stack.enter_context(self.vault)
        stack.enter_context(self.mailbox)
        backend = self._fill_vault()
        self._progress("the dbt project's index (airflow-ext dbt index)")
        self._index_dbt()
        self._progress("Airflow: api-server, scheduler, dag-processor, triggerer")
        self.postgres.create_database("airflow")
        self.airflow = stack.enter_context(
            LocalAirflow(
                self.home / "airflow",
                dags={"demo": DAGS},
                metadata_url=self.postgres.url("airflow", driver="postgresql+psycopg2"),
                env={
                    "AIRFLOW__SECRETS__BACKEND": "airflow_ext.secrets.vault.VaultBackend",
                    "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(backend),
                },
            )
        )
        self._progress("the DAGs")
        client = self.airflow.client
        pool = {
            "name": POOL,
            "slots": 1,
            "include_deferred": False,
            "description": "one process opens DuckDB",
        }
        action = {"action": "create", "action_on_existence": "overwrite", "entities": [pool]}
        client.request("PATCH", "/pools", json={"actions": [action]})
        client.set_variable("flights_delay_format", "minutes")
        client.wait_for_dags(DAG_IDS)

    def _fill_vault(self) -> dict[str, object]:
        """Write the connections and return the arguments of the secrets backend that reads them."""
        password = os.environ.pop(READER_SECRET, "") or secrets.token_urlsafe(16)
        manager = self.source.create_manager(password)
        url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{self.postgres.port}/{DATABASE}"
        self.vault.database(url, username=manager, password=password)
        self.vault.database_role("flights_reader", creation=READER, revocation=NO_READER, ttl=600)
        documents: dict[str, dict[str, object]] = {
            "flights_source": {
                "conn_type": "postgres",
                "host": "127.0.0.1",
                "port": self.postgres.port,
                "schema": DATABASE,
                "lease": {"path": "database/creds/flights_reader"},
            },
            "warehouse": {"conn_type": "duckdb", "host": str(self.warehouse)},
            "flights_to_warehouse": {
                "conn_type": "ext-dlt",
                "extra": {
                    "source_conn_id": "flights_source",
                    "destination_conn_id": "warehouse",
                    "dataset": "raw",
                },
            },
            "night_mail": {
                "conn_type": "smtp",
                "host": "127.0.0.1",
                "port": self.mailbox.port,
                "extra": {"disable_ssl": True, "disable_tls": True},
            },
        }
        for name, document in documents.items():
            self.vault.write(f"secret/connections/{name}", document)
        may = {"secret/data/connections/*": ["read"], "database/creds/flights_reader": ["read"]}
        self.vault.policy("airflow", {**may, "auth/token/create": ["create", "update"]})
        role_id, secret_id = self.vault.approle("airflow", policies=["airflow"])
        return {
            "url": self.vault.url,
            "auth_type": "approle",
            "role_id": role_id,
            "secret_id": secret_id,
            "mount_point": "secret",
            "connections_path": "connections",
            "variables_path": None,
            "config_path": None,
        }

    def _index_dbt(self) -> None:
        command = [str(Path(sys.executable).with_name("airflow-ext")), "dbt", "index"]
        command += [str(DAGS / "dbt" / "flights"), "--adapter", "duckdb"]
        env = {**os.environ, "AIRFLOW_HOME": str(self.home / "airflow")}  # where the index is cached
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.home, env=env)
        if done.returncode != 0:
            raise RuntimeError(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
