"""Waiting for verdicts, alone and with many."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent
from airflow.triggers.shared_stream import SharedStreamManager

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.terms import Terms, Wanted
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.triggers import contract as module
from airflow_ext.triggers._contract_board import Board
from airflow_ext.triggers.contract import ContractTrigger, parse_event
from tests.unit.contracts.asset_state import AssetStateServer

ASSET = "contract/orders/v1"
DAY = "2013-01-05"
POLL = 0.02
IN_TIME = 10


@pytest.fixture(autouse=True)
def server() -> Iterator[AssetStateServer]:
    with AssetStateServer().serving() as server:
        yield server
    assert all(not board.wanted for board in module._BOARDS.values())


def wanted(
    partition: str = DAY, *, contract: str = "orders>=1,<2", timezone: str | None = None, **terms: Any
) -> Wanted:
    partitions = tuple(partition.split(","))
    return Wanted(
        contract, partitions, len(partitions) > 1, timezone, since=time.time(), terms=Terms.of(**terms)
    )


def trigger(partition: str = DAY, **changes: Any) -> ContractTrigger:
    arguments: dict[str, Any] = {
        "poll_interval": POLL,
        "deadline": time.time() + 60,
        "end_task": False,
        "resume_after": 0.0,
    }
    own = {
        name: changes.pop(name)
        for name in list(changes)
        if name in inspect.signature(ContractTrigger).parameters
    }
    made = ContractTrigger(**(arguments | {"wanted": wanted(partition, **changes).to_dict()} | own))
    task: Any = SimpleNamespace(dag_id="alerts", run_id="r1", task_id="wait", map_index=-1)
    made.task_instance = task
    return made


def publish(status: Status = Status.PASS, partition: str = DAY, version: str = "1.2.0") -> Verdict:
    made = Verdict("orders", version, partition, status)
    return verdict_store().publish(made, rule=PartitionRule())


class Triggerer:
    """Runs triggers as Airflow's triggerer does, on Airflow's own stream manager."""

    def __init__(self) -> None:
        self.streams = SharedStreamManager(log=structlog.get_logger())
        self.count = 0

    def start(self, waiting: ContractTrigger) -> asyncio.Task[TriggerEvent]:
        self.count += 1
        return asyncio.create_task(self._run(self.count, waiting))

    async def _run(self, number: int, waiting: ContractTrigger) -> TriggerEvent:
        key = waiting.shared_stream_key()
        assert key is not None
        stream = self.streams.subscribe(trigger_id=number, trigger=waiting, key=key)
        try:
            events = [event async for event in waiting.filter_shared_stream(stream)]
            assert len(events) == 1
            return events[0]
        finally:
            await self.streams.unsubscribe(number, key)


async def _settle(polls: int = 3) -> None:
    """Let the stream poll a few times."""
    await asyncio.sleep(POLL * polls)


def status(event: TriggerEvent) -> str:
    return str(parse_event(event.payload)[0].seen.status)


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
        await _settle()
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
        await _settle()
        publish(Status.BREACHED, version=version)
        if expected is None:
            await _settle(5)
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
        await _settle(5)
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
        patient = triggerer.start(trigger(on_breach="wait"))
        await _settle()
        reads = server.reads.copy()
        late = await asyncio.wait_for(triggerer.start(trigger()), IN_TIME)
        assert server.reads[ASSET, f"p/{DAY}"] == reads[ASSET, f"p/{DAY}"]
        patient.cancel()
        await asyncio.wait({patient})
        return late

    assert status(asyncio.run(scenario())) == "BREACHED"


def test_a_verdict_the_head_has_lost_is_found_in_time(server: AssetStateServer) -> None:
    async def scenario() -> TriggerEvent:
        task = Triggerer().start(trigger())
        await _settle()
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
        await _settle()
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
        await _settle()
        publish()
        return await asyncio.wait_for(task, IN_TIME)

    assert status(asyncio.run(scenario())) == "PARTITION_MISMATCH"


def test_a_partition_that_is_never_written_ends_waiting() -> None:
    async def scenario() -> TriggerEvent:
        task = Triggerer().start(trigger("2013-01-05T07"))
        await _settle()
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
        await _settle(5)
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
        await _settle()
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
        await _settle()
        publish()
        return await asyncio.wait_for(task, IN_TIME)

    (event,) = asyncio.run(scenario())
    assert status(event) == "PASS"


def test_a_waiter_that_is_cancelled_leaves_nothing_behind(server: AssetStateServer) -> None:
    async def scenario() -> None:
        triggerer = Triggerer()
        task = triggerer.start(trigger())
        await _settle()
        task.cancel()
        await asyncio.wait({task})
        polls = server.reads[ASSET, "head"]
        await _settle()
        assert server.reads[ASSET, "head"] == polls

    asyncio.run(scenario())


def test_polling_slows_down_while_nothing_can_be_read() -> None:
    board = Board()
    board.join(((ASSET, DAY),))
    assert board.backoff(30) == 30
    board.failing[ASSET] = (time.monotonic() - 45, "down")
    assert 44 < board.backoff(30) < 60
    board.failing[ASSET] = (time.monotonic() - 4500, "down")
    assert board.backoff(30) == 60


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
            await _settle()
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
        await _settle(5)
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
        await _settle()
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
        await _settle(5)
        for n in range(20):
            shared.publish(Verdict(f"c{n}", "1.0.0", DAY, Status.PASS), rule=PartitionRule())
        return await asyncio.wait_for(asyncio.gather(*tasks), IN_TIME)

    assert {status(event) for event in asyncio.run(scenario())} == {"PASS"}


def test_a_reader_that_breaks_fails_its_waiters() -> None:
    os.environ["AIRFLOW_CONN_FILES"] = json.dumps({"conn_type": "fs"})

    async def scenario() -> TriggerEvent:
        waiting = trigger(store_conn_id="files", outage_seconds=3 * POLL)
        return await asyncio.wait_for(Triggerer().start(waiting), IN_TIME)

    assert status(asyncio.run(scenario())) == "STORE_UNAVAILABLE"


def test_a_triggerer_started_anew_misses_nothing() -> None:
    """Nothing survives a kill -9 but the store; the publication comes while nobody looks."""
    publish(Status.BREACHED)

    async def scenario() -> TriggerEvent:
        first = Triggerer().start(trigger(on_breach="wait"))
        await _settle()
        first.cancel()
        await asyncio.wait({first})
        module._BOARDS.clear()
        publish()
        return await asyncio.wait_for(Triggerer().start(trigger(on_breach="wait")), IN_TIME)

    assert status(asyncio.run(scenario())) == "PASS"


def test_two_triggerers_each_release_their_own_waiters(server: AssetStateServer) -> None:
    """Two processes share nothing; two poll intervals are two streams with a board each."""

    async def scenario() -> list[TriggerEvent]:
        tasks = [Triggerer().start(trigger(poll_interval=POLL * (1 + n % 2))) for n in range(10)]
        await _settle(5)
        publish()
        return await asyncio.wait_for(asyncio.gather(*tasks), IN_TIME)

    assert {status(event) for event in asyncio.run(scenario())} == {"PASS"}


def test_a_publisher_whose_clock_is_wrong_changes_nothing() -> None:
    """What is newer is told by numbers, not by clocks."""
    for at, state in (
        ("2099-01-01T00:00:00+00:00", Status.BREACHED),
        ("1999-01-01T00:00:00+00:00", Status.PASS),
    ):
        made = Verdict("orders", "1.2.0", DAY, state, at=at)
        verdict_store().publish(made, rule=PartitionRule())

    async def scenario() -> TriggerEvent:
        return await asyncio.wait_for(Triggerer().start(trigger()), IN_TIME)

    assert status(asyncio.run(scenario())) == "PASS"
