"""Waiting for runs of vendors, alone and with many, against the local servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog
from airflow.triggers.base import TriggerEvent
from airflow.triggers.shared_stream import SharedStreamManager

from airflow_ext.sync import watch as watching
from airflow_ext.sync.model import SyncStatus
from airflow_ext.sync.watch import Limits, Outcome
from airflow_ext.testing.airbyte import JobScript, LocalAirbyte
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from airflow_ext.triggers import _sync_board as module
from airflow_ext.triggers.sync import SyncEndTrigger, SyncTrigger, parse_event
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.sync.remote import airbyte_connection, fivetran_connection

POLL = 0.05
IN_TIME = 15


@pytest.fixture(autouse=True)
def state() -> Iterator[AssetStateServer]:
    with AssetStateServer().serving() as server:
        yield server
    assert all(not board.handles for board in module.BOARDS.values())
    module.BOARDS.clear()


@pytest.fixture
def fivetran(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFivetran]:
    with LocalFivetran() as server:
        monkeypatch.setenv("AIRFLOW_CONN_FT", fivetran_connection(server, webhook_secret="shared secret"))
        yield server


@pytest.fixture
def airbyte(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAirbyte]:
    with LocalAirbyte() as server:
        monkeypatch.setenv("AIRFLOW_CONN_AB", airbyte_connection(server))
        yield server


def running(server: LocalFivetran, name: str, script: SyncScript) -> dict[str, Any]:
    """Start a sync and return its handle as the operator would."""
    connection = server.connection(name, script)
    handle = {"sync": name, "name": name, "succeeded_at": None, "failed_at": None, "manual": True}
    connection.trigger(server.now(), force=False)
    return {"backend": "fivetran", "link": "", "requested": True, **handle}


def trigger(handle: dict[str, Any], **changes: Any) -> SyncTrigger:
    arguments: dict[str, Any] = {
        "sync_conn_id": "ft",
        "handle": handle,
        "limits": Limits(deadline=time.time() + 60).to_dict(),
        "poll_interval": POLL,
        "resume_after": 0.0,
    }
    return SyncTrigger(**(arguments | changes))


class Triggerer:
    """Runs triggers as Airflow's triggerer does, on Airflow's own stream manager."""

    def __init__(self) -> None:
        self.streams = SharedStreamManager(log=structlog.get_logger())
        self.count = 0

    def start(self, waiting: Any) -> asyncio.Task[TriggerEvent]:
        self.count += 1
        return asyncio.create_task(self._run(self.count, waiting))

    async def _run(self, number: int, waiting: Any) -> TriggerEvent:
        key = waiting.shared_stream_key()
        stream = self.streams.subscribe(trigger_id=number, trigger=waiting, key=key)
        try:
            async for event in waiting.filter_shared_stream(stream):
                assert isinstance(event, TriggerEvent)
                return event
            raise AssertionError("no event")
        finally:
            await self.streams.unsubscribe(number, key)


async def ends(*waiting: Any) -> list[TriggerEvent]:
    triggerer = Triggerer()
    async with asyncio.timeout(IN_TIME):
        return await asyncio.gather(*[triggerer.start(each) for each in waiting])


def outcome(event: TriggerEvent) -> Outcome:
    return parse_event(json.loads(json.dumps(event.payload)))[0]


def test_many_waiters_share_the_list_request(fivetran: LocalFivetran) -> None:
    handles = [running(fivetran, f"s{number}", SyncScript(seconds=100)) for number in range(50)]
    handles.append(running(fivetran, "bad", SyncScript(seconds=0.3, outcome="fail")))

    async def scenario() -> list[TriggerEvent]:
        triggerer = Triggerer()
        tasks = [triggerer.start(trigger(handle, poll_interval=0.5)) for handle in handles]
        await asyncio.sleep(1.2)
        fivetran.advance(101)
        async with asyncio.timeout(IN_TIME):
            return await asyncio.gather(*tasks)

    events = asyncio.run(scenario())
    assert {outcome(event) for event in events[:-1]} == {Outcome.SUCCEEDED}
    assert outcome(events[-1]) is Outcome.FAILED
    lists = fivetran.calls(path="/v1/connections")
    assert len(lists) <= 6
    assert lists == fivetran.calls(), "nothing but lists"


def test_jobs_are_listed_too(airbyte: LocalAirbyte) -> None:
    handles = []
    for number in range(30):
        connection = airbyte.connection(f"c{number}", JobScript(seconds=100))
        job = airbyte.start_job(connection.id).to_dict(airbyte.now())
        handle = {
            "sync": connection.id,
            "name": "c",
            "workspace": connection.workspace_id,
            "job": job["jobId"],
        }
        handles.append({**handle, "created": job["startTime"]})
    airbyte.advance(101)
    waiting = [trigger(each, sync_conn_id="ab", poll_interval=0.5) for each in handles]
    assert {outcome(event) for event in asyncio.run(ends(*waiting))} == {Outcome.SUCCEEDED}
    assert len(airbyte.calls(path="*/jobs*")) <= 3


@pytest.mark.parametrize(
    ("status", "kind"), [(403, Outcome.DENIED), (500, Outcome.UNAVAILABLE), (429, Outcome.UNAVAILABLE)]
)
def test_what_is_wrong_with_one_sync_ends_no_other_wait(
    fivetran: LocalFivetran, status: int, kind: Outcome
) -> None:
    """A key that is scoped does not list a connection and may not ask for it."""
    handles = [running(fivetran, name, SyncScript(seconds=1000)) for name in ("a", "b")]
    waiting = [{**handles[0], "sync": "unseen"}, *handles]
    fivetran.fail(status, times=10_000, path="*/unseen", retry_after=3600 if status == 429 else None)
    limits = Limits(deadline=time.time() + 60, outage=0.3, denied=0.3)
    short = limits
    if status == 429:  # what the vendor asks to wait is no outage
        short, kind = replace(limits, deadline=time.time() + 1), Outcome.TIMED_OUT

    async def scenario() -> list[Outcome]:
        triggerer = Triggerer()
        first, *others = [
            triggerer.start(trigger(each, limits=limit.to_dict()))
            for each, limit in zip(waiting, (short, limits, limits), strict=True)
        ]
        async with asyncio.timeout(IN_TIME):
            ended = [await first]
            fivetran.advance(1001)
            return [outcome(event) for event in ended + await asyncio.gather(*others)]

    assert asyncio.run(scenario()) == [kind, Outcome.SUCCEEDED, Outcome.SUCCEEDED]
    if status == 429:
        assert len(fivetran.calls(path="*/unseen")) == 1


def test_a_webhook_makes_the_poller_ask_at_once(
    fivetran: LocalFivetran, state: AssetStateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WEBHOOK_SECONDS", 0.05)
    handle = running(fivetran, "shop", SyncScript(seconds=100))

    async def scenario() -> float:
        task = Triggerer().start(trigger(handle, poll_interval=300.0))
        await asyncio.sleep(0.5)
        fivetran.advance(101)
        await asyncio.sleep(0.3)
        assert not task.done()
        told = {"shop": {"run_id": "x", "created": "2026-01-01T00:00:00+00:00"}}
        state.values["sync/ft", "webhook/ft"] = json.dumps(told)
        began = time.monotonic()
        async with asyncio.timeout(IN_TIME):
            assert outcome(await task) is Outcome.SUCCEEDED
        return time.monotonic() - began

    assert asyncio.run(scenario()) < 5
    assert len(fivetran.calls()) == 2


def test_a_webhook_that_came_just_before_or_after_a_task_began_to_wait_is_heard(
    fivetran: LocalFivetran, state: AssetStateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WEBHOOK_SECONDS", 0.05)
    first = running(fivetran, "first", SyncScript(seconds=100))
    second = running(fivetran, "second", SyncScript(seconds=100))

    def tell(**syncs: str) -> None:
        told = {name: {"run_id": "x", "created": created} for name, created in syncs.items()}
        state.values["sync/ft", "webhook/ft"] = json.dumps(told)

    async def scenario() -> None:
        triggerer = Triggerer()
        async with asyncio.timeout(IN_TIME):
            one = triggerer.start(trigger(first, poll_interval=300.0))
            while not fivetran.calls():  # noqa: ASYNC110  # nobody tells of it
                await asyncio.sleep(0)
            fivetran.advance(101)
            tell(first="2026-01-01T00:00:00+00:00")  # just after the first look
            assert outcome(await one) is Outcome.SUCCEEDED
            other = triggerer.start(
                trigger(running(fivetran, "other", SyncScript(seconds=1000)), poll_interval=300.0)
            )
            await asyncio.sleep(0.3)
            tell(second="2026-01-01T00:00:00+00:00")
            await asyncio.sleep(0.3)
            two = triggerer.start(trigger(second, poll_interval=300.0))
            assert outcome(await two) is Outcome.SUCCEEDED
            other.cancel()
            await asyncio.wait({other})

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda server: server.fail(429, times=3, retry_after=0), id="429"),
        pytest.param(lambda server: server.fail(502, times=3), id="502"),
        pytest.param(lambda server: server.html(times=3), id="HTML"),
        pytest.param(lambda server: server.cut(times=3), id="truncated"),
        pytest.param(lambda server: server.page(b'{"data": [1', times=3), id="broken JSON"),
        pytest.param(lambda server: server.page(b"[]", times=3), id="other JSON"),
        pytest.param(lambda server: server.fail(401, times=1), id="401 mid-way"),
        pytest.param(lambda server: server.redirect("http://127.0.0.1:1", times=1), id="redirect"),
    ],
)
def test_faults_of_the_vendor_do_not_end_the_wait(fivetran: LocalFivetran, fault: Any) -> None:
    """Peers fail the task at the first 429, 404 or 502."""
    handle = running(fivetran, "shop", SyncScript(seconds=0.1))
    fault(fivetran)
    assert outcome(asyncio.run(ends(trigger(handle)))[0]) is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("prepare", "limits", "expected"),
    [
        pytest.param({}, {"deadline": 0.2}, Outcome.TIMED_OUT, id="deadline"),
        pytest.param({"status": 500}, {"outage": 0.2}, Outcome.UNAVAILABLE, id="outage"),
        pytest.param({"status": 403}, {"denied": 0.2}, Outcome.DENIED, id="denied"),
        pytest.param({}, {"stuck_after": 0.2}, Outcome.STUCK, id="stuck"),
        pytest.param({"paused": True}, {}, Outcome.CANCELLED, id="paused"),
        pytest.param({"deleted": True}, {}, Outcome.FAILED, id="deleted"),
        pytest.param({"sync_state": "dreaming"}, {"deadline": 0.4}, Outcome.TIMED_OUT, id="unknown state"),
    ],
)
def test_every_wait_ends(
    fivetran: LocalFivetran, prepare: dict[str, Any], limits: dict[str, float], expected: Outcome
) -> None:
    handle = running(fivetran, "shop", SyncScript(seconds=1000))
    if "status" in prepare:
        fivetran.fail(prepare["status"], times=10_000)
    else:
        vars(fivetran.connections["shop"]).update(prepare)
    points = {name: value + time.time() if name == "deadline" else value for name, value in limits.items()}
    waiting = trigger(handle, limits=Limits(**points).to_dict())  # type: ignore[arg-type]
    assert outcome(asyncio.run(ends(waiting))[0]) is expected


def test_a_manual_sync_is_told_to_go_on_when_the_vendor_says(fivetran: LocalFivetran) -> None:
    handle = running(fivetran, "shop", SyncScript(seconds=0, outcome="reschedule", reschedule_after=3600))
    shop = fivetran.connections["shop"]
    shop.scripts.append(SyncScript(seconds=0))
    shop.scripts.popleft()

    async def scenario() -> Outcome:
        task = Triggerer().start(trigger(handle))
        await asyncio.sleep(0.5)
        assert not fivetran.calls(method="POST")
        shop.rescheduled_for = fivetran.now() - 6
        async with asyncio.timeout(IN_TIME):
            return outcome(await task)

    assert asyncio.run(scenario()) is Outcome.SUCCEEDED
    assert len(fivetran.calls(method="POST")) == 1


def test_a_manual_sync_is_told_to_go_on_again_if_that_got_lost(
    fivetran: LocalFivetran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "TELL_AGAIN", 0.05)
    put_off = SyncScript(seconds=0, outcome="reschedule", reschedule_after=-6)
    handle = running(fivetran, "shop", put_off)
    fivetran.connections["shop"].scripts.append(SyncScript(seconds=0))
    fivetran.connections["shop"].scripts.popleft()
    fivetran.fail(503, times=1, path="*/sync", method="POST")
    assert outcome(asyncio.run(ends(trigger(handle)))[0]) is Outcome.SUCCEEDED
    assert [call.status for call in fivetran.calls(method="POST")] == [503, 200]


def test_on_kill_cancels_what_the_task_started_and_nothing_else(
    fivetran: LocalFivetran, airbyte: LocalAirbyte
) -> None:
    handle = running(fivetran, "shop", SyncScript(seconds=100))
    fivetran.pause_answers_500 = True  # and yet it is paused
    asyncio.run(trigger({**handle, "adopted": True}).on_kill())
    asyncio.run(trigger(handle, cancel_on_kill=False).on_kill())
    assert not fivetran.calls()
    asyncio.run(trigger(handle).on_kill())
    shop = fivetran.connections["shop"]
    assert (shop.history[0].status, shop.paused) == ("CANCELED", False)
    connection = airbyte.connection("shop", JobScript(seconds=100))
    job = airbyte.start_job(connection.id)
    asyncio.run(trigger({"sync": connection.id, "job": job.id, "name": "shop"}, sync_conn_id="ab").on_kill())
    assert job.status == "cancelled"


def test_a_watcher_tells_each_run_that_ends(fivetran: LocalFivetran, airbyte: LocalAirbyte) -> None:
    async def watch(waiting: SyncEndTrigger, start: Any) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        async with asyncio.timeout(IN_TIME):
            events = waiting.run()
            for _ in range(2):
                pending = asyncio.ensure_future(anext(events))
                await asyncio.sleep(0.5)
                start()
                told.append((await pending).payload)
            await events.aclose()  # type: ignore[attr-defined]
        return told

    shop = fivetran.connection("shop", SyncScript(seconds=0.1), schedule_type="auto")
    other = airbyte.connection("shop", JobScript(seconds=0.1))

    def sync() -> None:
        shop.trigger(fivetran.now(), force=False)

    def job() -> None:
        airbyte.advance(2)  # its stamps are whole seconds
        airbyte.start_job(other.id)
        airbyte.advance(2)

    for conn_id, start in (("ft", sync), ("ab", job)):
        made = SyncEndTrigger(sync_conn_id=conn_id, sync="shop", poll_interval=POLL)
        told = asyncio.run(watch(made, start))
        assert [each["status"] for each in told] == [SyncStatus.SUCCEEDED] * 2
        assert told[0]["ended"] < told[1]["ended"]
        assert told[0]["run_id"] != told[1]["run_id"]


def test_a_watcher_hears_the_run_after_one_that_somebody_has_cancelled(airbyte: LocalAirbyte) -> None:
    shop = airbyte.connection("shop", JobScript(seconds=0, outcome="cancelled"), JobScript(seconds=0))

    async def watch() -> Any:
        events = SyncEndTrigger(sync_conn_id="ab", sync="shop", poll_interval=POLL, failures=True).run()
        pending = asyncio.ensure_future(anext(events))
        async with asyncio.timeout(IN_TIME):
            while not airbyte.calls(path="*/jobs"):  # noqa: ASYNC110  nobody tells of it
                await asyncio.sleep(0.01)
            for _ in range(2):
                airbyte.advance(2)  # its stamps are whole seconds
                airbyte.start_job(shop.id)
            told = (await pending).payload
            await events.aclose()  # type: ignore[attr-defined]
            return told

    told = asyncio.run(watch())
    assert (told["run_id"], told["status"]) == ("2", SyncStatus.SUCCEEDED)
