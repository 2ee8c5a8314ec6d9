"""Ten thousand triggers on the stream manager of Airflow and one reader of a PostgreSQL store, in one process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import structlog
from airflow.triggers.base import TriggerEvent
from airflow.triggers.shared_stream import SharedStreamManager

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.sql_store import SqlVerdictStore
from airflow_ext.contracts.terms import Wanted
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.triggers import contract as module
from airflow_ext.triggers.contract import ContractTrigger
from benchmarks.report import Report

WAITERS, CONTRACTS, POLL, POLLS = 10_000, 200, 1.0, 5
DAY = "2013-01-05"


class _Opener:
    def __init__(self, server: LocalPostgres) -> None:
        self.name = "quick"
        self._server = server

    async def aprepare(self) -> None:
        """Everything is known."""

    def forget(self) -> None:
        """There is nothing to forget."""

    def open(self) -> tuple[Any, str]:
        return self._server.connect("verdicts"), "postgres"


def quick_part(work: Path, report: Report) -> None:
    """Add the bars of a small case: questions per poll, release, memory."""
    with LocalPostgres(work / "postgres") as server:
        server.create_database("verdicts")
        store = SqlVerdictStore(_Opener(server))
        store.create()
        before = _resident()
        triggers: Any = module
        given = triggers.verdict_store
        triggers.verdict_store = lambda _conn_id=None: store  # the database is no connection of an Airflow
        try:
            reads, seconds, memory = asyncio.run(_measure(store, before))
        finally:
            triggers.verdict_store = given
    name = f"{WAITERS:,} waiters on {CONTRACTS} contracts of a shared database"
    report.bar(f"questions per poll of {name}", reads, "<=", 1, unit="queries")
    # a few hundred a second: a real triggerer does not write more
    report.bar(f"release of all {name}, less the interval", seconds - POLL, "<=", 40, unit="s")
    report.bar(f"memory of {name}", memory, "<=", 250, unit="MB")


async def _measure(store: SqlVerdictStore, before: float) -> tuple[float, float, float]:
    streams = SharedStreamManager(log=structlog.get_logger())
    waiting = [asyncio.create_task(_wait(streams, n)) for n in range(WAITERS)]
    await asyncio.sleep(3 * POLL)
    memory = _resident() - before
    reads = store.reads
    await asyncio.sleep(POLLS * POLL)
    reads = store.reads - reads
    published = time.monotonic()
    await asyncio.to_thread(_publish, store)
    await asyncio.gather(*waiting)
    return reads / POLLS, time.monotonic() - published, memory


def _publish(store: SqlVerdictStore) -> None:
    for number in range(CONTRACTS):
        store.publish(Verdict(f"bench{number}", "1.0.0", DAY, Status.PASS), rule=PartitionRule())


async def _wait(streams: SharedStreamManager, number: int) -> TriggerEvent:
    wanted = Wanted(f"bench{number % CONTRACTS}>=1,<2", (DAY,), since=time.time())
    trigger = ContractTrigger(
        wanted=wanted.to_dict(),
        poll_interval=POLL,
        deadline=time.time() + 600,
        end_task=True,
        push_xcom=False,
    )
    key = trigger.shared_stream_key()
    stream = streams.subscribe(trigger_id=number, trigger=trigger, key=key)
    try:
        async for event in trigger.filter_shared_stream(stream):
            return event
        raise RuntimeError("the trigger ended without an event")
    finally:
        await streams.unsubscribe(number, key)


def _resident() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
