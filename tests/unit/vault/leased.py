"""A database whose roles the local server makes, and how many of them are there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault

CREATION = (
    "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';",
    'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{{name}}";',
)
REVOCATION = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';",
    'REASSIGN OWNED BY "{{name}}" TO postgres; DROP OWNED BY "{{name}}"; DROP ROLE IF EXISTS "{{name}}";',
)
MAY = {
    "database/creds/*": ["read"],
    "database/static-creds/*": ["read"],
    "auth/token/create": ["create", "update"],
}
"""What tasks may do."""


def connect(vault: LocalVault, postgres: LocalPostgres, **settings: Any) -> None:
    """Let ``database/creds/etl`` make roles on a server."""
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres.port}/postgres"
    vault.database(url, username=postgres.user, password=postgres.password)
    vault.database_role("etl", **({"creation": CREATION, "revocation": REVOCATION} | settings))


def roles(postgres: LocalPostgres) -> list[str]:
    """Return the roles the local server has made and not dropped."""
    return [str(row[0]) for row in postgres.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'")]


def sessions(postgres: LocalPostgres) -> int:
    """Return how many sessions such roles have."""
    rows = postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'v-%'")
    return int(rows[0][0])


def eventually(look: Callable[[], bool], *, seconds: float = 5.0) -> None:
    """Wait until something holds that another process or thread brings about."""
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
