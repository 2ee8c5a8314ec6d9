"""The token a client works with: had by logging in or given, renewed, replaced when it has died."""

from __future__ import annotations

import logging
import math
import mmap
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_ext.exceptions import VaultDeniedError, VaultUnavailableError
from airflow_ext.vault.logins import LoginCall, login_call
from airflow_ext.vault.settings import VaultSettings
from airflow_ext.vault.transport import Transport

log = logging.getLogger(__name__)

CHECK_EVERY = 60.0
"""Seconds between two calls that ask whether a 403 is the token's fault."""

NEW_FOR = 2.0
"""Seconds a token is new: for some milliseconds after a login, standbys may refuse it with a 403."""

BLIND_FOR = 3600.0
"""Seconds no token is looked up ahead of time once a new one may not look itself up either."""

_SHOWN = {"approle": "AppRole"}
_CHECK = {
    "approle": "role_id, secret_id (used up or expired?)",
    "kubernetes": "kubernetes_role and the service account it is bound to",
    "jwt": "jwt_role, and issuer, audience and end of the token",
    "github": "the token and the organisation Vault is configured with",
    "cert": "cert and the roles Vault has for it",
    "aws_iam": "role_id and the credentials",
    "gcp": "role_id and the service account it is bound to",
    "azure": "role_id, azure_resource and what the role is bound to",
}


@dataclass
class Token:
    """A token in use.

    :param expires: On the client's clock, a little early; ``None`` when not known or without end.
    :param ttl: Seconds it was granted last; 0 when not known.
    """

    value: str = field(repr=False)
    expires: float | None
    checked: float
    accessor: str = ""
    ttl: int = 0
    renewable: bool = False
    doubt: str = ""  # why a 403 may be the token's fault, although there is no other token
    suspect: bool = False  # whether Vault refused to look it up
    made: float = -math.inf
    proven: bool = False  # whether the server that is asked is known to know it


def token_of(auth: Mapping[str, Any], now: float) -> Token:
    """Return the token of an ``auth`` block."""
    ttl = int(auth.get("lease_duration") or 0)
    # A little early, so that no call is under way when it ends.
    expires = now + ttl - min(5.0, ttl / 10) if ttl else None
    accessor, renewable = str(auth.get("accessor") or ""), bool(auth.get("renewable"))
    return Token(str(auth["client_token"]), expires, now, accessor, ttl, renewable, made=now)


class Authenticator:
    """Keeps a token.

    :param clock: Seconds that never go back.
    """

    def __init__(self, settings: VaultSettings, transport: Transport, clock: Callable[[], float]) -> None:
        self._settings, self._transport, self._clock = settings, transport, clock
        self._token: Token | None = None
        self._refused: tuple[float, VaultDeniedError] | None = None
        self._secret_id: str | None = None  # once unwrapped
        self._lock = threading.Lock()
        self._died: mmap.mmap | None = None  # a byte that forked processes set: the token they got has died
        self._blind_until = self._doubted_at = -math.inf

    def after_fork(self) -> None:
        """Replace the lock, which another thread may have held, and trust the inherited token only until a 403."""
        self._lock = threading.Lock()
        if self._token is not None:
            self._token.checked = -math.inf

    @property
    def current(self) -> Token | None:
        """The token in use, if there is one."""
        return self._token

    @property
    def is_new(self) -> bool:
        """Whether the token is still to be made, or was so shortly before that the server may not know it yet."""
        token = self._token
        if token is None:
            return self._settings.auth_type != "token"
        return not token.proven and self._clock() - token.made < NEW_FOR

    def prove(self) -> None:
        """Note that the server knows the token."""
        if self._token is not None:
            self._token.proven = True

    @property
    def doubt(self) -> str:
        """Why a denial may be the token's fault; empty when there is no reason to think so."""
        return self._token.doubt if self._token is not None else ""

    @property
    def can_log_in(self) -> bool:
        """Whether there may be as many tokens as wanted."""
        settings = self._settings
        return settings.auth_type != "token" and not settings.secret_id_wrapped

    @property
    def _is_replaceable(self) -> bool:
        settings = self._settings
        return settings.auth_type != "token" or (not settings.token and settings.token_path is not None)

    def token(self) -> str:
        """Return a token, logging in when there is none or the old one is about to end.

        :raises VaultDeniedError: If the login is refused.
        :raises VaultUnavailableError: If Vault does not answer.
        """
        token = self._token
        if token is not None and (token.expires is None or self._clock() < token.expires):
            return token.value
        return self._replace(instead_of=token.value if token is not None else None)

    def other_than(self, used: str, *, was_fine: bool = False) -> str | None:
        """Return another token where a 403 may be the fault of the one used, ``None`` where there is none.

        Vault is asked at most once a minute: a denied path must cost no logins. Its answer is only a hint,
        as a token without the policy ``default`` may not look itself up, so the token stays in use until
        there is another one. A new token is not doubted.

        :param was_fine: What is refused now was allowed before: then Vault is asked all the same, unless a token was
            doubted for that within the minute.
        """
        token = self._token
        if token is None or token.value != used:
            return self.token()  # another thread has logged in meanwhile
        asked = min(token.checked, self._doubted_at) if was_fine else token.checked
        if not self.is_new and self._clock() - asked >= CHECK_EVERY:
            self._look_up(token)
        if not token.suspect:
            return None
        try:
            other = self._replace(instead_of=used)
            if self._died is not None:
                self._died[0] = 1
            return other
        except VaultDeniedError as error:
            token.doubt = f"or it is the token, as auth/token/lookup-self was refused too: {error}"
            return None

    def check(self) -> None:
        """Replace a token that has died, before processes are forked that inherit it; says nothing when that cannot be.

        It is looked up once a minute, or when one of those processes found it dead.
        """
        if self._died is None:
            self._died = mmap.mmap(-1, 1)
        token, now = self._token, self._clock()
        if token is None or not self._is_replaceable or now < self._blind_until:
            return
        if not self._died[0] and now - token.checked < CHECK_EVERY:
            return
        self._died[0], token.checked = 0, now
        try:
            if self._look_up(token):
                self._replace(instead_of=token.value)
                token = self._token
                if token is not None and self._look_up(token):  # so it tells nothing
                    self._blind_until, token.suspect = now + BLIND_FOR, False
        except (VaultUnavailableError, VaultDeniedError) as error:
            log.debug("the token was not looked up or replaced: %s", error)

    def _look_up(self, token: Token) -> bool:
        """Look a token up, and tell if that is refused."""
        reply = self._transport.request("GET", "auth/token/lookup-self", token=token.value)
        token.checked, token.suspect, token.doubt = self._clock(), reply.status == 403, ""
        if token.suspect:
            self._doubted_at = token.checked
        return token.suspect

    def renew(self) -> None:
        """Move the end of the token if half of its time is over; says nothing when that cannot be.

        One that cannot be renewed any more is replaced by a login shortly before it ends.
        """
        token = self._token
        if token is None or token.expires is None:
            return
        self.renew_other(token)
        if token.renewable or not self.can_log_in:
            return
        if token.expires - self._clock() < min(60.0, token.ttl / 4):
            with suppress(VaultUnavailableError, VaultDeniedError):
                self._replace(instead_of=token.value)

    def renew_other(self, token: Token) -> None:
        """Move the end of a token that is not kept here, if half of its time is over; says nothing likewise."""
        if not token.renewable or token.expires is None or token.expires - self._clock() > token.ttl / 2:
            return
        try:
            self._renew(token)
        except VaultUnavailableError as error:
            log.debug("a token was not renewed: %s", error)

    @property
    def is_ageing(self) -> bool:
        """Whether the token may be near its longest time, and another can be had.

        Vault does not tell how long a token can be renewed; one that was never renewed has most of it before it.
        """
        token = self._token
        if token is None or not token.ttl or not self.can_log_in:
            return False
        return not token.renewable or self._clock() - token.made >= token.ttl

    def _renew(self, token: Token) -> None:
        with self._lock:
            reply = self._transport.request("POST", "auth/token/renew-self", token=token.value, body={})
            auth = reply.body.get("auth")
            if reply.status != 200 or not isinstance(auth, Mapping):
                token.renewable = False
                return
            fresh = token_of({**auth, "client_token": token.value}, self._clock())
            token.expires = fresh.expires
            token.renewable = fresh.ttl > token.ttl / 2  # less means that its longest time is near

    def fresh(self) -> Token:
        """Log in once more and return that token, which is not kept.

        :raises VaultDeniedError: If the login is refused.
        :raises VaultUnavailableError: If Vault does not answer.
        """
        return self._log_in()

    def _replace(self, *, instead_of: str | None) -> str:
        with self._lock:
            token = self._token
            if token is not None and token.value != instead_of:
                return token.value
            if self._refused is not None and self._clock() < self._refused[0]:
                known = self._refused[1]
                raise VaultDeniedError(str(known), status=known.status, path=known.path)
            try:
                made = self._given(instead_of) if self._settings.auth_type == "token" else self._log_in()
            except VaultDeniedError as error:
                # Not asked again at once: some servers lock out who keeps sending wrong credentials.
                self._refused = (self._clock() + self._settings.cache.missing_ttl, error)
                raise
            self._refused, self._token = None, made
            return made.value

    def _log_in(self) -> Token:
        call = self._call()
        # Not repeated by itself: a secret id or a JWT may be good for one use only.
        reply = self._transport.request("POST", call.path, body=call.body, once=True)
        auth = reply.body.get("auth")
        if reply.status != 200 or not isinstance(auth, dict) or not auth.get("client_token"):
            kind = self._settings.auth_type
            check = _CHECK.get(kind.replace("oidc", "jwt"), "username and password")
            text = (
                f"Vault at {self._settings.shown_address} refused the {_SHOWN.get(kind, kind)} login at {call.path}"
                f" (status {reply.status}): check {check}, auth_mount_point and namespace"
            )
            raise VaultDeniedError(text, status=reply.status, path=call.path)
        return token_of(auth, self._clock())

    def _call(self) -> LoginCall:
        settings = self._settings
        secret_id = settings.secret_id
        if settings.secret_id_wrapped:
            if self._secret_id is None:
                self._secret_id = self._unwrapped(str(secret_id))
            secret_id = self._secret_id
        return login_call(
            settings.auth_type,
            settings.auth_mount_point,
            settings.credentials,
            role_id=settings.role_id,
            secret_id=secret_id,
            token=settings.token,
            address=settings.address if settings.auth_type == "gcp" else "",
        )

    def _unwrapped(self, wrapper: str) -> str:
        path = "sys/wrapping/unwrap"
        reply = self._transport.request("POST", path, token=wrapper, body={}, once=True)
        found = reply.data.get("secret_id")
        if reply.status != 200 or not found:
            text = (
                f"Vault at {self._settings.shown_address} did not unwrap the secret id (status {reply.status}): the"
                " wrapping token has expired or was used already. If not by this deployment, somebody else has the"
                " secret id: have it destroyed and give a new wrapping token"
            )
            raise VaultDeniedError(text, status=reply.status, path=path)
        return str(found)

    def _given(self, instead_of: str | None) -> Token:
        settings = self._settings
        if settings.token:
            value = settings.token
        elif settings.token_path:
            try:
                value = Path(settings.token_path).read_text().strip()
            except OSError as error:
                reason = error.strerror or type(error).__name__
                text = f"token_path={settings.token_path!r} cannot be read ({reason})"
                raise VaultDeniedError(text, path=settings.token_path) from None
        else:
            value = os.environ.get("VAULT_TOKEN", "")
        if not value:
            source = f"token_path={settings.token_path!r}" if settings.token_path else "VAULT_TOKEN"
            raise VaultDeniedError(f"{source} is empty: put a token there", path=settings.token_path or "")
        if value == instead_of:
            text = (
                "the given token has expired or was revoked (give a new one), or lacks the policy 'default'"
            )
            raise VaultDeniedError(text, status=403, path="auth/token/lookup-self")
        return Token(value, None, checked=-math.inf)
