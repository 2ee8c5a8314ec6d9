"""The database engine of the local Vault-compatible server: real PostgreSQL roles, made and dropped."""

from __future__ import annotations

import re
import secrets
import string
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_ext.testing._vault_auth import WireError, random_id, seconds
from airflow_ext.testing._vault_kv import Answer, listing, unsupported
from airflow_ext.testing._vault_leases import Wanted

DEFAULT_ROTATION = ("ALTER ROLE \"{{username}}\" WITH PASSWORD '{{password}}';",)
DEFAULT_RENEWAL = ("ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}';",)


def new_password() -> str:
    """Return 20 characters with upper and lower case, a digit and a dash."""
    letters = string.ascii_letters + string.digits
    return "A1b-" + "".join(secrets.choice(letters) for _ in range(16))


class Postgres:
    """One configured database and the account that manages its roles.

    :param config: What ``database/config/<name>`` was given.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self._connection: Any = None
        self._lock = threading.Lock()

    def run(self, work: Callable[[Any], None]) -> None:
        """Do some work with a cursor, in one transaction.

        :raises WireError: 500 with the database's own words, if it fails; nothing has changed then.
        """
        import psycopg2

        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg2.connect(self._url())
                with self._connection, self._connection.cursor() as cursor:
                    work(cursor)
            except psycopg2.Error as error:
                raise WireError(500, str(error).strip()) from None

    def statements(self, statements: Sequence[str], values: Mapping[str, str]) -> None:
        """Run statements after plain replacement of ``{{name}}`` and the like."""

        def work(cursor: Any) -> None:
            for each in statements:
                for statement in [each] if re.search(r"\bEND\b", each) else each.split(";"):
                    if statement.strip():
                        cursor.execute(_filled(statement, values))

        self.run(work)

    def drop(self, name: str) -> None:
        """Take a role's privileges back and drop it, as a server does without statements of its own."""

        def work(cursor: Any) -> None:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
            if cursor.fetchone() is None:
                return
            cursor.execute(
                "SELECT DISTINCT table_schema FROM information_schema.role_column_grants WHERE grantee = %s",
                (name,),
            )
            for (schema,) in cursor.fetchall():
                cursor.execute(f'REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA "{schema}" FROM "{name}"')
                cursor.execute(f'REVOKE USAGE ON SCHEMA "{schema}" FROM "{name}"')
            cursor.execute(f'REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA public FROM "{name}"')
            cursor.execute(f'REVOKE ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA public FROM "{name}"')
            cursor.execute(f'REVOKE USAGE ON SCHEMA public FROM "{name}"')
            cursor.execute("SELECT current_database()")
            cursor.execute(f'REVOKE CONNECT ON DATABASE "{cursor.fetchone()[0]}" FROM "{name}"')
            cursor.execute(f'DROP ROLE IF EXISTS "{name}"')

        self.run(work)

    def close(self) -> None:
        """End the managing session."""
        with self._lock, suppress(Exception):
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _url(self) -> str:
        from urllib.parse import quote

        user, password = str(self.config.get("username", "")), str(self.config.get("password", ""))
        url = str(self.config.get("connection_url", ""))
        return url.replace("{{username}}", quote(user, safe="")).replace(
            "{{password}}", quote(password, safe="")
        )


def _filled(statement: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        statement = statement.replace("{{" + name + "}}", value)
    # psycopg2 reads % only when values are given, so a % of theirs stays as it is
    return statement


@dataclass
class StaticRole:
    """An existing database user whose password the server changes from time to time."""

    settings: dict[str, Any]
    password: str = ""
    rotated: float = 0.0

    @property
    def period(self) -> int:
        """Seconds between two changes."""
        return seconds(self.settings.get("rotation_period"), 86400)


class Database:
    """One mount of the engine.

    :param now: The server's clock.
    """

    kind = "database"
    version = ""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._servers: dict[str, Postgres] = {}
        self._roles: dict[str, dict[str, Any]] = {}
        self._static: dict[str, StaticRole] = {}

    def exists(self, path: str) -> bool:
        return bool(path)

    def put(self, path: str, data: Mapping[str, Any]) -> int:
        self.handle("POST", path, {}, data)
        return 1

    def handle(self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any]) -> Answer:  # noqa: ARG002
        area, _, name = path.partition("/")
        write = method in ("POST", "PUT")
        if area == "config":
            return self._config(method, name, body)
        if area == "roles":
            return self._table(self._roles, method, name, dict(body))
        if area == "static-roles":
            return self._static_role(method, name, body)
        if area == "creds" and method == "GET":
            return Answer(lease=self._wanted(name))
        if area == "static-creds" and method == "GET":
            return Answer(data=self._static_credentials(name))
        if area == "rotate-role" and write:
            if name not in self._static:
                raise WireError(400, "no static role found for role name")
            self._rotate(self._static[name])
            return Answer(204)
        if area == "rotate-root" and write:
            self._rotate_root(name)
            return Answer(204)
        if area == "reset" and write:
            self._server(name).close()
            return Answer(204)
        raise WireError(404, f"unsupported path {path}")

    def rotate_due(self) -> None:
        """Change the passwords of static roles whose period is over."""
        for role in list(self._static.values()):
            if self._now() >= role.rotated + role.period:
                with suppress(WireError):
                    self._rotate(role)

    def close(self) -> None:
        """End all sessions with databases."""
        for server in self._servers.values():
            server.close()

    # ------------------------------------------------------------------------------------------- the parts

    def _config(self, method: str, name: str, body: Mapping[str, Any]) -> Answer:
        if method in ("POST", "PUT"):
            server = Postgres(body)
            if body.get("verify_connection", True):
                try:
                    server.run(lambda cursor: cursor.execute("SELECT 1"))
                except WireError as error:
                    text = f"error creating database object: error verifying connection: {error}"
                    raise WireError(400, text) from None
            if name in self._servers:
                self._servers[name].close()
            self._servers[name] = server
            return Answer(204)
        if method == "GET":
            config = self._server(name).config
            details = {key: config.get(key) for key in ("connection_url", "username")}
            told = {"connection_details": details, "allowed_roles": config.get("allowed_roles") or []}
            return Answer(data={**told, "plugin_name": config.get("plugin_name")})
        return self._table(self._servers, method, name, None)

    @staticmethod
    def _table(table: dict[str, Any], method: str, name: str, value: Any) -> Answer:
        if method in ("POST", "PUT"):
            table[name] = value
            return Answer(204)
        if method == "LIST":
            return listing(table, "")
        if method == "DELETE":
            table.pop(name, None)
            return Answer(204)
        if method != "GET":
            raise unsupported()
        if name not in table:
            raise WireError(404)
        return Answer(data=dict(table[name]))

    def _static_role(self, method: str, name: str, body: Mapping[str, Any]) -> Answer:
        if method in ("POST", "PUT"):
            role = StaticRole(dict(body))
            if role.period < 5:
                raise WireError(400, "rotation_period must be 5 seconds or more")
            self._rotate(role)
            self._static[name] = role
            return Answer(204)
        if method == "GET":
            if name not in self._static:
                raise WireError(404)
            return Answer(data=dict(self._static[name].settings))
        return self._table(self._static, method, name, None)

    def _server(self, name: str) -> Postgres:
        if name not in self._servers:
            raise WireError(400, f"failed to find entry for connection with name: {name!r}")
        return self._servers[name]

    def _server_of(self, role: Mapping[str, Any], name: str) -> Postgres:
        server = self._server(str(role.get("db_name")))
        allowed = server.config.get("allowed_roles") or []
        if "*" not in allowed and name not in allowed:
            raise WireError(500, f"1 error occurred:\n\t* {name!r} is not an allowed role\n\n")
        return server

    def _wanted(self, name: str) -> Wanted:
        if name not in self._roles:
            raise WireError(400, f"unknown role: {name}")
        role = self._roles[name]
        server = self._server_of(role, name)

        def create(display: str, ends: float) -> dict[str, Any]:
            made = f"v-{display[:8]}-{name[:8]}-{random_id(20)}-{int(self._now())}"[:63]
            data = {"username": made, "password": new_password()}
            server.statements(_list(role.get("creation_statements")), _values(data, ends))
            return data

        def revoke(data: dict[str, Any]) -> None:
            statements = _list(role.get("revocation_statements"))
            if statements:
                server.statements(statements, _values(data, self._now()))
            else:
                server.drop(data["username"])

        def renew(data: dict[str, Any], ends: float) -> None:
            server.statements(_list(role.get("renew_statements")) or DEFAULT_RENEWAL, _values(data, ends))

        ttl, max_ttl = seconds(role.get("default_ttl")), seconds(role.get("max_ttl"))
        return Wanted(ttl, max_ttl, create, revoke, renew)

    def _static_credentials(self, name: str) -> dict[str, Any]:
        if name not in self._static:
            raise WireError(400, f"unknown role: {name}")
        role = self._static[name]
        rotated = datetime.fromtimestamp(role.rotated, UTC).isoformat().replace("+00:00", "Z")
        return {
            "username": role.settings["username"],
            "password": role.password,
            "last_vault_rotation": rotated,
            "rotation_period": role.period,
            "ttl": max(0, int(role.rotated + role.period - self._now())),
        }

    def _rotate(self, role: StaticRole) -> None:
        password = new_password()
        statements = _list(role.settings.get("rotation_statements")) or DEFAULT_ROTATION
        data = {"username": str(role.settings.get("username")), "password": password}
        self._server(str(role.settings.get("db_name"))).statements(statements, _values(data, 0))
        role.password, role.rotated = password, self._now()

    def _rotate_root(self, name: str) -> None:
        server, password = self._server(name), new_password()
        data = {"username": str(server.config["username"]), "password": password}
        server.statements(
            _list(server.config.get("root_rotation_statements")) or DEFAULT_ROTATION, _values(data, 0)
        )
        server.config["password"] = password
        server.close()


def _list(statements: Any) -> list[str]:
    return [statements] if isinstance(statements, str) else list(statements or [])


def _values(data: Mapping[str, str], ends: float) -> dict[str, str]:
    expiration = datetime.fromtimestamp(ends + 5, UTC).strftime("%Y-%m-%d %H:%M:%S+0000")
    name, password = data["username"], data["password"]
    return {"name": name, "username": name, "password": password, "expiration": expiration}
