"""Read secrets: one login, each path once, and what is known also while Vault does not answer."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airflow_ext.exceptions import InvalidError, VaultDeniedError, VaultUnavailableError
from airflow_ext.vault.cache import Cache, Document, Entry, Key
from airflow_ext.vault.settings import VaultSettings
from airflow_ext.vault.transport import Reply, Transport

log = logging.getLogger(__name__)

CHECK_EVERY = 60.0
"""Seconds between two calls that ask whether a 403 is the token's fault."""

MOUNT_KNOWN_FOR = 300.0
"""Seconds the kind of a mount is remembered."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Reading:
    """What a read gave.

    :param document: The secret, ``None`` when there is none at that path.
    :param source: ``vault`` for a call made now, ``cache``, or ``stale`` when Vault does not answer.
    :param age: Seconds since Vault gave it.
    """

    document: Document | None
    source: Literal["vault", "cache", "stale"]
    age: float


@dataclass
class _Token:
    value: str
    expires: float | None
    checked: float
    doubt: str = ""  # why a 403 may be the token's fault, although there is no other token
    suspect: bool = False  # whether Vault refused to look it up


class VaultClient:
    """A client for one set of settings, for all threads of a process and its forked children.

    :param clock: Seconds that never go back.
    :param sleep: What waits between two attempts of a call.
    """

    def __init__(
        self,
        settings: VaultSettings,
        *,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings
        self.transport = Transport(settings, clock=clock, sleep=sleep)
        self._clock = clock
        self._cache = Cache(settings.cache, clock)
        self._token: _Token | None = None
        self._refused: tuple[float, VaultDeniedError] | None = None
        self._mounts: dict[str, tuple[float, Reply]] = {}
        self._login_lock = threading.Lock()
        _clients.add(self)

    def close(self) -> None:
        """Close all connections; the client can be used again."""
        self.transport.close()

    def after_fork(self) -> None:
        """Make the copy in a forked child safe: the token and the cache stay, connections and locks do not."""
        self.transport.after_fork()
        self._cache.restore_locks()
        self._login_lock = threading.Lock()

    # ------------------------------------------------------------------------------------------ reading

    def read(self, mount: str, path: str) -> Reading:
        """Return the secret at a path of a key-value mount.

        :param mount: Where the engine is mounted, such as ``secret``.
        :param path: Path in it, without ``data/``.
        :raises VaultUnavailableError: If Vault does not answer and nothing usable is known.
        :raises VaultDeniedError: If the login or the path is refused.
        :raises InvalidError: If there is no key-value engine of the configured version at the mount.
        """
        key = (mount.strip("/"), path.strip("/"))
        entry = self._cache.get(key)
        if entry is not None and self._cache.is_fresh(entry):
            return self._served(entry)
        lock = self._cache.reading(key)
        if entry is not None and entry.error is None and lock.locked():
            return self._served(entry)  # another thread is asking; what we have is good enough meanwhile
        with lock:
            entry = self._cache.get(key)
            if entry is not None and self._cache.is_fresh(entry):
                return self._served(entry)
            return self._read_now(key, entry)

    def _read_now(self, key: Key, entry: Entry | None) -> Reading:
        try:
            document = self._fetch(*key)
        except VaultUnavailableError as error:
            if entry is None or entry.error is not None:
                text = (
                    f"{error}; {self.api_path(*key)} is not known from before: try again once Vault is well"
                )
                raise VaultUnavailableError(text, service=error.service) from error
            if not entry.stale:
                age = self._cache.age(entry)
                log.warning("%s; serving %s as read %d s ago", error, "/".join(key), age)
            self._cache.postpone(key, entry, self.settings.breaker.seconds)
            return Reading(entry.document, "stale", self._cache.age(entry))
        except (VaultDeniedError, InvalidError) as error:
            self._cache.put(key, error=error)
            raise
        self._cache.put(key, document=document)
        return Reading(document, "vault", 0.0)

    def _served(self, entry: Entry) -> Reading:
        error = entry.error
        if isinstance(error, VaultDeniedError):
            raise VaultDeniedError(str(error), status=error.status, path=error.path)
        if error is not None:
            raise type(error)(str(error))
        return Reading(entry.document, "stale" if entry.stale else "cache", self._cache.age(entry))

    def api_path(self, mount: str, path: str) -> str:
        """Return the path that policies speak about."""
        return f"{mount}/data/{path}" if self.settings.kv_engine_version == 2 else f"{mount}/{path}"

    def _fetch(self, mount: str, path: str) -> Document | None:
        api_path = self.api_path(mount, path)
        token = self.token()
        reply = self.transport.request("GET", api_path, token=token)
        if reply.status == 403 and (other := self._other_than(token)) is not None:
            reply = self.transport.request("GET", api_path, token=other)
        if reply.status == 404:
            self._check_mount(mount, reply)
            return None
        if reply.status != 200:
            raise self._refusal(mount, api_path, reply.status)
        data, version = reply.body.get("data"), None
        if self.settings.kv_engine_version == 2 and isinstance(data, dict):
            version = (data.get("metadata") or {}).get("version")
            data = data.get("data")
        if not isinstance(data, dict):
            raise InvalidError(
                f"{api_path} is no secret of a KV version {self.settings.kv_engine_version} engine"
            )
        return Document(f"{mount}/{path}", data, version)

    def _refusal(self, mount: str, api_path: str, status: int) -> VaultDeniedError:
        version = self._mount_version(mount)
        hint = f'a policy with path "{api_path}" {{ capabilities = ["read"] }} would allow it'
        if version and version != str(self.settings.kv_engine_version):
            hint = f"mount {mount!r} is KV version {version}: set kv_engine_version={version}"
        if self._token is not None and self._token.doubt:
            hint = f"{hint}; {self._token.doubt}"
        text = f"Vault at {self.settings.shown_address} denied {api_path} (status {status}): {hint}"
        return VaultDeniedError(text, status=status, path=api_path)

    # ------------------------------------------------------------------------------------------- mounts

    def _check_mount(self, mount: str, reply: Reply) -> None:
        # A 404 is also what a wrong mount or engine version looks like; that must not pass for "not there".
        if reply.errors:
            raise InvalidError(
                f"mount {mount!r} does not exist in Vault at {self.settings.shown_address}: check mount_point"
            )
        version, ours = self._mount_version(mount), str(self.settings.kv_engine_version)
        if version == "none":
            raise InvalidError(f"mount {mount!r} is no key-value engine: check mount_point")
        if version and version != ours:
            raise InvalidError(
                f"mount {mount!r} is KV version {version}, but kv_engine_version={ours}: set it to {version}"
            )

    def _mount_version(self, mount: str) -> str | None:
        """Return ``"1"``, ``"2"``, ``"none"`` for another engine, or ``None`` when Vault does not tell."""
        known = self._mounts.get(mount)
        if known is None or self._clock() - known[0] > MOUNT_KNOWN_FOR:
            try:
                reply = self.transport.request("GET", f"sys/internal/ui/mounts/{mount}", token=self.token())
            except (VaultUnavailableError, VaultDeniedError):
                return None  # it only serves a better message
            known = self._mounts[mount] = (self._clock(), reply)
        reply = known[1]
        if reply.status != 200:
            return None
        if reply.data.get("type") not in ("kv", "generic"):
            return "none"
        return str((reply.data.get("options") or {}).get("version") or "1")

    # -------------------------------------------------------------------------------------------- login

    def token(self) -> str:
        """Return a token, logging in when there is none or the old one is about to end.

        :raises VaultDeniedError: If the login is refused.
        :raises VaultUnavailableError: If Vault does not answer.
        """
        token = self._token
        if token is not None and (token.expires is None or self._clock() < token.expires):
            return token.value
        return self._login(instead_of=token.value if token is not None else None)

    def _other_than(self, used: str) -> str | None:
        """Return another token where a 403 may be the fault of the one used, ``None`` where there is none.

        Vault is asked at most once a minute: a denied path must cost no logins. Its answer is only a hint,
        as a token without the policy ``default`` may not look itself up, so the token stays in use until
        there is another one.
        """
        token = self._token
        if token is None or token.value != used:
            return self.token()  # another thread has logged in meanwhile
        if self._clock() - token.checked >= CHECK_EVERY:
            reply = self.transport.request("GET", "auth/token/lookup-self", token=used)
            token.checked, token.suspect, token.doubt = self._clock(), reply.status == 403, ""
        if not token.suspect:
            return None
        try:
            return self._login(instead_of=used)
        except VaultDeniedError as error:
            token.doubt = f"or it is the token, as auth/token/lookup-self was refused too: {error}"
            return None

    def _login(self, *, instead_of: str | None) -> str:
        with self._login_lock:
            token = self._token
            if token is not None and token.value != instead_of:
                return token.value
            if self._refused is not None and self._clock() < self._refused[0]:
                known = self._refused[1]
                raise VaultDeniedError(str(known), status=known.status, path=known.path)
            try:
                made = self._approle() if self.settings.auth_type == "approle" else self._given(instead_of)
            except VaultDeniedError as error:
                # Not asked again at once: some servers lock out who keeps sending wrong credentials.
                self._refused = (self._clock() + self.settings.cache.missing_ttl, error)
                raise
            self._refused, self._token = None, made
            return made.value

    def _approle(self) -> _Token:
        settings = self.settings
        path = f"auth/{(settings.auth_mount_point or 'approle').strip('/')}/login"
        body = {"role_id": settings.role_id, "secret_id": settings.secret_id}
        sent = {key: value for key, value in body.items() if value is not None}
        # Not repeated by itself: the secret id may be good for one use only.
        reply = self.transport.request("POST", path, body=sent, once=True)
        auth = reply.body.get("auth")
        if reply.status != 200 or not isinstance(auth, dict) or not auth.get("client_token"):
            text = (
                f"Vault at {settings.shown_address} refused the AppRole login at {path} (status {reply.status}):"
                " check role_id, secret_id (used up or expired?), auth_mount_point and namespace"
            )
            raise VaultDeniedError(text, status=reply.status, path=path)
        now, ttl = self._clock(), int(auth.get("lease_duration") or 0)
        # A little early, so that no call is under way when it ends.
        expires = now + ttl - min(5.0, ttl / 10) if ttl else None
        return _Token(str(auth["client_token"]), expires, checked=now)

    def _given(self, instead_of: str | None) -> _Token:
        settings = self.settings
        if settings.token:
            value = settings.token
        elif settings.token_path:
            try:
                value = Path(settings.token_path).read_text().strip()
            except OSError as error:
                reason = error.strerror or type(error).__name__
                text = f"token_path={settings.token_path!r} cannot be read ({reason})"
                raise VaultDeniedError(text, path=settings.token_path) from error
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
        return _Token(value, None, checked=float("-inf"))


# Clients live as long as their process, also when the objects that use them are made anew for each
# lookup, as Airflow does for configuration options.
_clients: weakref.WeakSet[VaultClient] = weakref.WeakSet()
_shared: dict[tuple[VaultSettings, Clock], VaultClient] = {}
_shared_lock = threading.Lock()


def shared_client(settings: VaultSettings, *, clock: Clock = time.monotonic) -> VaultClient:
    """Return the one client this process has for these settings."""
    with _shared_lock:
        client = _shared.get((settings, clock))
        if client is None:
            client = _shared[settings, clock] = VaultClient(settings, clock=clock)
        return client


def forget_shared_clients() -> None:
    """Close all shared clients and forget tokens and secrets; the next lookup starts anew."""
    with _shared_lock:
        for client in _shared.values():
            client.close()
        _shared.clear()


def _after_fork() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for client in list(_clients):
        client.after_fork()


os.register_at_fork(after_in_child=_after_fork)
