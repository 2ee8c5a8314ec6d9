"""HTTP around the local Vault-compatible server: faults on demand and a list of the calls."""

from __future__ import annotations

import fnmatch
import json
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from airflow_ext.testing import _http_server
from airflow_ext.testing._vault_auth import WireError
from airflow_ext.testing._vault_kv import envelope
from airflow_ext.testing._vault_routes import Request, Routes, duration


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
class Fault:
    """What the next requests get instead of an answer."""

    path: str
    times: int
    status: int = 0
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    cut: bool = False


@dataclass
class State:
    """What the threads that answer share with their owner."""

    routes: Routes
    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)


class Server(_http_server.Server):
    """The server and what its threads share."""

    state: State


class Handler(_http_server.Handler):
    """Answers one connection."""

    server: Server

    def _handle(self) -> None:
        split = urlsplit(self.path)
        query = dict(parse_qsl(split.query))
        path = "/".join(filter(None, unquote(split.path).split("/"))).removeprefix("v1/")
        method = "LIST" if self.command == "GET" and query.get("list") == "true" else self.command
        raw = self.read_body()
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

    def _fault(self, path: str) -> Fault | None:
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
        namespace = self.headers.get("X-Vault-Namespace", "")
        try:
            body = json.loads(raw) if raw.strip() else {}
            if not isinstance(body, dict):
                raise WireError(400, "failed to parse JSON input: not an object")
            wrap = duration(self.headers.get("X-Vault-Wrap-TTL", ""))
            request = Request(method, path, query, body, token, namespace, wrap)
            answer, accessor = self.server.state.routes.answer(request)
        except ValueError:
            return 400, {"errors": ["failed to parse JSON input"]}, ""
        except WireError as error:
            return error.status, error.body, "".join(getattr(error, "__notes__", []))
        return answer.status, None if answer.status in (202, 204) else envelope(answer), accessor

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
        self.send(status, payload, headers, cut=cut)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_LIST = _handle  # noqa: N815
