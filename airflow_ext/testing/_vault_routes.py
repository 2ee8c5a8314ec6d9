"""What the local Vault-compatible server answers to each request, without HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_ext.testing._vault_auth import (
    DEFAULT_POLICY,
    AppRoles,
    Rules,
    Token,
    Tokens,
    WireError,
    auth_block,
    capabilities,
    denied,
    random_id,
    seconds,
)
from airflow_ext.testing._vault_crypto import Pki, Transit
from airflow_ext.testing._vault_database import Database
from airflow_ext.testing._vault_kv import Answer, Engine, KeyValue1, KeyValue2, envelope
from airflow_ext.testing._vault_leases import Leases
from airflow_ext.testing._vault_logins import BY_USER, KINDS, Logins
from airflow_ext.testing._vault_sys import both, system
from airflow_ext.testing._vault_tokens import approle, token

VERSION = "1.17.2"
"""The version told in ``sys/health``: the one whose answers are imitated."""

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """One request, without what HTTP wraps around it."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Body = field(default_factory=dict, repr=False)
    token: str = field(default="", repr=False)
    namespace: str = ""
    wrap_ttl: int = 0


@dataclass(frozen=True)
class _Wrapped:
    body: dict[str, Any] = field(repr=False)
    path: str
    expires: float
    created: float
    ttl: int


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
        self.standby = False
        self.unseal_key = random_id(44)
        self.tokens = Tokens(self.now)
        self.tokens.create(["root"], token_id=root_token, path="auth/token/root", display_name="root")
        self.leases = Leases(self.now)
        self.tokens.on_end = self.leases.end_those_of
        self.policies: dict[str, Rules] = {"default": DEFAULT_POLICY}
        self.sources: dict[str, str] = {}
        self.namespaces: set[str] = set()
        self.ns = ""  # the namespace of the request that is being answered, as "a/b/"
        self.mounts: dict[str, Engine] = {}
        self.approles: dict[str, AppRoles] = {}
        self.logins: dict[str, Logins] = {}
        self._wrapped: dict[str, _Wrapped] = {}

    def now(self) -> float:
        """Return the server's clock, in seconds since 1970."""
        return time.time() + self.offset

    def tick(self) -> None:
        """Do what is due: end tokens and leases, change static passwords; nothing while sealed."""
        if self.sealed:
            return
        with self.lock:
            for each in self.tokens:
                self.tokens.get(each.id)
            databases = [engine for engine in self.mounts.values() if isinstance(engine, Database)]
        self.leases.end_due()
        for database in databases:
            database.rotate_due()

    # ------------------------------------------------------------------------------------------ entry

    def answer(self, request: Request) -> tuple[Answer, str]:
        """Answer one request; the order of checks is sealed, token, policy, route, storage.

        :returns: The answer and the accessor of the token that was used, if any.
        :raises WireError: For every answer that is no success.
        """
        told = self._open(request)
        if told is not None:
            raise WireError(told[0], body=told[1])
        if self.sealed:
            raise WireError(503, "Vault is sealed")
        ns, path = self._namespace_of(request)
        with self.lock:
            self.ns = ns
            try:
                answer, accessor = self._answer(request, path)
            finally:
                self.ns = ""
        if request.wrap_ttl and answer.status == 200:
            answer = self._wrap(answer, request)
        return answer, accessor

    def _answer(self, request: Request, path: str) -> tuple[Answer, str]:
        if path.startswith("sys/wrapping/") and (answer := self._wrapping(path, request)) is not None:
            return answer, ""
        method = request.method
        if path.startswith("auth/") and method in ("POST", "PUT"):
            mount, separator, user = path.removeprefix("auth/").partition("/login")
            if separator and mount != "token":
                return self._login(mount, user.strip("/"), request.body), ""
        caller = self.tokens.use(request.token)
        try:
            self._authorise(caller, method, path)
            answer = self._route(caller, method, path, request.query, request.body)
            return self._leased(answer, caller, path), caller.accessor
        except WireError as error:
            error.add_note(caller.accessor)
            raise

    def _namespace_of(self, request: Request) -> tuple[str, str]:
        ns, path = request.namespace.strip("/"), request.path
        ns = f"{ns}/" if ns else ""
        if ns and ns not in self.namespaces:
            raise _nothing_there(f"{ns}{path}")
        for known in sorted(self.namespaces, key=len, reverse=True):  # it may also stand in the path
            if f"{ns}{path}/".startswith(known):
                return known, f"{ns}{path}".removeprefix(known)
        return ns, path

    def _leased(self, answer: Answer, caller: Token, path: str) -> Answer:
        if answer.lease is None:
            return answer
        suffix = f".{abs(hash(self.ns)) % 10**5:05d}" if self.ns else ""
        lease = self.leases.grant(path, caller.id, caller.display_name, answer.lease, suffix=suffix)
        duration = round(lease.expires - lease.issued)
        told = {"lease_id": lease.id, "renewable": True, "lease_duration": duration}
        return Answer(data=lease.data, extra=told)

    def _authorise(self, caller: Token, method: str, path: str) -> None:
        if path.startswith("sys/internal/ui/mounts/"):
            return  # decided there: it is open to all who may read something below the mount
        if not caller.root:
            needed = self._capability(method, path)
            if method == "LIST" and not self._has_rule(caller, path):
                path = f"{path}/"  # as Vault matches a folder, unless a rule names it without its slash
            if needed not in self.allowed(caller, path):
                raise denied()

    def _has_rule(self, caller: Token, path: str) -> bool:
        name = (self.ns + path).removeprefix(caller.namespace)
        return any(name in rules for rules in self.rules_of(caller))

    def _capability(self, method: str, path: str) -> str:
        simple = {"GET": "read", "HEAD": "read", "LIST": "list", "DELETE": "delete", "PATCH": "patch"}
        if path.startswith(("sys/leases/revoke-", "sys/leases/lookup/")) or path == "auth/token/accessors":
            return "sudo"
        if method in simple:
            return simple[method]
        mount = self.mount_of(path)
        if mount is None or self.mounts[mount].exists((self.ns + path)[len(mount) :]):
            return "update"
        return "create"

    def rules_of(self, caller: Token) -> list[Rules]:
        """Return the rules of all policies of a token."""
        names = [(caller.namespace + name, name) for name in caller.policies]
        defaults: dict[str, Rules] = {"default": DEFAULT_POLICY}
        return [self.policies.get(key, defaults.get(name, {})) for key, name in names]

    def allowed(self, caller: Token, path: str) -> list[str]:
        """Return the capabilities of a token on a path."""
        if caller.root:
            return ["root"]
        if not self.ns.startswith(caller.namespace):
            return ["deny"]
        return capabilities(self.rules_of(caller), (self.ns + path).removeprefix(caller.namespace))

    def mount_of(self, path: str) -> str | None:
        """Return the mount a path belongs to, with its namespace and a slash at its end, or ``None``."""
        fits = [name for name in self.mounts if f"{self.ns}{path}/".startswith(name)]
        return max(fits, key=len, default=None)

    def _route(self, caller: Token, method: str, path: str, query: Mapping[str, str], body: Body) -> Answer:
        area, _, rest = path.partition("/")
        if area == "auth":
            mount, _, rest = rest.partition("/")
            if mount == "token":
                return token(self.tokens, caller, method, rest, body)
            if self.ns + mount in self.approles:
                return approle(self.approles[self.ns + mount], method, rest, body)
            if self.ns + mount in self.logins:
                return self.logins[self.ns + mount].handle(method, rest, body)
            raise _nothing_there(path)
        if area == "sys":
            return system(self, caller, method, rest, body)
        name = self.mount_of(path)
        if name is None:
            raise _nothing_there(path)
        return self.mounts[name].handle(method, (self.ns + path)[len(name) :], query, body)

    # ------------------------------------------------------------------------------- health and sealing

    def _open(self, request: Request) -> tuple[int, dict[str, Any]] | None:
        """Answer the paths that need no token and work while sealed; they have no envelope."""
        path, query, body = request.path, request.query, request.body
        if path == "sys/health":
            if self.sealed:
                return int(query.get("sealedcode", 503)), self._health()
            standby = self.standby and query.get("standbyok") != "true"
            code = query.get("standbycode", 429) if standby else query.get("activecode", 200)
            return int(code), self._health()
        if path == "sys/leader":
            told = {"is_self": True, "leader_address": "", "leader_cluster_address": ""}
            return 200, {"ha_enabled": False, **told}
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
            "standby": self.standby,
            "performance_standby": False,
            "replication_performance_mode": "disabled",
            "replication_dr_mode": "disabled",
            "server_time_utc": int(self.now()),
            "version": VERSION,
        }
        if not self.sealed:
            told |= {"cluster_name": "local", "cluster_id": "00000000-0000-0000-0000-000000000000"}
        return told

    # ------------------------------------------------------------------------------- logins and wrapping

    def _login(self, mount: str, user: str, body: Body) -> Answer:
        key = self.ns + mount
        if key in self.approles and not user:
            made = self.approles[key].login(body)
        elif key in self.logins and bool(user) == (self.logins[key].kind in BY_USER):
            made = self.logins[key].login(user, body)
        else:
            raise WireError(403, "permission denied")
        made.namespace = self.ns
        return Answer(extra={"auth": auth_block(made, self.tokens.ttl(made))})

    def _wrap(self, answer: Answer, request: Request) -> Answer:
        now, wrapper = self.now(), f"hvs.{random_id(92)}"
        ttl = request.wrap_ttl
        self._wrapped[wrapper] = _Wrapped(envelope(answer), request.path, now + ttl, now, ttl)
        info = {
            "token": wrapper,
            "accessor": random_id(24),
            "ttl": ttl,
            "creation_time": datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
            "creation_path": request.path,
        }
        return Answer(extra={"wrap_info": info})

    def _wrapping(self, path: str, request: Request) -> Answer | None:
        verb = path.removeprefix("sys/wrapping/")
        wrapper = str(request.body.get("token") or request.token)
        found = self._wrapped.get(wrapper)
        if verb not in ("lookup", "unwrap"):
            return None
        if found is None or found.expires <= self.now():
            raise WireError(400, "wrapping token is not valid or does not exist")
        if verb == "lookup":
            created = datetime.fromtimestamp(found.created, UTC).isoformat().replace("+00:00", "Z")
            return both({"creation_path": found.path, "creation_time": created, "creation_ttl": found.ttl})
        del self._wrapped[wrapper]
        return Answer(data=found.body["data"], extra={k: v for k, v in found.body.items() if k != "data"})

    # ---------------------------------------------------------------------------------------- mounting

    def auth_mounts(self) -> dict[str, str]:
        """Return the auth methods of the namespace: mount to kind."""
        kinds = {**dict.fromkeys(self.approles, "approle"), **{k: v.kind for k, v in self.logins.items()}}
        return {key.removeprefix(self.ns): kind for key, kind in kinds.items() if key.startswith(self.ns)}

    def disable_auth(self, name: str) -> None:
        """Take a way to log in away."""
        self.approles.pop(self.ns + name, None)
        self.logins.pop(self.ns + name, None)

    def enable_auth(self, name: str, kind: str = "approle") -> None:
        """Add a place to log in.

        :raises WireError: 400, if the kind is not known or the name taken.
        """
        if kind != "approle" and kind not in KINDS:
            known = ", ".join(("approle", *KINDS))
            raise WireError(400, f"this local server has no auth method {kind!r}, only {known}")
        key = self.ns + name
        if key in self.approles or key in self.logins or name == "token":
            raise WireError(400, f"path is already in use at {name}/")
        if kind == "approle":
            self.approles[key] = AppRoles(name, self.tokens, self.now)
        else:
            self.logins[key] = Logins(kind, name, self.tokens, self.now)

    def enable(self, name: str, kind: str, version: str = "") -> None:
        """Add an engine.

        :raises WireError: 400, if the kind or version is not known or the name taken.
        """
        if kind == "kv-v2":
            kind, version = "kv", "2"
        makers: dict[str, Any] = {
            "kv 1": KeyValue1,
            "kv 2": lambda: KeyValue2(self.now),
            "database": lambda: Database(self.now),
            "transit": Transit,
            "pki": lambda: Pki(self.now),
        }
        maker = makers.get(f"kv {version}" if kind == "kv" else kind)
        if maker is None:
            known = ", ".join(makers)
            raise WireError(
                400, f"this local server has no engine {kind!r} version {version!r}, only {known}"
            )
        key = f"{self.ns}{name}/"
        if key in self.mounts:
            raise WireError(400, f"path is already in use at {name}/")
        self.mounts[key] = maker()


def duration(text: str) -> int:
    """Return the seconds of a header such as ``X-Vault-Wrap-TTL``; 0 for none."""
    return seconds(text or 0)
