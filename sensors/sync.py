"""Wait for a vendor's sync, whoever starts it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import Asset, BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
)

from airflow_ext.exceptions import (
    AirflowExtError,
    DeniedError,
    InvalidError,
    SyncDeniedError,
    SyncUnavailableError,
)
from airflow_ext.hooks.sync_vendors import get_remote_backend
from airflow_ext.sync.backend import RunHandle
from airflow_ext.sync.model import RunStatus, SyncStatus
from airflow_ext.sync.moments import moment
from airflow_ext.sync.watch import Limits, Outcome
from airflow_ext.triggers.sync import SyncTrigger, parse_event, state_asset

if TYPE_CHECKING:
    from airflow.sdk import Context

NET_SECONDS = 180
MIN_RESCHEDULE = 10


class SyncSensor(BaseSensorOperator):
    """Wait until a run of a vendor's sync has ended well, whoever started it.

    The first run that ends after a moment counts. That moment is ``since``, else ``within`` before the sensor began,
    so that a sync of a while ago is enough, else when the sensor began. The sync itself is left alone: nothing is
    started and, with a killed sensor, nothing cancelled. A sync that cannot run (paused, broken, inactive, deleted)
    fails the sensor at once, with what is wrong.

    The XCom is a dict: ``sync``, ``name``, ``link``, ``run_id``, ``started``, ``ended``.

    :param sync_conn_id: Connection of a vendor.
    :param sync: The sync, by id or name (templated).
    :param since: Moment in ISO 8601, such as ``"{{ data_interval_end }}"`` (templated).
    :param within: Instead, how old a run may be.
    :param on_failure: ``fail`` without retries when that run has failed or was cancelled, ``wait`` for the next, or
        ``skip``.
    :param poll_interval: Seconds between two questions to the vendor. All tasks of a connection that wait in one
        triggerer with the same interval ask together.
    :param deferrable: Wait in the triggerer. If false, ``mode`` decides how a worker waits.
    :param kwargs: ``timeout`` in seconds (default ``[sensors] default_timeout``), ``mode``, ``soft_fail`` and whatever
        every sensor takes.
    :raises ValueError: If an argument is none of those allowed.
    :raises TypeError: If ``within`` is no timedelta.
    """

    template_fields: Sequence[str] = ("sync", "since")
    ui_color = "#d9edf7"

    def __init__(
        self,
        *,
        sync_conn_id: str,
        sync: str,
        since: str | None = None,
        within: timedelta | None = None,
        on_failure: Literal["fail", "wait", "skip"] = "fail",
        poll_interval: float = 15,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poll_interval, **kwargs)
        if on_failure not in ("fail", "wait", "skip"):
            raise ValueError(f"on_failure={on_failure!r}: use one of fail, wait, skip")
        if since is not None and within is not None:
            raise ValueError(f"since={since!r}, within={within!r}: give one of them")
        if within is not None and not isinstance(within, timedelta):
            raise TypeError(f"within={within!r}: give a timedelta, such as timedelta(hours=1)")
        if within is not None and within < timedelta(0):
            raise ValueError(f"within={within!r}: give a time that is not negative")
        if isinstance(poll_interval, bool) or not poll_interval > 0:
            raise ValueError(f"poll_interval={poll_interval!r}: give a number of seconds above 0")
        if not deferrable and self.mode == "reschedule" and poll_interval < MIN_RESCHEDULE:
            raise ValueError(
                f"poll_interval={poll_interval!r}: in mode='reschedule' at least {MIN_RESCHEDULE} seconds"
            )
        self.sync_conn_id = sync_conn_id
        self.sync = sync
        self.since = since
        self.within = within
        self.on_failure = on_failure
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        own = Asset(name=state_asset(sync_conn_id))
        self.inlets = [*self.inlets, *([own] if own not in self.inlets else [])]
        self._since: str | None = None

    def execute(self, context: Context) -> Any:
        """Look once, then wait."""
        self._since = self._moment(context)
        if not self.deferrable:
            return super().execute(context)
        deadline = self._began(context).timestamp() + self.timeout
        try:
            handle, status = asyncio.run(self._look(self._since))
        except SyncUnavailableError as error:
            raise self._later(error, deadline) from error
        except (InvalidError, DeniedError) as error:
            raise self._refused(error) from error.__cause__
        return self._go(handle, status, deadline)

    def _later(self, error: SyncUnavailableError, deadline: float) -> Exception:
        """Return what lets the task sleep until the vendor may be asked for the first time."""
        now = time.time()
        if now >= deadline:
            late = f"{error}; so it was for {self.timeout:g} s"
            return AirflowSkipException(late) if self.soft_fail else AirflowSensorTimeout(late)
        self.log.warning("%s; trying again", error)
        rest = max(self.poll_interval, error.retry_after, MIN_RESCHEDULE)
        return AirflowRescheduleException(datetime.fromtimestamp(min(now + rest, deadline), UTC))

    def _go(self, handle: RunHandle, status: RunStatus, deadline: float) -> Any:
        if self._ends(status):
            return self._finish(handle, status)
        if status.status.ended:
            handle = _behind(handle, status)
        self.defer(
            trigger=SyncTrigger(
                sync_conn_id=self.sync_conn_id,
                handle=dict(handle),
                limits=Limits(deadline=deadline).to_dict(),
                poll_interval=self.poll_interval,
            ),
            method_name="execute_complete",
            kwargs={"handle": dict(handle), "deadline": deadline},
            timeout=timedelta(seconds=max(0.0, deadline - time.time()) + NET_SECONDS),
        )
        return None  # never reached: deferring raises

    def execute_complete(
        self,
        context: Context,  # noqa: ARG002  Airflow passes it
        event: Any,
        handle: dict[str, Any] | None = None,
        deadline: float | None = None,
    ) -> Any:
        """End as the trigger saw it.

        :param handle: The run it waited for; ``None`` takes the event's.
        :param deadline: When to give up, in seconds since 1970; ``None`` takes the event's.
        """
        outcome, detail, status = parse_event(event)
        handle = handle or event["handle"]
        deadline = deadline or event["deadline"]
        where = f"sync {handle.get('name')!r} ({handle.get('sync')})"
        if outcome is Outcome.TIMED_OUT:
            raise AirflowSensorTimeout(f"{where}: no run has ended well after {self.timeout:g} s")
        if outcome is Outcome.UNAVAILABLE:
            raise SyncUnavailableError(f"{where}: {detail}", service=self.sync_conn_id)
        if outcome is Outcome.DENIED:
            raise AirflowFailException(str(SyncDeniedError(f"{where}: {detail}")))
        if status.status.ended and status.ended is not None:
            status = asyncio.run(self._explained(handle, status))
        return self._go(handle, status, deadline)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        since = self._since or self._moment(context)
        try:
            handle, status = asyncio.run(self._look(since))
        except SyncUnavailableError as error:
            self.log.warning("%s; trying again", error)
            return PokeReturnValue(is_done=False)
        except (InvalidError, DeniedError) as error:
            raise self._refused(error) from error.__cause__
        if not self._ends(status):
            self.log.info("%s: %s", self.sync, status.phase or status.status)
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._finish(handle, status))

    async def _look(self, since: str) -> tuple[RunHandle, RunStatus]:
        backend = get_remote_backend(self.sync_conn_id)
        try:
            while True:
                handle = await backend.next_run(self.sync, since=since)
                status = await backend.poll(handle)
                if status.status.ended and status.ended is not None:
                    status = await backend.explain(handle, status)
                if self._ends(status) or status.ended in (None, since):
                    return handle, status
                since = str(status.ended)  # that run is waited over
        finally:
            await backend.aclose()

    async def _explained(self, handle: RunHandle, status: RunStatus) -> RunStatus:
        backend = get_remote_backend(self.sync_conn_id)
        try:
            return await backend.explain(handle, status)
        except AirflowExtError as error:
            self.log.warning("No more is known of the run: %s", error)
            return status
        finally:
            await backend.aclose()

    def _moment(self, context: Context) -> str:
        if self.since is not None:
            found = moment(str(self.since))
            if found is None:
                raise AirflowFailException(
                    f"since={self.since!r} is no moment; a run without a data interval has no data_interval_end"
                )
            return found.isoformat()
        return (self._began(context) - (self.within or timedelta(0))).isoformat()

    def _began(self, context: Context) -> datetime:
        return context["ti"].get_first_reschedule_date(context) or datetime.now(UTC)

    def _ends(self, status: RunStatus) -> bool:
        if self.on_failure != "wait" or status.status is SyncStatus.SUCCEEDED or status.fixable:
            return status.status.ended
        # One that was cancelled without an end of its own, as by pausing the sync, is not followed by another.
        return status.status is SyncStatus.CANCELLED and status.ended is None

    def _finish(self, handle: RunHandle, status: RunStatus) -> dict[str, Any]:
        link = str(handle.get("link") or "")
        if status.status is SyncStatus.SUCCEEDED:
            self.log.info(
                "Run %s of %s has ended well at %s, started %s: %s",
                *(
                    status.run_id or "without an id",
                    handle.get("name"),
                    status.ended,
                    status.started or "unknown",
                    link,
                ),
            )
            return {
                "sync": handle["sync"],
                "name": handle.get("name"),
                "link": link or None,
                "run_id": status.run_id,
                "started": status.started,
                "ended": status.ended,
            }
        what = f"sync {handle.get('name')!r} ({handle['sync']}) {status.status}: {status.reason or 'no reason told'}"
        text = f"{what}. {link}".rstrip()
        raise AirflowSkipException(text) if self.on_failure == "skip" else AirflowFailException(text)

    def _refused(self, error: Exception) -> Exception:
        if self.soft_fail or self.never_fail:
            return AirflowSkipException(str(error))
        return AirflowFailException(str(error))


def _behind(handle: RunHandle, status: RunStatus) -> dict[str, Any]:
    """Return the handle that waits for the run after one that has ended."""
    since = status.ended
    if "succeeded_at" in handle:
        return {**handle, "succeeded_at": since, "failed_at": since}
    return {**handle, "next": since}
