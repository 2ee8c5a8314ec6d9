"""Triggers of contract sensors, run as a triggerer runs them."""

from __future__ import annotations

import asyncio
import inspect
import time
from types import SimpleNamespace
from typing import Any

import structlog
from airflow.triggers.base import TriggerEvent
from airflow.triggers.shared_stream import SharedStreamManager

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.terms import Terms, Wanted
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.triggers.contract import ContractTrigger, parse_event

ASSET = "contract/orders/v1"
DAY = "2013-01-05"
POLL = 0.02
IN_TIME = 10


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


async def settle(polls: int = 3) -> None:
    """Let the stream poll a few times."""
    await asyncio.sleep(POLL * polls)


def status(event: TriggerEvent) -> str:
    return str(parse_event(event.payload)[0].seen.status)
