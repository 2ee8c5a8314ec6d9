"""What the local servers of sync vendors share: listening, a clock, faults on demand, a list of calls."""

from __future__ import annotations

import fnmatch
import json
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from airflow_ext.testing._http_server import Handler, Server

HUGE = 64 * 1024 * 1024
"""Bytes of the answer that :meth:`LocalVendor.huge` sends."""


@dataclass(frozen=True)
class Call:
    """One request the server got.

    :param path: Path without the query.
    :param body: Decoded JSON or form, ``None`` when there was none.
    :param status: Status of the answer; 0 when the connection was cut.
    :param at: The server's clock, in seconds since 1970.
    """

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    status: int
    at: float


@dataclass(frozen=True)
class Request:
    """One request as a vendor's routes see it.

    :param headers: Names in lower case.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Reply:
    """A status and a JSON body; ``None`` sends no body.

    :param delay: Real seconds before it is sent.
    """

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


class WireError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.reply = Reply(status, body, headers or {})


@dataclass
class _Fault:
    path: str
    method: str
    times: int
    after: int = 0
    seconds: float = 0.0
    cut: bool = False
    page: tuple[int, bytes, tuple[tuple[str, str], ...]] | None = None
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = ""


class LocalVendor(ABC):
    """A vendor's API on the loopback; a context manager.

    :param port: TCP port; 0 takes a free one.
    :param clock: Returns seconds since 1970; everything that takes time in the server goes by it.
    """

    def __init__(self, *, port: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.url = ""
        self.lock = threading.RLock()
        self._port = port
        self._clock = clock
        self._offset = 0.0
        self._calls: list[Call] = []
        self._faults: list[_Fault] = []
        self._limit: tuple[int, float] | None = None
        self._recent: deque[float] = deque()
        self.stopping = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and answer in threads from now on."""
        self.stopping.clear()
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.vendor = self
        self._port = self._server.server_port
        self.url = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and end all connections; what the server holds stays until :meth:`start`."""
        self.stopping.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.close_connections()
            self._server.server_close()
            self._server = self._thread = None

    def now(self) -> float:
        """Return the server's clock, in seconds since 1970."""
        return self._clock() + self._offset

    def advance(self, seconds: float) -> None:
        """Move the server's clock ahead, so that runs end and tokens expire without waiting."""
        self._offset += seconds

    # ------------------------------------------------------------------------------------------- faults

    def fail(
        self,
        status: int,
        *,
        times: int = 1,
        path: str = "*",
        method: str = "*",
        after: int = 0,
        retry_after: int | None = None,
        code: str = "",
    ) -> None:
        """Answer requests with an error in the vendor's own form.

        :param times: How many requests.
        :param path: Pattern (``*``) of their paths.
        :param method: Only this verb.
        :param after: How many of them are answered well before.
        :param retry_after: Seconds told in ``Retry-After``; ``None`` sends no such header.
        :param code: The vendor's code in the body; empty takes what fits the status.
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._faults.append(_Fault(path, method, times, after, status=status, headers=headers, code=code))

    def page(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: str = "application/json",
        times: int = 1,
        path: str = "*",
        method: str = "*",
        after: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer requests with any bytes, as a proxy in between or a broken server might."""
        told = (("Content-Type", content_type), *(headers or {}).items())
        self._faults.append(_Fault(path, method, times, after, page=(status, body, told)))

    def html(self, *, status: int = 200, times: int = 1, path: str = "*") -> None:
        """Answer requests with a login page."""
        self.page(
            b"<html>Sign in</html>",
            status=status,
            content_type="text/html; charset=utf-8",
            times=times,
            path=path,
        )

    def huge(self, *, times: int = 1, path: str = "*") -> None:
        """Answer requests with 64 MiB of JSON."""
        self.page(b'{"data": "' + b"x" * HUGE + b'"}', times=times, path=path)

    def redirect(self, url: str, *, times: int = 1, path: str = "*") -> None:
        """Answer requests with a redirect to another server."""
        self.page(b"", status=307, times=times, path=path, headers={"Location": url})

    def hang(
        self, seconds: float, *, times: int = 1, path: str = "*", method: str = "*", after: int = 0
    ) -> None:
        """Take requests and answer after ``seconds`` of real time."""
        self._faults.append(_Fault(path, method, times, after, seconds=seconds))

    def cut(self, *, times: int = 1, path: str = "*", method: str = "*") -> None:
        """Do what is asked and close the connection in the middle of the answer."""
        self._faults.append(_Fault(path, method, times, cut=True))

    def limit(self, requests: int, *, seconds: float = 3600) -> None:
        """Allow so many requests in a rolling window and answer 429 beyond."""
        self._limit = (requests, seconds)
        self._recent.clear()

    def met(self) -> bool:
        """Tell whether every fault that was asked for has been met as often as it was asked for."""
        return all(fault.times <= 0 for fault in self._faults)

    def heal(self) -> None:
        """Forget all faults and limits asked for."""
        self._faults.clear()
        self._limit = None

    # -------------------------------------------------------------------------------------------- audit

    def calls(self, *, method: str = "*", path: str = "*", status: int | None = None) -> list[Call]:
        """Return the requests so far, oldest first.

        :param path: Pattern (``*``) of their paths.
        :param status: Only those answered so.
        """
        return [
            call
            for call in list(self._calls)
            if fnmatch.fnmatchcase(call.path, path)
            and fnmatch.fnmatchcase(call.method, method)
            and status in (None, call.status)
        ]

    def forget_calls(self) -> None:
        """Empty the list of calls."""
        self._calls.clear()

    # ------------------------------------------------------------------------------- what vendors define

    @abstractmethod
    def answer(self, request: Request) -> Reply:
        """Answer one request; called with the lock held.

        :raises WireError: For every answer that is no success.
        """

    @abstractmethod
    def error(self, status: int, *, code: str = "") -> Any:
        """Return the body of an error as the vendor writes it."""

    # --------------------------------------------------------------------------------------- from the wire

    def handle(self, request: Request) -> tuple[Reply | None, _Fault | None]:
        """Answer a request, or say which fault it meets; a reply of ``None`` is a fault's page."""
        fault = self._fault(request)
        if fault is not None and fault.seconds:
            self.stopping.wait(fault.seconds)
            fault = None
        if fault is not None and fault.page is not None:
            return None, fault
        if fault is not None and fault.status:
            return Reply(fault.status, self.error(fault.status, code=fault.code), fault.headers), None
        try:
            with self.lock:
                headers = self._count()
                reply = self.answer(request)
        except WireError as error:
            return error.reply, fault
        if reply.delay:
            self.stopping.wait(reply.delay)
        return Reply(reply.status, reply.body, {**headers, **reply.headers}), fault

    def note(self, request: Request, status: int) -> None:
        """Add to the list of calls."""
        self._calls.append(
            Call(request.method, request.path, request.query, request.body, status, self.now())
        )

    def _fault(self, request: Request) -> _Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.times <= 0 or not fnmatch.fnmatchcase(request.path, fault.path):
                    continue
                if not fnmatch.fnmatchcase(request.method, fault.method):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _count(self) -> dict[str, str]:
        if self._limit is None:
            return {}
        most, seconds = self._limit
        now = self.now()
        while self._recent and self._recent[0] <= now - seconds:
            self._recent.popleft()
        headers = {
            "X-Rate-Limit": str(most),
            "X-Rate-Limit-Remaining": str(max(0, most - len(self._recent) - 1)),
        }
        if len(self._recent) >= most:
            wait = max(1, round(self._recent[0] + seconds - now))
            raise WireError(429, self.error(429), {**headers, "Retry-After": str(wait)})
        self._recent.append(now)
        return headers


class _Server(Server):
    vendor: LocalVendor


class _Handler(Handler):
    server: _Server

    def _handle(self) -> None:
        split = urlsplit(self.path)
        raw = self.read_body()
        request = Request(
            self.command,
            unquote(split.path).rstrip("/") or "/",
            dict(parse_qsl(split.query)),
            {name.lower(): value for name, value in self.headers.items()},
            self._decode(raw),
        )
        reply, fault = self.server.vendor.handle(request)
        if reply is None:
            assert fault is not None  # noqa: S101  # no reply means a page
            assert fault.page is not None  # noqa: S101
            status, payload, headers = fault.page
            self._send(request, status, payload, dict(headers))
            return
        payload = b"" if reply.body is None else json.dumps(reply.body).encode()
        headers_told = {"Content-Type": "application/json", **reply.headers}
        self._send(request, reply.status, payload, headers_told, cut=fault is not None and fault.cut)

    def _decode(self, raw: bytes) -> Any:
        if not raw.strip():
            return None
        if self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            return dict(parse_qsl(raw.decode(errors="replace")))
        try:
            return json.loads(raw)
        except ValueError:
            return raw.decode(errors="replace")

    def _send(
        self, request: Request, status: int, payload: bytes, headers: Mapping[str, str], *, cut: bool = False
    ) -> None:
        # Noted before it is sent: whoever got the answer finds the call in the list.
        self.server.vendor.note(request, 0 if cut else status)
        self.send(status, payload, headers.items(), cut=cut)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _handle  # noqa: N815
