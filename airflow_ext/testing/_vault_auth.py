"""Tokens, policies and AppRole logins of the local Vault-compatible server."""

from __future__ import annotations

import json
import math
import re
import secrets
import string
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SYSTEM_MAX_TTL = 2764800
"""Seconds, 32 days: the default and the most that any token gets, as on a server nobody tuned."""

_BASE62 = string.ascii_letters + string.digits


class WireError(Exception):
    """An answer that is not a success; ``body`` replaces the usual list of errors.

    :param status: HTTP status.
    :param errors: Texts of the body; may be empty, as for a secret that is not there.
    """

    def __init__(self, status: int, *errors: str, body: dict[str, Any] | None = None) -> None:
        super().__init__(f"{status}: {', '.join(errors)}")
        self.status = status
        self.body: dict[str, Any] = {"errors": list(errors)} if body is None else body


def denied() -> WireError:
    """Return the answer to a token whose policies do not allow the path."""
    return WireError(403, "1 error occurred:\n\t* permission denied\n\n")


def seconds(value: object, default: int = 0) -> int:
    """Return a duration given as a number or as text such as ``90``, ``"90s"`` or ``"1h30m"``."""
    if value in (None, ""):
        return default
    if isinstance(value, int | float):
        return int(value)
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    text = str(value)
    if text.isdigit():
        return int(text)
    parts = re.findall(r"(\d+)([smhd])", text)
    if "".join(number + unit for number, unit in parts) != text:
        raise WireError(400, f"error parsing duration {text!r}")
    return sum(int(number) * units[unit] for number, unit in parts)


def random_id(length: int) -> str:
    """Return ``length`` random base62 characters."""
    return "".join(secrets.choice(_BASE62) for _ in range(length))


# --------------------------------------------------------------------------------------------- policies

Rules = dict[str, list[str]]
"""Path pattern to capabilities; patterns may end in ``*`` and use ``+`` for one segment."""

DEFAULT_POLICY: Rules = {
    "auth/token/lookup-self": ["read"],
    "auth/token/renew-self": ["update"],
    "auth/token/revoke-self": ["update"],
    "sys/capabilities-self": ["update"],
    "sys/leases/lookup": ["update"],
    "sys/leases/renew": ["update"],
    "sys/wrapping/wrap": ["update"],
    "sys/wrapping/lookup": ["update"],
    "sys/wrapping/unwrap": ["update"],
}

_HCL_RULE = re.compile(r'path\s+"([^"]+)"\s*\{\s*capabilities\s*=\s*\[([^\]]*)\]\s*\}')


def parse_policy(text: str) -> Rules:
    """Read a policy: JSON as Vault takes it, or HCL with nothing but ``path`` and ``capabilities``.

    :raises WireError: 400, if the text has neither form.
    """
    if text.lstrip().startswith("{"):
        try:
            paths = json.loads(text)["path"]
            return {path: list(rule["capabilities"]) for path, rule in paths.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise WireError(400, "failed to parse policy: not of the form {path: {capabilities}}") from None
    without_comments = re.sub(r"(?m)^\s*#.*$", "", text)
    rules = {path: re.findall(r'"([^"]+)"', caps) for path, caps in _HCL_RULE.findall(without_comments)}
    if _HCL_RULE.sub("", without_comments).strip():
        raise WireError(400, "failed to parse policy: only path and capabilities are understood")
    return rules


def _matches(pattern: str, path: str) -> bool:
    prefix = pattern.endswith("*")
    expression = "[^/]+".join(re.escape(part) for part in pattern.removesuffix("*").split("+"))
    return re.match(expression + ("" if prefix else r"\Z"), path) is not None


def capabilities(policies: Iterable[Rules], path: str) -> list[str]:
    """Return what a set of policies allows on a path: the longest matching pattern decides, ``deny`` wins."""
    granted: dict[tuple[bool, int], set[str]] = {}
    for rules in policies:
        for pattern, allowed in rules.items():
            if _matches(pattern, path):
                rank = (not pattern.endswith("*") and "+" not in pattern, len(pattern))
                granted.setdefault(rank, set()).update(allowed)
    best = granted[max(granted)] if granted else set()
    return ["deny"] if not best or "deny" in best else sorted(best)


# ----------------------------------------------------------------------------------------------- tokens


@dataclass(kw_only=True)
class Token:
    """One token; times are seconds since 1970 on the server's clock."""

    id: str = field(repr=False)
    accessor: str
    policies: list[str]
    issued: float
    creation_ttl: int
    expires: float | None
    path: str
    display_name: str
    meta: dict[str, str]
    parent: str | None = None
    max_ttl: int = 0
    explicit_max_ttl: int = 0
    period: int = 0
    uses: int = 0
    renewable: bool = True
    entity: str = field(default_factory=lambda: str(uuid.uuid4()))
    renewed: float | None = None
    namespace: str = ""
    batch: bool = False

    @property
    def root(self) -> bool:
        return "root" in self.policies


class Tokens:
    """All living tokens.

    :param now: The server's clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_id: dict[str, Token] = {}
        self.on_end: Callable[[str], None] = lambda _id: None

    def __iter__(self) -> Iterator[Token]:
        return iter(list(self._by_id.values()))

    def create(
        self,
        policies: Iterable[str],
        *,
        ttl: int = 0,
        max_ttl: int = 0,
        explicit_max_ttl: int = 0,
        period: int = 0,
        uses: int = 0,
        renewable: bool = True,
        parent: str | None = None,
        meta: Mapping[str, str] | None = None,
        path: str = "auth/token/create",
        display_name: str = "token",
        token_id: str | None = None,
        default_policy: bool = True,
        namespace: str = "",
        batch: bool = False,
    ) -> Token:
        """Make a token; see the answer of ``auth/token/create`` for what the arguments mean."""
        names = set(policies) | ({"default"} if default_policy and "root" not in set(policies) else set())
        root = "root" in names and ttl == 0
        limits = [SYSTEM_MAX_TTL, max_ttl, explicit_max_ttl]
        granted = 0 if root else min([period or ttl or SYSTEM_MAX_TTL, *(each for each in limits if each)])
        token = Token(
            id=token_id or f"{'hvb' if batch else 'hvs'}.{random_id(92)}",
            accessor="" if batch else random_id(24),
            policies=sorted(names),
            issued=self._now(),
            creation_ttl=granted,
            expires=None if root else self._now() + granted,
            path=path,
            display_name=display_name,
            meta=dict(meta or {}),
            parent=parent,
            max_ttl=max_ttl,
            explicit_max_ttl=explicit_max_ttl,
            period=period,
            uses=uses,
            renewable=renewable and not root and not batch,
            namespace=namespace,
            batch=batch,
        )
        self._by_id[token.id] = token
        return token

    def get(self, token_id: str) -> Token | None:
        """Return a living token, or ``None``; a token past its end is revoked now."""
        token = self._by_id.get(token_id)
        if token is not None and token.expires is not None and token.expires <= self._now():
            self.revoke(token)
            return None
        return token

    def by_accessor(self, accessor: str) -> Token | None:
        """Return the living token with this accessor, or ``None``."""
        found = next((each for each in self._by_id.values() if each.accessor == accessor), None)
        return None if found is None else self.get(found.id)

    def use(self, token_id: str) -> Token:
        """Return the token of a request and take one of its uses.

        :raises WireError: 403, if there is no such living token.
        """
        token = self.get(token_id)
        if token is None:
            text = "permission denied"
            if token_id:
                text = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"
            raise WireError(403, text)
        if token.uses:
            token.uses -= 1
            if not token.uses:
                self.revoke(token)
        return token

    def revoke(self, token: Token, *, children: bool = True) -> None:
        """End a token and, unless told otherwise, all tokens made with it."""
        self._by_id.pop(token.id, None)
        self.on_end(token.id)
        for child in [each for each in self._by_id.values() if each.parent == token.id]:
            if children:
                self.revoke(child)
            else:
                child.parent = None

    def revoke_all(self) -> None:
        """End all tokens but those that may do everything."""
        for token in [each for each in self._by_id.values() if not each.root]:
            self.revoke(token)

    def renew(self, token: Token, increment: int) -> list[str]:
        """Move the end of a token and return the warnings.

        :raises WireError: 400, if it cannot be renewed.
        """
        if token.batch:
            raise WireError(400, "batch tokens cannot be renewed")
        if not token.renewable:
            raise WireError(400, "lease is not renewable")
        limits = [each for each in (SYSTEM_MAX_TTL, token.max_ttl, token.explicit_max_ttl) if each]
        most = min(limits)
        warnings = []
        if token.period:
            ttl = min(token.period, token.explicit_max_ttl or token.period)
        else:
            left = int(token.issued + most - self._now())
            if left <= 0:
                raise WireError(400, "past the max TTL, cannot renew")
            want = increment or token.creation_ttl
            ttl = min(want, left)
            if ttl < want:
                text = f'TTL of "{want}s" exceeded the effective max_ttl of "{most}s"'
                warnings.append(f"{text}; TTL value is capped accordingly")
        token.expires = self._now() + ttl
        token.renewed = self._now()
        return warnings

    def ttl(self, token: Token) -> int:
        """Return the whole seconds a token has left; 0 for one without end."""
        return 0 if token.expires is None else max(0, math.ceil(token.expires - self._now()))


def auth_block(token: Token, ttl: int) -> dict[str, Any]:
    """Return the ``auth`` part of an answer that hands out a token."""
    return {
        "client_token": token.id,
        "accessor": token.accessor,
        "policies": token.policies,
        "token_policies": token.policies,
        "metadata": token.meta or None,
        "lease_duration": ttl,
        "renewable": token.renewable,
        "entity_id": token.entity,
        "token_type": "batch" if token.batch else "service",
        "orphan": token.parent is None,
        "mfa_requirement": None,
        "num_uses": token.uses,
    }


# ---------------------------------------------------------------------------------------------- AppRole


@dataclass
class SecretId:
    """One secret id and what it is still good for."""

    accessor: str
    expires: float | None
    uses: int


@dataclass
class Role:
    """One AppRole."""

    settings: dict[str, Any]
    role_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    secret_ids: dict[str, SecretId] = field(default_factory=dict, repr=False)


class AppRoles:
    """The roles of one AppRole mount.

    :param mount: Its name, for the path shown in tokens.
    """

    def __init__(self, mount: str, tokens: Tokens, now: Callable[[], float]) -> None:
        self._mount, self._tokens, self._now = mount, tokens, now
        self.roles: dict[str, Role] = {}

    def login(self, body: Mapping[str, Any]) -> Token:
        """Exchange a role id and a secret id for a token.

        :raises WireError: 400, if one is missing, unknown, used up or too old.
        """
        if not body.get("role_id"):
            raise WireError(400, "missing role_id")
        refused = WireError(400, "invalid role or secret ID")
        found = [(name, each) for name, each in self.roles.items() if each.role_id == body["role_id"]]
        if not found:
            raise refused
        name, role = found[0]
        if role.settings.get("bind_secret_id", True):
            if not body.get("secret_id"):
                raise WireError(400, "missing secret_id")
            self._spend(role, str(body["secret_id"]), refused)
        settings = role.settings
        policies = settings.get("token_policies") or settings.get("policies") or []
        return self._tokens.create(
            policies.split(",") if isinstance(policies, str) else policies,
            ttl=seconds(settings.get("token_ttl")),
            max_ttl=seconds(settings.get("token_max_ttl")),
            period=seconds(settings.get("token_period")),
            uses=int(settings.get("token_num_uses") or 0),
            batch=settings.get("token_type") == "batch",
            meta={"role_name": name},
            path=f"auth/{self._mount}/login",
            display_name=self._mount,
        )

    def _spend(self, role: Role, secret_id: str, refused: WireError) -> None:
        known = role.secret_ids.get(secret_id)
        if known is None or (known.expires is not None and known.expires <= self._now()):
            raise refused
        if known.uses:
            known.uses -= 1
            if not known.uses:
                role.secret_ids.pop(secret_id)

    def new_secret_id(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a secret id and return the ``data`` of the answer."""
        role = self.role(name)
        ttl = seconds(body.get("ttl"), seconds(role.settings.get("secret_id_ttl")))
        uses = int(body.get("num_uses") or role.settings.get("secret_id_num_uses") or 0)
        secret_id = str(uuid.uuid4())
        made = SecretId(str(uuid.uuid4()), self._now() + ttl if ttl else None, uses)
        role.secret_ids[secret_id] = made
        return {
            "secret_id": secret_id,
            "secret_id_accessor": made.accessor,
            "secret_id_ttl": ttl,
            "secret_id_num_uses": uses,
        }

    def role(self, name: str) -> Role:
        """Return a role.

        :raises WireError: 404, if there is none of that name.
        """
        if name not in self.roles:
            raise WireError(404)
        return self.roles[name]
