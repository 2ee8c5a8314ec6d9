"""What every task that runs syncs at a vendor does: start or adopt, remember, wait, cancel, end."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException
from airflow.sdk.observability import stats

from airflow_ext.exceptions import (
    AirflowExtError,
    DeniedError,
    InvalidError,
    InvalidSyncError,
    SyncDeniedError,
    SyncUnavailableError,
)
from airflow_ext.hooks.sync_vendors import get_remote_backend
from airflow_ext.operators._sync_ended import Ended, error_of
from airflow_ext.operators._sync_memory import Memory, SyncWait
from airflow_ext.sync.backend import RemoteBackend, RunHandle, SyncRequest, names_of
from airflow_ext.sync.model import RunStatus, SyncResult
from airflow_ext.sync.watch import Limits, Outcome, Watch, failing
from airflow_ext.triggers.sync import SyncTrigger, event_of, parse_event, state_asset

if TYPE_CHECKING:
    from airflow.sdk import Context

T = TypeVar("T")

CANCEL_SECONDS = 4.0
"""Airflow kills a task five seconds after it has asked it to stop."""

END_SECONDS = 70.0
"""Time to cancel a run that was given up, when nobody presses: stopping may take a vendor a minute."""

PAUSE_SECONDS = 65.0
"""So long a vendor may take to pause a sync and let it go on, where that is how an earlier try is ended."""

NET_SECONDS = 180
"""The trigger ends by itself in time and says why; Airflow's own timeout is the net below."""

MODES = ("poke", "reschedule")
MIN_RESCHEDULE = 10


@dataclass(frozen=True)
class _Waiting:
    """The task goes to sleep.

    :param watch: What is known of the run.
    :param rest: Seconds until it is looked at again.
    """

    handle: RunHandle
    limits: Limits
    watch: Mapping[str, Any]
    rest: float


class _PutOffError(Exception):
    """The vendor does not answer now, or no run may start.

    :param at: When to go on, in seconds since 1970.
    """

    def __init__(self, at: float) -> None:
        super().__init__(at)
        self.at = at


class RemoteSyncOperator(BaseOperator):
    """Base of the operators whose syncs run at a vendor."""

    def __init__(
        self,
        *,
        sync_conn_id: str,
        waiting: SyncWait | None = None,
        deferrable: bool = True,
        mode: Literal["poke", "reschedule"] = "poke",
        on_running: Literal["adopt", "wait", "fail"] = "adopt",
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}: use one of {', '.join(MODES)}")
        if on_running not in ("adopt", "wait", "fail"):
            raise ValueError(f"on_running={on_running!r}: use one of adopt, wait, fail")
        self.sync_conn_id = sync_conn_id
        self.waiting = waiting or SyncWait()
        self.deferrable = deferrable
        self.mode = mode
        self.on_running = on_running
        self.cancel_on_kill = cancel_on_kill
        if not deferrable and mode == "reschedule" and self.waiting.poll_interval < MIN_RESCHEDULE:
            raise ValueError(
                f"poll_interval={self.waiting.poll_interval!r}: in mode='reschedule' at least {MIN_RESCHEDULE} "
                "seconds; use deferrable=True to look more often"
            )
        self._remote: tuple[RemoteBackend, RunHandle] | None = None
        self._killed = False

    def watch_state(self) -> None:
        """Name the asset in whose state the webhook and schemas are: it has one only while a DAG names it."""
        own = Asset(name=state_asset(self.sync_conn_id))
        self.inlets = [*self.inlets, *([own] if own not in self.inlets else [])]

    # ------------------------------------------------------------------------- what subclasses decide

    def _plan(self) -> Sequence[SyncRequest]:
        """Return the runs of this task, one after the other."""
        raise NotImplementedError

    def _hold_until(self) -> float | None:
        """Return when the next run may start, in seconds since 1970; ``None`` is now."""
        return None

    async def _inspect(self, backend: RemoteBackend, handle: RunHandle, result: SyncResult) -> SyncResult:
        """Look at what a run brought, while the vendor can be asked."""
        del backend, handle
        return result

    def _end(self, context: Context, results: Sequence[SyncResult]) -> Any:
        """End the task once all runs have succeeded."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------------- life

    def run_remote(self, context: Context) -> Any:
        """Start or adopt what is due and wait for it."""
        return self._go(context, Memory(context), None)

    def execute_complete(self, context: Context, event: Any, handle: dict[str, Any] | None = None) -> Any:
        """Go on when the trigger has seen the end.

        :param handle: The run it waited for; ``None`` takes the event's.
        """
        memory = Memory(context)
        ended = parse_event(event)
        # The handle it waited with is the one that counts, should the state have been lost.
        memory.handle = memory.handle or handle or event["handle"]
        return self._go(context, memory, ended)

    def _go(self, context: Context, memory: Memory, ended: Ended | None) -> Any:
        tags = {"sync_conn_id": self.sync_conn_id}
        try:
            done = asyncio.run(self._run(memory, ended))
        except (InvalidError, DeniedError) as error:
            stats.incr("airflow_ext.sync.failed", tags=tags)
            raise AirflowFailException(str(error)) from error.__cause__
        except AirflowExtError:
            stats.incr("airflow_ext.sync.failed", tags=tags)
            raise
        if isinstance(done, _Waiting):
            return self._sleep(done)
        if isinstance(done, float):
            self.log.info("Going on at %s", datetime.fromtimestamp(done, UTC))
            raise AirflowRescheduleException(datetime.fromtimestamp(done, UTC))
        try:
            return self._end(context, done)
        finally:
            # An error from here on does not come from the run, and the next try shall load anew.
            memory.clear()

    def _sleep(self, waiting: _Waiting) -> Any:
        if not self.deferrable:
            raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=waiting.rest))
        limits = waiting.limits
        left = None if limits.deadline is None else max(0.0, limits.deadline - time.time()) + NET_SECONDS
        self.defer(
            trigger=SyncTrigger(
                sync_conn_id=self.sync_conn_id,
                handle=dict(waiting.handle),
                limits=limits.to_dict(),
                poll_interval=self.waiting.poll_interval,
                cancel_on_kill=self.cancel_on_kill,
                # How long nothing answers counts anew in the triggerer, which may begin more than once.
                watch={**waiting.watch, "failing": None, "untold": None},
            ),
            method_name="execute_complete",
            kwargs={"handle": dict(waiting.handle)},
            timeout=None if left is None else timedelta(seconds=left),
        )

    async def _run(self, memory: Memory, ended: Ended | None) -> list[SyncResult] | _Waiting | float:
        plan = self._plan()
        backend = get_remote_backend(self.sync_conn_id)
        try:
            while len(memory.results) < len(plan):
                ended = ended or (parse_event(memory.ended) if memory.ended else None)
                if ended is None:
                    handle, limits = await self._begin(backend, plan[len(memory.results)], memory)
                    found = await self._wait(backend, handle, limits, memory.watch)
                    if isinstance(found, _Waiting):
                        memory.note(found.watch)
                        return found
                    ended = found
                assert memory.handle is not None  # noqa: S101  # it has just ended
                handle = memory.handle
                result = await self._settle(backend, memory, handle, ended)
                ended = None
                if result is not None:
                    self._tell_end(handle, plan[len(memory.results)], result)
                    memory.finish(result)
            return [SyncResult.from_dict(each) for each in memory.results]
        except _PutOffError as put_off:
            return put_off.at
        finally:
            self._remote = None
            await backend.aclose()

    async def _begin(
        self, backend: RemoteBackend, request: SyncRequest, memory: Memory
    ) -> tuple[RunHandle, Limits]:
        kept = None if memory.earlier_try or memory.limits is None else Limits.from_dict(memory.limits)
        if memory.handle is not None and kept is not None and memory.started:
            self._remote = backend, memory.handle
            return memory.handle, kept
        limits = kept or self._limits()

        async def keep(draft: RunHandle) -> None:
            self._remote = backend, draft
            memory.keep(draft, limits, started=False)

        async def start() -> RunHandle:
            if memory.handle is not None:
                handle = await backend.resume(memory.handle)
                if handle is not None:
                    self.log.info("Going on with the run of %s that an earlier try started", handle["name"])
                    return handle
            if (hold := self._hold_until()) is not None:
                raise _PutOffError(hold)
            patience = PAUSE_SECONDS if memory.handle is not None or memory.restarted else 0.0
            handle = await backend.start(replace(request, patience=patience), keep=keep)
            self._tell_start(handle, request)
            return handle

        handle = await self._bear(memory, limits, start)
        limits = replace(limits, start_by=self._limits().start_by)
        self._remote = backend, handle
        memory.keep(handle, limits, started=True)
        return handle, limits

    async def _bear(
        self, memory: Memory, limits: Limits, ask: Callable[[], Awaitable[T]], ended: Ended | None = None
    ) -> T:
        """Ask the vendor until there is an answer, for as long as it may be unreachable.

        :param ended: How the run has ended, for whoever asks on.
        :raises _PutOffError: If the task shall ask again later, and sleep until then without a worker.
        """
        while True:
            try:
                answer = await ask()
            except SyncUnavailableError as error:
                now, after = time.time(), error.retry_after
                memory.failing = fails = failing(
                    memory.failing, Outcome.UNAVAILABLE, str(error), now, retry_after=after
                )
                last = min(fails.ends(limits), limits.deadline or math.inf)
                if now >= last:
                    raise
                rest = min(max(self.waiting.poll_interval, after), last - now)
                self.log.warning("%s; asking again in %.0f s", error, rest)
                if self.deferrable or self.mode == "reschedule":
                    memory.put_off(fails, limits, None if ended is None else event_of(ended))
                    raise _PutOffError(now + max(rest, MIN_RESCHEDULE)) from error
                await asyncio.sleep(rest)
                if self._killed:
                    raise
            else:
                memory.failing = None
                return answer

    def _tell_start(self, handle: RunHandle, request: SyncRequest) -> None:
        if handle.get("behind"):
            self.log.info("%s runs already; waiting for its end first", handle["name"])
        elif handle.get("adopted"):
            self.log.info(
                "%s runs already; waiting for that run (it is not cancelled with this task)", handle["name"]
            )
        else:
            self.log.info("Started %s: %s", _what(handle, request), handle.get("link") or "")

    def _tell_end(self, handle: RunHandle, request: SyncRequest, result: SyncResult) -> None:
        took = f", {result.started} to {result.ended}" if result.started and result.ended else ""
        self.log.info("Run %s of %s has ended well%s", result.run_id, _what(handle, request), took)

    def _limits(self) -> Limits:
        most = self.execution_timeout if self.deferrable else None
        return self.waiting.limits(time.time(), most=None if most is None else most.total_seconds())

    async def _wait(
        self, given: RemoteBackend, handle: RunHandle, limits: Limits, kept: Mapping[str, Any] | None
    ) -> Ended | _Waiting:
        """Look until the end, or until somebody else shall go on looking."""
        watch = Watch(limits, manual=bool(handle.get("manual")), kept=kept)
        backend = given
        try:
            while True:
                rest = self.waiting.poll_interval
                try:
                    step = watch.see(await backend.poll(handle), time.time())
                except SyncUnavailableError as error:
                    self.log.warning("%s", error)
                    after = error.retry_after
                    step = watch.fail(Outcome.UNAVAILABLE, str(error), time.time(), retry_after=after)
                    rest = max(rest, after)
                except SyncDeniedError as error:
                    self.log.warning("%s", error)
                    # The key may just be exchanged.
                    step = watch.fail(Outcome.DENIED, str(error), time.time())
                    await backend.aclose()
                    backend = get_remote_backend(self.sync_conn_id)
                    self._remote = backend, handle
                if step.go_on:
                    await self._go_on(backend, handle, watch)
                if self._killed:
                    raise InvalidSyncError(f"sync {handle['name']!r} was cancelled with its task")
                if step.outcome is not None:
                    return step.outcome, step.detail, watch.status
                pause = watch.pause(time.time(), most=rest)
                if self.deferrable or self.mode == "reschedule":
                    return _Waiting(handle, limits, watch.to_dict(), max(pause, MIN_RESCHEDULE))
                await asyncio.sleep(max(pause, 0.05))
        except InvalidError:
            raise  # the sync is gone, or cancelled already
        except BaseException:
            # A timeout of the task, for one: nothing goes on behind its back.
            await self._cancel(backend, handle, CANCEL_SECONDS)
            raise
        finally:
            if backend is not given:
                await backend.aclose()

    async def _go_on(self, backend: RemoteBackend, handle: RunHandle, watch: Watch) -> None:
        try:
            await backend.go_on(handle)
        except AirflowExtError as error:
            self.log.warning("%s could not be told to go on: %s", handle.get("name"), error)
            watch.went_not_on(error, time.time())
        else:
            watch.went_on(time.time())

    async def _settle(
        self, backend: RemoteBackend, memory: Memory, handle: RunHandle, ended: Ended
    ) -> SyncResult | None:
        """Return the result, ``None`` to start anew, or raise."""
        outcome, detail, status = ended
        if handle.get("behind") and outcome in (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED):
            memory.forget()
            return None
        if outcome is Outcome.SUCCEEDED:

            async def collect() -> SyncResult:
                told = await backend.explain(handle, status)
                return await self._inspect(backend, handle, await backend.result(handle, told))

            limits = Limits.from_dict(memory.limits) if memory.limits else self._limits()
            # The run has ended in time, however long it takes to hear what it brought.
            return await self._bear(memory, replace(limits, deadline=None), collect, ended)
        if outcome is Outcome.CANCELLED and handle.get("resumed") and not memory.restarted:
            # Ending the earlier try cancelled it, just after this one had found it running.
            memory.restarted = True
            memory.forget()
            return None
        if outcome not in (Outcome.UNAVAILABLE, Outcome.DENIED):
            # Of those the run may go on; the next try finds it by what is kept.
            if outcome in (Outcome.FAILED, Outcome.CANCELLED):
                status = await self._explained(backend, handle, status)
            else:
                await self._cancel(backend, handle, END_SECONDS)
            memory.forget()
        mine = backend.capabilities.cancel and not handle.get("adopted")
        told = outcome, detail, status
        raise error_of(handle, told, self.waiting, service=self.sync_conn_id, cancelled=mine)

    async def _explained(self, backend: RemoteBackend, handle: RunHandle, status: RunStatus) -> RunStatus:
        try:
            return await backend.explain(handle, status)
        except SyncUnavailableError as error:
            self.log.warning("No more is known of the run: %s", error)
            return status

    async def _cancel(self, backend: RemoteBackend, handle: RunHandle, patience: float) -> None:
        if handle.get("adopted"):
            return
        try:
            await backend.cancel(handle, patience=patience)
        except (TimeoutError, AirflowExtError) as error:
            self.log.warning("The run of %s could not be cancelled: %s", handle.get("name"), error)

    def on_kill(self) -> None:
        """Cancel the run; one that somebody else started goes on."""
        if self._remote is None or not self.cancel_on_kill:
            return
        backend, handle = self._remote
        self._killed = True
        # The loop that waits is the one this call has interrupted, so it needs another.

        async def cancel() -> None:
            try:
                await self._cancel(backend, handle, CANCEL_SECONDS)
            finally:
                await backend.aclose()

        work = threading.Thread(target=lambda: asyncio.run(cancel()), daemon=True)
        work.start()
        work.join(CANCEL_SECONDS + 0.5)


def _what(handle: RunHandle, request: SyncRequest) -> str:
    if not request.resync:
        return str(handle["name"])
    return f"a re-sync of {handle['name']} ({', '.join(names_of(request.scope)) if request.scope else 'all of it'})"
