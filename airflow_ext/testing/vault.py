"""A small Vault-compatible server on the loopback, for tests, demos and trying things out.

It is not Vault: everything lives in memory and answers imitate the documented HTTP interface. There are
tokens, leases, AppRole and stand-ins for other logins, policies, namespaces, response wrapping, the two
key-value engines, transit, PKI, and a database engine that makes real PostgreSQL roles. What it adds is
faults on demand and a list of the calls it got. ``airflow-ext vault serve-dev`` runs it as a process.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_ext.exceptions import InvalidError
from airflow_ext.testing._vault_auth import Role, Rules, WireError, random_id
from airflow_ext.testing._vault_database import Database
from airflow_ext.testing._vault_http import Call, Fault, Handler, Server, State
from airflow_ext.testing._vault_leases import Lease
from airflow_ext.testing._vault_routes import Request, Routes

__all__ = ["Call", "LocalVault"]

TICK = 0.1
"""Seconds between two looks for tokens and leases that have ended."""


class LocalVault:
    """A Vault-compatible server with its own root token; a context manager.

    Starts with a KV version 2 engine at ``secret`` and AppRole at ``approle``.

    :param port: TCP port on the loopback; 0 takes a free one.
    :param root_token: The token that may do everything; a random one by default.
    :param certificate: File with a certificate and its key; given one, it speaks TLS.
    """

    def __init__(
        self, *, port: int = 0, root_token: str | None = None, certificate: Path | None = None
    ) -> None:
        self.root_token = root_token or f"hvs.{random_id(92)}"
        self.url = ""
        self._port, self._certificate = port, certificate
        self._routes = Routes(self.root_token)
        self._routes.enable("secret", "kv", "2")
        self._routes.enable_auth("approle")
        self._state = State(self._routes)
        self._server: Server | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> LocalVault:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and answer in threads from now on."""
        self._state.stopping.clear()
        self._server = Server(("127.0.0.1", self._port), Handler)
        self._server.state = self._state
        self._port = self._server.server_port
        if self._certificate is not None:
            self._server.speak_tls(self._certificate)
        self.url = f"{'http' if self._certificate is None else 'https'}://127.0.0.1:{self._port}"
        serve = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._threads = [serve, threading.Thread(target=self._tick, name="local-vault-clock", daemon=True)]
        for thread in self._threads:
            thread.start()

    def _tick(self) -> None:
        while not self._state.stopping.wait(TICK):
            self._routes.tick()

    def stop(self) -> None:
        """Stop listening and end all connections; what was written stays until :meth:`start`."""
        self._state.stopping.set()
        if self._server is not None:
            self._server.shutdown()
            for thread in self._threads:
                thread.join()
            self._server.close_connections()
            self._server.server_close()
            self._server = None
        for engine in self._routes.mounts.values():
            if isinstance(engine, Database):
                engine.close()

    # ------------------------------------------------------------------------------ what it should hold

    def mount(self, name: str, *, kind: str = "kv", version: int = 2) -> None:
        """Add an engine.

        :param kind: ``kv``, ``database``, ``transit`` or ``pki``.
        :param version: 1 or 2, for ``kv``.
        :raises ValueError: If there is one of that name or kind and version are not known.
        """
        try:
            with self._routes.lock:
                self._routes.enable(name.strip("/"), kind, str(version))
        except WireError as error:
            raise ValueError(f"mount({name!r}, kind={kind!r}, version={version!r}): {error}") from None

    def admin(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, namespace: str = ""
    ) -> Any:
        """Do what an administrator would by HTTP, with the root token; not noted in the list of calls.

        :param path: Path below ``/v1/``.
        :returns: The ``data`` of the answer.
        :raises ValueError: If the answer is no success.
        """
        request = Request(
            method, path.strip("/"), body=dict(body or {}), token=self.root_token, namespace=namespace
        )
        try:
            return self._routes.answer(request)[0].data
        except WireError as error:
            raise ValueError(f"{method} {path}: {error}") from None

    def database(
        self, url: str, *, username: str, password: str, name: str = "main", mount: str = "database"
    ) -> None:
        """Mount the database engine, unless it is there, and connect it with a PostgreSQL.

        :param url: Such as ``postgresql://{{username}}:{{password}}@127.0.0.1:5432/db``.
        :param username: Account that may make roles.
        :param password: Its password.
        :raises ValueError: If the database cannot be reached.
        """
        if f"{mount}/" not in self._routes.mounts:
            self.mount(mount, kind="database")
        config = {"connection_url": url, "username": username, "password": password, "allowed_roles": ["*"]}
        self.admin("POST", f"{mount}/config/{name}", {"plugin_name": "postgresql-database-plugin", **config})

    def database_role(
        self,
        role: str,
        *,
        creation: Sequence[str],
        revocation: Sequence[str] = (),
        ttl: int = 3600,
        max_ttl: int = 86400,
        name: str = "main",
        mount: str = "database",
    ) -> None:
        """Make a role that ``database/creds/<role>`` gives credentials of.

        :param creation: SQL with ``{{name}}``, ``{{password}}`` and ``{{expiration}}``.
        :param revocation: SQL; without it privileges are revoked and the role is dropped.
        :param ttl: Seconds a lease lives until it is renewed.
        :param max_ttl: Seconds it lives at most.
        """
        statements = {"creation_statements": list(creation), "revocation_statements": list(revocation)}
        settings = {"db_name": name, **statements, "default_ttl": ttl, "max_ttl": max_ttl}
        self.admin("POST", f"{mount}/roles/{role}", settings)

    def write(self, path: str, data: Mapping[str, Any]) -> int:
        """Write a secret and return its new version (always 1 in a KV version 1 engine).

        :param path: Mount and name without ``data/``, such as ``secret/connections/warehouse``.
        :raises ValueError: If no engine is mounted there.
        """
        with self._routes.lock:
            mount = self._routes.mount_of(path)
            if mount is None:
                known = ", ".join(sorted(self._routes.mounts))
                raise ValueError(f"path={path!r} is below none of the mounts {known}")
            return self._routes.mounts[mount].put(path[len(mount) :], data)

    def delete(self, path: str) -> None:
        """Delete the current version of a secret; nothing happens where there is none."""
        with self._routes.lock:
            mount = self._routes.mount_of(path)
            if mount is not None:
                engine, name = self._routes.mounts[mount], path[len(mount) :]
                engine.handle("DELETE", f"data/{name}" if engine.version == "2" else name, {}, {})

    def policy(self, name: str, rules: Rules) -> None:
        """Write a policy.

        :param rules: Path pattern to capabilities, such as ``{"secret/data/connections/*": ["read"]}``.
        """
        with self._routes.lock:
            self._routes.policies[name] = {path: list(allowed) for path, allowed in rules.items()}

    def approle(
        self,
        name: str,
        *,
        policies: Sequence[str],
        token_ttl: int = 3600,
        mount: str = "approle",
        **settings: Any,
    ) -> tuple[str, str]:
        """Make an AppRole and return its role id and one secret id for it.

        :param policies: Names of policies its tokens get beside ``default``.
        :param token_ttl: Seconds its tokens live.
        :param mount: Where AppRole is mounted; made when missing.
        :param settings: Further settings of the role, such as ``token_max_ttl`` or ``secret_id_num_uses``.
        """
        with self._routes.lock:
            if mount not in self._routes.approles:
                self._routes.enable_auth(mount)
            roles = self._routes.approles[mount]
            role = roles.roles.setdefault(name, Role({}))
            role.settings |= {"token_policies": list(policies), "token_ttl": token_ttl, **settings}
            return role.role_id, str(roles.new_secret_id(name, {})["secret_id"])

    def wrapped_secret_id(self, name: str, *, ttl: int = 60, mount: str = "approle") -> str:
        """Return the token that wraps a new secret id of an AppRole.

        :param ttl: Seconds it may be unwrapped.
        """
        path = f"auth/{mount}/role/{name}/secret-id"
        request = Request("POST", path, token=self.root_token, wrap_ttl=ttl)
        return str(self._routes.answer(request)[0].extra["wrap_info"]["token"])

    def login_role(
        self, kind: str, name: str, *, policies: Sequence[str], mount: str | None = None, **settings: Any
    ) -> None:
        """Let a user or role of another auth method in; the method is mounted when missing.

        :param kind: ``userpass``, ``ldap``, ``radius``, ``kubernetes``, ``jwt``, ``github``, ``cert``, ``aws``,
            ``gcp`` or ``azure``.
        :param name: Of the user or role.
        :param settings: ``password``, ``bound_service_account_names``, ``bound_claims`` and the like; for methods
            that another service would decide, ``bound`` holds what the request must carry.
        """
        place = mount or kind
        with self._routes.lock:
            if place not in self._routes.logins:
                self._routes.enable_auth(place, kind)
            self._routes.logins[place].roles[name] = {"token_policies": list(policies), **settings}

    def token(self, *, policies: Sequence[str], ttl: int = 3600, **settings: Any) -> str:
        """Make a token.

        :param ttl: Seconds it lives.
        :param settings: Further ones, such as ``explicit_max_ttl``, ``period`` or ``uses``.
        """
        with self._routes.lock:
            return self._routes.tokens.create(policies, ttl=ttl, **settings).id

    def tokens(self) -> int:
        """Return how many tokens live, the root token not counted."""
        with self._routes.lock:
            return sum(not each.root for each in self._routes.tokens)

    def leases(self, prefix: str = "") -> list[Lease]:
        """Return the living leases.

        :param prefix: What their ids start with.
        """
        return self._routes.leases.below(prefix)

    # ------------------------------------------------------------------------------------------- faults

    def seal(self) -> None:
        """Answer 503 to everything but health and sealing."""
        self._routes.sealed = True

    def unseal(self) -> None:
        """End :meth:`seal`."""
        self._routes.sealed = False

    def standby(self, on: bool = True) -> None:
        """Tell ``sys/health`` of a standby, which other calls do not notice."""
        self._routes.standby = on

    def fail_revocations(self, times: int) -> None:
        """Let the next revocations of leases fail, as a database that is down would."""
        self._routes.leases.failing = times

    def expire_leases(self) -> None:
        """End every lease now."""
        for each in self.leases():
            each.expires = self._routes.now()

    def expire_tokens(self) -> None:
        """End every token but the root token now, as an operator revoking them would."""
        with self._routes.lock:
            self._routes.tokens.revoke_all()

    def advance(self, seconds: float) -> None:
        """Move the server's clock ahead, so that tokens and secret ids expire without waiting."""
        self._routes.offset += seconds

    def fail(self, status: int, *, times: int = 1, path: str = "*", retry_after: int | None = None) -> None:
        """Answer the next requests with an error.

        :param status: Its HTTP status.
        :param times: How many requests.
        :param path: Pattern (``*``) of the paths below ``/v1/`` this is for.
        :param retry_after: Seconds told in ``Retry-After``; ``None`` sends no such header.
        """
        headers = (("Retry-After", str(retry_after)),) if retry_after is not None else ()
        body = json.dumps({"errors": ["failed on request"]}).encode()
        self._state.faults.append(
            Fault(path, times, status, body, (*headers, ("Content-Type", "application/json")))
        )

    def redirect(self, url: str, *, times: int = 1, path: str = "*") -> None:
        """Answer the next requests with a redirect to the same path on another server."""
        self._state.faults.append(Fault(path, times, 307, headers=(("Location", url),)))

    def html(self, *, status: int = 200, times: int = 1, path: str = "*") -> None:
        """Answer the next requests with a page, as a proxy in between might."""
        headers = (("Content-Type", "text/html; charset=utf-8"),)
        self._state.faults.append(Fault(path, times, status, b"<html>Sign in</html>", headers))

    def hang(self, seconds: float, *, times: int = 1, path: str = "*") -> None:
        """Take the next requests and answer after ``seconds``."""
        self._state.faults.append(Fault(path, times, seconds=seconds))

    def cut(self, *, times: int = 1, path: str = "*") -> None:
        """Close the connection in the middle of the next answers."""
        self._state.faults.append(Fault(path, times, cut=True))

    def heal(self) -> None:
        """Forget all faults asked for, and unseal."""
        self._state.faults.clear()
        self.unseal()

    # -------------------------------------------------------------------------------------------- audit

    def calls(self, *, method: str | None = None, path: str = "*", status: int | None = None) -> list[Call]:
        """Return the requests so far, oldest first.

        :param method: Only these; a listing is ``LIST``.
        :param path: Pattern (``*``) of the paths below ``/v1/``.
        :param status: Only those answered so.
        """
        return [
            each
            for each in list(self._state.calls)
            if fnmatch.fnmatchcase(each.path, path)
            and method in (None, each.method)
            and status in (None, each.status)
        ]

    def forget_calls(self) -> None:
        """Empty the list of calls."""
        self._state.calls.clear()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server until SIGINT or SIGTERM; print ``{"url": ..., "pid": ...}`` once it listens.

    The root token is read from the file, or written to it (mode 0600) when it is missing or empty.
    """
    parser = argparse.ArgumentParser(prog="python -m airflow_ext.testing.vault", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="TCP port on the loopback; 0 takes a free one")
    parser.add_argument("--root-token-file", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        serve(options.port, options.root_token_file)
    except InvalidError as error:
        parser.error(str(error))


def serve(port: int, root_token_file: Path) -> None:
    """Run the server as :func:`main` does.

    :param port: TCP port on the loopback; 0 takes a free one.
    :raises InvalidError: If the port cannot be had, or the file neither read nor written.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    vault = _with_token_of(root_token_file, port)
    try:
        vault.start()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidError(f"port={port}: it cannot be had ({reason}); 0 takes a free one") from None
    try:
        print(json.dumps({"url": vault.url, "pid": os.getpid()}), flush=True)
        ended.wait()
    finally:
        vault.stop()


def _with_token_of(file: Path, port: int) -> LocalVault:
    try:
        root_token = file.read_text().strip() if file.exists() else ""
        vault = LocalVault(port=port, root_token=root_token or None)
        if not root_token:
            file.touch(mode=0o600)
            file.chmod(0o600)
            file.write_text(vault.root_token)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InvalidError(f"--root-token-file {file}: it cannot be used ({reason})") from None
    return vault


if __name__ == "__main__":
    main()
