"""How Airbyte is told who asks: by a token that is kept while it lives, by user and password, or not at all."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from airflow_ext.exceptions import SyncUnavailableError
from airflow_ext.sync.http import VendorHttp, check_base_url

EARLY_SECONDS = 30.0
"""A token of Airbyte Cloud lives for three minutes; it is renewed this long before its end."""


class AirbyteLogin:
    """Makes the headers that prove who we are.

    :param base_url: The public API.
    :param client_id: Id of an application, or the user with ``basic``; empty for an installation without login.
    :param client_secret: Its secret.
    :param basic: Log in with user and password instead, as old installations do.
    :param token_url: Where tokens are given; empty takes ``<base_url>/applications/token``.
    :param tries: Tries of a login.
    :param clock: Seconds that pass; tokens are kept by it.
    """

    def __init__(
        self,
        base_url: str,
        *,
        client_id: str,
        client_secret: str,
        basic: bool,
        token_url: str,
        tries: int,
        clock: Callable[[], float],
    ) -> None:
        self._id, self._secret, self._basic = client_id, client_secret, basic
        self._clock = clock
        self._token: tuple[str, float] | None = None
        self._lock: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        origin, self._path = base_url, "/applications/token"
        if "://" in token_url:
            parts = urlsplit(check_base_url(token_url, where="token_url of the connection"))
            origin, self._path = f"{parts.scheme}://{parts.netloc}", parts.path
        self.secrets = tuple(filter(None, (client_secret,)))
        self._http = VendorHttp(
            origin, service="Airbyte", authorise=_nothing, explain=explain, secrets=self.secrets, tries=tries
        )

    @property
    def renewable(self) -> bool:
        """Whether a refused token can be made anew."""
        return bool(self._id) and not self._basic

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._http.aclose()

    def forget(self) -> None:
        """Make a new token for the next request."""
        self._token = None

    async def headers(self) -> Mapping[str, str]:
        """Return the headers of a request."""
        if not self._id:
            return {}
        if self._basic:
            token = base64.b64encode(f"{self._id}:{self._secret}".encode()).decode()
            return {"Authorization": f"Basic {token}"}
        async with self._login_lock():
            if self._token is None or self._clock() >= self._token[1]:
                self._token = await self._log_in()
            return {"Authorization": f"Bearer {self._token[0]}"}

    def _login_lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._lock is None or self._lock[0] is not loop:
            self._lock = (loop, asyncio.Lock())
        return self._lock[1]

    async def _log_in(self) -> tuple[str, float]:
        body = {
            "client_id": self._id,
            "client_secret": self._secret,
            "grant-type": "client_credentials",
        }
        asked = self._clock()
        answer = await self._http.call("POST", self._path, body=body, repeat=True)
        token = answer.get("access_token") if isinstance(answer, Mapping) else None
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise SyncUnavailableError("Airbyte answered a login without a token", service="Airbyte")
        lives = answer.get("expires_in")
        seconds = float(lives) if isinstance(lives, int | float) and lives > 0 else 180.0
        return token, asked + max(seconds - EARLY_SECONDS, seconds / 2)


def explain(body: Any) -> tuple[str, str]:
    """Take code and message out of an error's body."""
    if not isinstance(body, Mapping):
        return "", ""
    return str(body.get("title") or ""), str(body.get("detail") or body.get("message") or "")


async def _nothing() -> Mapping[str, str]:
    return {}
