"""Loading anew: some tables at a time, in some hours, against a local Fivetran."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowRescheduleException

from airflow_ext.exceptions import SyncFailedError
from airflow_ext.operators._sync_resync import opens
from airflow_ext.operators.sync import ResyncOperator, SyncWait
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from tests.unit.sync.remote import TaskState, context, fivetran_connection

FAST = SyncWait(poll_interval=0.05)


@pytest.fixture
def fivetran(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFivetran]:
    with LocalFivetran() as server:
        monkeypatch.setenv("AIRFLOW_CONN_FT", fivetran_connection(server))
        yield server


def test_tables_are_loaded_anew_some_at_a_time_and_a_retry_goes_on(
    fivetran: LocalFivetran, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [f"public.t{number}" for number in range(3)]
    fivetran.connection(
        "shop",
        SyncScript(seconds=0),
        SyncScript(seconds=0, outcome="fail"),
        SyncScript(seconds=0),
        tables=tables,
    )
    state = TaskState()

    def run(try_number: int) -> Any:
        with DAG("ingest", schedule=None):
            task = ResyncOperator(
                task_id="again",
                sync_conn_id="ft",
                sync="shop",
                scope=",".join(tables),
                at_a_time=2,
                deferrable=False,
                waiting=FAST,
            )
        return task.execute(context(state, try_number=try_number))

    with pytest.raises(SyncFailedError):
        run(1)
    runs = run(2)["runs"]
    assert len(runs) == 2
    log = capsys.readouterr().out
    assert "Started a re-sync of shop (public.t0, public.t1): https://" in log
    assert (
        f"Run {runs[1]['run_id']} of a re-sync of shop (public.t2) has ended well, {runs[1]['started']} to"
        in log
    )
    assert [call.body for call in fivetran.calls(method="POST", path="*/resync")] == [
        {"scope": {"public": ["t0", "t1"]}},
        {"scope": {"public": ["t2"]}},
        {"scope": {"public": ["t2"]}},
    ]


def test_a_resync_waits_for_its_hours() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    night = (clock(22), clock(5))

    def at(hour: int, day: int = 29) -> str | None:
        found = opens(datetime(2026, 3, day, hour, tzinfo=berlin), *night, berlin)
        return None if found is None else datetime.fromtimestamp(found, berlin).isoformat()

    assert [at(23), at(4)] == [None, None]
    assert at(12, 28) == "2026-03-28T22:00:00+01:00"
    assert at(12) == "2026-03-29T22:00:00+02:00"  # the clocks went forward that night
    early = opens(datetime(2026, 3, 1, 6, tzinfo=UTC), night[1], night[0], ZoneInfo("UTC"))
    assert early is None


def test_outside_of_its_hours_a_resync_sleeps_and_starts_nothing(fivetran: LocalFivetran) -> None:
    fivetran.connection("shop", SyncScript(seconds=0))
    now = datetime.now(UTC)
    soon, later = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (2, 3))
    state = TaskState()

    def run(**arguments: Any) -> timedelta:
        with DAG("ingest", schedule=None):
            task = ResyncOperator(task_id="again", sync_conn_id="ft", sync="shop", **arguments)
        with pytest.raises(AirflowRescheduleException) as asleep:
            task.execute(context(state))
        due: datetime = asleep.value.reschedule_date
        return due - now

    hours = {"window": (soon, later)}
    assert timedelta(hours=1, minutes=58) < run(**hours) <= timedelta(hours=2)
    assert not fivetran.calls(method="POST")
    # Its hours are over when the vendor, whose quota was used up, may be asked again.
    fivetran.fail(429, retry_after=7200, path="*/resync")
    run()
    assert timedelta(hours=1, minutes=58) < run(**hours) <= timedelta(hours=2)
    assert len(fivetran.calls(method="POST")) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"at_a_time": 0, "scope": ["a.b"]},
        {"at_a_time": 2},
        {"window": ("22:00", "22:00")},
        {"window": ("noon", "22:00")},
        {"timezone": "Moon/Base"},
    ],
    ids=str,
)
def test_a_resync_that_cannot_be_is_refused_when_the_dag_is_parsed(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))), DAG("ingest", schedule=None):
        ResyncOperator(task_id="again", sync_conn_id="ft", sync="shop", **arguments)
