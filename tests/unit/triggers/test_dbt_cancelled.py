"""Triggers of dbt groups that are cancelled: a user has cleared their task, or the triggerer ends."""

from __future__ import annotations

import asyncio

import pytest
from airflow.sdk.execution_time import task_runner

from airflow_ext.triggers import _dbt_batch, _dbt_reader
from tests.unit.triggers.dbt_channel import Channel, event_of, node


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Channel:
    channel = Channel()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", channel, raising=False)
    monkeypatch.setattr(_dbt_reader, "POLL", 0.001)
    return channel


def test_an_old_trigger_that_ends_late_does_not_make_the_new_try_unknown(channel: Channel) -> None:
    async def both() -> None:
        old, new = (asyncio.create_task(event_of(node(attempt=attempt))) for attempt in (2, 3))
        await asyncio.sleep(0.01)
        old.cancel()
        await asyncio.gather(old, return_exceptions=True)
        assert _dbt_batch.TRIES == {("dag", "run", "g.m"): 3}
        new.cancel()
        await asyncio.gather(new, return_exceptions=True)
        assert _dbt_batch.TRIES == {}

    asyncio.run(both())


def test_a_cancellation_that_meets_an_answer_ends_the_reading(channel: Channel) -> None:
    async def cancelled() -> tuple[int, int]:
        wait = asyncio.create_task(event_of(node()))

        def on_ask(count: int) -> None:
            if count == 7:
                wait.cancel()

        channel.on_ask = on_ask
        await asyncio.gather(wait, return_exceptions=True)
        await asyncio.sleep(0.02)
        asked = len(channel.asked)
        await asyncio.sleep(0.05)
        return asked, len(channel.asked)

    before, after = asyncio.run(asyncio.wait_for(cancelled(), timeout=10))
    assert 7 <= before == after
