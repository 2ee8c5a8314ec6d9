"""Starting and resuming at a local Fivetran, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from airflow_ext.exceptions import InvalidSyncError
from airflow_ext.sync.backend import RunHandle, SyncRequest
from airflow_ext.sync.fivetran import FivetranBackend
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript

SHOP = SyncRequest(sync="shop")


@pytest.fixture
def fivetran() -> Iterator[LocalFivetran]:
    with LocalFivetran() as server:
        yield server


class Asleep:
    """Lets the server's time pass instead of real time."""

    def __init__(self, server: LocalFivetran) -> None:
        self.server = server
        self.seconds = 0.0
        self.at: dict[float, Callable[[], None]] = {}

    async def __call__(self, seconds: float) -> None:
        """Sleep."""
        self.server.advance(seconds)
        self.seconds += seconds
        for due in [due for due in self.at if due <= self.seconds]:
            self.at.pop(due)()


def drive(server: LocalFivetran, asleep: Asleep, work: Callable[[FivetranBackend], Any]) -> Any:
    async def run() -> Any:
        backend = FivetranBackend(server.api_key, server.api_secret, base_url=server.url, sleep=asleep)
        try:
            return await work(backend)
        finally:
            await backend.aclose()

    return asyncio.run(run())


def test_a_pause_of_our_own_is_waited_for_and_anothers_told(fivetran: LocalFivetran) -> None:
    """Ending an earlier try pauses the connection for a while; the next try may come in that."""
    shop = fivetran.connection("shop", paused=True)
    asleep = Asleep(fivetran)
    with pytest.raises(InvalidSyncError, match="is paused"):
        drive(fivetran, asleep, lambda backend: backend.start(SHOP))
    assert asleep.seconds == 0
    with pytest.raises(InvalidSyncError, match="is paused"):
        drive(fivetran, asleep, lambda backend: backend.start(replace(SHOP, patience=60)))
    assert asleep.seconds == 60
    asleep.at[65] = lambda: shop.pause(fivetran.now(), paused=False)
    handle = drive(fivetran, asleep, lambda backend: backend.start(replace(SHOP, patience=60)))
    assert 65 <= asleep.seconds < 70
    assert (handle["requested"], len(fivetran.calls(method="POST"))) == (True, 1)


def test_a_run_that_was_stopped_without_an_end_is_not_resumed(fivetran: LocalFivetran) -> None:
    shop = fivetran.connection("shop", SyncScript(seconds=600))
    asleep = Asleep(fivetran)

    async def resume(backend: FivetranBackend) -> RunHandle | None:
        handle = await backend.start(SHOP)
        going = await backend.resume(handle)
        assert going is not None
        assert going["resumed"]
        await backend.cancel(handle)
        return await backend.resume(handle)

    assert drive(fivetran, asleep, resume) is None
    assert (shop.history[0].status, shop.paused) == ("CANCELED", False)
