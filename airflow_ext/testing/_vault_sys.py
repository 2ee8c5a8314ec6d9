"""``sys`` of the local Vault-compatible server: policies, mounts, leases, capabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ext.testing._vault_auth import Token, WireError, denied, parse_policy, seconds
from airflow_ext.testing._vault_kv import Answer

if TYPE_CHECKING:
    from airflow_ext.testing._vault_routes import Routes

Body = Mapping[str, Any]


def both(data: dict[str, Any]) -> Answer:
    """Return an answer whose keys also stand at the top level, where old clients of ``sys`` read them."""
    return Answer(data=data, extra=dict(data))


def system(routes: Routes, caller: Token, method: str, path: str, body: Body) -> Answer:
    """Answer a request below ``sys``."""
    area, _, rest = path.partition("/")
    if path == "seal":
        routes.sealed = True
        return Answer(204)
    if path == "capabilities-self":
        return _capabilities(routes, caller, body)
    if area == "leases":
        return _leases(routes, method, rest, body)
    if area in ("renew", "revoke"):  # the older names
        lease_id = rest or body.get("lease_id")
        return _leases(routes, method, area, {**body, "lease_id": lease_id})
    for place in ("policies/acl", "policy"):  # the second is older, and what hvac uses
        if path == place or path.startswith(f"{place}/"):
            return _policy(routes, method, path.removeprefix(place).strip("/"), body)
    if path.startswith("internal/ui/mounts/"):
        return _mount_of(routes, caller, path.removeprefix("internal/ui/mounts/"))
    if area in ("mounts", "auth"):
        return _mounting(routes, area, method, rest, body)
    if area == "namespaces" and method in ("POST", "PUT"):
        routes.namespaces.add(f"{routes.ns}{rest}/")
        return Answer(data={"path": f"{rest}/"})
    if path == "wrapping/wrap":
        return Answer(data=dict(body))
    raise WireError(404, f"unsupported path sys/{path}")


def _capabilities(routes: Routes, caller: Token, body: Body) -> Answer:
    paths = list(body.get("paths") or [])
    if not paths:
        raise WireError(400, "paths must be supplied")
    found: dict[str, Any] = {path: routes.allowed(caller, path) for path in paths}
    if len(paths) == 1:
        found["capabilities"] = found[paths[0]]
    return both(found)


def _leases(routes: Routes, method: str, path: str, body: Body) -> Answer:
    leases = routes.leases
    verb, _, prefix = path.partition("/")
    if verb == "lookup" and method == "LIST":
        found = leases.below(prefix.strip("/") + "/")
        names = {each.id.removeprefix(prefix.strip("/") + "/") for each in found}
        keys = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in names})
        if not keys:
            raise WireError(404)
        return Answer(data={"keys": keys})
    if verb == "lookup":
        return both(leases.told(leases.get(body.get("lease_id"))))
    if verb == "renew":
        lease, warnings = leases.renew(body.get("lease_id"), seconds(body.get("increment")))
        left = math.ceil(lease.expires - routes.now())
        told = {"lease_id": lease.id, "renewable": True, "lease_duration": left}
        return Answer(extra={**told, "warnings": warnings or None})
    if verb in ("revoke", "revoke-prefix", "revoke-force"):
        return _revoke(routes, verb, prefix, body)
    if path == "tidy":
        return Answer(202)
    raise WireError(404, f"unsupported path sys/leases/{path}")


def _revoke(routes: Routes, verb: str, prefix: str, body: Body) -> Answer:
    leases = routes.leases
    if verb == "revoke":
        lease_id = str(body.get("lease_id") or prefix)
        if not lease_id:
            raise WireError(400, "lease_id must be specified")
        found = [each for each in leases.below(lease_id) if each.id == lease_id]
    else:
        found = leases.below(prefix)
    force = verb == "revoke-force"
    if not body.get("sync") and not force:
        for lease in found:
            lease.ending = True
        return Answer(202)
    for lease in found:
        leases.revoke(lease, force=force)
    return Answer(204)


def _policy(routes: Routes, method: str, name: str, body: Body) -> Answer:
    key = routes.ns + name
    if method in ("POST", "PUT"):
        text = str(body.get("policy") or "")
        routes.policies[key], routes.sources[key] = parse_policy(text), text
        return Answer(204)
    if method == "LIST" or not name:
        names = sorted([*(each for each in routes.policies if each.startswith(routes.ns)), "root"])
        return both({"keys": names, "policies": names})
    if method == "DELETE":
        routes.policies.pop(key, None)
        return Answer(204)
    if key not in routes.policies:
        raise WireError(404)
    text = routes.sources.get(key, "")
    return both({"name": name, "policy": text, "rules": text})


def _mount_of(routes: Routes, caller: Token, path: str) -> Answer:
    name = routes.mount_of(path)
    if name is None or not (caller.root or _sees(routes, caller, name)):
        raise denied()
    engine = routes.mounts[name]
    options = {"version": engine.version} if engine.kind == "kv" else None
    return Answer(data={"path": name, "type": engine.kind, "options": options})


def _sees(routes: Routes, caller: Token, mount: str) -> bool:
    patterns = [each for rules in routes.rules_of(caller) for each in rules]
    mount = mount.removeprefix(caller.namespace)
    return any(each.startswith(mount) or mount.startswith(each.rstrip("*")) for each in patterns)


def _mounting(routes: Routes, area: str, method: str, name: str, body: Body) -> Answer:
    if method == "GET" and area == "auth":
        known = {f"{each}/": {"type": kind} for each, kind in routes.auth_mounts().items()}
        return both({"token/": {"type": "token"}, **known})
    if method == "GET":
        kinds = {}
        for each, engine in routes.mounts.items():
            if each.startswith(routes.ns):
                options = {"version": engine.version} if engine.kind == "kv" else None
                kinds[each.removeprefix(routes.ns)] = {"type": engine.kind, "options": options}
        return both(kinds)
    if method == "DELETE":
        routes.mounts.pop(f"{routes.ns}{name}/", None) if area == "mounts" else routes.disable_auth(name)
        return Answer(204)
    kind = str(body.get("type"))
    if area == "auth":
        routes.enable_auth(name, kind)
    else:
        routes.enable(name, kind, str((body.get("options") or {}).get("version", "1")))
    return Answer(204)
