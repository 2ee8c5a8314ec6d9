"""The triggers against a stand-in for the triggerer's channel to Airflow; our own code is real."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.triggers.base import TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent

from airflow_ext.exceptions import StoreUnavailableError
from airflow_ext.triggers import _dbt_batch, _dbt_fresh, _dbt_reader
from airflow_ext.triggers._dbt_reader import LONGEST_POLL, POLL, QUICK_TIME, SharedReader
from airflow_ext.triggers.dbt import DbtDoneTrigger, DbtNodeTrigger
from tests.unit.triggers.dbt_channel import (
    BAD,
    BEGIN,
    GOOD,
    SKIPPED,
    Channel,
    channel,
    end,
    event_of,
    node,
    started,
    tree,
)

__all__ = ["channel"]


def done(**more: Any) -> Any:
    return started(DbtDoneTrigger(build_task_id="g.build"), task_id="g.done", **more)


@pytest.mark.parametrize("trigger", [node(), done()], ids=["node", "done"])
def test_a_trigger_survives_serialization(trigger: Any) -> None:
    path, arguments = trigger.serialize()
    assert path == f"{type(trigger).__module__}.{type(trigger).__name__}"
    assert type(trigger)(**json.loads(json.dumps(arguments))).serialize() == trigger.serialize()


@pytest.mark.parametrize(
    ("state", "nodes", "expected"),
    [
        pytest.param("running", {"m": GOOD}, TaskSuccessEvent, id="good-while-running"),
        pytest.param("running", {"m": BAD}, TaskFailedEvent, id="bad-in-last-try"),
        pytest.param("success", {"m": SKIPPED}, TaskSkippedEvent, id="skipped-by-dbt"),
        pytest.param("success", {}, TaskFailedEvent, id="not-in-the-build"),
        pytest.param("failed", {}, TaskFailedEvent, id="build-broke"),
        pytest.param("failed", {"m": GOOD}, TaskSuccessEvent, id="good-before-the-build-broke"),
        pytest.param("up_for_retry", {"m": GOOD}, TaskSuccessEvent, id="good-before-retry"),
        pytest.param("skipped", {}, TaskSkippedEvent, id="build-skipped"),
        pytest.param("upstream_failed", {}, TaskSkippedEvent, id="build-not-reached"),
        pytest.param("removed", {}, TaskFailedEvent, id="build-removed"),
    ],
)
def test_a_node_ends_as_dbt_ended_it(
    channel: Channel, state: str, nodes: dict[str, Any], expected: type[TriggerEvent]
) -> None:
    channel.states["g.build"] = state
    channel.tell(**nodes)
    assert type(end(node())) is expected


@pytest.mark.parametrize(
    ("state", "last"), [("running", False), ("up_for_retry", True)], ids=["may-retry", "waits-for-retry"]
)
def test_a_failed_node_waits_while_the_build_may_retry(channel: Channel, state: str, last: bool) -> None:
    channel.states["g.build"] = state
    channel.tell(m=BAD, last=last)

    def later(count: int) -> None:
        if count == 20:
            channel.states["g.build"] = "running"
            channel.tell(m=GOOD)

    channel.on_ask = later
    assert type(end(node())) is TaskSuccessEvent
    assert len(channel.asked) >= 20


def test_results_of_an_earlier_run_of_the_build_are_not_taken(channel: Channel) -> None:
    channel.tell(m=BAD, ended=True)

    def later(count: int) -> None:
        if count == 20:
            channel.tell(m=GOOD)

    channel.on_ask = later
    assert type(end(node())) is TaskSuccessEvent


@pytest.mark.parametrize("state", [None, "scheduled", "queued", "restarting"])
def test_nothing_is_read_before_the_build_runs(channel: Channel, state: str | None) -> None:
    channel.states["g.build"] = state
    channel.tell(m=BAD)

    def later(count: int) -> None:
        if count == 10:
            assert "GetXCom" not in channel.asked
            channel.states["g.build"] = "running"
            channel.tell(m=GOOD)

    channel.on_ask = later
    assert type(end(node())) is TaskSuccessEvent


def test_a_build_task_that_is_not_there_ends_the_wait(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dbt_reader, "PATIENCE", 3)
    channel.states.clear()
    assert type(end(node())) is TaskFailedEvent


def test_an_airflow_that_does_not_answer_ends_the_wait_with_an_error(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dbt_reader, "PATIENCE", 3)

    def broken(_: int) -> None:
        raise ConnectionError("gone")

    channel.on_ask = broken
    with pytest.raises(StoreUnavailableError, match=r"3 times.*gone"):
        end(node())


def test_all_nodes_of_a_run_share_one_reader(channel: Channel) -> None:
    names = [f"m{number}" for number in range(50)]

    def later(count: int) -> None:
        if count == 20:
            good: dict[str, Any] = dict.fromkeys(names, GOOD)
            channel.tell(**good)

    channel.on_ask = later

    async def all_of_them() -> list[TriggerEvent]:
        triggers = [
            started(DbtNodeTrigger(build_task_id="g.build", unit=name), task_id=f"g.{name}") for name in names
        ]
        return await asyncio.gather(*(event_of(trigger) for trigger in triggers))

    events = asyncio.run(asyncio.wait_for(all_of_them(), timeout=10))
    assert {type(event) for event in events} == {TaskSuccessEvent}
    assert len(channel.asked) < 30
    assert not _dbt_reader.SharedReader._all


def cleared(channel: Channel, **states: str) -> None:
    channel.states |= {"g.build": "success"} | {f"g.{name}": state for name, state in states.items()}
    channel.tell(m=BAD, ended=True, at=BEGIN.timestamp() - 60)


def test_a_node_cleared_without_its_build_waits_for_those_above_and_is_built_on_a_worker(
    channel: Channel,
) -> None:
    tasks = tree(up={"g.build"}, m={"g.up"}, build=set())
    cleared(channel, up="running", m="deferred")

    def later(count: int) -> None:
        if count == 10:
            channel.states["g.up"] = "success"

    channel.on_ask = later
    event = end(node(attempt=2, task=tasks["g.m"]))
    expected = {"status": "build", "units": ["m"], "tries": {"m": 2}}
    assert (type(event), event.payload) == (TriggerEvent, expected)


def test_a_cleared_node_below_a_failed_one_is_skipped(channel: Channel) -> None:
    tasks = tree(up={"g.build"}, m={"g.up"}, build=set())
    cleared(channel, up="failed", m="deferred")
    assert type(end(node(attempt=2, task=tasks["g.m"]))) is TaskSkippedEvent


def test_of_nodes_cleared_together_one_builds_and_the_others_end_with_it(channel: Channel) -> None:
    tasks = tree(a={"g.build"}, b={"g.a"}, c={"g.b"}, build=set())
    cleared(channel, a="deferred", b="deferred", c="deferred")
    triggers = {
        name: started(
            DbtNodeTrigger(build_task_id="g.build", unit=name),
            task_id=f"g.{name}",
            attempt=2,
            task=tasks[f"g.{name}"],
        )
        for name in "abc"
    }

    async def all_of_them() -> dict[str, TriggerEvent]:
        waits = {name: asyncio.create_task(event_of(trigger)) for name, trigger in triggers.items()}
        first = await waits["a"]
        assert (first.payload["status"], first.payload["units"]) == ("build", ["a", "b", "c"])
        channel.states["g.a"] = "running"
        begun = BEGIN.timestamp() + 5
        told: dict[str, Any] = {
            "started": begun,
            "ended": False,
            "asked": ["a", "b", "c"],
            "tries": first.payload["tries"],
            "units": {"b": BAD},
        }
        channel.batches["g.a"] = told
        assert type(await waits["b"]) is TaskFailedEvent
        channel.states["g.b"] = "failed"
        channel.batches["g.a"] = {**told, "ended": True, "units": {"a": GOOD, "b": BAD, "c": SKIPPED}}
        channel.states["g.a"] = "success"
        return {name: await wait for name, wait in waits.items()}

    events = asyncio.run(asyncio.wait_for(all_of_them(), timeout=10))
    assert {name: type(event) for name, event in events.items()} == {
        "a": TriggerEvent,
        "b": TaskFailedEvent,
        "c": TaskSkippedEvent,
    }


def test_a_node_cleared_with_its_build_takes_the_new_result_even_if_it_reads_late(channel: Channel) -> None:
    channel.states["g.build"] = "success"
    channel.tell(m=GOOD, ended=True, at=(BEGIN + timedelta(minutes=1)).timestamp())
    assert type(end(node(attempt=2))) is TaskSuccessEvent


@pytest.mark.parametrize(
    ("state", "nodes", "expected"),
    [
        pytest.param("success", {"m": GOOD}, TaskSuccessEvent, id="green"),
        pytest.param("success", {"m": GOOD, "n": BAD}, TaskFailedEvent, id="one-node-failed"),
        pytest.param("failed", {"m": GOOD}, TaskFailedEvent, id="build-failed"),
        pytest.param("upstream_failed", {}, TaskFailedEvent, id="build-not-reached"),
        pytest.param("skipped", {}, TaskSkippedEvent, id="build-skipped"),
    ],
)
def test_the_group_is_green_only_if_everything_is(
    channel: Channel, state: str, nodes: dict[str, Any], expected: type[TriggerEvent]
) -> None:
    channel.states["g.build"] = state
    channel.tell(ended=True, **nodes)
    assert type(end(done())) is expected


def test_the_end_waits_until_every_state_is_settled(channel: Channel) -> None:
    tasks = tree(m={"g.build"}, build=set(), done={"g.m"})
    channel.states |= {"g.build": "success", "g.m": "deferred"}
    channel.tell(ended=True, m=GOOD)

    def later(count: int) -> None:
        if count == 20:
            channel.states["g.m"] = "success"

    channel.on_ask = later
    assert type(end(done(task=tasks["g.done"]))) is TaskSuccessEvent
    assert len(channel.asked) >= 20


@pytest.mark.parametrize(("state", "expected"), [("success", TaskSuccessEvent), ("failed", TaskFailedEvent)])
def test_a_group_whose_nodes_were_cleared_is_what_its_node_tasks_are(
    channel: Channel, state: str, expected: type[TriggerEvent]
) -> None:
    tasks = tree(up={"g.build"}, m={"g.up"}, build={"before"}, done={"g.m"})
    tasks["before"] = SimpleNamespace(upstream_task_ids=set())
    channel.states |= {"g.build": "success", "g.up": state, "g.m": "success"}
    channel.tell(m=BAD, ended=True, at=BEGIN.timestamp() - 60)
    assert type(end(done(attempt=2, task=tasks["g.done"]))) is expected


def told(at: float, *, run: float = -5.0, ended: bool = False, **units: Any) -> dict[str, Any]:
    """Return a payload; times are seconds from the clear."""
    begin = BEGIN.timestamp()
    payload = {"try": 1, "run": begin + run, "last": True, "ended": ended, "started": begin + at}
    return {**payload, "at": begin + at, "units": units}


def failed_at(seconds: float) -> dict[str, Any]:
    line = ["model.p.m", "error", (BEGIN + timedelta(seconds=seconds)).isoformat(), 0.1, None, None]
    return {**BAD, "nodes": [line]}


@pytest.mark.parametrize("at", [-300, -1], ids=["long-before", "now"])
def test_a_failed_node_cleared_while_its_build_runs_is_built_again_when_that_has_ended(
    channel: Channel, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    tasks = tree(m={"g.build"}, build=set())
    channel.states |= {"g.build": "running", "g.m": "deferred"}
    old = failed_at(at)
    channel.payload = told(at, m=old)
    if at == -1:
        monkeypatch.setattr(_dbt_fresh, "PROMPT", float("inf"))  # as if the trigger looked at once

    def later(count: int) -> None:
        if count == 10:
            channel.payload = told(600, ended=True, m=old)
            channel.states["g.build"] = "success"

    channel.on_ask = later
    event = end(node(attempt=2, task=tasks["g.m"]))
    assert (type(event), event.payload["units"]) == (TriggerEvent, ["m"])
    assert len(channel.asked) > 10


def test_a_node_cleared_before_its_build_came_to_it_takes_that_result(channel: Channel) -> None:
    channel.payload = told(-300)

    def later(count: int) -> None:
        if count == 10:
            channel.payload = told(30, m=failed_at(30))

    channel.on_ask = later
    assert type(end(node(attempt=2))) is TaskFailedEvent


def test_a_node_cleared_with_its_running_build_waits_for_the_new_result(channel: Channel) -> None:
    channel.payload = told(-300, m=failed_at(-300))

    def later(count: int) -> None:
        if count == 10:
            channel.states["g.build"] = "restarting"
        if count == 20:
            channel.states["g.build"] = "running"
            channel.payload = told(10, m=GOOD)

    channel.on_ask = later
    assert type(end(node(attempt=2))) is TaskSuccessEvent


@pytest.mark.parametrize("skew", [-20, 20], ids=["behind", "ahead"])
def test_a_worker_with_another_clock_does_not_make_a_group_build_twice(channel: Channel, skew: int) -> None:
    channel.states["g.build"] = None

    def later(count: int) -> None:
        if count == 10:
            channel.states["g.build"] = "running"
            channel.payload = told(2 + skew)
        if count == 20:
            channel.states["g.build"] = "success"
            channel.payload = told(12 + skew, ended=True, m=GOOD)

    channel.on_ask = later
    assert type(end(node(attempt=2))) is TaskSuccessEvent


def test_a_worker_ahead_does_not_hide_that_a_node_was_cleared(channel: Channel) -> None:
    tasks = tree(m={"g.build"}, build=set())
    channel.states |= {"g.build": "success", "g.m": "deferred"}
    channel.payload = told(60, run=-100.0, ended=True, m=failed_at(60))
    assert end(node(attempt=2, task=tasks["g.m"])).payload["units"] == ["m"]
    assert _dbt_batch.TRIES == {}


def test_a_build_that_was_cleared_with_its_nodes_and_broke_at_once_is_not_built_by_them(
    channel: Channel,
) -> None:
    channel.states["g.build"] = "queued"

    def later(count: int) -> None:
        if count == 10:
            channel.states["g.build"] = "failed"

    channel.on_ask = later
    assert type(end(node(attempt=2))) is TaskFailedEvent


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("int_salesforce__opportunity_history_daily_account_{:04d}", id="long"),
        pytest.param("売上明細_月次集計_地域別_顧客区分別_商品別_年度別_{:04d}", id="unicode"),
    ],
)
def test_the_end_of_a_group_of_1200_survives_a_hiccup(channel: Channel, name: str) -> None:
    names = [name.format(number) for number in range(1_200)]
    tasks = tree(build=set(), done=set(), **{one: {"g.build"} for one in names})  # each its own
    channel.states |= {"g.build": "success"} | {f"g.{one}": "success" for one in names}
    channel.states[f"g.{names[-1]}"] = "failed"
    channel.tell(ended=True)

    def once(count: int) -> None:
        if count in (4, 5):
            raise ConnectionError("one hiccup")

    channel.on_ask = once
    assert type(end(done(task=tasks["g.done"]))) is TaskFailedEvent


def test_the_end_names_task_ids(channel: Channel, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = tree(m={"g.build"}, n={"g.build"}, build=set(), done={"g.m", "g.n"})
    channel.states |= {"g.build": "success", "g.m": "failed", "g.n": "success"}
    channel.tell(ended=True, m=BAD, n=BAD, gone=BAD)
    assert type(end(done(task=tasks["g.done"]))) is TaskFailedEvent
    assert "Failed: g.gone, g.m" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "after", "expected"),
    [("queued", 1.0, POLL), ("queued", QUICK_TIME, LONGEST_POLL), ("running", 3_600.0, POLL)],
    ids=["short-runs-stay-quick", "queued-for-long", "running"],
)
def test_a_build_that_does_not_run_is_asked_for_less_often(
    channel: Channel, monkeypatch: pytest.MonkeyPatch, state: str, after: float, expected: float
) -> None:
    monkeypatch.setattr(_dbt_reader, "POLL", POLL)
    paces = []

    async def pace() -> None:
        view = await anext(views := node()._views())
        (shared,) = SharedReader._all.values()
        paces.append(shared._pause(view, shared._changed_at + after))
        await views.aclose()

    channel.states["g.build"] = state
    asyncio.run(pace())
    assert paces == [expected]
