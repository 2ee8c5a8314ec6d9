"""Talking to a vendor: one place that knows timeouts, retries, sizes and what an answer means.

A status becomes one of three reactions: try again (429, 5xx, no answer, no JSON), change the key (401, 403),
change the sync or the request (other 4xx, redirects). Texts of answers are scrubbed before they go anywhere.
"""

from __future__ import annotations

import asyncio
import functools
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx
import msgspec

from airflow_ext.exceptions import InvalidError, InvalidSyncError, SyncDeniedError, SyncUnavailableError
from airflow_ext.sync.scrub import scrub

USER_AGENT = "airflow-ext"
MAX_BYTES = 32 * 1024 * 1024
"""Largest answer that is read: 1,000 connections are about 1.5 MB."""

IN_THREAD_BYTES = 256 * 1024
"""Answers above this are decoded beside the event loop."""

TIMEOUT = 30.0
LONGEST_WAIT = 60.0
"""Longest ``Retry-After`` that is slept through; beyond it the caller is told."""

FIRST_DELAY = 0.5
LONGEST_DELAY = 15.0
_TEXT = 500

Explain = Callable[[Any], tuple[str, str]]
"""Takes the vendor's code and message out of an error's body."""


@functools.cache
def ssl_context() -> ssl.SSLContext:
    """Return the one TLS context of this process; reading the CA files takes up to 0.1 s."""
    return httpx.create_ssl_context()


def check_base_url(url: str, *, where: str) -> str:
    """Return a base URL without trailing slash.

    :param where: Where it was written, for the message.
    :raises InvalidError: If it is no http or https URL, or carries credentials.
    """
    text = url.strip() if "://" in url else f"https://{url.strip()}"
    text = text.rstrip("/")
    try:
        parts = urlsplit(text)
        _ = parts.port  # reading it checks it
    except ValueError:
        raise InvalidError(f"{where}: the host is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidError(f"{where}: give an http or https URL, such as https://api.example.com")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidError(f"{where}: credentials belong into login and password, not into the URL")
    return text


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A decoded answer."""

    status: int
    body: Any


class VendorHttp:
    """An HTTP client of one account at one vendor.

    :param base_url: As :func:`check_base_url` returned it.
    :param service: Name for messages, such as ``Fivetran``.
    :param authorise: Returns the headers that prove who we are; called for every try.
    :param explain: Takes code and message out of an error's body.
    :param secrets: Values that no message may show.
    :param accept: The ``Accept`` header.
    :param tries: Tries of a request that may be repeated.
    :param forget: Called after a 401, when credentials can be made anew; then there is one more try.
    :param sleep: Waits between tries.
    """

    def __init__(
        self,
        base_url: str,
        *,
        service: str,
        authorise: Callable[[], Awaitable[Mapping[str, str]]],
        explain: Explain,
        secrets: tuple[str, ...] = (),
        accept: str = "application/json",
        tries: int = 4,
        forget: Callable[[], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.base_url = base_url
        self.service = service
        self.where = ""
        """Which connection of Airflow's this is, for messages."""
        self.tries = tries
        self.secrets = secrets
        self._authorise = authorise
        self._explain = explain
        self._accept = accept
        self._forget = forget
        self._sleep = sleep
        # A killed task cancels from another loop than the one that is interrupted.
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()

    @property
    def place(self) -> str:
        """Who is asked, for messages."""
        return f"{self.service} at {self.base_url}{f' ({self.where})' if self.where else ''}"

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        repeat: bool | None = None,
        seconds: float = TIMEOUT,
    ) -> Any:
        """Send a request and return the decoded body.

        :param repeat: Try again where that may help; by default only what asks and changes nothing.
        :param seconds: For one try.
        :raises SyncUnavailableError: If there is no usable answer.
        :raises SyncDeniedError: If the vendor refuses the key.
        :raises InvalidSyncError: If the vendor refuses the request; ``status`` and ``code`` tell how.
        """
        tries = self.tries if (method == "GET" if repeat is None else repeat) else 1
        renewed = False
        number = 0
        while True:
            number += 1
            try:
                answer = await self._once(method, path, params, body, seconds)
                self._judge(answer, method, path)
            except SyncDeniedError as error:
                if error.status != 401 or self._forget is None or renewed:
                    raise
                renewed = True
                number -= 1
                self._forget()
            except SyncUnavailableError as error:
                if number >= tries or error.retry_after > LONGEST_WAIT:
                    raise
                await self._sleep(_delay(number, error.retry_after))
            else:
                return answer.body

    async def _once(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any, seconds: float
    ) -> Answer:
        client = await self._open()
        headers = {"Accept": self._accept, "User-Agent": USER_AGENT, **await self._authorise()}
        try:
            async with (
                asyncio.timeout(seconds),
                client.stream(
                    method,
                    self.base_url + path,
                    params=dict(params) if params else None,
                    json=body,
                    headers=headers,
                    timeout=seconds,
                ) as response,
            ):
                raw = await self._read(response, method, path)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ssl.SSLError) as error:
            kind = "no answer in time" if isinstance(error, TimeoutError | httpx.TimeoutException) else ""
            told = kind or scrub(f"{type(error).__name__}: {error}".rstrip(": "), self.secrets)
            raise SyncUnavailableError(
                f"{self.place} did not answer {method} {path}: {told}", service=self.service
            ) from None
        return await self._decode(response, raw, method, path)

    async def _read(self, response: httpx.Response, method: str, path: str) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > MAX_BYTES:
                raise SyncUnavailableError(
                    f"{self.place} answered {method} {path} with more than {MAX_BYTES} bytes",
                    service=self.service,
                )
            chunks.append(chunk)
        return b"".join(chunks)

    async def _decode(self, response: httpx.Response, raw: bytes, method: str, path: str) -> Answer:
        date = _date(response.headers.get("date"))
        retry_after = _seconds(response.headers.get("retry-after"), date)
        status = response.status_code
        if 300 <= status < 400:
            target = urlsplit(response.headers.get("location", "")).hostname or "another place"
            raise InvalidSyncError(
                f"{self.place} sends {method} {path} on to {target}; redirects are not "
                "followed with credentials: put the right URL into the connection's host",
                status=status,
            )
        try:
            if not raw.strip():
                body = None
            elif len(raw) > IN_THREAD_BYTES:
                body = await asyncio.to_thread(msgspec.json.decode, raw)
            else:
                body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if status >= 400:
                body = None
            else:
                kind = response.headers.get("content-type", "no content type")[:60]
                raise SyncUnavailableError(
                    f"{self.place} answered {method} {path} with {kind} that is not JSON; is there a proxy in "
                    "between?",
                    service=self.service,
                ) from None
        if status == 429 or status >= 500:
            code, text = self._told(body)
            raise SyncUnavailableError(
                f"{self.place} answered {method} {path} with {status}{_quoted(code, text)}",
                service=self.service,
                code=code,
                retry_after=retry_after,
            )
        return Answer(status=status, body=body)

    def _judge(self, answer: Answer, method: str, path: str) -> None:
        if answer.status < 400:
            return
        code, text = self._told(answer.body)
        told = f"{self.place} answered {method} {path} with {answer.status}{_quoted(code, text)}"
        if answer.status in (401, 403):
            raise SyncDeniedError(told, status=answer.status, code=code)
        raise InvalidSyncError(told, status=answer.status, code=code)

    def _told(self, body: Any) -> tuple[str, str]:
        code, text = self._explain(body)
        return scrub(code[:_TEXT], self.secrets), scrub(text[:_TEXT], self.secrets)

    async def _open(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            context = await asyncio.to_thread(ssl_context)
            limits = httpx.Limits(max_connections=10, max_keepalive_connections=4)
            # Another request may have been faster meanwhile.
            self._clients.setdefault(loop, httpx.AsyncClient(verify=context, limits=limits))
        return self._clients[loop]


def _quoted(code: str, text: str) -> str:
    told = ": ".join(each for each in (code, text) if each)
    return f" ({told})" if told else ""


def _delay(number: int, retry_after: float) -> float:
    if retry_after > 0:
        return retry_after
    most: float = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (number - 1))
    return most * random.uniform(0.5, 1)  # noqa: S311  # it spreads retries, it hides nothing


def _date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _seconds(text: str | None, date: datetime | None) -> float:
    """Return ``Retry-After`` in seconds, 0 if it was not told; it may also be a date."""
    if not text:
        return 0.0
    if text.strip().isdigit():
        return min(float(text), 86_400.0)
    until = _date(text)
    if until is None:
        return 0.0
    return max(0.0, (until - (date or datetime.now(UTC))).total_seconds())
