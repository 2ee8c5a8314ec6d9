"""What a Vault client needs to know, checked where it is written down."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from airflow_ext.vault.logins import AUTH_TYPES, Credentials, trouble_with_arguments

DEFAULT_URL = "http://localhost:8200"


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long one call may take.

    :param connect: Seconds until the connection stands.
    :param read: Seconds until the answer begins, and between its parts.
    """

    connect: float = 0.5
    read: float = 1.5

    @classmethod
    def of(cls, value: float | Sequence[float] | None) -> Timeouts:
        """Return the timeouts meant by one number for both, a pair (connect, read), or ``None``."""
        if value is None:
            return cls()
        parts = [value, value] if isinstance(value, int | float) else list(value)
        if len(parts) != 2 or not all(isinstance(each, int | float) and each > 0 for each in parts):
            raise ValueError(f"timeout={value!r}: give seconds above 0, or a pair [connect, read]")
        return cls(connect=float(parts[0]), read=float(parts[1]))


@dataclass(frozen=True, kw_only=True)
class CachePolicy:
    """How long what was read is used.

    :param soft_ttl: Seconds a secret is served without asking Vault again.
    :param hard_ttl: Seconds after the read until which it is still served when Vault does not answer.
    :param missing_ttl: Seconds that "not there", "denied" and a refused login are remembered.
    :param shared: The tasks of a worker tell each other what they read; see :mod:`airflow_ext.vault.shared`.
    """

    soft_ttl: float = 60.0
    hard_ttl: float = 3600.0
    missing_ttl: float = 30.0
    shared: bool = False

    def __post_init__(self) -> None:
        for name in ("soft_ttl", "hard_ttl", "missing_ttl"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r}: give seconds, 0 or more")
        if self.hard_ttl < self.soft_ttl:
            raise ValueError(f"hard_ttl={self.hard_ttl!r} is below soft_ttl={self.soft_ttl!r}: raise it")


@dataclass(frozen=True, kw_only=True)
class BreakerPolicy:
    """When to stop asking a Vault that does not answer.

    :param failures: Failed calls in a row that open the breaker.
    :param seconds: How long it stays open; then one call tries again.
    """

    failures: int = 3
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError(f"breaker_failures={self.failures!r}: give 1 or more")
        if self.seconds < 0:
            raise ValueError(f"breaker_seconds={self.seconds!r}: give seconds, 0 or more")


@dataclass(frozen=True, kw_only=True)
class VaultSettings:
    """Where Vault is, how to log in, and how patient to be.

    Equal settings share one client, so they are hashable; secrets in them are never printed.

    :param url: Address; ``None`` takes ``VAULT_ADDR``, else ``http://localhost:8200``.
    :param auth_type: One of :data:`~airflow_ext.vault.logins.AUTH_TYPES`.
    :param auth_mount_point: Where the auth method is mounted; ``None`` means the name of the method.
    :param kv_engine_version: 1 or 2.
    :param token: For ``token``; ``None`` takes ``token_path``, else ``VAULT_TOKEN``. For ``github``, GitHub's.
    :param token_path: File with the token, read again whenever Vault no longer takes the old one.
    :param role_id: For ``approle``; the role's name for ``aws_iam``, ``gcp`` and ``azure``.
    :param secret_id: For ``approle``, ``None`` for roles that need none; the secret for ``aws_iam`` and ``azure``.
    :param secret_id_wrapped: ``secret_id`` is a wrapping token, which is unwrapped once per process tree.
    :param credentials: What other ways to log in need.
    :param namespace: Namespace of login and secrets; ``None`` is the root.
    :param verify: Check certificates; ``None`` too, with ``VAULT_CACERT`` if set; or the path of a CA bundle.
    :param cert: Client certificate and key, as paths.
    :param proxies: Scheme to proxy.
    :param strict_http: Use no other verbs than plain HTTP has.
    :param request_header: Send ``X-Vault-Request``, which agents and proxies may insist on.
    """

    url: str | None = None
    auth_type: str = "token"
    auth_mount_point: str | None = None
    kv_engine_version: int = 2
    token: str | None = field(default=None, repr=False)
    token_path: str | None = None
    role_id: str | None = field(default=None, repr=False)
    secret_id: str | None = field(default=None, repr=False)
    secret_id_wrapped: bool = False
    credentials: Credentials = field(default_factory=Credentials)
    namespace: str | None = None
    verify: bool | str | None = None
    cert: tuple[str, ...] | str | None = None
    proxies: tuple[tuple[str, str], ...] | None = field(default=None, repr=False)
    strict_http: bool = False
    request_header: bool = True
    timeouts: Timeouts = field(default_factory=Timeouts)
    cache: CachePolicy = field(default_factory=CachePolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)

    def __post_init__(self) -> None:
        if not self.address.lower().startswith(("http://", "https://")):
            name, shown = "url" if self.url else "VAULT_ADDR", self.address.rpartition("@")[2]
            raise ValueError(f"{name}={shown!r}: http:// or https:// is missing, as in https://vault:8200")
        if self.auth_type not in AUTH_TYPES:
            raise ValueError(f"auth_type={self.auth_type!r} is not known: use one of {', '.join(AUTH_TYPES)}")
        if self.kv_engine_version not in (1, 2):
            raise ValueError(f"kv_engine_version={self.kv_engine_version!r}: give 1 or 2")
        trouble = trouble_with_arguments(self.auth_type, self.credentials, self.role_id, self.secret_id)
        if trouble:
            raise ValueError(trouble)
        if self.auth_type == "cert" and not self.cert:
            raise ValueError("auth_type='cert' needs cert, the paths of a certificate and its key")
        if self.auth_type == "github" and not self.token:
            raise ValueError("auth_type='github' needs token, GitHub's")
        if self.secret_id_wrapped and (self.auth_type != "approle" or not self.secret_id):
            raise ValueError(
                "secret_id_wrapped needs auth_type='approle' and the wrapping token in secret_id"
            )
        if self.auth_type == "token" and not (self.token or self.token_path or os.environ.get("VAULT_TOKEN")):
            raise ValueError(
                "auth_type='token' needs token, token_path or the environment variable VAULT_TOKEN"
            )

    @property
    def address(self) -> str:
        """The address that is used, without a slash at the end."""
        return (self.url or os.environ.get("VAULT_ADDR") or DEFAULT_URL).rstrip("/")

    @property
    def shown_address(self) -> str:
        """The address for people: without user and password, should it carry any."""
        scheme, separator, rest = self.address.partition("://")
        host, slash, path = rest.partition("/")
        return scheme + separator + host.rpartition("@")[2] + slash + path


def frozen_proxies(proxies: Mapping[str, str] | None) -> tuple[tuple[str, str], ...] | None:
    """Return proxies in the form :class:`VaultSettings` takes."""
    return tuple(sorted(proxies.items())) if proxies else None
