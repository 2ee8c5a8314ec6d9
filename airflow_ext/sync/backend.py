"""The protocol every sync backend follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_ext.exceptions import AirflowExtError
from airflow_ext.sync.model import Capabilities, RunStatus, SyncRef, SyncResult, TableRef
from airflow_ext.sync.tables import SyncTable, Window

RunHandle = Mapping[str, Any]
"""What identifies a run to its backend; plain JSON without secrets, so that it can be stored.

A vendor's has ``backend``, ``sync``, ``name`` and ``link``, and may have ``adopted`` (somebody else started it),
``resumed`` (an earlier try did), ``manual`` (the vendor does not go on by itself) and ``behind`` (this is the run
before: when it has ended, start again).
"""

Keep = Callable[[RunHandle], Awaitable[None]]
"""Stores a handle where the next try finds it."""

Scope = Mapping[str, tuple[str, ...]]
"""Tables by their schema, in the source's names."""


def names_of(scope: Scope) -> list[str]:
    """Return the tables of a scope as ``schema.table``, for messages."""
    return [f"{schema}.{table}" for schema, tables in scope.items() for table in tables]


ON_RUNNING = ("adopt", "wait", "fail")


@dataclass(frozen=True, kw_only=True)
class SyncRequest:
    """What one run shall do.

    :param name: Stable name of the syncing task; the embedded engine keeps cursors under it.
    :param key: What the author of a task gives as ``state_key=`` to go on from this one's cursors, for messages.
    :param tables: Tables to load; only for the embedded engine, a vendor knows its own.
    :param window: Range of cursor values; ``None`` continues from the last cursor value.
    :param run: What the tries of one run have in common, such as its id. With it a retry does not append
        a table without a cursor again that an earlier try has loaded; empty makes each request its own.
    :param sync: The vendor's sync, by id or by name.
    :param resync: Load everything anew instead of what is new.
    :param scope: With ``resync``, only these tables as ``{schema: [table]}`` in the source's names; empty is all.
    :param on_running: If the sync runs already: ``adopt`` it, ``wait`` for its end and then start, ``fail``.
    :param patience: Seconds within which a sync that is paused may go on, before that is an error: ending an earlier
        try of this task may just be pausing it.
    """

    name: str = ""
    key: str = ""
    tables: tuple[SyncTable, ...] = ()
    window: Window | None = None
    run: str = ""
    sync: str = ""
    resync: bool = False
    scope: Scope | None = None
    on_running: str = "adopt"
    patience: float = 0.0


@dataclass(frozen=True, kw_only=True)
class WebhookEvent:
    """What a vendor told by itself; a hint to look, never a verdict.

    :param sync: The vendor's id of the sync.
    :param run_id: The run, empty if it was not told.
    :param ended: It tells the end of a run.
    :param created: When it was written, ISO 8601.
    """

    sync: str
    run_id: str
    ended: bool
    created: str


class SyncBackend(Protocol):
    """Starts a sync, tells where it stands, stops it."""

    name: str
    capabilities: Capabilities

    async def start(self, request: SyncRequest, *, keep: Keep | None = None) -> RunHandle:
        """Start a run and return at once.

        :param keep: Called with a draft before the vendor is asked and again when it has answered, so that a
            run is found again even if this process dies in between.
        """
        ...

    async def poll(self, handle: RunHandle, *, wait: float = 0) -> RunStatus:
        """Return where the run stands.

        :param wait: Seconds the answer may be held back while nothing changes.
        """
        ...

    async def cancel(self, handle: RunHandle, *, patience: float = 3) -> None:
        """Stop the run; a run that has ended is left alone.

        :param patience: Seconds it may take to stop in good order.
        """
        ...


class RemoteBackend(SyncBackend, Protocol):
    """A backend whose runs live at a vendor; ``capabilities.remote`` is true.

    Every method but :meth:`parse_webhook` asks the vendor and raises

    * :class:`~airflow_ext.exceptions.SyncUnavailableError` where trying again may help,
    * :class:`~airflow_ext.exceptions.SyncDeniedError` where the key must be changed,
    * :class:`~airflow_ext.exceptions.InvalidSyncError` where the sync or the request must be changed.
    """

    async def describe(self, sync: str) -> SyncRef:
        """Return a sync by id or name."""
        ...

    async def resume(self, handle: RunHandle) -> RunHandle | None:
        """Return the handle of a run that an earlier process started, ``None`` if there is nothing to wait for."""
        ...

    async def next_run(self, sync: str, *, since: str) -> RunHandle:
        """Return a handle for the first run that ends after a moment, whoever starts it.

        :param since: ISO 8601.
        """
        ...

    async def status_many(
        self, handles: Mapping[str, RunHandle]
    ) -> Mapping[str, RunStatus | AirflowExtError]:
        """Return where many runs stand, with one request where the vendor allows.

        What cannot be told of one run is the error in its place, so that the others are told; an error is raised
        where it is of all.

        :param handles: Handles by any key; the answer has the same keys.
        """
        ...

    async def go_on(self, handle: RunHandle) -> None:
        """Let a rescheduled run go on, where the vendor does not do so by itself."""
        ...

    async def explain(self, handle: RunHandle, status: RunStatus) -> RunStatus:
        """Add to the status of a run that has ended what takes further requests: its id, times and reason."""
        ...

    async def result(self, handle: RunHandle, status: RunStatus) -> SyncResult:
        """Return the result of a run that succeeded."""
        ...

    async def tables(self, handle: RunHandle, *, columns: bool = False) -> tuple[TableRef, ...]:
        """Return the tables a sync writes.

        :param columns: With their columns, which may cost a request each.
        """
        ...

    async def check(self) -> str:
        """Ask for something harmless and return a line about the account."""
        ...

    def parse_webhook(
        self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float
    ) -> WebhookEvent:
        """Return what a webhook says, once it is certain who sent it.

        :param headers: Names in lower case.
        :param now: Seconds since 1970.
        :raises InvalidError: If signature, age or content are wrong; the text names no secret.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        ...
