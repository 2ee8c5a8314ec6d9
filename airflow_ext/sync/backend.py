"""The protocol every sync backend follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_ext.sync.model import Capabilities, RunStatus
from airflow_ext.sync.tables import SyncTable, Window

RunHandle = Mapping[str, Any]
"""What identifies a run to its backend; plain JSON without secrets, so that it can be stored."""


@dataclass(frozen=True, kw_only=True)
class SyncRequest:
    """What one run shall do.

    :param name: Stable name of the syncing task; the backend keeps cursors under it.
    :param tables: Tables to load.
    :param window: Range of cursor values; ``None`` continues from the last cursor value.
    :param run: What the tries of one run have in common, such as its id. With it a retry does not append
        a table without a cursor again that an earlier try has loaded; empty makes each request its own.
    """

    name: str
    tables: tuple[SyncTable, ...]
    window: Window | None = None
    run: str = ""


class SyncBackend(Protocol):
    """Starts a sync, tells where it stands, stops it."""

    name: str
    capabilities: Capabilities

    async def start(self, request: SyncRequest) -> RunHandle:
        """Start a run and return at once."""
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
