"""Waiting for verdicts: one reader per triggerer, however many tasks wait.

All :class:`ContractTrigger` of one store and poll interval share one stream. It reads one key of each contract
somebody waits for once per interval: the ``head``, and a verdict only when the head says it is new; or, where all
wait for one partition, its verdict. It wakes only those whom the news is about.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping
from typing import Any, NotRequired, TypedDict

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseEventTrigger, TaskSuccessEvent, TriggerEvent

from airflow_ext.contracts.store import Key
from airflow_ext.contracts.terms import GO, WAIT, Wanted
from airflow_ext.contracts.verdict import Status
from airflow_ext.contracts.waiting import Decision, Seen, decide
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.notifications.contract import somebody_listens
from airflow_ext.triggers._contract_board import Board, polls
from airflow_ext.triggers._contract_late import look

OUTAGE_SECONDS = 600.0
RESUME_AFTER = 8.0
"""Seconds a task stays deferred at least before it is resumed on a worker.

The scheduler may hear only five to six seconds later that the worker which deferred has ended. If the task
runs again by then, it takes the news for the end of that run and retries or fails the task.
"""


LEVELS = {Status.PASS: logging.DEBUG, Status.DEPRECATED: logging.WARNING}
"""What is logged of contracts that hold; others are information.

A triggerer takes four kilobytes of log lines per turn of its loop from all its triggers, and stands still while
they wait for it; that a task succeeded it logs itself.
"""


class ContractEvent(TypedDict):
    """What a trigger tells its sensor.

    ``seen`` is :meth:`Seen.to_dict`, ``action`` one of :data:`airflow_ext.contracts.terms.ACTIONS`;
    ``timed_out`` says that the sensor's time is over. ``wanted`` and ``deadline`` are those it waited with:
    ``dag.test()`` resumes a task with nothing but the event.
    """

    seen: dict[str, Any]
    action: str
    timed_out: bool
    wanted: NotRequired[dict[str, Any]]
    deadline: NotRequired[float]


def parse_event(event: Any) -> tuple[Decision, bool]:
    """Return what was decided, and whether the time is over.

    :raises ValueError: If it is no event of :class:`ContractTrigger`.
    """
    if not isinstance(event, Mapping) or not {"seen", "action", "timed_out"} <= set(event):
        raise ValueError(f"event={event!r}: not an event of ContractTrigger")
    return Decision(str(event["action"]), Seen.from_dict(event["seen"])), bool(event["timed_out"])


_BOARDS: dict[Hashable, Board] = {}


class ContractTrigger(BaseEventTrigger):
    """Waits until a contract holds for its partitions, or certainly does not.

    :param wanted: What is waited for, as :meth:`airflow_ext.contracts.terms.Wanted.to_dict` gives it.
    :param poll_interval: Seconds between two reads.
    :param deadline: When to give up, in seconds since the epoch.
    :param end_task: End the task in the triggerer once the contract holds instead of starting a worker for it.
    :param push_xcom: In that case, store the verdict as the task's XCom.
    :param store_conn_id: Connection of the verdict store; see :func:`airflow_ext.hooks.verdict_store.verdict_store`.
    :param outage_seconds: How long the store may fail before waiting ends.
    :param resume_after: Seconds to wait at least before a worker is started.
    :param tell_late: Whether to tell the contract's channels of a partition that is late.
    """

    supports_triggerer_queue = True

    def __init__(
        self,
        *,
        wanted: dict[str, Any],
        poll_interval: float,
        deadline: float,
        end_task: bool,
        push_xcom: bool = True,
        store_conn_id: str | None = None,
        outage_seconds: float = OUTAGE_SECONDS,
        resume_after: float = RESUME_AFTER,
        tell_late: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own has no types
        self.wanted = wanted
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.end_task = end_task
        self.push_xcom = push_xcom
        self.store_conn_id = store_conn_id
        self.outage_seconds = outage_seconds
        self.resume_after = resume_after
        self.tell_late = tell_late

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        return (
            "airflow_ext.triggers.contract.ContractTrigger",
            {
                "wanted": self.wanted,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "end_task": self.end_task,
                "push_xcom": self.push_xcom,
                "store_conn_id": self.store_conn_id,
                "outage_seconds": self.outage_seconds,
                "resume_after": self.resume_after,
                "tell_late": self.tell_late,
            },
        )

    @staticmethod
    def _key(kwargs: Mapping[str, Any]) -> Hashable:
        return ("airflow-ext.contracts", kwargs.get("store_conn_id"), float(kwargs["poll_interval"]))

    def shared_stream_key(self) -> Hashable | None:
        """Share one stream with all that poll the same store equally often."""
        return self._key(self.serialize()[1])

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """Poll for every waiter of the group.

        :param kwargs: Arguments of one of them; only its store and poll interval count.
        """
        board = _BOARDS.setdefault(cls._key(kwargs), Board())
        async for item in polls(board, verdict_store(kwargs.get("store_conn_id")), kwargs["poll_interval"]):
            yield item

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Wait for what the stream's board tells about our contract and partitions."""
        started = time.monotonic()
        board = _BOARDS.setdefault(self.shared_stream_key(), Board())
        yield await self._event(*await self._wait(board, shared_stream), started=started)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait with a stream of our own, where streams are not shared."""
        started = time.monotonic()
        board = Board()
        # many such triggers start together after a restart
        await asyncio.sleep(random.uniform(0, min(1.0, self.poll_interval / 10)))  # noqa: S311  a jitter
        stream = polls(board, verdict_store(self.store_conn_id), self.poll_interval)
        try:
            decision, timed_out = await self._wait(board, stream)
        finally:
            await stream.aclose()
        yield await self._event(decision, timed_out, started=started)

    async def _wait(self, board: Board, stream: AsyncIterator[Any]) -> tuple[Decision, bool]:
        wanted = Wanted.from_dict(self.wanted)
        keys = tuple((asset, key) for asset in wanted.range.assets for key in wanted.partitions)
        board.join(keys)
        joined = time.monotonic()
        news = board.watch(keys)
        reading: asyncio.Task[Any] | None = None
        telling = self.tell_late and somebody_listens()
        try:
            while True:
                decision = self._decide(board, wanted, keys, joined)
                left = self.deadline - time.time()
                if decision.action != WAIT:
                    return decision, False
                if left <= 0:
                    return decision, True
                rechecks = (decision.recheck, self._look_for_late(board, wanted) if telling else None)
                for moment in rechecks:
                    left = left if moment is None else min(left, max(moment - time.time(), 0.05))
                if reading is None:
                    # it never brings news, but fails if the reader does; and never wait_for: that would cancel
                    # the stream itself, which then ends for good
                    reading = asyncio.create_task(_next(stream))
                await asyncio.wait({reading, news}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    reading.result()
                    reading = None
                if news.done():
                    board.ignore(keys, news)
                    news = board.watch(keys)
        finally:
            board.ignore(keys, news)
            board.leave(keys)
            if reading is not None:
                reading.cancel()
                await asyncio.wait({reading})

    def _look_for_late(self, board: Board, wanted: Wanted) -> float | None:
        task = self.task_instance
        seen_by = "" if task is None else f"DAG {task.dag_id}, task {task.task_id}"
        return look(wanted, board.known, time.time(), store_conn_id=self.store_conn_id, seen_by=seen_by)

    def _decide(self, board: Board, wanted: Wanted, keys: tuple[Key, ...], joined: float) -> Decision:
        now = time.time()
        decision = decide(wanted, board.known, now)
        if decision.action == GO or (decision.action != WAIT and decision.seen.verdict is not None):
            return decision
        # that something is not there is known only of what was read
        failing = [board.failing[asset] for asset, _ in keys if asset in board.failing]
        if not failing:
            unread = any(asset not in board.heads for asset, _ in keys)
            return Decision(WAIT, decision.seen) if unread else decision
        outage = Seen(Status.STORE_UNAVAILABLE, detail=failing[0][1])
        left = self.outage_seconds - (time.monotonic() - max(joined, min(since for since, _ in failing)))
        return Decision("fail" if left <= 0 else WAIT, outage, now + max(left, 0))

    async def _event(self, decision: Decision, timed_out: bool, *, started: float) -> TriggerEvent:
        seen, wanted = decision.seen, Wanted.from_dict(self.wanted)
        if (
            self.end_task
            and self.task_instance is not None  # dag.test() has none here, and knows no event that ends it
            and decision.action == GO
            and seen.status.holds
            and (wanted.several or seen.verdict is not None)
        ):
            level = LEVELS.get(seen.status, logging.INFO)
            self.log.log(
                level, "%s, partition %s: %s %s", wanted.range, wanted.what, seen.status, seen.detail
            )
            if not self.push_xcom or await self._push(seen.answer(wanted)):
                return TaskSuccessEvent()
        await asyncio.sleep(max(0.0, started + self.resume_after - time.monotonic()))
        event = ContractEvent(
            seen=seen.to_dict(),
            action=decision.action,
            timed_out=timed_out,
            wanted=self.wanted,
            deadline=self.deadline,
        )
        return TriggerEvent(event)

    async def _push(self, answer: dict[str, Any]) -> bool:
        """Store the answer as the task's XCom and say whether that worked.

        The XComs of a :class:`TaskSuccessEvent` reach other tasks as JSON text instead of values.
        """
        task = self.task_instance
        if task is None:
            return False
        try:
            await XCom.aset(
                key="return_value",
                value=answer,
                dag_id=task.dag_id,
                task_id=task.task_id,
                run_id=task.run_id,
                map_index=-1 if task.map_index is None else task.map_index,
            )
        except AirflowRuntimeError:
            self.log.warning("The verdict cannot be pushed from here; a worker will")
            return False
        return True


async def _next(stream: AsyncIterator[Any]) -> Any:
    return await anext(stream)
