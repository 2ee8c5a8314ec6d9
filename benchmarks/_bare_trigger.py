"""The least a trigger can do: what Airflow itself needs to end many tasks at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent


class BareTrigger(BaseTrigger):
    """Ends its task at a moment.

    :param at: Seconds since the epoch.
    """

    def __init__(self, *, at: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own has no types
        self.at = at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        return "benchmarks._bare_trigger.BareTrigger", {"at": self.at}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep."""
        await asyncio.sleep(max(0.0, self.at - time.time()))
        yield TaskSuccessEvent()
