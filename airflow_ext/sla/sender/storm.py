"""How many calls are made: one for each message while they are few, digests when they are many."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow_ext.sla.channel import Channel
from airflow_ext.sla.sender.entries import Entry
from airflow_ext.sla.sender.model import Settings

_RANKS = {"page": 0, "ticket": 1, "info": 2}
_OWNER = 100
Target = Channel | str


@dataclass
class Group:
    """Messages that one call tells.

    :param entries: The worst first.
    :param digest: Key of the digest; empty if it is a single message.
    """

    target: Target
    entries: list[Entry]
    digest: str = ""

    @property
    def rank(self) -> int:
        """How soon it is to be told."""
        return min(_rank(entry) for entry in self.entries)


class Breaker:
    """Counts the calls of each channel; one per process."""

    def __init__(self) -> None:
        self._calls: dict[Any, deque[datetime]] = defaultdict(deque)

    def free(self, key: Any, *, most: int, window: timedelta, now: datetime) -> int:
        """Return how many calls are left within the window."""
        calls = self._calls[key]
        while calls and not now - window < calls[0] <= now:
            calls.popleft()
        return max(0, most - len(calls))

    def note(self, group: Group, now: datetime) -> None:
        """Count a call."""
        self._calls[group.target].append(now)
        for owner in {entry.owner for entry in group.entries}:
            self._calls[owner, group.target].append(now)

    def forget(self, *, window: timedelta, now: datetime) -> None:
        """Drop what was counted long ago, so that the memory does not grow with the owners."""
        for key in [key for key, calls in self._calls.items() if not calls or calls[-1] <= now - window]:
            del self._calls[key]


def group(
    entries: Iterable[Entry], *, breaker: Breaker, settings: Settings, now: datetime
) -> tuple[list[Group], list[Entry]]:
    """Return the calls to make, the most urgent first, and the messages that have to wait.

    For each channel and owner, messages go one by one as long as ``owner_calls`` are left, else into one digest, and if
    not even that is left they wait and gather. More than ``channel_calls`` of one channel become one digest over all owners.
    What once was put into a digest stays in it.
    """
    breaker.forget(window=settings.window, now=now)
    of_target: dict[Target, dict[tuple[str, bool], list[Entry]]] = defaultdict(lambda: defaultdict(list))
    fixed: dict[tuple[Target, str, bool], list[Entry]] = defaultdict(list)
    alone: list[Group] = []
    for entry in entries:
        assert entry.target is not None  # noqa: S101  those without were taken out
        if digest := entry.thread.get("digest", ""):
            fixed[entry.target, digest, entry.over].append(entry)
        elif entry.thread.get("alone") and not entry.over:
            alone.append(Group(entry.target, [entry]))
        else:
            of_target[entry.target][entry.owner, entry.over].append(entry)
    groups = alone + [Group(target, _sorted(some), digest) for (target, digest, _), some in fixed.items()]
    waiting: list[Entry] = []
    for target, owners in of_target.items():
        made, held = _of_target(target, owners, breaker=breaker, settings=settings, now=now)
        groups += made
        waiting += held
    return sorted(groups, key=lambda item: (item.rank, item.entries[0].id)), waiting


def _of_target(
    target: Target,
    owners: dict[tuple[str, bool], list[Entry]],
    *,
    breaker: Breaker,
    settings: Settings,
    now: datetime,
) -> tuple[list[Group], list[Entry]]:
    left = breaker.free(target, most=settings.channel_calls, window=settings.window, now=now)
    groups: list[Group] = []
    waiting: list[Entry] = []
    for (owner, _), entries in owners.items():
        free = breaker.free((owner, target), most=settings.owner_calls, window=settings.window, now=now)
        if len(entries) <= free:
            groups += [Group(target, [entry]) for entry in entries]
        elif free:
            groups.append(_digest(target, entries, owner))
        else:
            waiting += entries
    if len(groups) <= left:
        return groups, waiting
    everything = [entry for some in groups for entry in some.entries]
    if not left:
        return [], waiting + everything
    sides = [[entry for entry in everything if entry.over is over] for over in (False, True)]
    return [_digest(target, side, "") for side in sides if side], waiting


def _digest(target: Target, entries: Sequence[Entry], owner: str) -> Group:
    ordered = _sorted(entries)
    if len(ordered) == 1:
        return Group(target, ordered)
    first = min(entry.id for entry in ordered)
    return Group(target, ordered, f"digest/{owner[:_OWNER] or 'all'}/{first}")


def _sorted(entries: Sequence[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (_rank(entry), entry.row.due_at, entry.id))


def _rank(entry: Entry) -> int:
    return _RANKS.get(entry.row.severity, len(_RANKS))
