"""Waiting for verdicts in triggerers that restart, or of which there are two."""

from __future__ import annotations

import asyncio

import pytest
from airflow.triggers.base import TriggerEvent

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.triggers import contract as module
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.triggers.contract_waiters import (
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


def test_a_triggerer_started_anew_misses_nothing() -> None:
    """Nothing survives a kill -9 but the store; the publication comes while nobody looks."""
    publish(Status.BREACHED)

    async def scenario() -> TriggerEvent:
        first = Triggerer().start(trigger(on_breach="wait"))
        await settle()
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
        await settle(5)
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
