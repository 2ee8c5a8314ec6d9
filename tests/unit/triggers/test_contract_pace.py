"""When contracts are read, and how many waiters are released together."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from airflow.triggers.base import TriggerEvent

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.head import Head
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.triggers import _contract_board as board_module
from airflow_ext.triggers import contract as module
from airflow_ext.triggers._contract_board import Board
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


def test_contracts_have_their_moments_all_over_the_interval() -> None:
    board = Board()
    board.heads = {f"contract/c{n}/v1": Head() for n in range(200)}
    board.join(tuple((asset, DAY) for asset in board.heads))
    turns = [board.due(1000 + 1.5 * n, 1000 + 1.5 * (n + 1), 30) for n in range(40)]
    assert sorted(asset for due in turns[:20] for asset in due) == sorted(board.heads)
    assert turns[:20] == turns[20:]
    assert max(map(len, turns)) < 30
    assert board.due(1000, 1030, 30) == set(board.heads)
    board.join((("contract/new/v1", DAY),))
    assert "contract/new/v1" in board.due(1000, 1000.1, 30)


def test_a_contract_that_is_not_read_yet_is_not_left_until_its_moment(server: AssetStateServer) -> None:
    publish()

    async def scenario() -> float:
        triggerer = Triggerer()
        patient = triggerer.start(trigger(contract="others>=1,<2", poll_interval=2 * IN_TIME))
        await settle()
        started = time.monotonic()
        await asyncio.wait_for(triggerer.start(trigger(poll_interval=2 * IN_TIME)), IN_TIME)
        patient.cancel()
        await asyncio.wait({patient})
        return time.monotonic() - started

    assert asyncio.run(scenario()) < IN_TIME


def test_many_are_released_a_few_hundred_at_a_time(
    server: AssetStateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "PAUSE", 0.01)
    monkeypatch.setattr(board_module, "FETCHED", 0.0)
    publish(partition="2013-01-04")
    answer = asyncio.Event()

    async def asend(msg: Any) -> Any:
        if server.reads[ASSET, "released"]:
            await answer.wait()
        server.reads[ASSET, "released"] += msg.key == f"p/{DAY}" and (ASSET, msg.key) in server.values
        return server.send(msg)

    async def scenario() -> None:
        triggerer = Triggerer()
        tasks = [triggerer.start(trigger()) for _ in range(2 * board_module.AT_ONCE)]
        while module._BOARDS.setdefault(trigger().shared_stream_key(), Board()).wanted[ASSET, DAY] < len(
            tasks
        ):
            await settle()
        await settle()
        monkeypatch.setattr(server, "asend", asend)
        publish()
        done: set[Any] = set()
        while len(done) < board_module.AT_ONCE:
            done, _ = await asyncio.wait(tasks, timeout=POLL)
        done, _ = await asyncio.wait(tasks, timeout=5 * POLL)
        assert len(done) == board_module.AT_ONCE  # the next wait for an answer
        answer.set()
        await asyncio.wait_for(asyncio.gather(*tasks), IN_TIME)

    asyncio.run(scenario())


def test_where_all_wait_for_one_partition_its_verdict_is_read_instead_of_the_head(
    server: AssetStateServer,
) -> None:
    """Both are read again before a version is believed that the head did not have, and now and then."""
    publish(partition="2013-01-04")

    async def scenario() -> tuple[TriggerEvent, TriggerEvent]:
        triggerer = Triggerer()
        same, other = triggerer.start(trigger()), triggerer.start(trigger(contract="others>=1,<2"))
        await settle(20)
        assert 0 < server.reads[ASSET, "head"] < server.reads[ASSET, f"p/{DAY}"]
        publish()
        event = await asyncio.wait_for(same, IN_TIME)
        other.cancel()
        await asyncio.wait({other})
        later = triggerer.start(trigger("2013-01-06", timezone="Europe/Berlin"))
        await settle(5)
        return event, await asyncio.wait_for(later, IN_TIME)

    event, later = asyncio.run(scenario())
    assert (status(event), status(later)) == ("PASS", "PARTITION_MISMATCH")


def test_a_new_version_is_judged_by_the_rules_it_came_with(server: AssetStateServer) -> None:
    publish(partition="2013-01-04")

    async def scenario() -> TriggerEvent:
        task = Triggerer().start(trigger(timezone="UTC"))
        await settle(5)
        made = Verdict("orders", "1.3.0", DAY, Status.PASS)
        verdict_store().publish(made, rule=PartitionRule(timezone="Europe/Berlin"))
        return await asyncio.wait_for(task, IN_TIME)

    assert status(asyncio.run(scenario())) == "PARTITION_MISMATCH"


def test_polling_slows_down_while_nothing_can_be_read() -> None:
    board = Board()
    board.join(((ASSET, DAY),))
    assert not board.blind
    board.failing[ASSET] = (time.monotonic() - 45, "down")
    assert board.blind
    assert 44 < board.backoff(30) < 60
    board.failing[ASSET] = (time.monotonic() - 4500, "down")
    assert board.backoff(30) == 60
