"""What was read from Vault, for as long as it may be served. Never written anywhere."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_ext.exceptions import AirflowExtError
from airflow_ext.vault.settings import CachePolicy

Key = tuple[str, str]
"""Mount and path."""

MOST_ENTRIES = 10_000

AHEAD = 0.75
"""Part of its fresh time after which a document that is asked for is read again in the background."""


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Document:
    """One secret as Vault gave it; its content is never printed.

    :param path: Mount and path, as a person would write them.
    :param version: Version of a KV version 2 secret, else ``None``.
    :param lifetime: Seconds after the read at which it is of no use to anybody; ``None`` when nothing says so.
    """

    path: str
    data: Mapping[str, Any] = field(repr=False)
    version: int | None = None
    lifetime: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """The outcome of one read; exactly one of found, not there (no document) or refused (an error)."""

    document: Document | None
    error: AirflowExtError | None
    read_at: float
    fresh_until: float
    usable_until: float
    stale: bool = False
    due_at: float = math.inf


class Cache:
    """Outcomes by path.

    :param clock: Seconds that never go back.
    """

    def __init__(self, policy: CachePolicy, clock: Callable[[], float]) -> None:
        self._policy, self._clock = policy, clock
        self._entries: dict[Key, Entry] = {}
        self.restore_locks()

    def restore_locks(self) -> None:
        """Replace the locks, which another thread may have held when the process forked."""
        self._lock = threading.Lock()
        self._reading = [threading.Lock() for _ in range(64)]

    def reading(self, key: Key) -> threading.Lock:
        """Return the lock that lets one thread at a time read a path."""
        return self._reading[hash(key) % len(self._reading)]

    def get(self, key: Key) -> Entry | None:
        """Return the entry that may still be served, if only in need."""
        entry = self._entries.get(key)
        return entry if entry is not None and self._clock() < entry.usable_until else None

    def is_fresh(self, entry: Entry) -> bool:
        """Tell if an entry is served without asking."""
        return self._clock() < entry.fresh_until

    def is_recent(self, entry: Entry) -> bool:
        """Tell if an entry was fresh until shortly before, so that it will do while it is being read anew."""
        longer = self._policy.soft_ttl if entry.document is not None else self._policy.missing_ttl
        return self._clock() < entry.fresh_until + longer

    def is_due(self, entry: Entry) -> bool:
        """Tell if it is time to read it again, before it is too old."""
        return self._clock() >= entry.due_at

    def put(
        self,
        key: Key,
        *,
        document: Document | None = None,
        error: AirflowExtError | None = None,
    ) -> Entry:
        """Keep the outcome of a read that just ended."""
        now, policy = self._clock(), self._policy
        fresh = policy.soft_ttl if document is not None else policy.missing_ttl
        # A refusal is not kept for need: once its time is over, only Vault can say what holds.
        usable = fresh if error is not None else policy.hard_ttl
        if document is not None and document.lifetime is not None:
            fresh, usable = min(fresh, document.lifetime), min(usable, document.lifetime)
        due = now + fresh * AHEAD if document is not None else math.inf
        entry = Entry(document, error, now, now + fresh, now + max(fresh, usable), due_at=due)
        self._keep(key, entry)
        return entry

    def adopt(self, key: Key, entry: Entry) -> None:
        """Keep the outcome of another process's read."""
        due = math.inf
        if entry.document is not None and not entry.stale:
            due = entry.read_at + (entry.fresh_until - entry.read_at) * AHEAD
        self._keep(key, replace(entry, due_at=due))

    def postpone(self, key: Key, entry: Entry, seconds: float) -> Entry:
        """Serve an old entry as it is for some seconds more, because Vault did not answer."""
        old = replace(entry, fresh_until=self._clock() + seconds, stale=True, due_at=math.inf)
        self._keep(key, old)
        return old

    def wait(self, key: Key, entry: Entry, seconds: float) -> None:
        """Let some seconds pass until an entry is read ahead of time again."""
        self._keep(key, replace(entry, due_at=self._clock() + seconds))

    def _keep(self, key: Key, entry: Entry) -> None:
        with self._lock:
            self._entries.pop(key, None)  # so that the newest stands last
            while len(self._entries) >= MOST_ENTRIES:
                self._entries.pop(next(iter(self._entries)))
            self._entries[key] = entry

    def age(self, entry: Entry) -> float:
        """Return how many seconds ago an entry was read."""
        return self._clock() - entry.read_at
