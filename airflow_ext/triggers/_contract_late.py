"""Telling that partitions are late from a triggerer, whose loop must not wait for mail servers.

One thread per process collects what all waiters of it see and asks the store who may tell. It is there only while
there is something to do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from airflow_ext.contracts.claims import LEASE_SECONDS, Claim
from airflow_ext.contracts.lateness import Late, overdue
from airflow_ext.contracts.store import Key
from airflow_ext.contracts.terms import Wanted
from airflow_ext.contracts.waiting import Known
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.notifications import contract as notices

RETRY_SECONDS = 60.0
TRIES = 20
"""For about 20 minutes of a store that does not answer, or 100 of somebody else who claimed and never told."""
REMEMBERED = 20_000

_Place = tuple[str | None, Key]


@dataclass
class _Item:
    late: Late
    seen_by: str
    at: float
    tries: int = 0


class LateTeller:
    """Tells of late partitions, each once.

    :param clock: Seconds of a clock that is never set back.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._pending: dict[_Place, _Item] = {}
        self._known: dict[_Place, None] = {}
        self._thread: threading.Thread | None = None

    def offer(self, store_conn_id: str | None, late: Iterable[Late], *, seen_by: str) -> None:
        """Take over what a waiter sees; at once, and nothing twice."""
        with self._changed:
            for each in late:
                place = (store_conn_id, each.key)
                if place not in self._known:
                    self._known[place] = None
                    self._pending[place] = _Item(each, seen_by, self._clock())
            while len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
            if self._pending and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="contracts-late", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            self.turn()
            with self._changed:
                if not self._pending:
                    self._thread = None
                    return
                left = min(item.at for item in self._pending.values()) - self._clock()
                if left > 0:
                    self._changed.wait(left)

    def turn(self) -> None:
        """Tell what is due to be told."""
        with self._changed:
            due = {place: item for place, item in self._pending.items() if item.at <= self._clock()}
        for store_conn_id in {place[0] for place in due}:
            items = {place[1]: item for place, item in due.items() if place[0] == store_conn_id}
            seen_by = next(iter(items.values())).seen_by
            outcome = notices.tell_late(
                [item.late for item in items.values()], verdict_store(store_conn_id), seen_by=seen_by
            )
            with self._changed:
                for key, item in items.items():
                    self._after((store_conn_id, key), item, outcome.get(key))

    def _after(self, place: _Place, item: _Item, claim: Claim | None) -> None:
        item.tries += 1
        if claim in (Claim.MINE, Claim.TOLD) or item.tries >= TRIES:
            self._pending.pop(place, None)
        else:  # the one who claimed it may die before it tells
            item.at = self._clock() + (RETRY_SECONDS if claim is None else LEASE_SECONDS + 1)


_TELLER = LateTeller()


def look(
    wanted: Wanted, known: Known, now: float, *, store_conn_id: str | None, seen_by: str
) -> float | None:
    """Hand on what is late of the partitions a trigger waits for, and say when the next one will be.

    :param known: What was read of the store.
    :param now: Seconds since the epoch.
    """
    late, following = overdue(wanted, known, now)
    if late:
        _TELLER.offer(store_conn_id, late, seen_by=seen_by)
    return following
