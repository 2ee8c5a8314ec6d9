"""How secrets are served: from memory while fresh, asked for by one thread at a time, and kept for need."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from airflow_ext.exceptions import DeniedError, InvalidError, UnavailableError, VaultDeniedError
from airflow_ext.vault.cache import Cache, Document, Entry, Key
from airflow_ext.vault.settings import CachePolicy
from airflow_ext.vault.shared import SharedCache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """What a read gave.

    :param document: The secret, ``None`` when there is none at that path.
    :param source: ``vault`` for a call made now, ``cache``, or ``stale`` when the server does not answer.
    :param age: Seconds since the server gave it.
    :param asked: Whether the server was asked, be it in vain; else it is served from memory.
    """

    document: Document | None
    source: Literal["vault", "cache", "stale"]
    age: float
    asked: bool = True


class Reader:
    """Reads through a cache.

    :param fetch: Asks the server: a document, ``None`` where there is none, or one of our errors.
    :param shown: Returns a key for people.
    :param patience: Seconds an old value is served unasked after the server did not answer.
    :param clock: Seconds that never go back.
    """

    def __init__(
        self,
        fetch: Callable[[Key], Document | None],
        policy: CachePolicy,
        *,
        shown: Callable[[Key], str],
        patience: float,
        clock: Callable[[], float],
    ) -> None:
        self._fetch, self._shown, self._patience = fetch, shown, patience
        self.cache = Cache(policy, clock)
        self.shared: SharedCache | None = None
        self._wants_shared = policy.shared
        self._in_turn: set[Key] = set()

    def share(self) -> None:
        """Let processes forked from now on give each other what they read; nothing happens where that is not wanted."""
        if self._wants_shared and self.shared is None:
            self.shared = SharedCache.create()
            self._wants_shared = self.shared is not None  # where it cannot be had, it is not tried again

    def after_fork(self) -> None:
        """Replace the locks, which another thread may have held when the process forked."""
        self.cache.restore_locks()
        self._in_turn.clear()

    def close(self) -> None:
        """Remove what forked processes share, in the process that made it."""
        if self.shared is not None:
            self.shared.remove()
            self.shared = None

    def knows(self, key: Key) -> bool:
        """Tell if there is a document, however old, that may be served in need."""
        entry = self.cache.get(key)
        return entry is not None and entry.document is not None

    def read(self, key: Key) -> Reading:
        """Return what is at a key.

        :raises UnavailableError: If the server does not answer and nothing usable is known.
        :raises DeniedError: If it refuses.
        :raises InvalidError: If what is there is no secret.
        """
        entry = self.cache.get(key)
        if entry is not None and self.cache.is_fresh(entry):
            if self.cache.is_due(entry):
                self._refresh(key)
            return self._served(entry)
        if entry is not None and entry.error is None and key in self._in_turn and self.cache.is_recent(entry):
            return self._served(entry)  # another thread is asking; what we have is good enough meanwhile
        with self._turn(key):
            entry = self._known(key)
            if entry is not None and self.cache.is_fresh(entry):
                return self._served(entry)
            return self._ask(key, entry)

    @contextmanager
    def _turn(self, key: Key) -> Iterator[None]:
        """Wait until no other thread reads a key, and note that this one does: keys share locks."""
        with self.cache.reading(key):
            self._in_turn.add(key)
            try:
                yield
            finally:
                self._in_turn.discard(key)

    def _known(self, key: Key) -> Entry | None:
        """Return the entry of this process, or a newer one that another process left."""
        entry = self.cache.get(key)
        if self.shared is not None and (entry is None or not self.cache.is_fresh(entry)):
            found = self.shared.get(key)
            if found is not None and (entry is None or found.read_at >= entry.read_at):
                self.cache.adopt(key, found)
                entry = self.cache.get(key)
        return entry

    def _ask(self, key: Key, entry: Entry | None) -> Reading:
        try:
            document = self._fetch(key)
        except UnavailableError as error:
            if entry is None or entry.error is not None:
                text = f"{error}; {self._shown(key)} is not known from before: try again later"
                raise type(error)(text, service=error.service) from None
            if not entry.stale:
                log.warning("%s; serving %s as read %d s ago", error, "/".join(key), self.cache.age(entry))
            self._tell(key, self.cache.postpone(key, entry, self._patience))
            return Reading(entry.document, "stale", self.cache.age(entry))
        except (DeniedError, InvalidError) as error:
            self.cache.put(key, error=error)
            if self.shared is not None:
                self.shared.drop(key)
            raise
        self._tell(key, self.cache.put(key, document=document))
        return Reading(document, "vault", 0.0)

    def _tell(self, key: Key, entry: Entry) -> None:
        if self.shared is not None:
            self.shared.put(key, entry)

    def _served(self, entry: Entry) -> Reading:
        error = entry.error
        if isinstance(error, VaultDeniedError):
            raise VaultDeniedError(str(error), status=error.status, path=error.path)
        if error is not None:
            raise type(error)(str(error))
        source: Literal["stale", "cache"] = "stale" if entry.stale else "cache"
        return Reading(entry.document, source, self.cache.age(entry), asked=False)

    # ----------------------------------------------------------------------------------- ahead of time

    def _refresh(self, key: Key) -> None:
        """Read again in a thread, so that who keeps asking never waits."""
        if self.cache.reading(key).locked():
            return
        thread = threading.Thread(target=self._read_ahead, args=(key,), name="vault-refresh", daemon=True)
        with suppress(RuntimeError):  # the interpreter is about to end
            thread.start()

    def _read_ahead(self, key: Key) -> None:
        with self._turn(key):
            entry = self.cache.get(key)
            if entry is None or not self.cache.is_due(entry):
                return
            self.cache.wait(
                key, entry, self._patience
            )  # should it fail; what it has stays as fresh as it was
            try:
                document = self._fetch(key)
            except UnavailableError as error:
                log.debug("not read ahead of time: %s", error)
            except (DeniedError, InvalidError) as error:
                self.cache.put(key, error=error)
                if self.shared is not None:
                    self.shared.drop(key)
            else:
                self._tell(key, self.cache.put(key, document=document))
