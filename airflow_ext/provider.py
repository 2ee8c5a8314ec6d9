"""Provider info: a pure dict.

Airflow reads it while its own configuration is still being built, so this module imports nothing. Anything
wrong in it breaks every ``airflow`` command, so a test holds it against Airflow's schema.
"""

from __future__ import annotations

from typing import Any

_DBT, _SYNC, _VAULT = "airflow-ext dbt", "airflow-ext sync", "airflow-ext Vault"
_CONTRACTS, _SLA = "airflow-ext contracts", "airflow-ext SLA"

_DLT_CONNECTION = {
    "connection-type": "ext-dlt",
    "hook-class-name": "airflow_ext.hooks.sync.DltHook",
    "hook-name": "Embedded sync (dlt)",
    "ui-field-behaviour": {
        "hidden-fields": ["host", "schema", "login", "password", "port", "extra"],
        "relabeling": {},
        "placeholders": {},
    },
    "conn-fields": {
        "source_conn_id": {
            "label": "Source connection",
            "description": "Id of the connection to read from: a SQL database, files or an HTTP API.",
            "schema": {"type": ["string", "null"]},
        },
        "destination_conn_id": {
            "label": "Destination connection",
            "description": "Id of the connection to write to.",
            "schema": {"type": ["string", "null"]},
        },
        "dataset": {
            "label": "Dataset",
            "description": "Schema of the destination that receives the tables.",
            "schema": {"type": "string", "default": "raw"},
        },
        "backend": {
            "label": "Reader",
            "description": "auto takes connectorx for PostgreSQL, else pyarrow.",
            "schema": {"type": "string", "enum": ["auto", "connectorx", "pyarrow"], "default": "auto"},
        },
        "chunk_rows": {
            "label": "Rows per chunk",
            "description": "Rows held in memory at a time.",
            "schema": {"type": "integer", "minimum": 1, "default": 100_000},
        },
        "parallel": {
            "label": "Tables at a time",
            "description": "Tables of a task that are loaded side by side.",
            "schema": {"type": "integer", "minimum": 1, "default": 2},
        },
        "lock_seconds": {
            "label": "Wait for locks",
            "description": "Seconds to wait for another writer that holds the destination.",
            "schema": {"type": "integer", "minimum": 1, "default": 300},
        },
    },
}


_FIVETRAN_CONNECTION: dict[str, Any] = {
    "connection-type": "ext-fivetran",
    "hook-class-name": "airflow_ext.hooks.sync_vendors.FivetranHook",
    "hook-name": "Fivetran (airflow-ext)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "port", "extra"],
        "relabeling": {"login": "API key", "password": "API secret", "host": "API URL"},
        "placeholders": {"host": "https://api.fivetran.com"},
    },
    "conn-fields": {
        "webhook_secret": {
            "label": "Webhook secret",
            "description": "Signs Fivetran's webhooks; empty takes none.",
            "schema": {"type": ["string", "null"], "format": "password"},
        },
    },
}

_AIRBYTE_CONNECTION: dict[str, Any] = {
    "connection-type": "ext-airbyte",
    "hook-class-name": "airflow_ext.hooks.sync_vendors.AirbyteHook",
    "hook-name": "Airbyte (airflow-ext)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "port", "extra"],
        "relabeling": {"login": "Client id", "password": "Client secret", "host": "API URL"},
        "placeholders": {"host": "https://airbyte.example.com/api/public/v1"},
    },
    "conn-fields": {
        "token_url": {
            "label": "Token URL",
            "description": "Where tokens are given, if not at the API's own /applications/token.",
            "schema": {"type": ["string", "null"], "format": "url"},
        },
        "basic": {
            "label": "Log in with user and password",
            "description": "For old installations: the two fields above are a user and a password.",
            "schema": {"type": "boolean", "default": False},
        },
    },
}

_HIGHTOUCH_CONNECTION: dict[str, Any] = {
    "connection-type": "ext-hightouch",
    "hook-class-name": "airflow_ext.hooks.sync_vendors.HightouchHook",
    "hook-name": "Hightouch (airflow-ext)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "login", "port", "extra"],
        "relabeling": {"password": "API key", "host": "API URL"},
        "placeholders": {"host": "https://api.hightouch.com/api/v1"},
    },
    "conn-fields": {
        "workspace": {
            "label": "Workspace slug",
            "description": "As in the addresses of its pages; links of tasks then lead to the sync.",
            "schema": {"type": ["string", "null"]},
        },
    },
}


def _option(kind: str, default: str, description: str, **more: Any) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": kind,
        "default": default,
        "example": None,
        **more,
    }


def get_provider_info() -> dict[str, Any]:
    """Return what this package adds to Airflow."""
    return {
        "package-name": "airflow-ext",
        "name": "airflow-ext",
        "description": "Data promises for Airflow: dbt, syncs, Vault-backed connections, contracts and SLAs.",
        "integrations": [
            {
                "integration-name": _DBT,
                "external-doc-url": "https://docs.getdbt.com/",
                "tags": ["software"],
            },
            {
                "integration-name": _SYNC,
                "external-doc-url": "https://dlthub.com/docs/",
                "tags": ["software"],
            },
            {
                "integration-name": _VAULT,
                "external-doc-url": "https://developer.hashicorp.com/vault/docs",
                "tags": ["software"],
            },
            {
                "integration-name": _CONTRACTS,
                "external-doc-url": "https://bitol-io.github.io/open-data-contract-standard/",
                "tags": ["protocol"],
            },
            {
                "integration-name": _SLA,
                "external-doc-url": "https://airflow.apache.org/docs/apache-airflow/stable/howto/deadline-alerts.html",
                "tags": ["software"],
            },
        ],
        "operators": [
            {"integration-name": _DBT, "python-modules": ["airflow_ext.operators.dbt"]},
            {"integration-name": _SYNC, "python-modules": ["airflow_ext.operators.sync"]},
            {"integration-name": _CONTRACTS, "python-modules": ["airflow_ext.operators.contract"]},
            {"integration-name": _VAULT, "python-modules": ["airflow_ext.operators.vault"]},
        ],
        "sensors": [
            {"integration-name": _CONTRACTS, "python-modules": ["airflow_ext.sensors.contract"]},
            {"integration-name": _DBT, "python-modules": ["airflow_ext.sensors.dbt"]},
            {"integration-name": _SYNC, "python-modules": ["airflow_ext.sensors.sync"]},
            {"integration-name": _VAULT, "python-modules": ["airflow_ext.sensors.vault"]},
        ],
        "hooks": [
            {
                "integration-name": _SYNC,
                "python-modules": ["airflow_ext.hooks.sync", "airflow_ext.hooks.sync_vendors"],
            },
            {"integration-name": _DBT, "python-modules": ["airflow_ext.hooks.dbt"]},
            {"integration-name": _VAULT, "python-modules": ["airflow_ext.hooks.vault"]},
        ],
        "triggers": [
            {"integration-name": _DBT, "python-modules": ["airflow_ext.triggers.dbt"]},
            {"integration-name": _CONTRACTS, "python-modules": ["airflow_ext.triggers.contract"]},
            {"integration-name": _SYNC, "python-modules": ["airflow_ext.triggers.sync"]},
            {"integration-name": _VAULT, "python-modules": ["airflow_ext.triggers.vault"]},
        ],
        "task-decorators": [
            {
                "name": "contract_publish",
                "class-name": "airflow_ext.decorators.contract.contract_publish_task",
            },
            {"name": "vault_lease", "class-name": "airflow_ext.decorators.vault.vault_lease_task"},
        ],
        "connection-types": [
            _DLT_CONNECTION,
            _FIVETRAN_CONNECTION,
            _AIRBYTE_CONNECTION,
            _HIGHTOUCH_CONNECTION,
        ],
        "secrets-backends": [
            "airflow_ext.secrets.vault.VaultBackend",
            "airflow_ext.secrets.cached.CachedBackend",
        ],
        "cli": ["airflow_ext.cli.airflow_commands.get_commands"],
        "db-managers": ["airflow_ext.sla.ledger.manager.LedgerManager"],
        "config": {
            "airflow_ext": {
                "description": "Settings of airflow-ext.",
                "options": {
                    "contracts_folder": _option(
                        "string",
                        "",
                        "Folder of all contract files, as workers see it. Sensors then know at once that a contract or "
                        "version does not exist. Empty: nobody is asked.",
                        example="/opt/airflow/contracts",
                    ),
                    "verdict_store_conn_id": _option(
                        "string",
                        "",
                        "Connection of the PostgreSQL or SQLite database that keeps the verdicts of contracts, so "
                        "that several Airflows can share them. Empty: Airflow's own asset state.",
                        example="verdicts_db",
                    ),
                    "contract_channels": _option(
                        "string",
                        "",
                        "Notifiers that tell of contracts whose state changed, by tool of their support: a JSON object.",
                        example='{"slack": {"notifier": "airflow.providers.slack.notifications.slack.SlackNotifier", '
                        '"channel": "{{ notice.channel }}"}}',
                    ),
                    "sla_tick_seconds": _option(
                        "integer",
                        "10",
                        "Seconds between two looks of `airflow ext sla monitor`. Callbacks of deadlines stay "
                        "silent while the monitor's heartbeat is younger than two of these.",
                    ),
                    "sla_horizon_hours": _option(
                        "integer", "24", "How many hours ahead occurrences of SLAs are written down."
                    ),
                    "sla_retention_days": _option(
                        "integer", "400", "Days after which settled occurrences are deleted by the monitor."
                    ),
                    "sla_policies": _option(
                        "string",
                        "",
                        "A YAML file, or a folder of them, with SLAs for DAGs of others.",
                        example="/opt/airflow/slas",
                    ),
                    "sla_ping_url": _option(
                        "string",
                        "",
                        "The monitor gets this address after each minute of good work, so that a dead-man's "
                        "switch elsewhere tells when it stops.",
                        example="https://hc.example.com/ping/monitor",
                        sensitive=True,
                    ),
                },
            }
        },
    }
