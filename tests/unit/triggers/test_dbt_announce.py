"""Who goes to a worker because others left something: to announce what was built, or to take a turn."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from airflow.sdk.execution_time.comms import AssetStateStoreResult, GetAssetStateStoreByName
from airflow.triggers.base import TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from airflow_ext.triggers import _dbt_turn
from airflow_ext.triggers._dbt_turn import Holder
from airflow_ext.triggers.dbt import DbtAnnounceTrigger, DbtDoneTrigger, DbtTurnTrigger
from tests.unit.triggers.dbt_channel import BEGIN, GOOD, Channel, channel, end, event_of, started, tree

__all__ = ["channel"]


def announce(**more: Any) -> Any:
    return started(DbtAnnounceTrigger(build_task_id="g.build"), task_id="g.announce", **more)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("success", TaskSuccessEvent),
        ("failed", TriggerEvent),
        ("upstream_failed", TaskSkippedEvent),
        ("skipped", TaskSkippedEvent),
    ],
)
def test_only_a_build_that_failed_leaves_something(
    channel: Channel, state: str, expected: type[TriggerEvent]
) -> None:
    channel.states |= {"g.build": state, "g.m": "deferred"}
    channel.tell(m=GOOD)
    event = end(announce(task=tree(m={"g.build"}, build=set(), announce={"g.m"})["g.announce"]))
    assert type(event) is expected
    if expected is TriggerEvent:
        assert event.payload == {"unannounced": ["g.build"], "since": 0.0}


def test_after_a_clear_those_that_ended_badly_may_have_left_something(channel: Channel) -> None:
    tasks = tree(up={"g.build"}, m={"g.up"}, n={"g.m"}, build=set(), announce={"g.n"})
    channel.states |= {"g.build": "success", "g.up": "success", "g.m": "deferred", "g.n": "skipped"}
    channel.tell(m=GOOD)

    def later(count: int) -> None:
        if count == 10:
            channel.states["g.m"] = "failed"

    channel.on_ask = later
    event = end(announce(attempt=2, task=tasks["g.announce"]))
    assert event.payload == {"unannounced": ["g.m", "g.n"], "since": BEGIN.timestamp()}
    channel.states |= {"g.m": "success", "g.n": "success"}
    assert type(end(announce(attempt=2, task=tasks["g.announce"]))) is TaskSuccessEvent


@pytest.mark.parametrize(("state", "expected"), [("success", TaskSuccessEvent), ("failed", TaskFailedEvent)])
def test_the_group_ends_when_all_is_announced(
    channel: Channel, state: str, expected: type[TriggerEvent]
) -> None:
    tasks = tree(m={"g.build"}, build=set(), done={"g.m"})
    channel.states |= {"g.build": "success", "g.m": "success", "g.announce": "running"}
    channel.tell(ended=True, m=GOOD)

    def later(count: int) -> None:
        if count == 20:
            channel.states["g.announce"] = state

    channel.on_ask = later
    trigger = DbtDoneTrigger(build_task_id="g.build", announce_task_id="g.announce")
    assert type(end(started(trigger, task_id="g.done", task=tasks["g.done"]))) is expected
    assert len(channel.asked) >= 20


def test_both_ends_of_a_group_that_wait_at_once_do_not_wait_for_each_other(channel: Channel) -> None:
    tasks = tree(m={"g.build"}, build=set(), announce={"g.m"}, done={"g.announce"})
    channel.states |= {"g.build": "success", "g.m": "deferred", "g.announce": "deferred"}
    channel.tell(ended=True, m=GOOD)
    trigger = DbtDoneTrigger(build_task_id="g.build", announce_task_id="g.announce")
    last = started(trigger, task_id="g.done", attempt=2, task=tasks["g.done"])
    first = announce(attempt=2, task=tasks["g.announce"])

    async def both() -> list[TriggerEvent]:
        done = asyncio.create_task(event_of(last))
        waits = asyncio.create_task(event_of(first))
        await asyncio.sleep(0.05)
        channel.states["g.m"] = "success"
        told = await waits
        channel.states["g.announce"] = "success"
        return [told, await done]

    events = asyncio.run(asyncio.wait_for(both(), timeout=10))
    assert {type(event) for event in events} == {TaskSuccessEvent}


class Register(Channel):
    """Answers who builds as well."""

    holder: Any = None

    async def asend(self, message: Any) -> Any:
        if isinstance(message, GetAssetStateStoreByName):
            assert (message.name, message.key) == ("dbt/turns/g.build", "holder")
            self.asked.append("holder")
            self.on_ask(len(self.asked))
            return AssetStateStoreResult(value=self.holder)
        return await super().asend(message)


@pytest.mark.parametrize("how", ["ended", "gave-back"])
def test_a_build_that_waits_for_its_turn_goes_on_when_nobody_builds(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    register = Register()
    monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", register, raising=False)
    monkeypatch.setattr(_dbt_turn, "TURN_POLL", 0.001)
    register.holder = Holder("dag", "run", "g.build", -1, "t").stored()

    def later(count: int) -> None:
        if count == 20 and how == "ended":
            register.states["g.build"] = "success"
        elif count == 20:
            register.holder = {}

    register.on_ask = later
    trigger = DbtTurnTrigger(register="dbt/turns/g.build")
    path, arguments = trigger.serialize()
    assert path == f"{DbtTurnTrigger.__module__.replace('_dbt_turn', 'dbt')}.DbtTurnTrigger"
    again = DbtTurnTrigger(**json.loads(json.dumps(arguments)))
    assert end(again).payload == {"register": "dbt/turns/g.build"}
    assert len(register.asked) >= 20
