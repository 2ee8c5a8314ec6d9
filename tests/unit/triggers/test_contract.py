"""Waiting for verdicts, alone and with many."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.triggers import contract as module
from airflow_ext.triggers._contract_board import Board
from airflow_ext.triggers.contract import ContractTrigger, parse_event
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.triggers.contract_waiters import (
    ASSET,
    DAY,
    IN_TIME,
    POLL,
    Triggerer,
    publish,
    settle,
    status,
    trigger,
)

pytestmark = pytest.mark.usefixtures("server")


def test_the_trigger_survives_serialization() -> None:
    path, kwargs = trigger(deadline=1234.5, end_task=True).serialize()
    assert path == f"{ContractTrigger.__module__}.{ContractTrigger.__qualname__}"
    again = ContractTrigger(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, kwargs)


def test_a_verdict_published_before_waiting_is_seen() -> None:
    publish()

    async def scenario() -> TriggerEvent:
        return await asyncio.wait_for(Triggerer().start(trigger()), IN_TIME)

    assert status(asyncio.run(scenario())) == "PASS"


def test_a_verdict_published_while_waiting_is_seen() -> None:
    async def scenario() -> TriggerEvent:
        task = Triggerer().start(trigger())
        await settle()
        assert not task.done()
        publish(Status.WARN)
        return await asyncio.wait_for(task, IN_TIME)

    assert status(asyncio.run(scenario())) == "WARN"


def test_a_contract_that_holds_ends_the_task_without_a_worker(server: AssetStateServer) -> None:
    published = publish()

    async def scenario() -> TriggerEvent:
        return await asyncio.wait_for(Triggerer().start(trigger(end_task=True)), IN_TIME)

    event = asyncio.run(scenario())
    assert isinstance(event, TaskSuccessEvent)
    assert event.xcoms is None
    assert server.xcoms == {("alerts", "r1", "wait", -1, "return_value"): published.to_dict()}


def test_a_verdict_that_cannot_be_pushed_is_left_to_a_worker(server: AssetStateServer) -> None:
    published = publish()
    server.refuses_xcoms = True

    async def scenario() -> TriggerEvent:
        return await asyncio.wait_for(Triggerer().start(trigger(end_task=True)), IN_TIME)

    decision, _ = parse_event(asyncio.run(scenario()).payload)
    assert decision.seen.verdict == published


def test_a_task_is_not_resumed_before_its_worker_is_known_to_have_ended() -> None:
    publish(Status.BREACHED)

    async def scenario() -> float:
        started = time.monotonic()
        await asyncio.wait_for(Triggerer().start(trigger(resume_after=0.3)), IN_TIME)
        return time.monotonic() - started

    assert asyncio.run(scenario()) >= 0.3


@pytest.mark.parametrize(
    ("on_breach", "version", "expected"),
    [
        pytest.param("fail", "1.2.0", "BREACHED", id="fail"),
        pytest.param("skip", "1.2.0", "BREACHED", id="skip"),
        pytest.param("wait", "1.2.0", None, id="wait"),
        pytest.param("wait", "1.0.0", "VERSION_MISMATCH", id="wrong-version"),
    ],
)
def test_a_breach_resumes_on_a_worker_unless_it_is_waited_out(
    on_breach: str, version: str, expected: str | None
) -> None:
    async def scenario() -> TriggerEvent:
        task = Triggerer().start(trigger(contract="orders>=1.1,<2", on_breach=on_breach, end_task=True))
        await settle()
        publish(Status.BREACHED, version=version)
        if expected is None:
            await settle(5)
            assert not task.done()
            publish()
        return await asyncio.wait_for(task, IN_TIME)

    event = asyncio.run(scenario())
    if expected is None:
        assert isinstance(event, TaskSuccessEvent)
    else:
        assert not isinstance(event, TaskSuccessEvent)
        assert status(event) == expected


def test_many_waiters_cost_one_read_per_poll(server: AssetStateServer) -> None:
    days = [f"2013-01-{day:02}" for day in range(1, 11)]
    before = module._BOARDS.setdefault(trigger().shared_stream_key(), Board()).polls

    async def scenario() -> list[TriggerEvent]:
        triggerer = Triggerer()
        tasks = [triggerer.start(trigger(days[n % 10])) for n in range(500)]
        await settle(5)
        board = module._BOARDS[trigger().shared_stream_key()]
        assert server.reads[ASSET, "head"] == board.polls - before > 0
        for day in days:
            publish(partition=day)
        return await asyncio.wait_for(asyncio.gather(*tasks), IN_TIME)

    events = asyncio.run(scenario())
    assert {status(event) for event in events} == {"PASS"}
    verdict_reads = sum(count for (_, key), count in server.reads.items() if key.startswith("p/"))
    # each of the ten: once when it is new to the stream, once by its publisher, once when the head shows it
    assert verdict_reads <= 10 * 3 + 10


def test_a_late_waiter_sees_what_the_stream_knows_already(server: AssetStateServer) -> None:
    async def scenario() -> TriggerEvent:
        triggerer = Triggerer()
        publish(Status.BREACHED)
        patient = triggerer.start(trigger(on_breach="wait", poll_interval=IN_TIME))
        await settle()
        reads = server.reads.copy()
        late = await asyncio.wait_for(triggerer.start(trigger(poll_interval=IN_TIME)), IN_TIME)
        assert server.reads[ASSET, f"p/{DAY}"] == reads[ASSET, f"p/{DAY}"]
        patient.cancel()
        await asyncio.wait({patient})
        return late

    assert status(asyncio.run(scenario())) == "BREACHED"


def test_a_verdict_the_head_has_lost_is_found_in_time(server: AssetStateServer) -> None:
    async def scenario() -> TriggerEvent:
        task = Triggerer().start(trigger())
        await settle()
        publish()
        head = json.loads(server.values[ASSET, "head"])
        head["partitions"] = {}
        server.values[ASSET, "head"] = json.dumps(head)
        return await asyncio.wait_for(task, IN_TIME)

    assert status(asyncio.run(scenario())) == "PASS"


def test_a_repair_whose_entry_was_written_back_is_found_in_time(server: AssetStateServer) -> None:
    publish(Status.BREACHED)
    publish(partition="2013-01-06")

    async def scenario() -> tuple[TriggerEvent, int]:
        task = Triggerer().start(trigger(on_breach="wait"))
        await settle()
        # a publisher of the other day read the head, then the day was repaired, then the other wrote
        head = server.values[ASSET, "head"]
        publish()
        server.values[ASSET, "head"] = head
        server.reads.clear()
        event = await asyncio.wait_for(task, IN_TIME)
        return event, server.reads[ASSET, "p/2013-01-06"]

    event, reads_of_others = asyncio.run(scenario())
    assert status(event) == "PASS"
    assert reads_of_others == 0


def test_a_key_derived_in_another_zone_ends_waiting() -> None:
    async def scenario() -> TriggerEvent:
        task = Triggerer().start(trigger(timezone="Europe/Berlin"))
        await settle()
        publish()
        return await asyncio.wait_for(task, IN_TIME)

    assert status(asyncio.run(scenario())) == "PARTITION_MISMATCH"


def test_a_partition_that_is_never_written_ends_waiting() -> None:
    async def scenario() -> TriggerEvent:
        task = Triggerer().start(trigger("2013-01-05T07"))
        await settle()
        publish()
        return await asyncio.wait_for(task, IN_TIME)

    assert status(asyncio.run(scenario())) == "PARTITION_MISMATCH"


def test_the_end_of_time_says_what_was_seen_last() -> None:
    async def scenario() -> TriggerEvent:
        publish(Status.BREACHED)
        late = trigger(on_breach="wait", deadline=time.time() + 5 * POLL)
        return await asyncio.wait_for(Triggerer().start(late), IN_TIME)

    decision, timed_out = parse_event(asyncio.run(scenario()).payload)
    seen = decision.seen
    assert timed_out
    assert seen.status is Status.BREACHED


def test_a_short_outage_is_waited_out(server: AssetStateServer) -> None:
    async def scenario() -> TriggerEvent:
        server.down = True
        task = Triggerer().start(trigger())
        await settle(5)
        assert not task.done()
        server.down = False
        publish()
        return await asyncio.wait_for(task, IN_TIME)

    assert status(asyncio.run(scenario())) == "PASS"


def test_a_long_outage_ends_waiting(server: AssetStateServer) -> None:
    async def scenario() -> TriggerEvent:
        server.down = True
        return await asyncio.wait_for(Triggerer().start(trigger(outage_seconds=3 * POLL)), IN_TIME)

    decision, timed_out = parse_event(asyncio.run(scenario()).payload)
    seen = decision.seen
    assert not timed_out
    assert seen.status is Status.STORE_UNAVAILABLE
    assert ASSET in seen.detail


def test_one_broken_contract_does_not_stop_the_others(server: AssetStateServer) -> None:
    server.values["contract/broken/v1", "head"] = '"nonsense"'

    async def scenario() -> TriggerEvent:
        triggerer = Triggerer()
        broken = triggerer.start(trigger(contract="broken>=1,<2"))
        task = triggerer.start(trigger())
        await settle()
        publish()
        event = await asyncio.wait_for(task, IN_TIME)
        broken.cancel()
        await asyncio.wait({broken})
        return event

    assert status(asyncio.run(scenario())) == "PASS"


def test_the_trigger_works_without_shared_streams() -> None:
    async def scenario() -> list[TriggerEvent]:
        async def events() -> list[TriggerEvent]:
            return [event async for event in trigger().run()]

        task = asyncio.create_task(events())
        await settle()
        publish()
        return await asyncio.wait_for(task, IN_TIME)

    (event,) = asyncio.run(scenario())
    assert status(event) == "PASS"


def test_a_waiter_that_is_cancelled_leaves_nothing_behind(server: AssetStateServer) -> None:
    async def scenario() -> None:
        triggerer = Triggerer()
        task = triggerer.start(trigger())
        await settle()
        task.cancel()
        await asyncio.wait({task})
        polls = server.reads[ASSET, "head"]
        await settle()
        assert server.reads[ASSET, "head"] == polls

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "event", [None, {}, "PASS", {"seen": {"status": "LOST"}, "action": "fail", "timed_out": False}], ids=repr
)
def test_an_unknown_event_is_never_success(event: Any) -> None:
    with pytest.raises(ValueError, match=r"event|waiter|LOST"):
        parse_event(event)


def test_an_interval_ends_with_its_last_partition(server: AssetStateServer) -> None:
    days = ["2013-01-05", "2013-01-06", "2013-01-07"]

    async def scenario() -> TriggerEvent:
        task = Triggerer().start(trigger(",".join(days), end_task=True))
        for day in days:
            await settle()
            assert not task.done()
            publish(partition=day)
        return await asyncio.wait_for(task, IN_TIME)

    assert isinstance(asyncio.run(scenario()), TaskSuccessEvent)
    answer = server.xcoms["alerts", "r1", "wait", -1, "return_value"]
    assert (answer["status"], answer["partitions"]) == ("PASS", days)


def test_lateness_is_told_only_of_what_was_read(server: AssetStateServer) -> None:
    """A day of 2013 is long overdue; but it may have been published while nothing could be read."""

    async def scenario() -> TriggerEvent:
        server.down = True
        task = Triggerer().start(trigger(available_by="06:00", on_late="fail"))
        await settle(5)
        assert not task.done()
        server.down = False
        return await asyncio.wait_for(task, IN_TIME)

    assert status(asyncio.run(scenario())) == "LATE"


def test_time_alone_makes_a_silent_contract_unknown() -> None:
    async def scenario() -> TriggerEvent:
        return await asyncio.wait_for(Triggerer().start(trigger(unknown_after=3 * POLL)), IN_TIME)

    decision, timed_out = parse_event(asyncio.run(scenario()).payload)
    assert (decision.action, timed_out) == ("fail", False)
    assert "nothing was ever published" in decision.seen.detail


def test_the_newest_partition_is_followed_by_the_head_alone(server: AssetStateServer) -> None:
    publish(Status.BREACHED)

    async def scenario() -> TriggerEvent:
        task = Triggerer().start(trigger("latest"))
        await settle()
        assert not task.done()
        publish(partition="2013-01-06")
        return await asyncio.wait_for(task, IN_TIME)

    decision, _ = parse_event(asyncio.run(scenario()).payload)
    assert (decision.action, decision.seen.good) == ("proceed", ("2013-01-06",))
    assert (ASSET, "p/latest") not in server.reads


def test_waiters_of_a_database_share_one_question(tmp_path: Path) -> None:
    os.environ["AIRFLOW_CONN_VERDICTS"] = json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "v.db")})
    shared = verdict_store("verdicts")

    async def scenario() -> list[TriggerEvent]:
        triggerer = Triggerer()
        tasks = [
            triggerer.start(trigger(contract=f"c{n % 20}>=1,<2", store_conn_id="verdicts"))
            for n in range(100)
        ]
        await settle(5)
        for n in range(20):
            shared.publish(Verdict(f"c{n}", "1.0.0", DAY, Status.PASS), rule=PartitionRule())
        return await asyncio.wait_for(asyncio.gather(*tasks), IN_TIME)

    assert {status(event) for event in asyncio.run(scenario())} == {"PASS"}


def test_a_partition_that_left_the_head_between_two_polls_is_seen(tmp_path: Path) -> None:
    os.environ["AIRFLOW_CONN_VERDICTS"] = json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "v.db")})
    shared = verdict_store("verdicts")

    def published(partition: str) -> Verdict:
        return shared.publish(Verdict("orders", "1.0.0", partition, Status.PASS), rule=PartitionRule("%Y"))

    async def scenario() -> Verdict | None:
        board, key = Board(), (ASSET, "1999")
        board.join((key,))
        await board.poll(shared)
        for year in range(1999, 2200):
            published(str(year))
        await board.poll(shared)
        return board.verdicts.get(key)

    published("1998")
    found = asyncio.run(scenario())
    assert found is not None
    assert found.partition not in shared.head(ASSET).entries


def test_a_reader_that_breaks_fails_its_waiters() -> None:
    os.environ["AIRFLOW_CONN_FILES"] = json.dumps({"conn_type": "fs"})

    async def scenario() -> TriggerEvent:
        waiting = trigger(store_conn_id="files", outage_seconds=3 * POLL)
        return await asyncio.wait_for(Triggerer().start(waiting), IN_TIME)

    assert status(asyncio.run(scenario())) == "STORE_UNAVAILABLE"
