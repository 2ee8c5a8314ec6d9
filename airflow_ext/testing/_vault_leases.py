"""Leases of the local Vault-compatible server: renewed, revoked, and ended in the background."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_ext.testing._vault_auth import SYSTEM_MAX_TTL, WireError, random_id

REVOKE_ATTEMPTS = 6
"""After this many failures a lease stays, marked as irrevocable."""

RETRY_SECONDS = 10.0
"""Delay after the first failed revocation; doubled each time."""


@dataclass
class Wanted:
    """A credential that an engine can make.

    :param create: Makes it and returns the ``data`` of the answer; is told the display name of the token and
        the moment it ends.
    :param revoke: Takes it back; told what ``create`` returned.
    :param renew: Moves its end.
    """

    ttl: int
    max_ttl: int
    create: Callable[[str, float], dict[str, Any]]
    revoke: Callable[[dict[str, Any]], None]
    renew: Callable[[dict[str, Any], float], None]


@dataclass(kw_only=True)
class Lease:
    """One credential with an end; times are seconds since 1970 on the server's clock."""

    id: str
    path: str
    token: str = field(repr=False)
    wanted: Wanted
    data: dict[str, Any] = field(repr=False)
    issued: float
    expires: float
    renewed: float | None = None
    attempts: int = 0
    retry_at: float = 0.0
    error: str = ""
    ending: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def max_ttl(self) -> int:
        """Seconds from its issue to the latest end."""
        return min(each for each in (SYSTEM_MAX_TTL, self.wanted.max_ttl) if each)


class Leases:
    """All living leases.

    :param now: The server's clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._by_id: dict[str, Lease] = {}
        self._lock = threading.RLock()
        self.failing = 0  # how many of the next revocations fail

    def grant(self, path: str, token: str, display_name: str, wanted: Wanted, *, suffix: str = "") -> Lease:
        """Make the credential and its lease."""
        now = self._now()
        most = min(each for each in (SYSTEM_MAX_TTL, wanted.max_ttl) if each)
        ends = now + min(wanted.ttl or SYSTEM_MAX_TTL, most)
        lease_id = f"{path}/{random_id(24)}{suffix}"
        data = wanted.create(display_name, ends)
        lease = Lease(id=lease_id, path=path, token=token, wanted=wanted, data=data, issued=now, expires=ends)
        with self._lock:
            self._by_id[lease_id] = lease
        return lease

    def get(self, lease_id: object) -> Lease:
        """Return a living lease.

        :raises WireError: 400, if there is none of that id.
        """
        if not lease_id:
            raise WireError(400, "lease_id must be specified")
        lease = self._by_id.get(str(lease_id))
        if lease is None:
            raise WireError(400, "invalid lease")
        return lease

    def below(self, prefix: str) -> list[Lease]:
        """Return the leases whose id starts with a prefix."""
        with self._lock:
            return [each for each in self._by_id.values() if each.id.startswith(prefix)]

    def renew(self, lease_id: object, increment: int) -> tuple[Lease, list[str]]:
        """Move the end of a lease, counted from now; returns it and the warnings.

        :raises WireError: 400, if that cannot be.
        """
        try:
            lease = self.get(lease_id)
        except WireError:
            raise WireError(400, "lease not found") from None
        now = self._now()
        if lease.expires <= now or lease.ending:
            raise WireError(400, "lease expired")
        left = int(lease.issued + lease.max_ttl - now)
        if left <= 0:
            raise WireError(400, "past the max TTL, cannot renew")
        want = increment or lease.wanted.ttl or SYSTEM_MAX_TTL
        ttl = min(want, left)
        lease.wanted.renew(lease.data, now + ttl)
        lease.expires, lease.renewed = now + ttl, now
        if ttl == want:
            return lease, []
        text = f'TTL of "{want}s" exceeded the effective max_ttl of "{lease.max_ttl}s"'
        return lease, [f"{text}; TTL value is capped accordingly"]

    def end_those_of(self, token: str) -> None:
        """Queue all leases made with a token, which is dead, for revocation."""
        with self._lock:
            for lease in self._by_id.values():
                if lease.token == token:
                    lease.ending = True

    def revoke(self, lease: Lease, *, force: bool = False) -> None:
        """Take a credential back now.

        :param force: Forget the lease also if that fails.
        :raises WireError: 400, if it fails; the lease stays and is tried again.
        """
        with lease.lock:
            self._revoke(lease, force=force)

    def _revoke(self, lease: Lease, *, force: bool) -> None:
        if lease.id not in self._by_id:
            return  # another thread was faster
        try:
            if self.failing > 0:
                self.failing -= 1
                raise WireError(500, "the database refused")
            lease.wanted.revoke(lease.data)
        except Exception as error:  # noqa: BLE001  # whatever the database says becomes the answer
            if not force:
                lease.ending, lease.error = True, str(error)
                lease.retry_at = self._now() + RETRY_SECONDS * 2**lease.attempts
                lease.attempts += 1
                raise WireError(400, f"failed to revoke: {error}") from None
        with self._lock:
            self._by_id.pop(lease.id, None)

    def end_due(self) -> None:
        """Revoke what has expired or was queued, as far as that works."""
        now = self._now()
        with self._lock:
            due = [
                each
                for each in self._by_id.values()
                if (each.ending or each.expires <= now)
                and each.retry_at <= now
                and each.attempts < REVOKE_ATTEMPTS
            ]
        for lease in due:
            try:
                self.revoke(lease)
            except WireError:
                continue  # kept with its error, for the next round

    def told(self, lease: Lease) -> dict[str, Any]:
        """Return what a lookup answers."""

        def moment(at: float | None) -> str | None:
            return None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")

        told: dict[str, Any] = {
            "id": lease.id,
            "issue_time": moment(lease.issued),
            "expire_time": moment(lease.expires),
            "last_renewal": moment(lease.renewed),
            "renewable": True,
            "ttl": max(0, math.ceil(lease.expires - self._now())),
        }
        return told | ({"revoke_error": lease.error} if lease.error else {})
