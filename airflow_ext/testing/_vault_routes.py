"""What the local Vault-compatible server answers to each request, without HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from airflow_ext.testing._vault_auth import (
    DEFAULT_POLICY,
    AppRoles,
    Role,
    Rules,
    Token,
    Tokens,
    WireError,
    auth_block,
    capabilities,
    denied,
    parse_policy,
    random_id,
    seconds,
)
from airflow_ext.testing._vault_kv import Answer, Engine, KeyValue1, KeyValue2

VERSION = "1.17.2"
"""The version told in ``sys/health``: the one whose answers are imitated."""

Body = Mapping[str, Any]


def _nothing_there(path: str) -> WireError:
    return WireError(404, f'no handler for route "{path}". route entry not found.')


class Routes:
    """The state of the server and the answer to every path.

    :param root_token: The token that may do everything.
    """

    def __init__(self, root_token: str) -> None:
        self.lock = threading.RLock()
        self.offset = 0.0
        self.sealed = False
        self.unseal_key = random_id(44)
        self.tokens = Tokens(self.now)
        self.tokens.create(["root"], token_id=root_token, path="auth/token/root", display_name="root")
        self.policies: dict[str, Rules] = {"default": DEFAULT_POLICY}
        self._sources: dict[str, str] = {}
        self.mounts: dict[str, Engine] = {}
        self.approles: dict[str, AppRoles] = {}

    def now(self) -> float:
        """Return the server's clock, in seconds since 1970."""
        return time.time() + self.offset

    # ------------------------------------------------------------------------------------------ entry

    def answer(
        self, method: str, path: str, query: Mapping[str, str], body: Body, token_id: str
    ) -> tuple[Answer, str]:
        """Answer one request; the order of checks is sealed, token, policy, route, storage.

        :returns: The answer and the accessor of the token that was used, if any.
        :raises WireError: For every answer that is no success.
        """
        told = self._open(path, query, body)
        if told is not None:
            raise WireError(told[0], body=told[1])
        if self.sealed:
            raise WireError(503, "Vault is sealed")
        if path.startswith("auth/") and path.endswith("/login") and method in ("POST", "PUT"):
            return self._login(path.removeprefix("auth/").removesuffix("/login"), body), ""
        token = self.tokens.use(token_id)
        try:
            self._authorise(token, method, path)
            return self._route(token, method, path, query, body), token.accessor
        except WireError as error:
            error.add_note(token.accessor)
            raise

    def _authorise(self, token: Token, method: str, path: str) -> None:
        if path.startswith("sys/internal/ui/mounts/"):
            return  # decided there: it is open to all who may read something below the mount
        if not token.root:
            needed = self._capability(method, path)
            if needed not in self.allowed(token, path):
                raise denied()

    def _capability(self, method: str, path: str) -> str:
        simple = {"GET": "read", "HEAD": "read", "LIST": "list", "DELETE": "delete", "PATCH": "patch"}
        if method in simple:
            return simple[method]
        mount = self.mount_of(path)
        if mount is None or self.mounts[mount].exists(path[len(mount) :]):
            return "update"
        return "create"

    def allowed(self, token: Token, path: str) -> list[str]:
        """Return the capabilities of a token on a path."""
        if token.root:
            return ["root"]
        return capabilities([self.policies.get(name, {}) for name in token.policies], path)

    def mount_of(self, path: str) -> str | None:
        """Return the mount a path belongs to, with its trailing slash, or ``None``."""
        fits = [name for name in self.mounts if (path + "/").startswith(name)]
        return max(fits, key=len, default=None)

    def _route(self, token: Token, method: str, path: str, query: Mapping[str, str], body: Body) -> Answer:
        area, _, rest = path.partition("/")
        if area == "auth":
            mount, _, rest = rest.partition("/")
            if mount == "token":
                return self._token(token, rest, body)
            if mount in self.approles:
                return self._approle(self.approles[mount], method, rest, body)
            raise _nothing_there(path)
        if area == "sys":
            return self._sys(token, method, rest, body)
        name = self.mount_of(path)
        if name is None:
            raise _nothing_there(path)
        return self.mounts[name].handle(method, path[len(name) :], query, body)

    # ------------------------------------------------------------------------------- health and sealing

    def _open(self, path: str, query: Mapping[str, str], body: Body) -> tuple[int, dict[str, Any]] | None:
        """Answer the paths that need no token and work while sealed; they have no envelope."""
        if path == "sys/health":
            code = query.get("sealedcode", 503) if self.sealed else query.get("activecode", 200)
            return int(code), self._health()
        if path == "sys/leader":
            return 200, {
                "ha_enabled": False,
                "is_self": True,
                "leader_address": "",
                "leader_cluster_address": "",
            }
        if path == "sys/unseal":
            if body.get("key") != self.unseal_key:
                raise WireError(400, "failed to unseal: invalid key")
            self.sealed = False
        if path in ("sys/unseal", "sys/seal-status"):
            told = {
                "type": "shamir",
                "initialized": True,
                "sealed": self.sealed,
                "t": 1,
                "n": 1,
                "progress": 0,
            }
            rest = {"nonce": "", "version": VERSION, "migration": False, "recovery_seal": False}
            return 200, {**told, **rest, "storage_type": "inmem"}
        return None

    def _health(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "initialized": True,
            "sealed": self.sealed,
            "standby": False,
            "performance_standby": False,
            "replication_performance_mode": "disabled",
            "replication_dr_mode": "disabled",
            "server_time_utc": int(self.now()),
            "version": VERSION,
        }
        if not self.sealed:
            told |= {"cluster_name": "local", "cluster_id": "00000000-0000-0000-0000-000000000000"}
        return told

    # ----------------------------------------------------------------------------------- logins, tokens

    def _login(self, mount: str, body: Body) -> Answer:
        if mount not in self.approles:
            raise WireError(403, "permission denied")
        token = self.approles[mount].login(body)
        return Answer(extra={"auth": auth_block(token, self.tokens.ttl(token))})

    def _approle(self, roles: AppRoles, method: str, path: str, body: Body) -> Answer:
        parts = path.split("/")
        if parts[0] != "role":
            raise WireError(404)
        if len(parts) == 1 and method == "LIST":
            if not roles.roles:
                raise WireError(404)
            return Answer(data={"keys": sorted(roles.roles)})
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

    def _token(self, caller: Token, verb: str, body: Body) -> Answer:
        if verb == "lookup-self":
            return Answer(data=self._told(caller))
        if verb in ("create", "create-orphan"):
            return self._create_token(caller, body, orphan=verb == "create-orphan")
        target: Token | None = caller
        if verb.endswith("accessor"):
            target = self.tokens.by_accessor(str(body.get("accessor")))
        elif not verb.endswith("-self"):
            target = self.tokens.get(str(body.get("token")))
        if verb.startswith("revoke"):
            if target is not None:
                self.tokens.revoke(target, children=verb != "revoke-orphan")
            return Answer(204)
        if target is None:
            raise WireError(403, "bad token")
        if verb.startswith("lookup"):
            told = self._told(target)
            return Answer(data=told | {"id": ""} if verb == "lookup-accessor" else told)
        if verb.startswith("renew"):
            warnings = self.tokens.renew(target, seconds(body.get("increment")))
            extra = {"auth": auth_block(target, self.tokens.ttl(target)), "warnings": warnings or None}
            return Answer(extra=extra)
        raise WireError(404, f"unsupported path auth/token/{verb}")

    def _told(self, token: Token) -> dict[str, Any]:
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
            "ttl": self.tokens.ttl(token),
            "explicit_max_ttl": token.explicit_max_ttl,
            "entity_id": token.entity,
            "type": "service",
            "renewable": token.renewable,
            "issue_time": moment(token.issued),
        }
        if token.renewed is not None:
            told |= {"last_renewal": moment(token.renewed), "last_renewal_time": int(token.renewed)}
        return told | ({"period": token.period} if token.period else {})

    def _create_token(self, caller: Token, body: Body, *, orphan: bool) -> Answer:
        if caller.uses:
            raise WireError(400, "restricted use token cannot generate child tokens")
        policies = set(body.get("policies") or caller.policies)
        if not caller.root and not policies <= set(caller.policies) | {"default"}:
            raise WireError(400, "child policies must be subset of parent")
        made = self.tokens.create(
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
        )
        return Answer(extra={"auth": auth_block(made, self.tokens.ttl(made))})

    # ------------------------------------------------------------------------------------- sys, the rest

    def _sys(self, caller: Token, method: str, path: str, body: Body) -> Answer:
        area, _, rest = path.partition("/")
        if path == "seal":
            self.sealed = True
            return Answer(204)
        if path == "capabilities-self":
            return self._capabilities(caller, body)
        for place in ("policies/acl", "policy"):  # the second is older, and what hvac uses
            if path == place or path.startswith(f"{place}/"):
                return self._policy(method, path.removeprefix(place).strip("/"), body)
        if path.startswith("internal/ui/mounts/"):
            return self._mount_of(caller, path.removeprefix("internal/ui/mounts/"))
        if area in ("mounts", "auth"):
            return self._mounting(area, method, rest, body)
        raise WireError(404, f"unsupported path sys/{path}")

    def _capabilities(self, caller: Token, body: Body) -> Answer:
        paths = list(body.get("paths") or [])
        if not paths:
            raise WireError(400, "paths must be supplied")
        found: dict[str, Any] = {path: self.allowed(caller, path) for path in paths}
        if len(paths) == 1:
            found["capabilities"] = found[paths[0]]
        return _both(found)

    def _policy(self, method: str, name: str, body: Body) -> Answer:
        if method in ("POST", "PUT"):
            text = str(body.get("policy") or "")
            self.policies[name], self._sources[name] = parse_policy(text), text
            return Answer(204)
        if method == "LIST" or not name:
            names = sorted([*self.policies, "root"])
            return _both({"keys": names, "policies": names})
        if method == "DELETE":
            self.policies.pop(name, None)
            return Answer(204)
        if name not in self.policies:
            raise WireError(404)
        text = self._sources.get(name, "")
        return _both({"name": name, "policy": text, "rules": text})

    def _mount_of(self, caller: Token, path: str) -> Answer:
        name = self.mount_of(path)
        if name is None or not (caller.root or self._sees(caller, name)):
            raise denied()
        return Answer(data={"path": name, "type": "kv", "options": {"version": self.mounts[name].version}})

    def _sees(self, caller: Token, mount: str) -> bool:
        patterns = [each for name in caller.policies for each in self.policies.get(name, {})]
        return any(each.startswith(mount) or mount.startswith(each.rstrip("*")) for each in patterns)

    def _mounting(self, area: str, method: str, name: str, body: Body) -> Answer:
        if method == "GET" and area == "auth":
            known = {f"{each}/": {"type": "approle"} for each in self.approles}
            return _both({"token/": {"type": "token"}, **known})
        if method == "GET":
            kinds = {
                each: {"type": "kv", "options": {"version": kv.version}} for each, kv in self.mounts.items()
            }
            return _both(kinds)
        if method == "DELETE":
            self.mounts.pop(f"{name}/", None) if area == "mounts" else self.approles.pop(name, None)
            return Answer(204)
        if area == "auth":
            self.enable_approle(name, kind=str(body.get("type")))
        else:
            self.enable_kv(
                name, str((body.get("options") or {}).get("version", "1")), kind=str(body.get("type"))
            )
        return Answer(204)

    def enable_approle(self, name: str, *, kind: str = "approle") -> None:
        """Add a place to log in.

        :raises WireError: 400, if the kind is not known or the name taken.
        """
        if kind != "approle":
            raise WireError(400, f"this local server has no auth method {kind!r}, only approle")
        if name in self.approles or name == "token":
            raise WireError(400, f"path is already in use at {name}/")
        self.approles[name] = AppRoles(name, self.tokens, self.now)

    def enable_kv(self, name: str, version: str, *, kind: str = "kv") -> None:
        """Add a key-value engine.

        :raises WireError: 400, if the kind or version is not known or the name taken.
        """
        makers: dict[str, Callable[[], Engine]] = {"1": KeyValue1, "2": lambda: KeyValue2(self.now)}
        if kind == "kv-v2":
            kind, version = "kv", "2"
        if kind != "kv" or version not in makers:
            raise WireError(
                400, f"this local server has no engine {kind!r} version {version!r}, only kv 1 and 2"
            )
        if f"{name}/" in self.mounts:
            raise WireError(400, f"path is already in use at {name}/")
        self.mounts[f"{name}/"] = makers[version]()


def _both(data: dict[str, Any]) -> Answer:
    # Old clients of sys/* read the keys at the top level, new ones below "data".
    return Answer(data=data, extra=dict(data))
