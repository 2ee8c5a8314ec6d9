"""How long a task bears with a vendor, and with its own earlier tries, against a local Fivetran."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, TaskDeferred

from airflow_ext.exceptions import SyncFailedError, SyncUnavailableError
from airflow_ext.operators import _sync_remote
from airflow_ext.operators.sync import SyncOperator, SyncWait
from airflow_ext.sync import fivetran as fivetran_sync
from airflow_ext.sync import watch as watching
from airflow_ext.sync.model import RunStatus, SyncStatus
from airflow_ext.sync.watch import Limits
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from airflow_ext.triggers.sync import SyncTrigger
from tests.unit.sync.remote import Clock, TaskState, context, fivetran_connection

FAST = SyncWait(poll_interval=0.05)


@pytest.fixture
def fivetran(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFivetran]:
    with LocalFivetran() as server:
        monkeypatch.setenv("AIRFLOW_CONN_FT", fivetran_connection(server))
        yield server


def make(**arguments: Any) -> SyncOperator:
    given: dict[str, Any] = {"deferrable": False, "waiting": FAST} | arguments
    with DAG("ingest", schedule=None):
        return SyncOperator(task_id="load", sync_conn_id="ft", sync="shop", **given)


def posts(server: LocalFivetran) -> int:
    return len(server.calls(method="POST", path="*/sync"))


def test_a_cleared_task_starts_anew_also_while_its_earlier_try_is_being_ended(
    fivetran: LocalFivetran, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clearing ends the trigger, which pauses the connection and lets it go on: the new try comes after or amid."""
    monkeypatch.setattr(fivetran_sync, "PAUSED_STEP", 0.02)
    shop = fivetran.connection("shop", SyncScript(seconds=300))
    state = TaskState()

    def again(try_number: int) -> Any:
        with pytest.raises(TaskDeferred) as deferred:
            make(deferrable=True).execute(context(state, try_number=try_number))
        return deferred.value.trigger

    @contextmanager
    def ending() -> Iterator[None]:
        shop.pause(fivetran.now(), paused=True)
        fivetran.forget_calls()

        def go_on() -> None:
            while not fivetran.calls(method="GET"):
                time.sleep(0.01)
            shop.pause(fivetran.now(), paused=False)

        other = threading.Thread(target=go_on, daemon=True)
        other.start()
        yield
        other.join()
        assert posts(fivetran) == 1

    asyncio.run(again(1).on_kill())
    again(2)
    assert posts(fivetran) == 2
    with ending():
        again(3)
    found = again(4)  # what it found is ended only then
    status = RunStatus(status=SyncStatus.CANCELLED).to_dict()
    event = {"outcome": "cancelled", "detail": "paused", "status": status}
    with ending(), pytest.raises(TaskDeferred):
        make(deferrable=True).execute_complete(context(state, try_number=4), event, found.handle)


def test_a_vendor_that_does_not_take_it_to_go_on_is_told_again(
    fivetran: LocalFivetran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "TELL_AGAIN", 0.05)
    put_off = SyncScript(seconds=0, outcome="reschedule", reschedule_after=-6)
    fivetran.connection("shop", put_off, SyncScript(seconds=0))
    fivetran.fail(403, times=2, after=1, path="*/sync", method="POST")
    make().execute(context(TaskState()))
    assert [call.status for call in fivetran.calls(method="POST")] == [200, 403, 403, 200]
    assert not fivetran.calls(method="PATCH")


def test_reschedule_mode_gives_up_as_every_other(
    fivetran: LocalFivetran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(_sync_remote, "time", SimpleNamespace(time=clock))
    shop = fivetran.connection("shop", SyncScript(seconds=1000))
    arguments: dict[str, Any] = {
        "mode": "reschedule",
        "waiting": SyncWait(poll_interval=30, max_reschedules=1),
    }
    state = TaskState()

    def look(after: float) -> float:
        clock.now += after
        with pytest.raises(AirflowRescheduleException) as asleep:
            make(**arguments).execute(context(state))
        rest: timedelta = asleep.value.reschedule_date - datetime.now(UTC)
        return rest.total_seconds()

    assert 25 < look(0) <= 30
    fivetran.fail(429, times=1, retry_after=3600, path="/v1/connections/shop")
    assert 3590 < look(30) <= 3600
    assert "429" in capsys.readouterr().out
    fivetran.fail(401, times=10_000, path="/v1/connections/shop")
    look(3600)
    clock.now += 61
    with pytest.raises(AirflowFailException, match="401"):
        make(**arguments).execute(context(state))
    fivetran.heal()
    for until in (900, 1800):
        shop.sync_state, shop.rescheduled_for = "rescheduled", fivetran.now() + until
        if until == 900:
            look(0)
    with pytest.raises(SyncFailedError, match=r"too often, 2 times"):
        make(**arguments).execute(context(state))


def test_a_run_that_began_and_is_stopped_just_after_the_task_fell_asleep_is_no_late_start(
    fivetran: LocalFivetran,
) -> None:
    shop = fivetran.connection("shop", SyncScript(seconds=1000))
    with pytest.raises(TaskDeferred) as deferred:
        make(deferrable=True).execute(context(TaskState()))
    shop.pause(fivetran.now(), paused=True)
    shop.pause(fivetran.now(), paused=False)
    limits = Limits(vanished_after=0.2, start_by=time.time() + 60).to_dict()
    found: Any = deferred.value.trigger
    waiting: Any = SyncTrigger(**{**found.serialize()[1], "limits": limits, "resume_after": 0.0})

    async def event() -> Any:
        async with asyncio.timeout(20), aclosing(waiting.run()) as events:
            return (await anext(events)).payload

    assert asyncio.run(event())["outcome"] == "cancelled"


@pytest.mark.parametrize("mode", ["deferrable", "reschedule"])
def test_a_quota_that_is_used_up_around_a_run_is_slept_through(
    fivetran: LocalFivetran, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    clock = Clock()
    monkeypatch.setattr(_sync_remote, "time", SimpleNamespace(time=clock))
    fivetran.connection("shop", SyncScript(seconds=0))
    fivetran.fail(429, path="*/sync", method="POST", retry_after=120)
    fivetran.fail(429, path="*/schemas", retry_after=3600)
    given: dict[str, Any] = {"deferrable": mode == "deferrable", "waiting": SyncWait(poll_interval=30)}
    state = TaskState()

    def run() -> Any:
        if mode == "reschedule":
            given["mode"] = mode
        return make(**given).execute(context(state))

    for seconds in (120, 3600):
        with pytest.raises(AirflowRescheduleException) as asleep:
            run()
        assert asleep.value.reschedule_date.timestamp() == clock.now + seconds
        clock.now += seconds
        # What the sync does meanwhile is another run's matter.
        vars(fivetran.connections["shop"]).update(failed=fivetran.now() if seconds == 3600 else None)
    assert run()["run_id"] == fivetran.connections["shop"].history[0].sync_id
    assert [call.status for call in fivetran.calls(method="POST")] == [429, 200]
    assert not state.values


def test_an_outage_at_the_start_ends_the_task_in_time_and_the_next_try_asks_anew(
    fivetran: LocalFivetran,
) -> None:
    fivetran.connection("shop", SyncScript(seconds=0))
    fivetran.fail(429, times=10_000, path="*/sync", retry_after=0)
    state = TaskState()
    with pytest.raises(SyncUnavailableError, match="429"):
        make(waiting=SyncWait(poll_interval=0.05, outage=0.2)).execute(context(state))
    assert posts(fivetran) > 2
    fivetran.heal()
    fivetran.fail(429, times=2, path="*/sync", retry_after=0)
    fivetran.fail(503, times=1, path="*/sync-history")
    assert make().execute(context(state, try_number=2))["run_id"]
    assert not fivetran.calls(method="PATCH")


def test_a_failure_is_told_also_where_its_reason_cannot_be_read(fivetran: LocalFivetran) -> None:
    fivetran.connection("shop", SyncScript(seconds=0, outcome="fail"))
    fivetran.fail(429, path="*/sync-history", retry_after=3600)
    with pytest.raises(SyncFailedError, match=r"'shop' .* failed"):
        make().execute(context(TaskState()))
