"""``auth/token`` and the administration of AppRole on the local Vault-compatible server."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from airflow_ext.testing._vault_auth import AppRoles, Role, Token, Tokens, WireError, auth_block, seconds
from airflow_ext.testing._vault_kv import Answer, listing

Body = Mapping[str, Any]


def approle(roles: AppRoles, method: str, path: str, body: Body) -> Answer:
    """Answer a request below ``auth/<mount>`` of an AppRole mount, but for logins."""
    parts = path.split("/")
    if parts[0] != "role":
        raise WireError(404)
    if len(parts) == 1 and method == "LIST":
        return listing(roles.roles, "")
    name, verb = parts[1], "/".join(parts[2:])
    if verb == "":
        if method in ("POST", "PUT"):
            roles.roles.setdefault(name, Role({})).settings.update(body)
            return Answer(204)
        if method == "DELETE":
            roles.roles.pop(name, None)
            return Answer(204)
        return Answer(data=dict(roles.role(name).settings))
    role = roles.role(name)
    if verb == "role-id":
        return Answer(data={"role_id": role.role_id})
    if verb == "secret-id":
        return Answer(data=roles.new_secret_id(name, body))
    if verb == "secret-id/destroy":
        role.secret_ids.pop(str(body.get("secret_id")), None)
        return Answer(204)
    if verb == "secret-id/lookup":
        found = role.secret_ids.get(str(body.get("secret_id")))
        if found is None:
            return Answer(204)
        return Answer(data={"secret_id_accessor": found.accessor, "secret_id_num_uses": found.uses})
    raise WireError(404)


def token(tokens: Tokens, caller: Token, method: str, verb: str, body: Body) -> Answer:
    """Answer a request below ``auth/token``."""
    if verb == "lookup-self":
        return Answer(data=_told(tokens, caller))
    if verb == "accessors" and method == "LIST":
        return Answer(data={"keys": [each.accessor for each in tokens if each.accessor]})
    if verb in ("create", "create-orphan"):
        return _create(tokens, caller, body, orphan=verb == "create-orphan")
    target: Token | None = caller
    if verb.endswith("accessor"):
        target = tokens.by_accessor(str(body.get("accessor")))
        if target is None and verb.startswith("lookup"):
            raise WireError(403, "1 error occurred:\n\t* invalid accessor\n\n")
    elif not verb.endswith("-self"):
        target = tokens.get(str(body.get("token")))
    if verb.startswith("revoke"):
        if target is not None:
            tokens.revoke(target, children=verb != "revoke-orphan")
        return Answer(204)
    if target is None:
        raise WireError(403, "bad token")
    if verb.startswith("lookup"):
        told = _told(tokens, target)
        return Answer(data=told | {"id": ""} if verb == "lookup-accessor" else told)
    if verb.startswith("renew"):
        warnings = tokens.renew(target, seconds(body.get("increment")))
        extra = {"auth": auth_block(target, tokens.ttl(target)), "warnings": warnings or None}
        return Answer(extra=extra)
    raise WireError(404, f"unsupported path auth/token/{verb}")


def _told(tokens: Tokens, token: Token) -> dict[str, Any]:
    def moment(at: float | None) -> str | None:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")

    told: dict[str, Any] = {
        "id": token.id,
        "accessor": token.accessor,
        "policies": token.policies,
        "path": token.path,
        "meta": token.meta or None,
        "display_name": token.display_name,
        "num_uses": token.uses,
        "orphan": token.parent is None,
        "creation_time": int(token.issued),
        "creation_ttl": token.creation_ttl,
        "expire_time": moment(token.expires),
        "ttl": tokens.ttl(token),
        "explicit_max_ttl": token.explicit_max_ttl,
        "entity_id": token.entity,
        "type": "batch" if token.batch else "service",
        "renewable": token.renewable,
        "issue_time": moment(token.issued),
    }
    if token.renewed is not None:
        told |= {"last_renewal": moment(token.renewed), "last_renewal_time": int(token.renewed)}
    return told | ({"period": token.period} if token.period else {})


def _create(tokens: Tokens, caller: Token, body: Body, *, orphan: bool) -> Answer:
    if caller.uses:
        raise WireError(400, "restricted use token cannot generate child tokens")
    if caller.batch:
        raise WireError(400, "batch tokens cannot create more tokens")
    policies = set(body.get("policies") or caller.policies)
    if not caller.root and not policies <= set(caller.policies) | {"default"}:
        raise WireError(400, "child policies must be subset of parent")
    made = tokens.create(
        policies,
        ttl=seconds(body.get("ttl")),
        explicit_max_ttl=seconds(body.get("explicit_max_ttl")),
        period=seconds(body.get("period")),
        uses=int(body.get("num_uses") or 0),
        renewable=body.get("renewable", True),
        parent=None if orphan or body.get("no_parent") else caller.id,
        meta=body.get("meta"),
        display_name="-".join(filter(None, ("token", body.get("display_name")))),
        default_policy=not body.get("no_default_policy"),
        namespace=caller.namespace,
        batch=body.get("type") == "batch",
    )
    return Answer(extra={"auth": auth_block(made, tokens.ttl(made))})
