"""Read secrets: one login, each path once, and what is known also while Vault does not answer."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from airflow_ext.exceptions import InvalidError, VaultDeniedError, VaultUnavailableError
from airflow_ext.vault.auth import CHECK_EVERY, Authenticator
from airflow_ext.vault.cache import Document, Key
from airflow_ext.vault.reading import Reader, Reading
from airflow_ext.vault.settings import VaultSettings
from airflow_ext.vault.transport import PAUSES, Reply, Transport

log = logging.getLogger(__name__)

READ_TOGETHER = 8
"""Threads that prefetch."""

MOUNT_KNOWN_FOR = 300.0
"""Seconds the kind of a mount is remembered."""

Clock = Callable[[], float]


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
        self.reader = Reader(
            lambda key: self._fetch(*key),
            settings.cache,
            shown=lambda key: self.api_path(*key),
            patience=settings.breaker.seconds,
            clock=clock,
        )
        self._static = Reader(
            lambda key: self._fetch_static(key[1]),
            replace(settings.cache, shared=False),
            shown=lambda key: key[1],
            patience=settings.breaker.seconds,
            clock=clock,
        )
        self.auth = Authenticator(settings, self.transport, clock)
        self._mounts: dict[str, tuple[float, Reply]] = {}
        self._same_version: dict[str, float] = {}  # until when a mount is taken to be of ours
        self._sleep = sleep
        _clients.add(self)

    def close(self) -> None:
        """Close all connections and remove what tasks share; the client can be used again."""
        self.transport.close()
        self.reader.close()

    def after_fork(self) -> None:
        """Make the copy in a forked child safe: the token and the cache stay, connections and locks do not."""
        self.transport.after_fork()
        self.reader.after_fork()
        self._static.after_fork()
        self.auth.after_fork()

    # ------------------------------------------------------------------------------------------ reading

    def read(self, mount: str, path: str) -> Reading:
        """Return the secret at a path of a key-value mount.

        :param mount: Where the engine is mounted, such as ``secret``.
        :param path: Path in it, without ``data/``.
        :raises VaultUnavailableError: If Vault does not answer and nothing usable is known.
        :raises VaultDeniedError: If the login or the path is refused.
        :raises InvalidError: If there is no key-value engine of the configured version at the mount.
        """
        return self.reader.read((mount.strip("/"), path.strip("/")))

    def probe(self, mount: str, path: str) -> None:
        """Ask Vault for a path as :meth:`read` does, past everything that is known; what is there is dropped.

        :raises VaultUnavailableError: If Vault does not answer.
        :raises VaultDeniedError: If the login or the path is refused.
        :raises InvalidError: If there is no key-value engine of the configured version at the mount.
        """
        self._fetch(mount.strip("/"), path.strip("/"))

    def read_many(self, keys: Sequence[Key]) -> None:
        """Read several secrets at once, for the lookups to come; what goes wrong is told by those.

        :param keys: Mounts and paths.
        """
        if not keys:
            return
        with suppress(VaultDeniedError, VaultUnavailableError):
            self.token()  # one login, before many threads ask for one

        def read(key: Key) -> None:
            with suppress(VaultDeniedError, VaultUnavailableError, InvalidError):
                self.read(*key)

        with ThreadPoolExecutor(min(READ_TOGETHER, len(keys)), "vault-prefetch") as pool:
            list(pool.map(read, keys))

    def read_static(self, path: str) -> Reading:
        """Return the credentials of a static role, not longer than until its password changes.

        :param path: Such as ``database/static-creds/app``.
        :raises VaultUnavailableError: If Vault does not answer and nothing usable is known.
        :raises VaultDeniedError: If the login or the path is refused, or the role is not known.
        """
        return self._static.read(("static", path.strip("/")))

    def _fetch_static(self, path: str) -> Document:
        reply = self.call("GET", path, was_fine=self._static.knows(("static", path)))
        if reply.status != 200:
            text = f"Vault at {self.settings.shown_address} gave no credentials of {path} (status {reply.status})"
            raise VaultDeniedError(text, status=reply.status, path=path)
        left = reply.data.get("ttl")
        return Document(path, reply.data, lifetime=float(left) if isinstance(left, int | float) else 0.0)

    def api_path(self, mount: str, path: str) -> str:
        """Return the path that policies speak about."""
        return f"{mount}/data/{path}" if self.settings.kv_engine_version == 2 else f"{mount}/{path}"

    def _fetch(self, mount: str, path: str) -> Document | None:
        api_path = self.api_path(mount, path)
        was_new = self.auth.is_new  # another thread may prove it meanwhile
        reply = self.call("GET", api_path, was_fine=self.reader.knows((mount, path)))
        if reply.status == 403 and (was_new or self.auth.is_new):
            reply = self._ask_again(mount, path, reply)
        if reply.status == 404:
            self._check_mount(mount, reply)
            return None
        if reply.status != 200:
            raise self._refusal(mount, path, reply.status)
        data, version = reply.body.get("data"), None
        if self.settings.kv_engine_version == 2 and isinstance(data, dict):
            version = (data.get("metadata") or {}).get("version")
            data = data.get("data")
        if not isinstance(data, dict):
            raise InvalidError(
                f"{api_path} is no secret of a KV version {self.settings.kv_engine_version} engine"
            )
        return Document(f"{mount}/{path}", data, version)

    def _ask_again(self, mount: str, path: str, reply: Reply) -> Reply:
        """Read again with a token that was just made, unless Vault knows that it may not."""
        api_path = self.api_path(mount, path)
        for pause in PAUSES:
            may = self._may_read(mount, path)
            if may is False:
                self.auth.prove()
                return reply
            self._sleep(pause)
            reply = self.call("GET", api_path)
            if reply.status != 403:
                return reply
        self.auth.prove()  # new or not, by now it is known, or dead
        return self.call("GET", api_path, was_fine=True) if may is None else reply

    def _may_read(self, mount: str, path: str) -> bool | None:
        """Tell what policies say of a path, ``None`` if Vault does not; note if they say no of the other version's path."""
        ours, other = self.api_path(mount, path), f"{mount}/{path}"
        if other == ours:
            other = f"{mount}/data/{path}"
        try:
            body = {"paths": [ours, other]}
            reply = self.transport.request("POST", "sys/capabilities-self", token=self.token(), body=body)
        except (VaultUnavailableError, VaultDeniedError):
            reply = Reply(0, {})  # it only serves a better answer
        told = {**reply.body, **reply.data} if reply.status == 200 else {}
        granted = {each: bool({"read", "root"} & set(told.get(each) or ())) for each in (ours, other)}
        if told and not granted[other]:
            self._same_version[mount] = self._clock() + CHECK_EVERY
        return granted[ours] if told else None

    def _refusal(self, mount: str, path: str, status: int) -> VaultDeniedError:
        api_path = self.api_path(mount, path)
        # What the token may at the other version's path says as much for this path, and was asked already.
        is_settled = self._clock() < self._same_version.get(mount, -math.inf)
        version = None if is_settled else self.mount_version(mount)
        hint = f'a policy with path "{api_path}" {{ capabilities = ["read"] }} would allow it'
        if version and version != str(self.settings.kv_engine_version):
            hint = f"mount {mount!r} is KV version {version}: set kv_engine_version={version}"
        if self.auth.doubt:
            hint = f"{hint}; {self.auth.doubt}"
        text = f"Vault at {self.settings.shown_address} denied {api_path} (status {status}): {hint}"
        return VaultDeniedError(text, status=status, path=api_path)

    # ------------------------------------------------------------------------------------------- mounts

    def _check_mount(self, mount: str, reply: Reply) -> None:
        # A 404 is also what a wrong mount or engine version looks like; that must not pass for "not there".
        if reply.errors:
            raise InvalidError(
                f"mount {mount!r} does not exist in Vault at {self.settings.shown_address}: check mount_point"
            )
        version, ours = self.mount_version(mount), str(self.settings.kv_engine_version)
        if version == "none":
            raise InvalidError(f"mount {mount!r} is no key-value engine: check mount_point")
        if version and version != ours:
            raise InvalidError(
                f"mount {mount!r} is KV version {version}, but kv_engine_version={ours}: set it to {version}"
            )

    def mount_version(self, mount: str) -> str | None:
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

    # -------------------------------------------------------------------------------------- login, calls

    def token(self) -> str:
        """Return a token, logging in when there is none or the old one is about to end.

        :raises VaultDeniedError: If the login is refused.
        :raises VaultUnavailableError: If Vault does not answer.
        """
        return self.auth.token()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: str = "",
        once: bool = False,
        was_fine: bool = False,
    ) -> Reply:
        """Make a call with the client's token, with another one if it turns out to be dead.

        :param path: Path below ``/v1/``.
        :param once: Never repeat it when it fails: for calls that use or make something.
        :param was_fine: It was allowed before, so that a 403 is looked into.
        :returns: Whatever Vault answered; a refusal too.
        :raises VaultDeniedError: If the login is refused.
        :raises VaultUnavailableError: If Vault does not answer.
        """
        token = self.token()
        reply = self.transport.request(method, path, token=token, body=body, query=query, once=once)
        if reply.status == 403 and (other := self.auth.other_than(token, was_fine=was_fine)) is not None:
            reply = self.transport.request(method, path, token=other, body=body, query=query, once=once)
        if reply.status != 403:
            self.auth.prove()
        return reply


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
