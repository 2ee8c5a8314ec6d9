"""Wait in the triggerer for what happens in Vault."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, Literal, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ext.exceptions import InvalidError, VaultDeniedError, VaultUnavailableError
from airflow_ext.hooks.vault import VaultHook
from airflow_ext.vault import admin

log = logging.getLogger(__name__)

MOST_AT_ONCE = 8
"""Questions to one Vault under way at a time."""


class VersionEvent(TypedDict):
    """What :class:`VaultSecretVersionTrigger` ends with.

    :ivar status: ``found``, ``denied`` or ``timeout``.
    :ivar version: The version, 0 if there is none.
    :ivar message: Why it was denied.
    """

    status: Literal["found", "denied", "timeout"]
    version: int
    message: str


def parse_event(event: Any) -> VersionEvent:
    """Return an event of the trigger.

    :raises ValueError: If it is none.
    """
    if not isinstance(event, dict) or event.get("status") not in ("found", "denied", "timeout"):
        raise ValueError(f"event={event!r} is none of VaultSecretVersionTrigger")
    return VersionEvent(
        status=event["status"],
        version=int(event.get("version") or 0),
        message=str(event.get("message") or ""),
    )


class Versions:
    """The versions of secrets, asked for once for all triggers that wait for one of a Vault and mount.

    :param vault_conn_id: As for the trigger.
    :param mount: Mount of the key-value engine.
    """

    def __init__(self, vault_conn_id: str | None, mount: str) -> None:
        self._vault_conn_id, self._mount = vault_conn_id, mount
        self._seen: dict[str, tuple[float, int]] = {}
        self._asking: dict[str, asyncio.Lock] = {}
        self._gate = asyncio.Semaphore(MOST_AT_ONCE)

    async def current(self, path: str, *, younger_than: float) -> int:
        """Return the version of a secret, 0 where there is none.

        :param younger_than: Seconds; what another trigger was told more recently is taken.
        :raises VaultDeniedError: If its metadata may not be read.
        :raises VaultUnavailableError: If Vault does not answer.
        """
        async with self._asking.setdefault(path, asyncio.Lock()):
            seen = self._seen.get(path)
            if seen is not None and time.monotonic() - seen[0] < younger_than:
                return seen[1]
            async with self._gate:
                client = await VaultHook(self._vault_conn_id).aget_conn()
                found = await asyncio.to_thread(admin.metadata, client, self._mount, path)
            version = int((found or {}).get("current_version") or 0)
            self._seen[path] = (time.monotonic(), version)
            return version


# One per loop, as a triggerer has one and tests have many.
_boards: dict[tuple[int, str | None, str], Versions] = {}


def versions(vault_conn_id: str | None, mount: str) -> Versions:
    """Return what the triggers of this event loop share."""
    key = (id(asyncio.get_running_loop()), vault_conn_id, mount)
    return _boards.setdefault(key, Versions(vault_conn_id, mount))


class VaultSecretVersionTrigger(BaseTrigger):
    """Wait until a secret has a version above one; reads its metadata only.

    Triggers that wait for the same secret in one triggerer ask Vault together.

    :param path: Path in the mount.
    :param newer_than: The version it must be above.
    :param mount: Mount of the key-value engine.
    :param vault_conn_id: Connection of type ``vault``; ``None`` means the configured backend's Vault.
    :param poll_interval: Seconds between two questions.
    :param deadline: Seconds since 1970 at which to give up; ``None`` waits for ever.
    """

    def __init__(
        self,
        *,
        path: str,
        newer_than: int = 0,
        mount: str = "secret",
        vault_conn_id: str | None = None,
        poll_interval: float = 60.0,
        deadline: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own has no types
        self.path, self.newer_than, self.mount, self.vault_conn_id = path, newer_than, mount, vault_conn_id
        self.poll_interval, self.deadline = poll_interval, deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        return (
            "airflow_ext.triggers.vault.VaultSecretVersionTrigger",
            {
                "path": self.path,
                "newer_than": self.newer_than,
                "mount": self.mount,
                "vault_conn_id": self.vault_conn_id,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask until it is there, is denied, or time is over; an outage is waited out."""
        board, down = versions(self.vault_conn_id, self.mount), False
        while True:
            version = 0
            try:
                version = await board.current(self.path, younger_than=self.poll_interval / 2)
                down = False
            except (VaultDeniedError, InvalidError) as error:
                yield _event("denied", message=str(error))
                return
            except VaultUnavailableError as error:
                if not down:
                    log.warning("%s; asking again every %g s", error, self.poll_interval)
                down = True
            if version > self.newer_than:
                yield _event("found", version=version)
                return
            left = self.deadline - time.time() if self.deadline is not None else self.poll_interval
            if left <= 0:
                yield _event("timeout", version=version)
                return
            await asyncio.sleep(min(self.poll_interval, left))


def _event(
    status: Literal["found", "denied", "timeout"], *, version: int = 0, message: str = ""
) -> TriggerEvent:
    return TriggerEvent(VersionEvent(status=status, version=version, message=message))
