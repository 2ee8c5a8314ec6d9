"""What the triggers of a dbt group read, once for all of a run.

The order matters: a state read first can never be newer than the nodes read after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

from airflow_ext.exceptions import StoreUnavailableError

NODES_KEY = "airflow_ext_dbt_nodes"
"""XCom of the build task: ``{"try", "run", "last", "ended", "started", "at", "units"}``."""

POLL = 0.5
LONGEST_POLL = 3.0
QUICK_TIME = 10.0
"""Seconds after a change in which everything is read at :data:`POLL`; later, what is quiet every :data:`LONGEST_POLL`."""
CALM = 2.0
"""Seconds between two reads of the nodes of a running build."""
ASK_TIMEOUT = 30.0
PATIENCE = 60
"""Reads that may fail in a row, and half of the reads that may not find the build task."""

ENDED = frozenset({"success", "failed"})
FINISHED = ENDED | {"skipped", "upstream_failed", "removed"}

IDS_PER_READ = 200
LONGEST_QUERY = 24_000
"""Characters of ids in one read: they travel in a URL, of which the client takes 64 KB."""

View = TypeVar("View")


@dataclass(frozen=True)
class BuildView:
    """What was read of a build task.

    :param state: State of its task instance; ``none`` before it is scheduled, ``missing`` when there is
        no such task instance.
    :param payload: Its XCom, empty when there is none.
    """

    state: str
    payload: dict[str, Any] = field(default_factory=dict)


async def _ask(message: Any) -> Any:
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    return await asyncio.wait_for(SUPERVISOR_COMMS.asend(message), timeout=ASK_TIMEOUT)


async def read_states(dag_id: str, run_id: str, task_ids: list[str]) -> dict[str, str]:
    """Return the states of some tasks of one run; tasks that have no instance are left out."""
    from airflow.sdk.execution_time.comms import GetTaskStates

    states: dict[str, str] = {}
    for some in _portions(task_ids):
        answer = await _ask(GetTaskStates(dag_id=dag_id, task_ids=some, run_ids=[run_id]))
        found = getattr(answer, "task_states", None)
        if found is None:
            raise StoreUnavailableError(
                f"Airflow did not answer with task states: {answer!r}", service="Airflow"
            )
        states |= {name: str(state or "none") for name, state in found.get(run_id, {}).items()}
    return states


def _portions(task_ids: list[str]) -> Iterator[list[str]]:
    some: list[str] = []
    length = 0
    for name in task_ids:
        cost = len(quote(name)) + len("&task_ids=")
        if some and (len(some) == IDS_PER_READ or length + cost > LONGEST_QUERY):
            yield some
            some, length = [], 0
        some.append(name)
        length += cost
    if some:
        yield some


class BuildReading:
    """Reads state and nodes of a build task.

    :param dag_id: DAG.
    :param run_id: Run.
    :param build_task_id: Build task.
    """

    def __init__(self, dag_id: str, run_id: str, build_task_id: str) -> None:
        self._subject = (dag_id, run_id)
        self._build = build_task_id
        self._absent = 0
        self._view = BuildView("none")
        self._read_at = 0.0

    async def __call__(self) -> BuildView:
        """Read once; a task that is not there is called ``missing`` only when it stays away.

        While the build runs its nodes are read every :data:`CALM` seconds only: each burst of ended tasks makes
        Airflow parse the DAG file for their callbacks.
        """
        states = await read_states(*self._subject, [self._build])
        state = states.get(self._build, "missing")
        self._absent = self._absent + 1 if state == "missing" else 0
        if state not in {"running", "up_for_retry", *ENDED}:
            # What is there is of an earlier run of the task, if of any.
            self._view = BuildView("none" if 0 < self._absent <= 2 * PATIENCE else state)
        elif state != self._view.state or time.monotonic() >= self._read_at + CALM:
            self._view = BuildView(state, await read_nodes(*self._subject, self._build))
            self._read_at = time.monotonic()
        return self._view


async def read_nodes(dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
    """Return the XCom with the nodes of a task, empty when there is none."""
    from airflow.sdk.execution_time.xcom import XCom

    read = XCom.aget_one(key=NODES_KEY, dag_id=dag_id, task_id=task_id, run_id=run_id)
    payload = await asyncio.wait_for(read, timeout=ASK_TIMEOUT)
    return payload if isinstance(payload, dict) else {}


class SharedReader(Generic[View]):
    """One poll loop for everybody who waits for the same of the same run."""

    _all: ClassVar[dict[tuple[Any, ...], SharedReader[Any]]] = {}

    def __init__(
        self,
        key: tuple[Any, ...],
        read: Callable[[], Awaitable[View]],
        interval: float,
        busy: Callable[[View], bool],
    ) -> None:
        self._key = key
        self._read = read
        self._interval = interval
        self._busy = busy
        self._changed_at = time.monotonic()
        self._waiters = 0
        self._view: View | None = None
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def views(
        cls,
        key: tuple[str, ...],
        read: Callable[[], Awaitable[View]],
        *,
        interval: float,
        busy: Callable[[View], bool] = lambda _: True,
    ) -> AsyncGenerator[View]:
        """Yield the present view and every change of it.

        :param key: What is read; who gives the same shares the reader.
        :param read: Reads it.
        :param interval: Seconds between two reads.
        :param busy: Whether more is to be expected of a view soon. Of others that stay as they are for
            :data:`QUICK_TIME` a change is seen only within :data:`LONGEST_POLL`: they may last for hours.
        :raises StoreUnavailableError: If Airflow cannot be read for long.
        """
        whole_key = (id(asyncio.get_running_loop()), *key)
        reader = cls._all.get(whole_key)
        if reader is None:
            reader = cls._all[whole_key] = cls(whole_key, read, interval, busy)
        reader._waiters += 1
        if reader._task is None:
            reader._task = asyncio.create_task(reader._poll())
        try:
            seen: View | None = None
            while True:
                async with reader._changed:
                    while reader._view is seen and not reader._task.done():
                        await reader._changed.wait()
                if reader._view is seen or reader._view is None:
                    reader._task.result()
                    raise StoreUnavailableError("the reader of the build task ended", service="Airflow")
                seen = reader._view
                yield seen
        finally:
            reader._waiters -= 1
            if reader._waiters == 0:
                cls._all.pop(whole_key, None)
                reader._task.cancel()

    def _pause(self, view: View, now: float) -> float:
        quiet = not self._busy(view) and now >= self._changed_at + QUICK_TIME
        return max(LONGEST_POLL, self._interval) if quiet else self._interval

    async def _poll(self) -> None:
        try:
            failures = 0
            # Until Python 3.12 ``wait_for`` swallows a cancellation that comes with its result: this would go on for ever.
            while self._waiters:
                begun = time.monotonic()
                try:
                    view = await self._read()
                except Exception as exc:  # whatever it was, it is tried again, then told
                    failures += 1
                    if failures >= PATIENCE:
                        raise StoreUnavailableError(
                            f"the build task could not be read {failures} times: {exc!r}", service="Airflow"
                        ) from exc
                    await asyncio.sleep(self._interval * min(failures, 10))
                    continue
                failures = 0
                if view != self._view:
                    async with self._changed:
                        self._view = view
                        self._changed.notify_all()
                    self._changed_at = time.monotonic()
                # Nodes by the thousand take a while to read, and the triggerer has others to serve.
                took = min(3 * (time.monotonic() - begun), LONGEST_POLL)
                await asyncio.sleep(max(self._pause(view, time.monotonic()), took))
        finally:
            async with self._changed:
                self._changed.notify_all()
