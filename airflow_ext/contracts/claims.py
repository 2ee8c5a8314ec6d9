"""Who of many waiters tells that a partition is late: one.

A database decides it by a unique row. Airflow's asset state has no compare-and-set; there a waiter that finds no
claim writes its own, waits longer than anybody may take between finding none and writing, and reads again: the
claim written last has won. One whose own writing took too long withdraws.

A claim lasts :data:`LEASE_SECONDS`. If by then nobody has written down that the notice went out, the one who claimed
it died, and the next may. So a notice is sent once, and a second time only if a process dies in the middle of sending.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

Key = tuple[str, str]

LEASE_SECONDS = 300.0
"""Longer than telling may take in all."""
SETTLE_SECONDS = 5.0
INDEX = "late"
"""Key of the partitions whose claims are kept."""
KEPT = 200


class Claim(enum.StrEnum):
    """What became of a claim."""

    MINE = "mine"
    OTHERS = "others"
    TOLD = "told"


class State(Protocol):
    """The part of an asset's state that is used."""

    def get(self, key: str, default: Any = None) -> Any:
        """Read a key."""

    def set(self, key: str, value: Any) -> None:
        """Write a key."""

    def delete(self, key: str) -> None:
        """Remove a key."""


def name_of(partition: str) -> str:
    """Return the key of a claim in the state of a contract's asset."""
    return f"late/{partition}"


def claim(
    state_of: Callable[[str], State],
    keys: Collection[Key],
    *,
    token: str,
    now: float,
    settle: Callable[[float], None] = time.sleep,
) -> dict[Key, Claim]:
    """Claim some partitions in the state of their assets.

    :param token: Tells this claimer from all others.
    :param now: Seconds since the epoch.
    :param settle: Waits so many seconds.
    """
    found: dict[Key, Claim] = {}
    written: list[Key] = []
    for asset, partition in keys:
        state, name, started = state_of(asset), name_of(partition), time.monotonic()
        if (standing := _standing(state.get(name), now)) is not None:
            found[asset, partition] = standing
            continue
        state.set(name, {"by": token, "at": now})
        slow = time.monotonic() - started > SETTLE_SECONDS / 2
        found[asset, partition] = Claim.OTHERS
        written += [] if slow else [(asset, partition)]
    if written:
        settle(SETTLE_SECONDS)
    for asset, partition in written:
        value = state_of(asset).get(name_of(partition))
        mine = isinstance(value, Mapping) and value.get("by") == token
        found[asset, partition] = Claim.MINE if mine else _standing(value, now) or Claim.OTHERS
    return found


def _standing(value: Any, now: float) -> Claim | None:
    if not isinstance(value, Mapping):
        return None
    if value.get("told"):
        return Claim.TOLD
    at = value.get("at")
    expired = not isinstance(at, int | float) or not abs(now - at) < LEASE_SECONDS
    return None if expired else Claim.OTHERS


def note_told(state: State, partition: str, *, token: str, now: float) -> None:
    """Write down that a notice went out, and forget the claims of long ago."""
    state.set(name_of(partition), {"by": token, "at": now, "told": True})
    before = state.get(INDEX)
    kept = [each for each in before if isinstance(each, str)] if isinstance(before, list) else []
    kept = [each for each in kept if each != partition] + [partition]
    for old in kept[:-KEPT]:
        state.delete(name_of(old))
    state.set(INDEX, kept[-KEPT:])
