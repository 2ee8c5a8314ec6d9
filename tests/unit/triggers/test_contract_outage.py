"""A store that is down, on a real PostgreSQL that is stopped and started, and for the ten minutes that are tolerated."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.triggers.base import TriggerEvent

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.head import Head
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.store import VerdictStore
from airflow_ext.contracts.terms import Wanted
from airflow_ext.exceptions import StoreUnavailableError
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.triggers._contract_board import Board
from airflow_ext.triggers.contract import OUTAGE_SECONDS, parse_event
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.triggers.contract_waiters import ASSET, DAY, IN_TIME, POLL, Triggerer, settle, trigger

CONN = "verdicts"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    with LocalPostgres(tmp_path_factory.mktemp("outage")) as server:
        yield server


def connect_to(port: int, server: LocalPostgres | None = None, **extra: int) -> VerdictStore:
    """Point the connection at a port; a server that is started again has another."""
    login = {"login": server.user, "password": server.password} if server is not None else {}
    known = {"conn_type": "postgres", "host": "127.0.0.1", "port": port, "schema": "postgres", "extra": extra}
    os.environ["AIRFLOW_CONN_VERDICTS"] = json.dumps(known | login)
    return verdict_store(CONN)


def verdict(state: Status, partition: str = DAY) -> Verdict:
    return Verdict("orders", "1.2.0", partition, state)


def test_waiters_outlive_a_database_that_goes_and_comes_back(
    database: LocalPostgres, server: AssetStateServer
) -> None:
    store = connect_to(database.port, database)
    store.publish(verdict(Status.BREACHED), rule=PartitionRule())

    async def scenario() -> tuple[TriggerEvent, TriggerEvent]:
        triggerer = Triggerer()
        shared: dict[str, Any] = {"store_conn_id": CONN, "on_breach": "wait", "push_xcom": False}
        patient = [triggerer.start(trigger(end_task=True, **shared)) for _ in range(5)]
        hasty = triggerer.start(trigger("2013-01-06", outage_seconds=10 * POLL, **shared))
        await settle(5)
        assert not hasty.done()
        await asyncio.to_thread(database.stop)
        gone = await asyncio.wait_for(hasty, IN_TIME)
        assert not any(task.done() for task in patient), "nothing is released by an outage"
        await asyncio.to_thread(database.start)
        again = connect_to(database.port, database)
        await settle(5)
        assert not any(task.done() for task in patient), "it is still breached"
        await asyncio.to_thread(again.publish, verdict(Status.PASS), rule=PartitionRule())
        done = await asyncio.wait_for(asyncio.gather(*patient), 3 * IN_TIME)
        return gone, done[0]

    gone, done = asyncio.run(scenario())
    decision, timed_out = parse_event(gone.payload)
    assert (decision.action, decision.seen.status, timed_out) == ("fail", Status.STORE_UNAVAILABLE, False)
    assert "The verdicts in connection 'verdicts' cannot be reached: OperationalError" in decision.seen.detail
    assert database.password not in decision.seen.detail
    assert type(done).__name__ == "TaskSuccessEvent"


@pytest.mark.parametrize("conn_id", [None, CONN], ids=["asset-state", "database"])
def test_ten_minutes_are_tolerated_and_no_more(conn_id: str | None, server: AssetStateServer) -> None:
    """What the board saw is given, and since when: nobody waits ten minutes here."""
    waiting = trigger(store_conn_id=conn_id)
    wanted = Wanted.from_dict(waiting.wanted)

    def decided(seconds: float, *, read_before: bool) -> tuple[str, Status]:
        since = time.monotonic() - seconds
        board = Board(heads={ASSET: Head()} if read_before else {}, failing={ASSET: (since, "refused")})
        decision = waiting._decide(board, wanted, ((ASSET, DAY),), since)
        assert decision.seen.detail == "refused"
        return decision.action, decision.seen.status

    assert OUTAGE_SECONDS == 600
    for read_before in (True, False):
        assert decided(590, read_before=read_before) == ("wait", Status.STORE_UNAVAILABLE)
        assert decided(601, read_before=read_before) == ("fail", Status.STORE_UNAVAILABLE)


def test_waiters_look_again_within_a_minute_of_recovery() -> None:
    board = Board(failing={ASSET: (time.monotonic() - 590, "refused")})
    board.join(((ASSET, DAY),))
    assert board.backoff(30.0) == 60.0


def test_a_server_that_takes_connections_and_never_answers_holds_nobody_up(server: AssetStateServer) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = connect_to(silent.getsockname()[1], connect_timeout=2)
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="cannot be reached: ConnectionTimeout"):
            store.head(ASSET)
        assert time.monotonic() - started < 20


def test_the_time_for_connecting_is_set_unless_the_connection_says_another() -> None:
    from airflow.sdk import BaseHook

    from airflow_ext.hooks import verdict_store as module

    connect_to(1)
    assert module._giving_up(BaseHook.get_connection(CONN)).extra_dejson == {"connect_timeout": 10}
    connect_to(1, connect_timeout=3)
    assert module._giving_up(BaseHook.get_connection(CONN)).extra_dejson == {"connect_timeout": 3}
