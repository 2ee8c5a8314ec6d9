"""Vault from task code: connections for a block of code, and a client for operators."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_ext.exceptions import InvalidError
from airflow_ext.vault.lease_model import seconds_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_ext.secrets.vault import VaultBackend
    from airflow_ext.vault.client import VaultClient


def configured_backend() -> VaultBackend:
    """Return the Vault backend that this process looks connections up in.

    :raises InvalidError: If Airflow is not configured with one.
    """
    from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded

    from airflow_ext.secrets.vault import VaultBackend

    for backend in ensure_secrets_backend_loaded():
        if isinstance(backend, VaultBackend):
            return backend
    raise InvalidError(
        "no Vault backend is configured: set backend = airflow_ext.secrets.vault.VaultBackend in [workers]"
        " (secrets_backend) or [secrets]"
    )


SCHEMES = {"vault": "http", "vaults": "https", "http": "http", "https": "https"}
"""By type of connection, what is spoken where ``use_tls`` says nothing."""


@contextmanager
def vault_connection(conn_id: str, *, ttl: int | str | None = None) -> Iterator[Connection]:
    """Give a connection with credentials of its own for a block of code, and revoke them after it.

    Within the block, also in threads that it starts, operators and hooks that look the same connection up get the same
    credentials. Blocks in other threads or coroutines have others. A connection that is not leased is given as it is.

    :param ttl: Seconds, or text such as ``"10m"``, after which the credentials end even if the block goes on;
        ``None`` means that they end with the block.
    :raises InvalidError: If ``ttl`` is no duration, or is given for a connection that is not leased, or outside
        of a task.
    :raises AirflowSecretsBackendAccessDenied: If Vault denies them or does not answer.
    """
    seconds = seconds_of("ttl", ttl) if ttl is not None else None
    backend = configured_backend()
    session = backend.lease_block(conn_id, seconds)
    if session is None and ttl is not None:
        raise InvalidError(f"ttl={ttl!r}: connection {conn_id!r} is not leased, so nothing would end")
    try:
        yield BaseHook.get_connection(conn_id)
    finally:
        if session is not None:
            backend.close_block(session)


class VaultHook(BaseHook):
    """A client for the Vault that connections come from.

    :param vault_conn_id: A connection to use instead of the configured backend, as the hashicorp provider writes it:
        type ``vault`` (``http``) or ``vaults`` (``https``), unless ``use_tls`` in extra says otherwise; host, port, mount
        as schema; login and password as ``auth_type`` in extra needs them, without which the password is a token;
        in extra any further argument of the backend, and ``client_kwargs``. A schema of exactly ``https`` or ``http`` is
        the scheme instead; then the port is 8200 where none is given, and a login without ``auth_type`` an AppRole.
    """

    conn_name_attr = "vault_conn_id"
    default_conn_name = "vault_default"
    conn_type = "vault"
    hook_name = "Hashicorp Vault"

    def __init__(self, vault_conn_id: str | None = None) -> None:
        super().__init__()
        self.vault_conn_id = vault_conn_id

    def get_conn(self) -> VaultClient:
        """Return the client.

        :raises InvalidError: If there is neither a backend nor a usable connection.
        """
        return self.backend().client

    async def aget_conn(self) -> VaultClient:
        """Return the client, for a trigger.

        :raises InvalidError: If there is neither a backend nor a usable connection.
        """
        if self.vault_conn_id is None:
            return (await asyncio.to_thread(configured_backend)).client
        return self._backend_of(await self.aget_connection(self.vault_conn_id)).client

    def backend(self) -> VaultBackend:
        """Return the backend whose client and mount are used.

        :raises InvalidError: If there is neither a backend nor a usable connection.
        """
        if self.vault_conn_id is None:
            return configured_backend()
        return self._backend_of(self.get_connection(self.vault_conn_id))

    def _backend_of(self, connection: Connection) -> VaultBackend:
        from airflow_ext.secrets.vault import VaultBackend

        if str(connection.conn_type) not in SCHEMES:
            raise InvalidError(
                f"vault_conn_id={self.vault_conn_id!r} has the connection type {connection.conn_type!r}: give one of type"
                f" {', '.join(SCHEMES)}"
            )
        try:
            return VaultBackend(**_arguments(connection))
        except (TypeError, ValueError) as error:
            raise InvalidError(f"connection {self.vault_conn_id!r}: {error}") from None


def _arguments(connection: Connection) -> dict[str, Any]:
    from airflow_ext.secrets import _vault_arguments as given

    extra = {key: value for key, value in connection.extra_dejson.items() if value not in (None, "")}
    client_kwargs = given.parsed("client_kwargs", extra.pop("client_kwargs", None)) or {}
    if not isinstance(client_kwargs, Mapping):
        raise ValueError("client_kwargs is no object: give arguments such as namespace by name")
    schema, use_tls = connection.schema or "", extra.pop("use_tls", None)
    has_scheme = schema in SCHEMES.values()
    scheme = schema if has_scheme else SCHEMES[str(connection.conn_type)]
    if use_tls is not None and not has_scheme:
        scheme = "https" if given.switch("use_tls", use_tls) else "http"
    if not connection.host and "url" not in extra:
        raise ValueError("it has no host: give the address of Vault")
    port = connection.port or (8200 if has_scheme else None)
    url = f"{scheme}://{connection.host}" + (f":{port}" if port else "")
    auth_type = extra.get("auth_type") or ("approle" if has_scheme and connection.login else "token")
    mount = {"mount_point": schema} if schema and not has_scheme else {}
    who = _who(auth_type, connection.login, connection.password)
    if auth_type == "gcp":
        extra = {"role_id": connection.login, **extra}
    return {**client_kwargs, "url": url, **extra, **mount, **who, "auth_type": auth_type}


def _who(auth_type: str, login: str | None, password: str | None) -> dict[str, str]:
    """Return what login and password are for a way to log in."""
    names = {
        **dict.fromkeys(("token", "github"), ("", "token")),
        "approle": ("role_id", "secret_id"),
        **dict.fromkeys(("aws_iam", "azure"), ("key_id", "secret_id")),
        **dict.fromkeys(("userpass", "ldap", "radius"), ("username", "password")),
    }
    found = zip(names.get(auth_type, ("", "")), (login, password), strict=True)
    return {name: value for name, value in found if name and value}
