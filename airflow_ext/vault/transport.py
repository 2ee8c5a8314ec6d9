"""One HTTP call to Vault through hvac: bounded, retried where that is safe, behind a breaker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urljoin

from airflow_ext.exceptions import VaultUnavailableError
from airflow_ext.extras import require
from airflow_ext.vault.breaker import Breaker
from airflow_ext.vault.settings import VaultSettings

PAUSES = (0.05, 0.15)
"""Seconds between the attempts of one call."""

LONGEST_WAIT = 60.0
"""Seconds; a longer ``Retry-After`` is cut to this."""

REDIRECTS = (301, 302, 303, 307, 308)
NOT_NOW = (412, 429, 472, 473)
"""Statuses beside 5xx that mean "ask again later": index not there yet, quota, standbys."""


@dataclass(frozen=True)
class Reply:
    """A status and its JSON body; the body may hold secrets and is never printed."""

    status: int
    body: Mapping[str, Any] = field(repr=False)

    @property
    def data(self) -> Mapping[str, Any]:
        """The ``data`` part, empty when there is none."""
        found = self.body.get("data")
        return found if isinstance(found, Mapping) else {}

    @property
    def errors(self) -> list[str]:
        """The texts of an error, empty for a secret that is not there."""
        found = self.body.get("errors")
        return [str(each) for each in found] if isinstance(found, list) else []


class _TroubleError(Exception):
    """One attempt that failed.

    :param what: Goes on from "Vault at <address> ...".
    :param final: Another attempt now would not help, or take too long.
    :param wait: Seconds Vault asked us to stay away.
    """

    def __init__(self, what: str, *, final: bool = False, wait: float | None = None) -> None:
        super().__init__(what)
        self.what, self.final, self.wait = what, final or wait is not None, wait


class Transport:
    """Calls to one Vault.

    :param clock: Seconds that never go back.
    :param sleep: What waits between two attempts.
    """

    def __init__(
        self,
        settings: VaultSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings, self._sleep = settings, sleep
        self.breaker = Breaker(settings.breaker, clock)
        self._client: Any = None

    def after_fork(self) -> None:
        """Let go of connections and locks shared with the parent process."""
        self._client = None
        self.breaker.restore_lock()

    def close(self) -> None:
        """Close all connections; the next call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            client.adapter.close()

    def trust(self) -> tuple[bool | str, tuple[str, ...]]:
        """Return what certificates are checked with, and the paths of the client's own.

        Arguments and environment are put together as hvac and requests do it for each call.

        :returns: ``False`` for unchecked, else a file or folder of certificates.
        """
        from requests.utils import DEFAULT_CA_BUNDLE_PATH

        session = self._hvac().adapter.session
        merged = session.merge_environment_settings(
            self._settings.address, {}, None, session.verify, session.cert
        )
        verify, cert = merged["verify"], merged["cert"] or ()
        if verify is True:
            verify = DEFAULT_CA_BUNDLE_PATH
        return verify, tuple(each for each in ([cert] if isinstance(cert, str) else cert) if each)

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        query: str = "",
        body: Mapping[str, Any] | None = None,
        once: bool = False,
        guarded: bool = True,
    ) -> Reply:
        """Make a call and return any answer that Vault itself gave.

        :param path: Path below ``/v1/``, not quoted.
        :param token: Sent along; empty for calls that need none.
        :param query: Put behind the path as it is, with its question mark.
        :param once: Never repeat it: for calls that use something up.
        :param guarded: Fail at once while the breaker is open, and count for it.
        :raises VaultUnavailableError: If Vault is not reached, too slow, sealed, overloaded or redirects away.
        """
        for pause in (*PAUSES, None):
            if guarded and not self.breaker.allow():
                raise self._unavailable(
                    f"{self.breaker.why}; it is left alone for another {self.breaker.left} s"
                )
            try:
                reply = self._once(method, "/v1/" + quote(path.strip("/"), safe="/") + query, token, body)
            except _TroubleError as trouble:
                if guarded:
                    self.breaker.failed(trouble.what, wait=trouble.wait)
                opened = guarded and self.breaker.is_open
                if once or trouble.final or opened or pause is None:
                    raise self._unavailable(trouble.what) from None  # it has the reason
                self._sleep(pause)
            else:
                if guarded:
                    self.breaker.succeeded()
                return reply
        raise AssertionError("the last attempt returns or raises")

    def _once(self, method: str, url: str, token: str, body: Mapping[str, Any] | None) -> Reply:
        response = self._send(method, url, token, body)
        for _ in range(3):
            if response.status_code not in REDIRECTS:
                break
            response = self._send(method, self._same_server(url, response), token, body)
        status = response.status_code
        if status in NOT_NOW or status >= 500 or status in REDIRECTS:
            raise _not_now(status, response.headers.get("Retry-After", ""))
        if status == 204:
            return Reply(status, {})
        try:
            parsed = response.json()
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            kind = response.headers.get("Content-Type", "").partition(";")[0] or "no content type"
            raise _TroubleError(
                f"gave an answer that is no JSON ({status}, {kind}): is a proxy or page between?"
            )
        return Reply(status, parsed)

    def _send(self, method: str, url: str, token: str, body: Mapping[str, Any] | None) -> Any:
        import requests

        headers = {"X-Vault-Token": token} if token else {}
        arguments: dict[str, Any] = {} if body is None else {"json": dict(body)}
        timeouts = self._settings.timeouts
        try:
            return self._hvac().adapter.request(
                method, url, headers=headers, raise_exception=False, **arguments
            )
        except requests.exceptions.SSLError as error:
            text = "does not speak TLS or has no certificate trusted here: check https in url, set verify to its CA bundle"
            raise _TroubleError(text + _reason(error), final=True) from None
        except requests.exceptions.ConnectTimeout:
            raise _TroubleError(f"took no connection within {timeouts.connect:g} s", final=True) from None
        except requests.exceptions.Timeout:
            raise _TroubleError(f"did not answer within {timeouts.read:g} s", final=True) from None
        except requests.exceptions.RequestException as error:
            raise _TroubleError(f"cannot be reached or broke off its answer{_reason(error)}") from None
        except OSError as error:  # requests looks for the files before it connects
            text = f"is not asked: a file of cert or verify cannot be read{_reason(error)}"
            raise _TroubleError(text, final=True) from None

    def _hvac(self) -> Any:
        if self._client is None:
            require("hvac", extra="vault")
            import hvac  # type: ignore[import-untyped]  # it ships no types

            settings = self._settings
            self._client = hvac.Client(
                url=settings.address,
                token="",  # else hvac looks for one in the environment; ours goes with each call
                verify=settings.verify,
                cert=settings.cert,
                proxies=dict(settings.proxies) if settings.proxies else None,
                namespace=settings.namespace,
                timeout=(settings.timeouts.connect, settings.timeouts.read),
                # requests takes custom headers, so also the token, along to whatever host it is sent to
                allow_redirects=False,
                adapter=hvac.adapters.RawAdapter,
                strict_http=settings.strict_http,
                request_header=settings.request_header,
            )
        return self._client

    def _same_server(self, url: str, response: Any) -> str:
        base = self._settings.address
        target: str = urljoin(base + url, response.headers.get("Location", ""))
        if not target.startswith(base + "/v1/"):
            text = "redirects to another address, where the token is not sent: set url to the active node or a load balancer"
            raise _TroubleError(text, final=True)
        return target[len(base) :]

    def _unavailable(self, what: str) -> VaultUnavailableError:
        address = self._settings.shown_address
        return VaultUnavailableError(f"Vault at {address} {what}", service=f"Vault at {address}")


def _reason(error: BaseException) -> str:
    """Return, in brackets, the system's own words for what made a call fail; empty when it has none."""
    import ssl

    told, link = "", error
    while link is not None:
        if isinstance(link, ssl.SSLError):
            told = getattr(link, "verify_message", None) or link.reason or told
        elif isinstance(link, OSError):  # those of requests are, too, but say nothing there
            told = link.strerror or told
        link = link.__cause__ or link.__context__  # type: ignore[assignment]  # None ends the loop
    return f" ({told})" if told else ""


def _not_now(status: int, retry_after: str) -> _TroubleError:
    known = {429: "limits the rate of calls", 503: "is sealed or not ready", 412: "is not up to date yet"}
    wait = min(float(retry_after), LONGEST_WAIT) if retry_after.isdigit() else None
    return _TroubleError(f"{known.get(status, 'cannot answer now')} (status {status})", wait=wait)
