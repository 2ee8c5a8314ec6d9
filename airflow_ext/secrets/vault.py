"""Connections, variables and configuration options from Vault."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from airflow.sdk.bases.secrets_backend import BaseSecretsBackend
from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

from airflow_ext.exceptions import AirflowExtError, InvalidError
from airflow_ext.vault.cache import Document
from airflow_ext.vault.check import VaultCheck, check
from airflow_ext.vault.client import Reading, VaultClient, shared_client
from airflow_ext.vault.documents import connection_value, plain_value, secret_texts
from airflow_ext.vault.settings import BreakerPolicy, CachePolicy, Timeouts, VaultSettings, frozen_proxies

log = logging.getLogger(__name__)

OTHER_AUTH_ARGUMENTS = frozenset(
    {
        *("username", "password", "key_id", "assume_role_kwargs", "region", "kubernetes_role"),
        *("kubernetes_jwt_path", "gcp_key_path", "gcp_keyfile_dict", "gcp_scopes", "azure_tenant_id"),
        *("azure_resource", "radius_host", "radius_secret", "radius_port", "jwt_role", "jwt_token"),
        "jwt_token_path",
    }
)
"""Arguments of the hashicorp provider for ways to log in that are not there yet; ignored, as it does."""

# What was registered with the masker, and in which process: a forked child may have been given a fresh one.
_masked: weakref.WeakKeyDictionary[Document, int] = weakref.WeakKeyDictionary()

Paths = str | Sequence[str] | None


class VaultBackend(BaseSecretsBackend):
    """Read connections, variables and configuration options from Vault.

    Takes the arguments and the layout of the hashicorp provider's class of the same name; what is not
    named here is passed on to hvac (``namespace``, ``verify``, ``cert``, ``proxies``, ``strict_http``,
    ``request_header``). Numbers and switches may also come as text, as environment variables give them.

    :param connections_path: Folder of connections, or several to be tried in order; ``None`` reads none.
    :param variables_path: The same for variables.
    :param config_path: The same for configuration options.
    :param use_team_secrets_path: With ``[core] multi_team``, look below ``<path>/<team>`` for a team.
    :param global_secrets_path: One more folder to try last.
    :param url: Address; ``None`` takes ``VAULT_ADDR``, else ``http://localhost:8200``.
    :param auth_type: ``token`` or ``approle``.
    :param auth_mount_point: Where the auth method is mounted; ``None`` means the name of the method.
    :param mount_point: Where the key-value engine is mounted; ``None`` takes it from the id (``mount/id``).
    :param kv_engine_version: 1 or 2.
    :param token: For ``token``; ``None`` takes ``token_path``, else ``VAULT_TOKEN``.
    :param token_path: File with the token.
    :param role_id: For ``approle``.
    :param secret_id: For ``approle``.
    :param timeout: Seconds for connecting and for an answer, or both as ``[connect, read]``; ``None``
        means ``[0.5, 1.5]``.
    :param soft_ttl: Seconds a secret is served without asking again.
    :param hard_ttl: Seconds after the read until which it is served when Vault does not answer.
    :param missing_ttl: Seconds that "not there" and "denied" are remembered.
    :param breaker_failures: Failed calls in a row after which Vault is left alone.
    :param breaker_seconds: For how long.
    :param on_error: ``raise`` fails the lookup when Vault cannot say; ``fall_through`` logs the reason and
        lets Airflow ask the next backend.
    :param clock: Seconds that never go back; a seam for tests.
    :raises ValueError: If an argument cannot work, naming it. Nothing is sent before the first lookup.
    :raises TypeError: If an argument is not known.
    """

    def __init__(
        self,
        *,
        connections_path: Paths = "connections",
        variables_path: Paths = "variables",
        config_path: Paths = "config",
        use_team_secrets_path: bool | str = True,
        global_secrets_path: str | None = None,
        url: str | None = None,
        auth_type: str = "token",
        auth_mount_point: str | None = None,
        mount_point: str | None = "secret",
        kv_engine_version: int | str = 2,
        token: str | None = None,
        token_path: str | None = None,
        role_id: str | None = None,
        secret_id: str | None = None,
        timeout: float | str | Sequence[float] | None = None,
        soft_ttl: float | str = 60.0,
        hard_ttl: float | str = 3600.0,
        missing_ttl: float | str = 30.0,
        breaker_failures: int | str = 3,
        breaker_seconds: float | str = 10.0,
        on_error: Literal["raise", "fall_through"] = "raise",
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if on_error not in ("raise", "fall_through"):
            raise ValueError(f"on_error={on_error!r}: give 'raise' or 'fall_through'")
        more = [global_secrets_path] if global_secrets_path is not None else []
        self.connections_path = _folders(connections_path, more)
        self.variables_path = _folders(variables_path, more)
        self.config_path = _folders(config_path, more)
        self.use_team_secrets_path = _switch("use_team_secrets_path", use_team_secrets_path)
        self.mount_point = mount_point.strip("/") if mount_point else None
        self.on_error = on_error
        self._clock = clock
        self._settings = VaultSettings(
            url=url,
            auth_type=auth_type,
            auth_mount_point=auth_mount_point,
            kv_engine_version=int(_number("kv_engine_version", kv_engine_version)),
            token=token,
            token_path=token_path,
            role_id=role_id,
            secret_id=secret_id,
            timeouts=Timeouts.of(_timeout(timeout)),
            cache=CachePolicy(
                soft_ttl=_number("soft_ttl", soft_ttl),
                hard_ttl=_number("hard_ttl", hard_ttl),
                missing_ttl=_number("missing_ttl", missing_ttl),
            ),
            breaker=BreakerPolicy(
                failures=int(_number("breaker_failures", breaker_failures)),
                seconds=_number("breaker_seconds", breaker_seconds),
            ),
            **_for_hvac(kwargs),
        )

    @property
    def client(self) -> VaultClient:
        """The client this process shares between all backends with the same settings."""
        return shared_client(self._settings, clock=self._clock)

    # ---------------------------------------------------------------------------------------- lookups

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Return a connection as a URI or as JSON, ``None`` if Vault has none of that id.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        return self._value(self.connections_path, conn_id, team_name, connection_value)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return a variable, ``None`` if Vault has none of that key.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        return self._value(self.variables_path, key, team_name, plain_value)

    def get_config(self, key: str) -> str | None:
        """Return a configuration option, ``None`` if Vault has none of that key.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        # No metrics here: their own configuration may be what is being read.
        return self._value(self.config_path, key, None, plain_value, count=False)

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:
        """Return a connection, ``None`` if Vault has none of that id.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        return self._connection(conn_id, self.get_conn_value(conn_id, team_name))

    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any:
        """Return a connection as :meth:`get_connection` does, without keeping the event loop waiting.

        The call to Vault runs in a thread; masking speaks to the supervisor and stays on the loop.
        """
        reading = await asyncio.to_thread(self._find, self.connections_path, conn_id, team_name)
        if reading is None or reading.document is None:
            return None
        if self._is_unmasked(reading.document):
            from airflow.sdk.log import amask_secret

            for text in secret_texts(reading.document):
                await amask_secret(text)
            self._note_masked(reading.document)
        return self._connection(conn_id, self._shaped(reading.document, connection_value))

    def check(self) -> VaultCheck:
        """Look at Vault as a lookup would, without reading any secret; never raises for what Vault says."""
        folders = {*self.connections_path, *self.variables_path, *self.config_path}
        places = [(self.mount_point, folder) for folder in sorted(folders)] if self.mount_point else []
        return check(self.client, [(mount, folder) for mount, folder in places if mount])

    # -------------------------------------------------------------------------------------- the parts

    def _value(
        self,
        folders: tuple[str, ...],
        key: str,
        team_name: str | None,
        shape: Callable[[Document], str],
        *,
        count: bool = True,
    ) -> str | None:
        reading = self._find(folders, key, team_name, count=count)
        if reading is None or reading.document is None:
            return None
        if self._is_unmasked(reading.document):
            from airflow.sdk.log import mask_secret

            for text in secret_texts(reading.document):
                mask_secret(text)
            self._note_masked(reading.document)
        return self._shaped(reading.document, shape)

    def _find(
        self, folders: tuple[str, ...], key: str, team_name: str | None, *, count: bool = True
    ) -> Reading | None:
        """Return the first reading that found something; ``None`` for a miss or an error that may pass."""
        try:
            for mount, path in self._places(folders, key, team_name):
                reading = self.client.read(mount, path)
                if count and reading.source != "cache":
                    from airflow.sdk.observability import stats

                    stats.incr(f"airflow_ext.vault.reads.{reading.source}")
                if reading.document is not None:
                    return reading
        except AirflowExtError as error:
            self._fail(error)
        return None

    def _places(self, folders: tuple[str, ...], key: str, team_name: str | None) -> Iterator[tuple[str, str]]:
        mount, name = self.mount_point, key
        if mount is None:
            mount, separator, name = key.partition("/")
            if not separator:
                return
        if {".", ".."} & set(key.split("/")):
            return  # the HTTP client would resolve these, and leave the folder
        team = f"{team_name}/" if team_name is not None and self._has_team_folders() else ""
        for folder in folders:
            yield mount, f"{folder}/{team}{name}" if folder else f"{team}{name}"

    def _has_team_folders(self) -> bool:
        from airflow.sdk.configuration import conf

        return self.use_team_secrets_path and conf.getboolean("core", "multi_team", fallback=False)

    def _shaped(self, document: Document, shape: Callable[[Document], str]) -> str | None:
        try:
            return shape(document)
        except InvalidError as error:
            self._fail(error)
            return None

    def _connection(self, conn_id: str, value: str | None) -> Any:
        if value is None:
            return None
        try:
            return self.deserialize_connection(conn_id=conn_id, value=value)
        except Exception as error:  # noqa: BLE001  # whatever it is, its text may show the whole connection
            kind = type(error).__name__
        self._fail(InvalidError(f"the document of connection {conn_id!r} is no connection ({kind})"))
        return None

    def _fail(self, error: AirflowExtError) -> None:
        if self.on_error == "raise":
            # The one exception Airflow lets through; all others would end in "isn't defined".
            raise AirflowSecretsBackendAccessDenied(str(error)) from error
        log.warning("%s; asking the next secrets backend", error)

    def _is_unmasked(self, document: Document) -> bool:
        return _masked.get(document) != os.getpid()

    def _note_masked(self, document: Document) -> None:
        # Servers have a second masker beside that of tasks, for their own logs.
        server = sys.modules.get("airflow._shared.secrets_masker")
        if server is not None:
            for text in secret_texts(document):
                server.mask_secret(text)
        _masked[document] = os.getpid()


# ------------------------------------------------------------------------------- arguments as people give them


def _folders(paths: Paths, more: list[str]) -> tuple[str, ...]:
    if isinstance(paths, str) and paths.startswith("["):  # a list, given by an environment variable
        paths = json.loads(paths)
    found = [] if paths is None else [paths] if isinstance(paths, str) else list(paths)
    return tuple(each.strip("/") for each in [*found, *more])


def _number(name: str, value: float | str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r}: give a number") from None


def _switch(name: str, value: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError(f"{name}={value!r}: give true or false")
    return words[str(value).lower()]


def _timeout(value: float | str | Sequence[float] | None) -> float | Sequence[float] | None:
    if not isinstance(value, str):
        return value
    try:
        parsed: float | list[float] = json.loads(value)
    except ValueError:
        raise ValueError(f"timeout={value!r}: give seconds, or [connect, read]") from None
    return parsed


def _for_hvac(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    ignored = sorted(set(kwargs) & OTHER_AUTH_ARGUMENTS)
    if ignored:
        log.warning("VaultBackend ignores %s: they belong to other values of auth_type", ", ".join(ignored))
    given = {key: value for key, value in kwargs.items() if key not in OTHER_AUTH_ARGUMENTS}
    if _switch("allow_redirects", given.pop("allow_redirects", False)):
        raise ValueError(
            "allow_redirects=True is not accepted: the token would go along to wherever Vault redirects;"
            " set url to the active node or a load balancer"
        )
    passed_on = ("cert", "namespace", "proxies", "request_header", "strict_http", "verify")
    unknown = sorted(set(given) - set(passed_on))
    if unknown:
        ours = [
            name for name in inspect.signature(VaultBackend).parameters if name not in ("clock", "kwargs")
        ]
        known = ", ".join([*ours, *passed_on])
        raise TypeError(f"VaultBackend does not know {', '.join(unknown)}; it knows {known}")
    for name in ("request_header", "strict_http"):
        if name in given:
            given[name] = _switch(name, given[name])
    if isinstance(given.get("verify"), str) and given["verify"].lower() in ("true", "false"):
        given["verify"] = given["verify"].lower() == "true"
    if "cert" in given and not isinstance(given["cert"], str | None):
        given["cert"] = tuple(given["cert"])
    if "proxies" in given:
        given["proxies"] = frozen_proxies(given["proxies"])
    return given
