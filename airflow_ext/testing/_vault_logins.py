"""Ways to log in to the local Vault-compatible server beside AppRole, as far as a stand-in can do them.

Passwords, JWT signatures and given tokens are really checked. What another service would have to confirm
(a Kubernetes token review, AWS, Google, Azure, LDAP, RADIUS) is decided by a table.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ext.testing._vault_auth import Token, Tokens, WireError, seconds
from airflow_ext.testing._vault_kv import Answer, listing

Body = Mapping[str, Any]

BY_USER = ("userpass", "ldap", "radius")
KINDS = (*BY_USER, "kubernetes", "jwt", "oidc", "github", "cert", "aws", "gcp", "azure")


@dataclass(frozen=True)
class _Who:
    """Who was let in: the settings of the role, the display name and the metadata of the token."""

    settings: Mapping[str, Any]
    display_name: str
    meta: dict[str, str]


class Logins:
    """One mount of an auth method.

    :param kind: One of :data:`KINDS`.
    :param mount: Where it is mounted.
    """

    def __init__(self, kind: str, mount: str, tokens: Tokens, now: Callable[[], float]) -> None:
        self.kind, self._mount, self._tokens, self._now = kind, mount, tokens, now
        self.roles: dict[str, dict[str, Any]] = {}
        self.config: dict[str, Any] = {}

    def handle(self, method: str, path: str, body: Body) -> Answer:
        """Answer an administrator's request about roles, users or the configuration."""
        area, _, name = path.partition("/")
        if area == "config" and method in ("POST", "PUT"):
            self.config.update(body)
            return Answer(204)
        if area not in ("role", "users", "roles", "certs"):
            raise WireError(404)
        if method in ("POST", "PUT"):
            self.roles[name] = {**self.roles.get(name, {}), **body}
            return Answer(204)
        if method == "LIST":
            return listing(self.roles, "")
        if method == "DELETE":
            self.roles.pop(name, None)
            return Answer(204)
        if name not in self.roles:
            raise WireError(404)
        return Answer(data={key: value for key, value in self.roles[name].items() if key != "password"})

    def login(self, user: str, body: Body) -> Token:
        """Let somebody in, or not.

        :param user: The rest of the path, for methods that have it there.
        :raises WireError: 400 or 403, as the method says no.
        """
        who = self._who(user, body)
        settings = who.settings
        policies = settings.get("token_policies") or settings.get("policies") or []
        return self._tokens.create(
            policies.split(",") if isinstance(policies, str) else policies,
            ttl=seconds(settings.get("token_ttl")),
            max_ttl=seconds(settings.get("token_max_ttl")),
            period=seconds(settings.get("token_period")),
            meta=who.meta,
            path=f"auth/{self._mount}/login" + (f"/{user}" if user else ""),
            display_name=who.display_name,
        )

    def _who(self, user: str, body: Body) -> _Who:
        if self.kind in BY_USER:
            return self._by_password(user.lower(), body)
        if self.kind == "kubernetes":
            return self._by_service_account(body)
        if self.kind in ("jwt", "oidc"):
            return self._by_jwt(body)
        return self._by_table(body)

    def _by_password(self, user: str, body: Body) -> _Who:
        known = self.roles.get(user)
        if known is None or not body.get("password") or known.get("password") != body["password"]:
            raise WireError(400, "invalid username or password")
        return _Who(known, f"{self.kind}-{user}", {"username": user})

    def _role(self, body: Body) -> tuple[str, dict[str, Any]]:
        name = str(body.get("role") or body.get("name") or self.config.get("default_role") or "")
        if name not in self.roles:
            text = (
                f'role "{name}" could not be found'
                if self.kind in ("jwt", "oidc")
                else f'invalid role name "{name}"'
            )
            raise WireError(400, text)
        return name, self.roles[name]

    def _by_service_account(self, body: Body) -> _Who:
        if not body.get("jwt"):
            raise WireError(400, "missing jwt")
        name, role = self._role(body)
        claims = _claims(str(body["jwt"]))
        account = claims.get("kubernetes.io") or {}
        service = str((account.get("serviceaccount") or {}).get("name", ""))
        namespace = str(account.get("namespace", ""))
        if float(claims.get("exp") or self._now() + 1) <= self._now():
            raise WireError(403, "permission denied")
        for value, allowed, text in (
            (service, role.get("bound_service_account_names"), "service account name not authorized"),
            (namespace, role.get("bound_service_account_namespaces"), "namespace not authorized"),
        ):
            if not {value, "*"} & set(allowed or []):
                raise WireError(403, text)
        meta = {"role": name, "service_account_name": service, "service_account_namespace": namespace}
        return _Who(role, f"kubernetes-{namespace}-{service}", meta)

    def _by_jwt(self, body: Body) -> _Who:
        import jwt

        if not body.get("jwt"):
            raise WireError(400, "missing token")
        name, role = self._role(body)
        claims: dict[str, Any] = {}
        problem = "no key is configured"
        for key in self.config.get("jwt_validation_pubkeys") or []:
            try:
                claims = jwt.decode(
                    str(body["jwt"]),
                    key,
                    algorithms=["RS256", "ES256"],
                    audience=role.get("bound_audiences") or None,
                    issuer=self.config.get("bound_issuer") or None,
                    options={"verify_aud": bool(role.get("bound_audiences"))},
                )
                break
            except jwt.PyJWTError as error:
                problem = str(error)
        if not claims:
            raise WireError(400, f"error validating token: {problem}")
        for claim, allowed in (role.get("bound_claims") or {}).items():
            if claims.get(claim) not in ([allowed] if isinstance(allowed, str) else allowed):
                text = f'claim "{claim}" does not match any associated bound claim values'
                raise WireError(400, f"error validating claims: {text}")
        user = str(claims.get(role.get("user_claim") or "sub", ""))
        return _Who(role, f"{self._mount}-{user}", {"role": name})

    def _by_table(self, body: Body) -> _Who:
        """Let in whose role demands what the request holds, in ``bound``."""
        named = str(body.get("role") or body.get("name") or "")
        for name, role in self.roles.items():
            bound = role.get("bound") or {}
            if (
                named in ("", name)
                and bound
                and all(_holds(body, key, value) for key, value in bound.items())
            ):
                return _Who(role, f"{self.kind}-{name}", {"role": name})
        raise WireError(400, "the stand-in has no role for this login")


def _claims(token: str) -> dict[str, Any]:
    try:
        middle = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except (ValueError, IndexError):
        raise WireError(400, "malformed jwt") from None
    return found if isinstance(found, dict) else {}


def _holds(body: Body, key: str, wanted: Any) -> bool:
    """Tell if a key of the body is, or contains once decoded from base64 or a JWT, what is wanted."""
    given = str(body.get(key, ""))
    if given == wanted:
        return True
    if key == "jwt" and isinstance(wanted, dict) and given.count(".") == 2:
        claims = _claims(given)
        return all(claims.get(each) == value for each, value in wanted.items())
    try:
        return str(wanted) in base64.b64decode(given, validate=True).decode()
    except ValueError:
        return False
