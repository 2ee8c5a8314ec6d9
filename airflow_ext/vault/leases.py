"""Credentials that live no longer than a task: made for it, renewed while it runs, revoked when it ends."""

from __future__ import annotations

import logging
import math
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

from airflow_ext.exceptions import InvalidError, VaultDeniedError, VaultUnavailableError
from airflow_ext.vault.auth import Token, token_of
from airflow_ext.vault.client import VaultClient
from airflow_ext.vault.lease_model import Held, Leased, LeaseSpec, Owner, Scope
from airflow_ext.vault.sweeping import this_process
from airflow_ext.vault.transport import Reply
from airflow_ext.vault.warden import Revocation, Warden

log = logging.getLogger(__name__)

TOKEN_TTL = 300
"""Seconds a task's own token lives without renewal: the longest that credentials outlive a lost worker."""

RETRY = 5.0
"""Seconds until a renewal that Vault did not answer is tried again, at most."""

Remember = Callable[[Mapping[str, Any]], None]


class LeaseSession:
    """The leases of one task, in the process that uses them.

    :param client: Where they come from.
    :param owner: Whose they are.
    :param scope: ``child`` makes a token below the client's for them, or a login where that is denied; ``login``
        logs in once more; ``shared`` uses the client's own token and revokes lease by lease.
    :param token_ttl: Seconds the own token lives without renewal.
    :param max_ttl: Seconds from now on after which all of it ends, whatever happens; ``None`` leaves that to Vault.
    :param policies: Policies of a child token; ``None`` takes those of its parent.
    :param warden: Whether a helper process revokes them should this one be killed.
    :param remember: Told the ids, never a value, whenever there is a new one.
    :param threaded: Renew in a thread; else somebody calls :meth:`renew_due`.
    :param clock: Seconds that never go back.
    """

    def __init__(
        self,
        client: VaultClient,
        owner: Owner,
        *,
        scope: Scope = "child",
        token_ttl: int = TOKEN_TTL,
        max_ttl: int | None = None,
        policies: tuple[str, ...] | None = None,
        warden: bool = True,
        remember: Remember | None = None,
        threaded: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client, self.owner, self.scope = client, owner, scope
        self.pid, self._maker = os.getpid(), this_process()
        self.closed = False
        self._token_ttl, self._policies = token_ttl, policies
        self._remember, self._threaded, self._clock = remember, threaded, clock
        self._id, self._ends = secrets.token_hex(8), clock() + max_ttl if max_ttl else math.inf
        self._own: Token | None = None
        self._login: Token | None = None  # the parent of the own one, where the client's is too old for that
        self._parent: Token | None = None  # the client's, if what is held ends with it
        self._older: list[Token] = []  # tokens whose leases may still be in use
        self._renew_own_at = 0.0
        self._held: dict[str, Held] = {}
        self._ids: list[str] = []
        self._warden = Warden(client) if warden else None
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        _sessions.add(self)

    def restore_lock(self) -> None:
        """Replace the lock, which the thread that renews may have held when the process forked."""
        self._lock = threading.RLock()

    # --------------------------------------------------------------------------------------------- giving

    def credentials(self, spec: LeaseSpec) -> Leased:
        """Return credentials that live: those of before, else new ones.

        :raises VaultDeniedError: If a policy denies them or the role is not known.
        :raises InvalidError: If the path gives no lease, or all of this has ended.
        :raises VaultUnavailableError: If Vault does not answer; nothing stale is given.
        """
        with self._lock:
            self._close_if_over()
            if self.closed or self._clock() >= self._ends:  # the latter in a forked child
                raise InvalidError(f"the lease of {spec.path} has ended: its task, block or ttl is over")
            held = self._held.get(spec.path)
            if held is not None and held.may_be_given(self._clock()) and self._token_lives():
                return held.leased
            if self.pid != os.getpid():
                raise InvalidError(f"a child process may use the lease of {spec.path}, but not get a new one")
            return self._make(spec).leased

    def _token_lives(self) -> bool:
        own = self._own
        if self._parent is not None and self._parent is not self.client.auth.current:
            return False  # what they depend on is at its end and was replaced
        return own is None or own.expires is None or self._clock() < own.expires

    def _make(self, spec: LeaseSpec) -> Held:
        if self._warden is not None and not self._warden.is_alive:
            self._warden.start()
        token = self._token()
        # Asked once: an answer that got lost has made a user, which ends with the token.
        reply = self._ask(spec, token)
        if reply.status == 403 and self._own is not None and not self._is_alive(self._own):
            self._lose_own()
            reply = self._ask(spec, self._token())
        if reply.status != 200 or not reply.data:
            raise self._refusal(spec, reply)
        lease_id = reply.body.get("lease_id")
        if not lease_id:
            raise InvalidError(
                f"lease.path={spec.path!r}: this path gives no lease, so nothing would end; give one that makes credentials,"
                " such as database/creds/ROLE"
            )
        now, granted = self._clock(), int(reply.body.get("lease_duration") or 0)
        leased = Leased(spec.path, str(lease_id), reply.data)
        renewable = bool(reply.body.get("renewable"))
        held = Held(leased, spec, granted, now + granted, now + granted / 3, renewable)
        self._held[spec.path] = held
        self._ids.append(leased.lease_id)
        self._instruct()
        if self._warden is not None:
            self._warden.detach()
        if self._remember is not None:
            self._remember(self.ids())
        self._run()
        log.info("Leased %s for %d s, as %s", spec.path, granted, leased.lease_id)
        return held

    def _ask(self, spec: LeaseSpec, token: str) -> Reply:
        return self.client.transport.request("GET", spec.path, token=token, once=True)

    def _refusal(self, spec: LeaseSpec, reply: Reply) -> VaultDeniedError:
        hint = {
            403: f'a policy with path "{spec.path}" {{ capabilities = ["read"] }} would allow it',
            404: "there is no engine at that path",
            400: "is the role known to the engine?",
        }.get(reply.status, "no credentials came back")
        text = f"Vault at {self.client.settings.shown_address} gave no lease of {spec.path} (status {reply.status}): {hint}"
        return VaultDeniedError(text, status=reply.status, path=spec.path)

    # -------------------------------------------------------------------------------------------- its token

    def _token(self) -> str:
        if not self._token_lives():
            self._lose_own()
        if self._own is None:
            own = self._new_token() if self.scope != "shared" else None
            if own is None:
                return self._token_of_client()
            self._own, self._renew_own_at = own, self._clock() + own.ttl / 3
            self._instruct()
        return self._own.value

    def _token_of_client(self) -> str:
        token, self._parent = self.client.token(), self.client.auth.current
        return token

    def _new_token(self) -> Token | None:
        if self.scope == "child":
            made = self._child()
            if made is not None:
                return made
            self.scope = "login" if self.client.auth.can_log_in else "shared"
            log.info("Vault lets no child token be made (auth/token/create); leases use scope %s", self.scope)
        if self.scope == "shared":
            return None
        token, self._login = self._login or self.client.auth.fresh(), None
        # A renewal counts from now, so it can also bring the end nearer.
        body = {"increment": self._wanted_ttl()}
        reply = self.client.transport.request("POST", "auth/token/renew-self", token=token.value, body=body)
        if reply.status == 200 and isinstance(auth := reply.body.get("auth"), Mapping):
            token = token_of({**auth, "client_token": token.value}, self._clock())
        return token

    def _wanted_ttl(self) -> int:
        return max(1, math.floor(min(self._token_ttl, self._ends - self._clock())))

    def _child(self) -> Token | None:
        body: dict[str, Any] = {
            "ttl": f"{self._wanted_ttl()}s",
            "meta": self.owner.meta,
            "display_name": "airflow",
            "renewable": True,
        }
        if self._ends < math.inf:
            body["explicit_max_ttl"] = f"{max(1, math.floor(self._ends - self._clock()))}s"
        if self._policies is not None:
            body["policies"] = list(self._policies)
        reply = self._create(body)
        auth = reply.body.get("auth")
        if reply.status == 400 and self._policies is not None:
            text = f"lease_policies={list(self._policies)} is no subset of the policies of the client's own token"
            raise VaultDeniedError(text, status=400, path="auth/token/create")
        if reply.status != 200 or not isinstance(auth, Mapping):
            return None
        self._parent = self.client.auth.current if self._login is None else None
        return token_of(auth, self._clock())

    def _create(self, body: dict[str, Any]) -> Reply:
        # A child ends with its parent, and a token at its longest time ends however often it is renewed.
        auth, path = self.client.auth, "auth/token/create"
        auth.renew()
        if auth.is_ageing:
            with suppress(VaultDeniedError):  # such as a secret id that is used up
                self._login = auth.fresh()
        if self._login is None:
            return self.client.call("POST", path, body=body, once=True)
        return self.client.transport.request("POST", path, token=self._login.value, body=body, once=True)

    def _is_alive(self, token: Token) -> bool:
        try:
            reply = self.client.transport.request("GET", "auth/token/lookup-self", token=token.value)
        except VaultUnavailableError:
            return True
        return reply.status != 403

    def _lose_own(self) -> None:
        """Go on without a token that has ended, and the leases that ended with it."""
        if self._own is not None:
            log.warning("The token of this task's leases has ended; the next lookup gets new credentials")
            self._older.append(self._own)
        if self._login is not None:
            self._older.append(self._login)
        self._own = self._login = self._parent = None
        self._held.clear()

    # -------------------------------------------------------------------------------------------- renewing

    def renew_due(self) -> float:
        """Renew what is due and return the seconds until there is something to do again."""
        with self._lock:
            now = self._clock()
            self._close_if_over()
            if self.closed:
                return RETRY
            if self._own is not None and now >= self._renew_own_at:
                self._renew_own()
            self._renew_above()
            for held in list(self._held.values()):
                if held.renewable and now >= held.renew_at:
                    self._renew(held)
                if now >= held.expires:
                    self._held.pop(held.spec.path, None)
            times = [held.renew_at for held in self._held.values() if held.renewable]
            times += [self._renew_own_at] if self._own is not None and self._own.renewable else []
            above = self._login or self._parent
            if above is not None and above.renewable and above.expires is not None:
                times.append(max(above.expires - above.ttl / 2, now + 1.0))
            return max(0.05, min([*times, now + 60.0, self._ends]) - self._clock())

    def _close_if_over(self) -> None:
        if self._clock() >= self._ends and not self.closed:
            log.info("The ttl of this lease of %s is over", ", ".join(self._held))
            self.close()

    def _renew_above(self) -> None:
        if self._login is not None:
            self.client.auth.renew_other(self._login)
        elif self.scope != "login":
            self.client.auth.renew()

    def _renew_own(self) -> None:
        own = self._own
        if own is None or not own.renewable:
            self._renew_own_at = float("inf")
            return
        now, body = self._clock(), {"increment": self._wanted_ttl()}
        try:
            reply = self.client.transport.request("POST", "auth/token/renew-self", token=own.value, body=body)
        except VaultUnavailableError as error:
            log.warning("%s; the token of this task's leases is renewed again soon", error)
            self._renew_own_at = now + min(RETRY, own.ttl / 10)
            return
        auth = reply.body.get("auth")
        if reply.status == 200 and isinstance(auth, Mapping):
            fresh = token_of({**auth, "client_token": own.value}, self._clock())
            own.expires = fresh.expires
            self._renew_own_at = self._clock() + fresh.ttl / 3
            return
        if reply.status == 403:
            self._lose_own()
            return
        own.renewable, self._renew_own_at = False, float("inf")
        log.warning(
            "The token of this task's leases can be renewed no more; new credentials come after its end"
        )

    def _renew(self, held: Held) -> None:
        lease_id, now = held.leased.lease_id, self._clock()
        body: dict[str, Any] = {"lease_id": lease_id, "increment": held.spec.ttl or held.granted}
        token = self._own.value if self._own is not None else self.client.token()
        try:
            reply = self.client.transport.request("PUT", "sys/leases/renew", token=token, body=body)
        except VaultUnavailableError as error:
            log.warning("%s; lease %s is renewed again soon", error, lease_id)
            held.renew_at = now + min(RETRY, held.granted / 10)
            return
        if reply.status != 200:
            held.renewable = False
            log.warning(
                "Lease %s can be renewed no more (status %d): the next lookup gets a new one",
                lease_id,
                reply.status,
            )
            return
        now, ttl = self._clock(), int(reply.body.get("lease_duration") or 0)
        held.expires, held.renew_at = now + ttl, now + ttl / 3
        if ttl < body["increment"]:
            held.renewable = False  # its longest time is near: whoever asks next gets a new one
            log.info("Lease %s ends in %d s for good; a later lookup gets a new one", lease_id, ttl)

    def _run(self) -> None:
        if not self._threaded or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._keep, name="vault-leases", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        pause = 0.05
        while not self.closed and not self._wake.wait(pause):
            try:
                pause = self.renew_due()
            except (VaultDeniedError, InvalidError) as error:
                log.warning("%s", error)
                pause = RETRY

    # ---------------------------------------------------------------------------------------------- ending

    def ids(self) -> dict[str, Any]:
        """Return what is needed to revoke all this from elsewhere; no value that opens anything."""
        accessors = [each.accessor for each in self._tokens() if each.accessor]
        return {
            "address": self.client.settings.shown_address,
            "namespace": self.client.settings.namespace or "",
            "accessors": accessors,
            "leases": list(self._ids),
            "session": self._id,
            "owner": self.owner.meta,
            "maker": self._maker,
            "at": int(time.time()),
        }

    def _tokens(self) -> list[Token]:
        return [each for each in [*self._older, self._own, self._login] if each is not None]

    def _revocations(self) -> list[Revocation]:
        found: list[Revocation] = [("auth/token/revoke-self", each.value, None) for each in self._tokens()]
        if self.scope == "shared" and self._ids:
            token = self.client.token()
            found += [("sys/leases/revoke", token, {"lease_id": each, "sync": True}) for each in self._ids]
        return found

    def _instruct(self) -> None:
        if self._warden is not None:
            self._warden.tell(self._revocations())

    def close(self) -> bool:
        """Revoke everything and return whether nothing is left; what Vault did not do, the warden goes on with.

        Takes three seconds at most. In a forked child nothing happens: the leases are its parent's.
        """
        if self.pid != os.getpid():
            return True
        self._wake.set()
        with self._lock:
            if self.closed:
                return True
            self.closed = True
            ends = time.monotonic() + 3.0
            try:
                calls = self._revocations()
                answers = [self._revoke(*each) if time.monotonic() < ends else "again" for each in calls]
            except (VaultDeniedError, VaultUnavailableError) as error:  # no token for leases that shared one
                log.warning("%s", error)
                answers = ["again"]
            if self._warden is not None:
                self._warden.dismiss(done="again" not in answers)
            self._held.clear()
        done = set(answers) <= {"done"}
        if done and self._ids:
            log.info("Revoked %s", ", ".join(self._ids))
        elif "again" in answers and self._ids:
            log.warning("Vault did not revoke %s; a helper process goes on trying", ", ".join(self._ids))
        return done

    def _revoke(
        self, path: str, token: str, body: dict[str, Any] | None
    ) -> Literal["done", "denied", "again"]:
        try:
            reply = self.client.transport.request(
                "PUT", path, token=token, body=body or {}, once=True, guarded=False
            )
        except VaultUnavailableError as error:
            log.warning("%s", error)
            return "again"
        if path != "sys/leases/revoke" or reply.status in (200, 202, 204, 404):
            return "done"  # a token that is refused has ended
        lease = (body or {}).get("lease_id")
        if reply.status == 403:
            log.warning(
                'Lease %s lives until its end: a policy with path "sys/leases/revoke" would end it', lease
            )
            return "denied"
        log.warning(
            "Lease %s is not revoked (status %d): the engine refuses, such as while a role owns tables",
            lease,
            reply.status,
        )
        return "again"


_sessions: weakref.WeakSet[LeaseSession] = weakref.WeakSet()


def _after_fork() -> None:
    for session in list(_sessions):
        session.restore_lock()


os.register_at_fork(after_in_child=_after_fork)
