"""A small Vault-compatible server on the loopback, for tests, demos and trying things out.

It is not Vault: everything lives in memory, only tokens, AppRole, policies and the two key-value
engines are there, and answers imitate the documented HTTP interface. What it adds is faults on demand
and a list of the calls it got. ``python -m airflow_ext.testing.vault --port 0 --root-token-file F``
runs it as a process of its own.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from airflow_ext.testing._vault_auth import Role, Rules, WireError, random_id
from airflow_ext.testing._vault_kv import envelope
from airflow_ext.testing._vault_routes import Routes


@dataclass(frozen=True)
class Call:
    """One request the server got.

    :param method: Verb; a listing is ``LIST`` however it was asked for.
    :param path: Path below ``/v1/``.
    :param accessor: Accessor of the token, empty where none was needed or it was refused.
    :param status: Status of the answer; 0 when the connection was cut.
    """

    method: str
    path: str
    accessor: str
    status: int


@dataclass
class _Fault:
    path: str
    times: int
    status: int = 0
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    cut: bool = False


@dataclass
class _State:
    """What the threads that answer share with their owner."""

    routes: Routes
    calls: list[Call] = field(default_factory=list)
    faults: list[_Fault] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)


class LocalVault:
    """A Vault-compatible server with its own root token; a context manager.

    Starts with a KV version 2 engine at ``secret`` and AppRole at ``approle``.

    :param port: TCP port on the loopback; 0 takes a free one.
    :param root_token: The token that may do everything; a random one by default.
    """

    def __init__(self, *, port: int = 0, root_token: str | None = None) -> None:
        self.root_token = root_token or f"hvs.{random_id(92)}"
        self.url = ""
        self._port = port
        self._routes = Routes(self.root_token)
        self._routes.enable_kv("secret", "2")
        self._routes.enable_approle("approle")
        self._state = _State(self._routes)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LocalVault:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and answer in threads from now on."""
        self._state.stopping.clear()
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.state = self._state
        self._port = self._server.server_port
        self.url = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="local-vault", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and end all connections; what was written stays until :meth:`start`."""
        self._state.stopping.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.close_connections()
            self._server.server_close()
            self._server = self._thread = None

    # ------------------------------------------------------------------------------ what it should hold

    def mount(self, name: str, *, version: int = 2) -> None:
        """Add a key-value engine.

        :param version: 1 or 2.
        :raises ValueError: If there is one of that name or the version is neither.
        """
        try:
            with self._routes.lock:
                self._routes.enable_kv(name.strip("/"), str(version))
        except WireError as error:
            raise ValueError(f"mount({name!r}, version={version!r}): {error}") from None

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
        self, name: str, *, policies: Sequence[str], token_ttl: int = 3600, mount: str = "approle"
    ) -> tuple[str, str]:
        """Make an AppRole and return its role id and one secret id for it.

        :param policies: Names of policies its tokens get beside ``default``.
        :param token_ttl: Seconds its tokens live.
        :param mount: Where AppRole is mounted; made when missing.
        """
        with self._routes.lock:
            if mount not in self._routes.approles:
                self._routes.enable_approle(mount)
            roles = self._routes.approles[mount]
            role = roles.roles.setdefault(name, Role({}))
            role.settings |= {"token_policies": list(policies), "token_ttl": token_ttl}
            return role.role_id, str(roles.new_secret_id(name, {})["secret_id"])

    def token(self, *, policies: Sequence[str], ttl: int = 3600) -> str:
        """Make a token.

        :param ttl: Seconds it lives.
        """
        with self._routes.lock:
            return self._routes.tokens.create(policies, ttl=ttl).id

    # ------------------------------------------------------------------------------------------- faults

    def seal(self) -> None:
        """Answer 503 to everything but health and sealing."""
        self._routes.sealed = True

    def unseal(self) -> None:
        """End :meth:`seal`."""
        self._routes.sealed = False

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
            _Fault(path, times, status, body, (*headers, ("Content-Type", "application/json")))
        )

    def redirect(self, url: str, *, times: int = 1, path: str = "*") -> None:
        """Answer the next requests with a redirect to the same path on another server."""
        self._state.faults.append(_Fault(path, times, 307, headers=(("Location", url),)))

    def html(self, *, status: int = 200, times: int = 1, path: str = "*") -> None:
        """Answer the next requests with a page, as a proxy in between might."""
        headers = (("Content-Type", "text/html; charset=utf-8"),)
        self._state.faults.append(_Fault(path, times, status, b"<html>Sign in</html>", headers))

    def hang(self, seconds: float, *, times: int = 1, path: str = "*") -> None:
        """Take the next requests and answer after ``seconds``."""
        self._state.faults.append(_Fault(path, times, seconds=seconds))

    def cut(self, *, times: int = 1, path: str = "*") -> None:
        """Close the connection in the middle of the next answers."""
        self._state.faults.append(_Fault(path, times, cut=True))

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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    state: _State

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client went away, which is what clients with timeouts do."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        """Print nothing: paths may be looked up with :meth:`LocalVault.calls`."""

    def _handle(self) -> None:
        split = urlsplit(self.path)
        query = dict(parse_qsl(split.query))
        path = "/".join(filter(None, unquote(split.path).split("/"))).removeprefix("v1/")
        method = "LIST" if self.command == "GET" and query.get("list") == "true" else self.command
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self._fault(path)
        if fault is not None and fault.seconds:
            self.server.state.stopping.wait(fault.seconds)
            fault = None
        if fault is not None and not fault.cut:
            location = [(key, value + self.path) for key, value in fault.headers if key == "Location"]
            self._send(method, path, "", fault.status, fault.body, location or list(fault.headers))
            return
        status, body, accessor = self._answer(method, path, query, raw)
        payload = b"" if body is None else json.dumps(body).encode()
        headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        self._send(method, path, accessor, status, payload, headers, cut=fault is not None)

    def _fault(self, path: str) -> _Fault | None:
        state = self.server.state
        with state.routes.lock:
            for fault in state.faults:
                if fault.times > 0 and fnmatch.fnmatchcase(path, fault.path):
                    fault.times -= 1
                    return fault
        return None

    def _answer(
        self, method: str, path: str, query: dict[str, str], raw: bytes
    ) -> tuple[int, dict[str, Any] | None, str]:
        bearer = self.headers.get("Authorization", "")
        token = self.headers.get("X-Vault-Token") or (bearer[7:] if bearer.startswith("Bearer ") else "")
        routes = self.server.state.routes
        try:
            body = json.loads(raw) if raw.strip() else {}
            if not isinstance(body, dict):
                raise WireError(400, "failed to parse JSON input: not an object")
            with routes.lock:
                answer, accessor = routes.answer(method, path, query, body, token)
        except ValueError:
            return 400, {"errors": ["failed to parse JSON input"]}, ""
        except WireError as error:
            return error.status, error.body, "".join(getattr(error, "__notes__", []))
        return answer.status, None if answer.status == 204 else envelope(answer), accessor

    def _send(
        self,
        method: str,
        path: str,
        accessor: str,
        status: int,
        payload: bytes,
        headers: list[tuple[str, str]],
        *,
        cut: bool = False,
    ) -> None:
        # Noted before it is sent: whoever got the answer finds the call in the list.
        self.server.state.calls.append(Call(method, path, accessor, 0 if cut else status))
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if cut:
            self.wfile.write(payload[: len(payload) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(payload)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_LIST = _handle  # noqa: N815


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server until SIGINT or SIGTERM; print ``{"url": ..., "pid": ...}`` once it listens.

    The root token is read from the file, or written to it (mode 0600) when it is missing or empty.
    """
    parser = argparse.ArgumentParser(prog="python -m airflow_ext.testing.vault", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="TCP port on the loopback; 0 takes a free one")
    parser.add_argument("--root-token-file", type=Path, required=True)
    options = parser.parse_args(arguments)
    file: Path = options.root_token_file
    root_token = file.read_text().strip() if file.exists() else ""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with LocalVault(port=options.port, root_token=root_token or None) as vault:
        if not root_token:
            file.touch(mode=0o600)
            file.chmod(0o600)
            file.write_text(vault.root_token)
        print(json.dumps({"url": vault.url, "pid": os.getpid()}), flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
