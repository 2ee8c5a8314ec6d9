"""Telling that a partition is late, from triggerers, to a real mail server on this machine."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from airflow.triggers.base import TriggerEvent

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.availability import Availability
from airflow_ext.contracts.claims import LEASE_SECONDS, Claim
from airflow_ext.contracts.head import Promise
from airflow_ext.contracts.lateness import Late
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.recipients import Recipient
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.notifications.contract import tell_late
from airflow_ext.triggers import _contract_late as module
from airflow_ext.triggers._contract_late import RETRY_SECONDS, LateTeller
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.mailbox import CHANNELS, Inbox, mail_server
from tests.unit.triggers.contract_waiters import ASSET, IN_TIME, Triggerer, settle, status, trigger

YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
"""It ended at midnight: late for a day."""
OWNER = Recipient("email", "shop@example.com")
PROMISE = Promise(Availability(), owner="shop", tell=(OWNER, Recipient("slack", "#nobody")))
LATE = Late(ASSET, "orders", "1.2.0", YESTERDAY, "midnight", recipients=PROMISE.tell)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, server: AssetStateServer) -> AssetStateServer:
    monkeypatch.setattr("airflow_ext.contracts.claims.SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(module, "_TELLER", LateTeller())
    os.environ["AIRFLOW__AIRFLOW_EXT__CONTRACT_CHANNELS"] = CHANNELS
    publish("2013-01-05")
    return server


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with mail_server() as inbox:
        yield inbox


def publish(partition: str) -> None:
    verdict_store().publish(
        Verdict("orders", "1.2.0", partition, Status.PASS), rule=PartitionRule(), promise=PROMISE
    )


def test_many_waiters_tell_once_and_wait_on(inbox: Inbox) -> None:
    async def scenario() -> list[TriggerEvent]:
        waiting = [Triggerer().start(trigger(YESTERDAY)) for _ in range(20)]
        async with asyncio.timeout(IN_TIME):
            while not inbox.mails:
                await settle()
        publish(YESTERDAY)
        return await asyncio.wait_for(asyncio.gather(*waiting), IN_TIME)

    assert {status(event) for event in asyncio.run(scenario())} == {"PASS"}
    (mail,) = inbox.mails
    assert mail["To"] == "shop@example.com"
    assert mail["Subject"] == f"[LATE] contract orders 1.2.0, partition {YESTERDAY}"
    text = mail.get_body().get_content()
    for words in ("is late: it was due", "2013-01-05 (PASS)", "by DAG alerts, task wait"):
        assert words in text


def test_of_two_triggerers_one_tells(inbox: Inbox) -> None:
    both = [threading.Thread(target=_tell) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(IN_TIME)
    assert len(inbox.mails) == 1


def _tell() -> None:
    tell_late([LATE], verdict_store(), seen_by="DAG alerts")


def test_nobody_tells_of_what_is_published_meanwhile(inbox: Inbox) -> None:
    publish(YESTERDAY)
    assert tell_late([LATE], verdict_store(), seen_by="") == {LATE.key: Claim.MINE}
    assert inbox.mails == []


def test_without_a_notifier_nothing_is_claimed() -> None:
    """Another Airflow that shares the store may have one."""
    late = Late(ASSET, "orders", "1.2.0", YESTERDAY, "midnight", recipients=(Recipient("slack", "#a"),))
    assert tell_late([late], verdict_store(), seen_by="") == {late.key: Claim.TOLD}
    assert not verdict_store().late_claimed(*late.key)


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Turned(LateTeller):
    """Takes its turns when the test says so."""

    def _run(self) -> None:
        """Do nothing."""


def test_what_the_store_did_not_answer_is_tried_again(inbox: Inbox, quick: AssetStateServer) -> None:
    clock = Clock()
    teller = Turned(clock=clock)
    quick.down = True
    for _ in range(2):
        teller.offer(None, [LATE], seen_by="DAG alerts")
    teller.turn()
    quick.down = False
    clock.now = RETRY_SECONDS - 1
    teller.turn()
    assert inbox.mails == []
    clock.now += 1
    teller.turn()
    assert len(inbox.mails) == 1
    assert not teller._pending


def test_who_claimed_and_died_is_replaced(inbox: Inbox) -> None:
    store, clock = verdict_store(), Clock()
    start = datetime.now(UTC).timestamp()
    store.claim_late([LATE.key], token="dead", now=start - LEASE_SECONDS / 2)
    teller = Turned(clock=clock)
    teller.offer(None, [LATE], seen_by="DAG alerts")
    teller.turn()
    assert inbox.mails == []
    assert teller._pending, "it looks again when the claim is over"
    assert tell_late([LATE], store, seen_by="", now=start + LEASE_SECONDS) == {LATE.key: Claim.MINE}
    clock.now = LEASE_SECONDS + 1
    teller.turn()
    assert len(inbox.mails) == 1
    assert not teller._pending


def test_a_backfill_tells_nobody(inbox: Inbox) -> None:
    async def scenario() -> TriggerEvent:
        waiting = Triggerer().start(trigger(YESTERDAY, tell_late=False))
        await settle(5)
        publish(YESTERDAY)
        return await asyncio.wait_for(waiting, IN_TIME)

    assert status(asyncio.run(scenario())) == "PASS"
    assert not verdict_store().late_claimed(*LATE.key)
    assert inbox.mails == []
