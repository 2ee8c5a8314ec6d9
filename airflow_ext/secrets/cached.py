"""Another secrets backend behind the cache of the Vault backend, such as AWS Secrets Manager's."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from airflow.sdk.bases.secrets_backend import BaseSecretsBackend
from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

from airflow_ext.exceptions import AirflowExtError, DeniedError, InvalidError, UnavailableError
from airflow_ext.secrets import _vault_arguments as given
from airflow_ext.secrets._vault_arguments import Paths, Patterns
from airflow_ext.secrets._vault_forking import before_tasks
from airflow_ext.secrets._vault_leases import current_owner, process_role
from airflow_ext.secrets._vault_masking import amask, mask
from airflow_ext.vault.audit import Access, AuditLog
from airflow_ext.vault.breaker import Breaker
from airflow_ext.vault.cache import Document, Key
from airflow_ext.vault.documents import secret_texts
from airflow_ext.vault.reading import Reader, Reading
from airflow_ext.vault.settings import BreakerPolicy, CachePolicy

log = logging.getLogger(__name__)

Kind = Literal["connection", "variable", "config"]
Clock = Callable[[], float]

DENIALS = ("AccessDenied", "AccessDeniedException", "PermissionDenied", "Forbidden", "UnauthorizedOperation")
"""Codes and classes of errors by which services refuse; all other errors pass for an outage."""


class CachedBackend(BaseSecretsBackend):
    """Look secrets up in another backend, and serve what is known as :class:`airflow_ext.secrets.vault.VaultBackend` does.

    Each secret is asked for once per ``soft_ttl``, is read ahead of time while it is in use, and is served up to
    ``hard_ttl`` old while the backend fails or does not answer.

    :param backend: Path of the class, such as
        ``airflow.providers.amazon.aws.secrets.secrets_manager.SecretsManagerBackend``.
    :param backend_kwargs: Its arguments, as an object or JSON text.
    :param timeout: Seconds one lookup may take; it goes on in the background, but nobody waits for it.
    :param soft_ttl: Seconds a secret is served without asking again.
    :param hard_ttl: Seconds after the read until which it is served when the backend fails.
    :param missing_ttl: Seconds that "not there" and "denied" are remembered.
    :param shared_cache: The tasks of a worker tell each other what they read, in encrypted files in memory.
    :param breaker_failures: Failures in a row after which the backend is left alone.
    :param breaker_seconds: For how long.
    :param on_error: ``raise`` fails the lookup when the backend cannot say; ``fall_through`` logs the reason and
        lets Airflow ask the next backend.
    :param include: Regular expressions; only ids one of them fits are looked up. ``None`` means all.
    :param exclude: Regular expressions of ids that are not looked up.
    :param audit_file: File that gets a line for each access.
    :param clock: Seconds that never go back; a seam for tests.
    :raises ValueError: If an argument cannot work, naming it.
    """

    def __init__(
        self,
        *,
        backend: str,
        backend_kwargs: Mapping[str, Any] | str | None = None,
        timeout: float | str = 5.0,
        soft_ttl: float | str = 60.0,
        hard_ttl: float | str = 3600.0,
        missing_ttl: float | str = 30.0,
        shared_cache: bool | str = False,
        breaker_failures: int | str = 3,
        breaker_seconds: float | str = 10.0,
        on_error: Literal["raise", "fall_through"] = "raise",
        include: Paths = None,
        exclude: Paths = None,
        audit_file: str | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__()
        arguments = given.parsed("backend_kwargs", backend_kwargs) or {}
        if not isinstance(arguments, Mapping):
            raise ValueError("backend_kwargs is no object: give the arguments of the backend by name")
        self.on_error = given.one_of("on_error", on_error, ("raise", "fall_through"))
        self.audit = AuditLog(audit_file)
        self._patterns = Patterns(include, exclude)
        cache = CachePolicy(
            soft_ttl=given.number("soft_ttl", soft_ttl),
            hard_ttl=given.number("hard_ttl", hard_ttl),
            missing_ttl=given.number("missing_ttl", missing_ttl),
            shared=given.switch("shared_cache", shared_cache),
        )
        breaker = BreakerPolicy(
            failures=int(given.number("breaker_failures", breaker_failures)),
            seconds=given.number("breaker_seconds", breaker_seconds),
        )
        self._source = _source(backend, arguments, given.number("timeout", timeout), cache, breaker, clock)

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Return a connection as a URI or as JSON, ``None`` if the backend has none of that id.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        return self._masked("connection", conn_id, team_name)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return a variable, ``None`` if the backend has none of that key.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        return self._masked("variable", key, team_name)

    def get_config(self, key: str) -> str | None:
        """Return a configuration option, ``None`` if the backend has none of that key.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        return self._masked("config", key, None)

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:
        """Return a connection, ``None`` if the backend has none of that id.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        return self._connection(conn_id, self.get_conn_value(conn_id, team_name))

    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any:
        """Return a connection as :meth:`get_connection` does, without keeping the event loop waiting."""
        document = await asyncio.to_thread(self._find, "connection", conn_id, team_name)
        if document is None:
            return None
        await amask(document, lambda: _texts(document))
        return self._connection(conn_id, str(document.data["value"]))

    def _masked(self, kind: Kind, key: str, team_name: str | None) -> str | None:
        document = self._find(kind, key, team_name)
        if document is None:
            return None
        mask(document, lambda: _texts(document))
        return str(document.data["value"])

    def _find(self, kind: Kind, key: str, team_name: str | None) -> Document | None:
        if not self._patterns.allow(key):
            return None
        started = time.perf_counter()
        try:
            reading = self._source.reader.read((f"{kind}@{team_name}" if team_name else kind, key))
        except AirflowExtError as error:
            self._tell(kind, key, None, started)
            self._fail(error)
            return None
        self._tell(kind, key, reading, started)
        return reading.document

    def _tell(self, kind: Kind, key: str, reading: Reading | None, started: float) -> None:
        source = "error" if reading is None else reading.source
        from_memory = reading is not None and not reading.asked
        if from_memory and self.audit.file is None:
            return
        owner = current_owner()
        self.audit.tell(
            Access(
                kind=kind,
                id=key,
                path=self._source.name,
                source="backend" if source == "vault" else source,
                found=reading is not None and reading.document is not None,
                ms=round((time.perf_counter() - started) * 1000, 3),
                process=process_role(),
                owner=owner.meta if owner is not None else None,
            ),
            from_memory=from_memory,
        )

    def _connection(self, conn_id: str, value: str | None) -> Any:
        if value is None:
            return None
        try:
            return self._source.inner().deserialize_connection(conn_id=conn_id, value=value)
        except Exception as error:  # noqa: BLE001  # whatever it is, its text may show the whole connection
            kind = type(error).__name__
        self._fail(InvalidError(f"what {self._source.name} has for connection {conn_id!r} is none ({kind})"))
        return None

    def _fail(self, error: AirflowExtError) -> None:
        if self.on_error == "raise":
            # The one exception Airflow lets through; all others would end in "isn't defined".
            raise AirflowSecretsBackendAccessDenied(str(error)) from None
        log.warning("%s; asking the next secrets backend", error)


class _Source:
    """The backend that is asked, its cache and its breaker; one per process and arguments."""

    def __init__(
        self,
        path: str,
        arguments: Mapping[str, Any],
        timeout: float,
        cache: CachePolicy,
        breaker: BreakerPolicy,
        clock: Clock,
    ) -> None:
        self.name, self._class, self._arguments = path.rpartition(".")[2], _class(path), dict(arguments)
        self._timeout, self._breaker = timeout, Breaker(breaker, clock)
        self._made: tuple[int, BaseSecretsBackend] | None = None
        self.reader = Reader(
            self._fetch,
            cache,
            shown=lambda key: f"{key[0]} {key[1]!r}",
            patience=breaker.seconds,
            clock=clock,
        )

    def after_fork(self) -> None:
        self._breaker.restore_lock()
        self.reader.after_fork()

    def inner(self) -> Any:
        """Return the backend; a forked process makes its own, as connections must not be shared."""
        if self._made is None or self._made[0] != os.getpid():
            self._made = (os.getpid(), self._class(**self._arguments))
        return self._made[1]

    def _fetch(self, key: Key) -> Document | None:
        if not self._breaker.allow():
            raise self._unavailable(
                f"{self._breaker.why}; it is left alone for another {self._breaker.left} s"
            )
        answer: list[str | None] = []
        trouble: list[Exception] = []

        def ask() -> None:
            try:
                answer.append(self._value(key))
            except Exception as error:  # noqa: BLE001  # each backend has its own
                trouble.append(error)

        thread = threading.Thread(target=ask, name="secrets-backend", daemon=True)
        thread.start()
        thread.join(self._timeout)
        if answer:
            self._breaker.succeeded()
            return Document("/".join(key), {"value": answer[0]}) if answer[0] is not None else None
        if not trouble:
            self._breaker.failed(why := f"did not answer within {self._timeout:g} s")
            raise self._unavailable(why)
        kind = _kind(trouble[0])
        if kind in DENIALS or isinstance(trouble[0], AirflowSecretsBackendAccessDenied):
            self._breaker.succeeded()
            raise DeniedError(
                f"{self.name} denied {key[0]} {key[1]!r} ({kind}): look at what its credentials may do"
            )
        self._breaker.failed(why := f"failed ({kind})")
        raise self._unavailable(why)

    def _value(self, key: Key) -> str | None:
        (kind, _, team), inner = key[0].partition("@"), self.inner()
        if kind == "config":
            return _text(inner.get_config(key[1]))
        if kind == "variable":
            return _text(_called(inner.get_variable, key[1], team))
        if type(inner).get_conn_value is BaseSecretsBackend.get_conn_value:
            found = _called(inner.get_connection, key[1], team)
            return None if found is None else str(found.get_uri())
        return _text(_called(inner.get_conn_value, key[1], team))

    def _unavailable(self, what: str) -> UnavailableError:
        return UnavailableError(f"{self.name} {what}", service=self.name)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _called(method: Callable[..., Any], key: str, team: str) -> Any:
    # Backends older than teams do not know the argument.
    if team and "team_name" in inspect.signature(method).parameters:
        return method(key, team_name=team)
    return method(key)


def _kind(error: Exception) -> str:
    """Return the code of an error of botocore, else its class; its text may repeat what was asked for or found."""
    response = getattr(error, "response", None)
    told = response.get("Error") if isinstance(response, Mapping) else None
    code = told.get("Code") if isinstance(told, Mapping) else None
    return str(code) if code else type(error).__name__


def _class(path: str) -> type[BaseSecretsBackend]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(
            f"backend={path!r} cannot be imported ({error}): is its provider installed here?"
        ) from None
    if not isinstance(found, type) or not hasattr(found, "get_variable"):
        raise ValueError(f"backend={path!r} is no secrets backend")
    return found


def _texts(document: Document) -> list[str]:
    value, kind = str(document.data["value"]), document.path.partition("/")[0].partition("@")[0]
    if kind != "connection":
        return secret_texts(document)
    parsed: Any = None
    if value.lstrip().startswith("{"):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = None
    return secret_texts(Document(document.path, parsed if isinstance(parsed, dict) else {"conn_uri": value}))


# Airflow makes backends anew for each configuration option; what they know must not be lost with them.
_sources: dict[tuple[Any, ...], _Source] = {}


def _source(
    path: str,
    arguments: Mapping[str, Any],
    timeout: float,
    cache: CachePolicy,
    breaker: BreakerPolicy,
    clock: Clock,
) -> _Source:
    name = (path, json.dumps(arguments, sort_keys=True, default=repr), timeout, cache, breaker, clock)
    if name not in _sources:
        source = _Source(path, arguments, timeout, cache, breaker, clock)
        found = _sources.setdefault(name, source)
        before_tasks(name, found.reader.share)
    return _sources[name]


def forget_sources() -> None:
    """Forget all that is known, and remove what tasks share; the next lookup starts anew."""
    for source in _sources.values():
        source.reader.close()
    _sources.clear()


def _after_fork() -> None:
    for source in list(_sources.values()):
        source.after_fork()


os.register_at_fork(after_in_child=_after_fork)
