"""The public REST API of a running Airflow, as the commands use it.

The token comes from the environment and is never printed; it is sent to the given address only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from airflow_ext.exceptions import DeniedError, InvalidError, UnavailableError

TOKEN = "AIRFLOW_EXT_API_TOKEN"  # noqa: S105  the variable's name
SECONDS = 20.0
"""For one answer in all, however slowly it comes."""
MAX_BYTES = 20_000_000
PAGE = 100


class AirflowApi:
    """A client of one Airflow.

    :param url: Address of the Airflow, such as ``https://airflow.example.com``.
    :param token: An access token; ``None`` reads ``AIRFLOW_EXT_API_TOKEN``.
    :param seconds: How long one answer may take.
    :raises InvalidError: If the address cannot be used, or there is no token.
    """

    def __init__(self, url: str, *, token: str | None = None, seconds: float = SECONDS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidError(
                "--url: expected the address of an Airflow, such as https://airflow.example.com"
            )
        if parts.username or parts.password or parts.query:
            raise InvalidError(f"--url: no user, password or query in it; the token comes from {TOKEN}")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._token = os.environ.get(TOKEN, "") if token is None else token
        if not self._token:
            raise InvalidError(
                f"--url needs an access token in the environment variable {TOKEN}; Airflow gives one at "
                f"POST {self.url}/auth/token"
            )
        if not self._token.isascii() or not self._token.isprintable():
            raise InvalidError(f"{TOKEN} is no token: it holds characters that no header can hold")
        self._seconds = seconds

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON answer of ``GET /api/v2/<path>``, ``None`` if there is no such thing."""
        return self._ask("GET", path, params=params)

    def put(self, path: str, body: Any) -> None:
        """Send ``PUT /api/v2/<path>``."""
        if self._ask("PUT", path, body=body) is None:
            raise InvalidError(f"{self.url}: there is no {path}")

    def post(self, path: str, body: Any) -> Any:
        """Send ``POST /api/v2/<path>``."""
        return self._ask("POST", path, body=body)

    def delete(self, path: str) -> None:
        """Send ``DELETE /api/v2/<path>``."""
        self._ask("DELETE", path)

    def assets(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield the assets whose names begin with ``prefix``, with the DAGs and tasks that name them."""
        offset = 0
        while True:
            answer = self.get("assets", name_pattern=prefix, limit=PAGE, offset=offset)
            page = _field(answer, "assets", list, self.url)
            for asset in page:
                if str(_field(asset, "name", str, self.url)).startswith(prefix):
                    yield asset
            offset += len(page)
            if not page or offset >= _field(answer, "total_entries", int, self.url):
                return

    def source(self, dag_id: str) -> str:
        """Return the source of a DAG's file, empty if it may not be read or is not kept."""
        try:
            answer = self.get(f"dagSources/{quote(dag_id, safe='')}")
        except DeniedError:
            return ""
        return str(answer.get("content") or "") if isinstance(answer, dict) else ""

    def _ask(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None
    ) -> Any:
        import httpx

        deadline = time.monotonic() + self._seconds
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        try:
            with (
                httpx.Client(follow_redirects=False, timeout=self._seconds) as client,
                client.stream(
                    method, f"{self.url}/api/v2/{path}", params=dict(params or {}), json=body, headers=headers
                ) as response,
            ):
                data = bytearray()
                for piece in response.iter_bytes():
                    data += piece
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("too slow")
                    if len(data) > MAX_BYTES:
                        raise UnavailableError(
                            f"{self.url} answers with more than {MAX_BYTES:,} bytes", service=self.url
                        )
                return self._read(response.status_code, bytes(data), path)
        except httpx.TimeoutException:
            text = f"{self.url} did not answer within {self._seconds:g} s"
            raise UnavailableError(text, service=self.url) from None
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            text = f"{self.url} cannot be reached: {type(exc).__name__}"
            raise UnavailableError(text, service=self.url) from None

    def _read(self, status: int, data: bytes, path: str) -> Any:
        if status == 401:
            raise DeniedError(
                f"{self.url} refuses the token of {TOKEN} (HTTP 401): it may have expired", status=status
            )
        if status == 403:
            what = path.split("?")[0]
            raise DeniedError(
                f"{self.url}: the user of the token in {TOKEN} may not use {what}, or the token is none of this Airflow's "
                "(HTTP 403)",
                status=status,
            )
        if status == 404:
            return None
        if 300 <= status < 400:
            raise InvalidError(f"{self.url} redirects (HTTP {status}); give the address it redirects to")
        if status >= 400:
            raise UnavailableError(f"{self.url}: HTTP {status} for {path}", service=self.url)
        if not data:
            return {}
        try:
            return json.loads(data)
        except ValueError:
            raise InvalidError(
                f"{self.url} does not answer as Airflow's API does (no JSON); is it the address of Airflow 3?"
            ) from None


def _field(answer: Any, name: str, kind: type, url: str) -> Any:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise InvalidError(f"{url} does not answer as Airflow's API does ({name} is missing)")
    return value
