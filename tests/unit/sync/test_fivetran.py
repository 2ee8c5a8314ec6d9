"""Starting and resuming at a local Fivetran, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from airflow_ext.exceptions import InvalidSyncError, SyncUnavailableError
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


def test_a_resync_whose_answer_got_lost_is_asked_for_once(fivetran: LocalFivetran) -> None:
    """Between the request and its beginning the connection looks as if nothing was asked for."""
    fivetran.connection("shop", SyncScript(delay=20, seconds=600))
    fivetran.cut(path="*/resync")
    asleep = Asleep(fivetran)
    request = SyncRequest(sync="shop", resync=True)
    handle = drive(fivetran, asleep, lambda backend: backend.start(request))
    assert handle["requested"]
    assert len(fivetran.calls(path="*/resync")) == 1
    assert 20 <= asleep.seconds < 25
    assert drive(fivetran, asleep, lambda backend: backend.resume(handle))["resumed"]


def test_a_resync_that_was_not_taken_is_asked_for_again_in_time(fivetran: LocalFivetran) -> None:
    fivetran.connection("shop", SyncScript(seconds=600))
    fivetran.fail(503, path="*/resync")
    asleep = Asleep(fivetran)
    drafts: list[RunHandle] = []

    async def keep(draft: RunHandle) -> None:
        drafts.append(draft)

    request = SyncRequest(sync="shop", resync=True)
    drive(fivetran, asleep, lambda backend: backend.start(request, keep=keep))
    assert [call.status for call in fivetran.calls(path="*/resync")] == [503, 200]
    assert 60 <= asleep.seconds < 65

    async def cancelled(backend: FivetranBackend) -> RunHandle | None:
        await backend.cancel(drafts[0])
        return await backend.resume({**drafts[0], "requested": True})

    assert drive(fivetran, asleep, cancelled) is None
    assert 120 <= asleep.seconds < 130


def test_a_request_over_the_quota_was_not_taken(fivetran: LocalFivetran) -> None:
    fivetran.connection("shop")
    fivetran.fail(429, path="*/resync", retry_after=3600)
    asleep = Asleep(fivetran)
    drafts: list[RunHandle] = []

    async def keep(draft: RunHandle) -> None:
        drafts.append(draft)

    request = SyncRequest(sync="shop", resync=True)
    with pytest.raises(SyncUnavailableError) as told:
        drive(fivetran, asleep, lambda backend: backend.start(request, keep=keep))
    assert told.value.retry_after == 3600
    assert drive(fivetran, asleep, lambda backend: backend.resume(drafts[-1])) is None
    assert (asleep.seconds, len(fivetran.calls())) == (0, 3)
