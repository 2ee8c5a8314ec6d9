"""Waiting for syncs that Airflow did not start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_ext.sensors.sync import SyncSensor
from airflow_ext.testing.airbyte import JobScript, LocalAirbyte
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from tests.unit.sync.remote import airbyte_connection, fivetran_connection


@pytest.fixture
def fivetran(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFivetran]:
    with LocalFivetran() as server:
        monkeypatch.setenv("AIRFLOW_CONN_FT", fivetran_connection(server))
        yield server


@pytest.fixture
def airbyte(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAirbyte]:
    with LocalAirbyte() as server:
        monkeypatch.setenv("AIRFLOW_CONN_AB", airbyte_connection(server))
        yield server


def make(sync_conn_id: str = "ft", **arguments: Any) -> SyncSensor:
    with DAG("waits", schedule=None):
        return SyncSensor(task_id="fresh", sync_conn_id=sync_conn_id, sync="shop", **arguments)


def context(first: datetime | None = None) -> Any:
    return {"ti": SimpleNamespace(get_first_reschedule_date=lambda _: first)}


def resumed(sensor: SyncSensor, deferred: TaskDeferred) -> Any:
    """Run the trigger to its event and resume with nothing else, as ``dag.test()`` does."""
    trigger: Any = deferred.trigger
    trigger.resume_after = 0.0

    async def event() -> Any:
        async with asyncio.timeout(20), aclosing(trigger.run()) as events:
            return (await anext(events)).payload

    return sensor.execute_complete(context(), asyncio.run(event()))


def test_a_run_of_a_while_ago_is_enough(
    fivetran: LocalFivetran, airbyte: LocalAirbyte, capsys: pytest.CaptureFixture[str]
) -> None:
    fivetran.connection("shop", SyncScript(seconds=0)).trigger(fivetran.now(), force=False)
    airbyte.start_job(airbyte.connection("shop", JobScript(seconds=0)).id)
    for sync_conn_id in ("ft", "ab"):
        told = make(sync_conn_id, within=timedelta(minutes=5)).execute(context())
        assert told["run_id"]
        assert f"Run {told['run_id']} of shop has ended well at {told['ended']}" in capsys.readouterr().out


def test_an_old_run_is_not_enough_and_the_next_one_is(fivetran: LocalFivetran, airbyte: LocalAirbyte) -> None:
    shop = fivetran.connection("shop", SyncScript(seconds=0))
    shop.trigger(fivetran.now(), force=False)
    other = airbyte.connection("shop", JobScript(seconds=0))
    airbyte.start_job(other.id)
    fivetran.advance(10)
    airbyte.advance(10)
    since = datetime.now(UTC) + timedelta(seconds=5)
    for sync_conn_id in ("ft", "ab"):
        sensor = make(sync_conn_id, since=since.isoformat(), poll_interval=0.05)
        with pytest.raises(TaskDeferred) as deferred:
            sensor.execute(context())
        shop.trigger(fivetran.now(), force=False)
        if sync_conn_id == "ab":
            airbyte.start_job(other.id)
        assert resumed(sensor, deferred.value)["ended"] > since.isoformat()
    assert not fivetran.calls(method="POST")
    assert not airbyte.calls(method="POST", path="*/jobs")


def test_a_failed_run_fails_skips_or_is_waited_over(fivetran: LocalFivetran) -> None:
    scripts = [SyncScript(seconds=0, outcome="fail", reason="no space"), SyncScript(seconds=0)]
    shop = fivetran.connection("shop", *scripts)
    shop.trigger(fivetran.now(), force=False)
    recent: dict[str, Any] = {"within": timedelta(minutes=5)}
    with pytest.raises(AirflowFailException, match="no space"):
        make(**recent).execute(context())
    with pytest.raises(AirflowSkipException, match="no space"):
        make(on_failure="skip", **recent).execute(context())
    sensor = make(on_failure="wait", poll_interval=0.05, **recent)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context())
    shop.trigger(fivetran.now(), force=False)
    assert resumed(sensor, deferred.value)["run_id"]


def test_runs_that_failed_or_were_cancelled_are_waited_over(airbyte: LocalAirbyte) -> None:
    shop = airbyte.connection(
        "shop",
        JobScript(seconds=0, outcome="cancelled"),
        JobScript(seconds=0, outcome="failed"),
        JobScript(seconds=0),
    )
    arguments: dict[str, Any] = {"on_failure": "wait", "poll_interval": 0.05, "within": timedelta(minutes=5)}

    def job() -> None:
        airbyte.advance(2)  # its stamps are whole seconds
        airbyte.start_job(shop.id)

    job()
    sensor = make("ab", **arguments)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context())
    assert not make("ab", deferrable=False, **arguments).poke(context()).is_done
    job()
    job()
    # In mode="reschedule" each look is another process, which knows only when the first one began.
    told: Any = make("ab", deferrable=False, **arguments).poke(context()).xcom_value
    assert told["run_id"] == "3"
    with pytest.raises(TaskDeferred) as again:
        resumed(sensor, deferred.value)
    assert resumed(sensor, again.value)["run_id"] == "3"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"paused": True}, "paused", id="paused"),
        pytest.param({"setup_state": "broken"}, "setup is broken", id="broken"),
        pytest.param({"deleted": True}, "no connection with this id or name", id="deleted"),
    ],
)
def test_what_will_never_run_is_not_waited_for(
    fivetran: LocalFivetran, change: dict[str, Any], told: str
) -> None:
    vars(fivetran.connection("shop")).update(change)
    with pytest.raises(AirflowFailException, match=told):
        make().execute(context())


def test_waiting_ends_with_the_timeout(fivetran: LocalFivetran) -> None:
    fivetran.connection("shop")
    sensor = make(timeout=0.2, poll_interval=0.05)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context())
    with pytest.raises(AirflowSensorTimeout, match=r"after 0\.2 s"):
        resumed(sensor, deferred.value)


def test_a_vendor_that_does_not_answer_at_first_is_asked_again(fivetran: LocalFivetran) -> None:
    shop = fivetran.connection("shop", SyncScript(seconds=0))
    fivetran.fail(429, times=2, retry_after=120)
    began = datetime.now(UTC)
    with pytest.raises(AirflowRescheduleException) as asleep:
        make().execute(context())
    assert 115 < (asleep.value.reschedule_date - began).total_seconds() < 180
    with pytest.raises(AirflowSensorTimeout, match="429"):
        make(timeout=60).execute(context(began - timedelta(seconds=61)))
    shop.trigger(fivetran.now(), force=False)
    # What ended while the vendor did not answer has ended since the sensor began.
    assert make().execute(context(began))["run_id"]


def test_a_poke_is_one_look(airbyte: LocalAirbyte) -> None:
    connection = airbyte.connection("shop", JobScript(seconds=0))
    sensor = make("ab", deferrable=False, within=timedelta(minutes=5))
    assert not sensor.poke(context()).is_done
    airbyte.fail(503, times=4)
    assert not sensor.poke(context()).is_done
    airbyte.heal()
    airbyte.start_job(connection.id)
    told: Any = sensor.poke(context()).xcom_value
    assert told["run_id"] == "1"


@pytest.mark.parametrize(
    "arguments",
    [
        {"on_failure": "cry"},
        {"since": "x", "within": timedelta(0)},
        {"within": timedelta(-1)},
        {"within": 3600},
        {"poll_interval": 0},
        {"deferrable": False, "mode": "reschedule", "poll_interval": 5},
    ],
    ids=lambda given: next(iter(given)),
)
def test_wrong_arguments_fail_when_the_dag_is_parsed(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"=.*(give|use one|at least)"):
        make(**arguments)
