"""Which block of code with leases of its own a lookup is in."""

from __future__ import annotations

import contextvars
import threading
from dataclasses import dataclass

from airflow_ext.vault.leases import LeaseSession

_open: contextvars.ContextVar[tuple[_Block, ...]] = contextvars.ContextVar("airflow_ext_blocks", default=())


@dataclass(frozen=True, eq=False)
class _Block:
    conn_id: str
    session: LeaseSession
    opener: int
    running: frozenset[int]  # the threads there were when it was opened


class Blocks:
    """The open blocks of this process.

    A lookup is in the innermost block of its own thread or coroutine. A thread that no block knows, as it does not
    inherit what its starter knows, is in the one that was open when it was started; where several threads have
    blocks, nobody can tell, and it is in none.
    """

    def __init__(self) -> None:
        self._all: list[_Block] = []

    def open(self, conn_id: str, session: LeaseSession) -> None:
        """Begin a block in this thread or coroutine."""
        running = frozenset(each.ident for each in threading.enumerate() if each.ident is not None)
        block = _Block(conn_id, session, threading.get_ident(), running | {threading.get_ident()})
        self._all.append(block)
        _open.set((*_open.get(), block))

    def close(self, session: LeaseSession) -> None:
        """End a block, in whatever thread or coroutine."""
        for block in [each for each in list(self._all) if each.session is session]:
            self._all.remove(block)  # in place, as another thread may open one
        _open.set(tuple(each for each in _open.get() if each.session is not session))

    def clear(self) -> None:
        """Forget all blocks."""
        self._all.clear()

    def sessions(self) -> list[LeaseSession]:
        """Return the sessions of all open blocks."""
        return [each.session for each in list(self._all)]

    def session(self, conn_id: str) -> LeaseSession | None:
        """Return the session a lookup of this connection uses, ``None`` outside of blocks."""
        blocks = [each for each in list(self._all) if each.conn_id == conn_id]
        mine = [each for each in _open.get() if each in blocks]  # what it inherited may be closed
        if mine:
            return mine[-1].session
        thread = threading.get_ident()
        others = [each for each in blocks if thread not in each.running]
        return others[-1].session if len({each.opener for each in others}) == 1 else None
