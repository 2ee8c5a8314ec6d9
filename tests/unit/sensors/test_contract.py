"""Waiting for a contract."""

from __future__ import annotations

import os
import runpy
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest
import yaml
from airflow.sdk import Asset
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_ext.contracts import Contract, Reason, RunReference, Status, Verdict
from airflow_ext.contracts.availability import Availability
from airflow_ext.contracts.head import Promise
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.recipients import Recipient
from airflow_ext.contracts.waiting import Seen
from airflow_ext.exceptions import StoreUnavailableError
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.sensors.contract import ContractSensor
from tests.paths import ROOT
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.contracts.samples import document
from tests.unit.mailbox import CHANNELS, mail_server

DAY = "2013-01-05"


@pytest.fixture(autouse=True)
def server() -> Iterator[AssetStateServer]:
    with AssetStateServer().serving() as server:
        yield server


def sensor(**changes: Any) -> ContractSensor:
    arguments: dict[str, Any] = {
        "task_id": "wait",
        "contract": "daily_delays>=1,<2",
        "partition": DAY,
        "timeout": 600,
    }
    return ContractSensor(**(arguments | changes))


def context() -> Any:
    ti = SimpleNamespace(get_first_reschedule_date=lambda _: None)
    return {"ti": ti, "dag_run": SimpleNamespace(partition_key=None)}


def publish(
    status: Status = Status.PASS, version: str = "1.0.0", partition: str = DAY, timezone: str = "UTC"
) -> Verdict:
    reasons = (Reason("enough carriers", "rows >= 10", "4"),) if status is Status.BREACHED else ()
    made = Verdict(
        "daily_delays",
        version,
        partition,
        status,
        reasons,
        counts={"failed": len(reasons)},
        owner="analytics",
        support="slack #analytics-data",
        run=RunReference("flights_marts", "manual__1", "publish", -1, 1),
    )
    return verdict_store().publish(made, rule=PartitionRule(timezone=timezone))


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "poke"])
@pytest.mark.parametrize("status", [Status.PASS, Status.WARN])
def test_a_contract_that_holds_is_returned_at_once(deferrable: bool, status: Status) -> None:
    published = publish(status)
    assert sensor(deferrable=deferrable).execute(context()) == published.to_dict()


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "poke"])
def test_a_breach_fails_at_once_and_says_everything(deferrable: bool) -> None:
    publish(Status.BREACHED)
    with pytest.raises(AirflowFailException) as caught:
        sensor(deferrable=deferrable).execute(context())
    for word in (
        "daily_delays 1.0.0",
        DAY,
        "BREACHED",
        "enough carriers: expected rows >= 10, actual 4",
        "analytics",
        "slack #analytics-data",
        "DAG flights_marts, run manual__1, task publish",
    ):
        assert word in str(caught.value)


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "poke"])
def test_a_breach_may_skip(deferrable: bool) -> None:
    publish(Status.BREACHED)
    with pytest.raises(AirflowSkipException, match="enough carriers"):
        sensor(deferrable=deferrable, on_breach="skip").execute(context())


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "poke"])
def test_soft_fail_skips(deferrable: bool) -> None:
    publish(Status.BREACHED)
    with pytest.raises(AirflowSkipException):
        sensor(deferrable=deferrable, soft_fail=True).execute(context())


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "poke"])
def test_a_version_outside_the_range_fails_at_once(deferrable: bool) -> None:
    publish(version="1.0.0")
    with pytest.raises(AirflowFailException, match=r"VERSION_MISMATCH, published is version 1\.0\.0"):
        sensor(deferrable=deferrable, contract="daily_delays>=1.1,<2").execute(context())


def test_a_partition_that_is_never_written_fails_at_once() -> None:
    publish()
    with pytest.raises(AirflowFailException, match=r"PARTITION_MISMATCH.*'%Y-%m-%d' in UTC"):
        sensor(partition="2013-01", partition_format="%Y-%m").execute(context())


def test_waiting_is_deferred_with_an_end_in_absolute_time() -> None:
    before = time.time()
    with pytest.raises(TaskDeferred) as caught:
        sensor(on_breach="wait", poll_interval=2).execute(context())
    path, kwargs = caught.value.trigger.serialize()
    assert path == "airflow_ext.triggers.contract.ContractTrigger"
    deadline = kwargs.pop("deadline")
    assert 600 <= deadline - before < 610
    wanted = kwargs.pop("wanted")
    assert (wanted["contract"], wanted["partitions"]) == ("daily_delays>=1,<2", [DAY])
    assert wanted["terms"] == {"on_breach": "wait"}
    assert kwargs == {
        "poll_interval": 2,
        "end_task": True,
        "push_xcom": True,
        "store_conn_id": None,
        "outage_seconds": 600.0,
        "resume_after": 8.0,
        "tell_late": True,
    }
    assert caught.value.kwargs == {"wanted": wanted, "deadline": deadline}


def test_a_success_with_outlets_needs_a_worker_one_without_xcom_does_not() -> None:
    with pytest.raises(TaskDeferred) as caught:
        sensor(outlets=[Asset("x")]).execute(context())
    assert caught.value.trigger.end_task is False
    with pytest.raises(TaskDeferred) as caught:
        sensor(do_xcom_push=False).execute(context())
    assert (caught.value.trigger.end_task, caught.value.trigger.push_xcom) == (True, False)


def test_a_store_that_does_not_answer_is_left_to_the_trigger(server: AssetStateServer) -> None:
    server.down = True
    with pytest.raises(TaskDeferred):
        sensor().execute(context())


def test_a_breach_is_waited_out_in_a_worker_too() -> None:
    publish(Status.BREACHED)
    waiting = sensor(deferrable=False, mode="reschedule", on_breach="wait")
    with pytest.raises(AirflowRescheduleException):
        waiting.execute(context())
    published = publish()
    assert waiting.execute(context()) == published.to_dict()


@pytest.mark.parametrize(
    ("breached", "message"),
    [
        pytest.param(False, "Gave up after 0 s.*NOT_PUBLISHED", id="nothing"),
        pytest.param(True, "Gave up after 0 s(.|\n)*BREACHED(.|\n)*enough carriers", id="breach"),
    ],
)
def test_the_end_of_time_says_what_was_seen_last(breached: bool, message: str) -> None:
    if breached:
        publish(Status.BREACHED)
    with pytest.raises(AirflowSensorTimeout, match=message):
        sensor(deferrable=False, mode="reschedule", on_breach="wait", timeout=0).execute(context())


def test_a_store_that_does_not_answer_is_poked_again(server: AssetStateServer) -> None:
    server.down = True
    with pytest.raises(
        AirflowSensorTimeout, match="STORE_UNAVAILABLE: The verdicts of contract/daily_delays/v1"
    ):
        sensor(deferrable=False, mode="reschedule", timeout=0).execute(context())


def resume(seen: Seen, *, timed_out: bool = False, **changes: Any) -> Any:
    waiting = sensor(**changes)
    action = "wait" if timed_out else waiting.terms.action(seen.status)
    if seen.status is Status.STORE_UNAVAILABLE:
        action = "fail"
    event = {"seen": seen.to_dict(), "action": action, "timed_out": timed_out}
    wanted = waiting._wanted(context()).to_dict()
    return waiting.resume_execution(
        next_method="execute_complete", next_kwargs={"event": event, "wanted": wanted}, context=context()
    )


def test_resuming_after_a_breach() -> None:
    with pytest.raises(AirflowFailException, match="enough carriers"):
        resume(Seen(Status.BREACHED, publish(Status.BREACHED)))
    with pytest.raises(AirflowSkipException, match="enough carriers"):
        resume(Seen(Status.BREACHED, publish(Status.BREACHED)), on_breach="skip")


def test_resuming_after_success() -> None:
    published = publish()
    assert resume(Seen(Status.PASS, published)) == published.to_dict()


def test_resuming_after_the_end_of_time() -> None:
    with pytest.raises(AirflowSensorTimeout, match=r"Gave up after 600 s\. .*NOT_PUBLISHED"):
        resume(Seen(Status.NOT_PUBLISHED), timed_out=True)
    with pytest.raises(AirflowSkipException):
        resume(Seen(Status.NOT_PUBLISHED), timed_out=True, soft_fail=True)


def test_resuming_in_an_outage_is_an_error_that_retries(server: AssetStateServer) -> None:
    server.down = True
    with pytest.raises(StoreUnavailableError, match="STORE_UNAVAILABLE for 600 s: down"):
        resume(Seen(Status.STORE_UNAVAILABLE, detail="down"))


def test_resuming_after_an_outage_is_an_error_that_retries() -> None:
    with pytest.raises(StoreUnavailableError, match="did not answer for 600 s and does again: down"):
        resume(Seen(Status.STORE_UNAVAILABLE, detail="down"))


@pytest.mark.parametrize("event", [None, "done", {"seen": {}}], ids=repr)
def test_an_unknown_event_is_never_success(event: Any) -> None:
    with pytest.raises((ValueError, KeyError)):
        sensor().execute_complete(context(), event, wanted={})


def in_berlin() -> Any:
    return context() | {"data_interval_start": datetime(2013, 1, 4, 23, 30, tzinfo=UTC)}


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "poke"])
def test_the_partition_of_the_run_is_waited_for(deferrable: bool) -> None:
    published = publish(timezone="Europe/Berlin")
    waiting = sensor(partition=None, timezone="Europe/Berlin", deferrable=deferrable)
    assert waiting.execute(in_berlin()) == published.to_dict()


@pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "poke"])
def test_a_partition_derived_in_another_zone_is_not_taken_for_the_publishers(deferrable: bool) -> None:
    publish(timezone="Europe/Berlin", partition="2013-01-04")
    with pytest.raises(
        AirflowFailException, match=r"PARTITION_MISMATCH.*give the sensor timezone='Europe/Berlin'"
    ):
        sensor(partition=None, deferrable=deferrable).execute(in_berlin())


def test_the_trigger_is_told_in_which_zone_a_partition_was_derived() -> None:
    with pytest.raises(TaskDeferred) as caught:
        sensor(partition=None, timezone="Europe/Berlin").execute(in_berlin())
    assert caught.value.trigger.wanted["timezone"] == "Europe/Berlin"
    of_run = context() | {"partition_key": DAY}
    with pytest.raises(TaskDeferred) as caught:
        sensor(partition=None, timezone="Europe/Berlin").execute(of_run)
    assert caught.value.trigger.wanted["timezone"] is None


@pytest.mark.parametrize("name", ["delay_alerts", "delay_digest"])
def test_the_demo_reads_the_day_it_waited_for(name: str) -> None:
    """At ten in the evening in New York, UTC has the next day already."""
    waiting = runpy.run_path(str(ROOT / "dags" / f"{name}.py"))["delays_are_good"]
    (reading,) = waiting.downstream_list
    now = pendulum.datetime(2013, 1, 6, 3, tz="UTC")
    reading.render_template_fields({"logical_date": now})
    promised = Contract.from_file(ROOT / "dags" / "contracts" / "daily_delays.odcs.yaml")
    run = context() | {"data_interval_start": now}
    assert reading.op_kwargs == {"day": DAY}
    assert (waiting.partition, waiting.rule.key_for(run)) == (None, DAY)
    assert waiting.rule == promised.partition


def test_a_partition_that_does_not_fit_is_not_retried() -> None:
    with pytest.raises(AirflowFailException, match="does not fit the partition format"):
        sensor(partition="yesterday").execute(context())


def test_the_assets_of_every_major_are_inlets() -> None:
    names = [asset.name for asset in sensor(contract="daily_delays>=1,<3").inlets]
    assert names == ["contract/daily_delays/v1", "contract/daily_delays/v2"]
    given = sensor(inlets=[Asset("contract/daily_delays/v1")]).inlets
    assert [asset.name for asset in given] == ["contract/daily_delays/v1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"contract": "daily_delays>=1"}, "Write 'daily_delays>=1,<2'", id="open-range"),
        pytest.param(
            {"on_breach": "ignore"}, "use one of fail, skip, wait, proceed, use_last_good", id="on_breach"
        ),
        pytest.param(
            {"poll_interval": 0}, "poll_interval=0: expected a number of seconds above 0", id="interval"
        ),
        pytest.param(
            {"deferrable": False, "mode": "reschedule", "poll_interval": 2},
            "poll_interval=2: in mode='reschedule' at least 10 seconds",
            id="reschedule-too-often",
        ),
        pytest.param({"partition_format": "%d"}, "partition format '%d'", id="format"),
        pytest.param({"timezone": "Mars"}, "timezone 'Mars'", id="zone"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sensor(**changes)


def test_the_last_good_partition_is_used_where_a_breach_would_fail() -> None:
    publish(partition="2013-01-04")
    publish(Status.BREACHED)
    answer = sensor(use_last_good=True).execute(context())
    assert (answer["partition"], answer["instead_of"], answer["status"]) == ("2013-01-04", DAY, "PASS")
    with pytest.raises(AirflowFailException, match=r"BREACHED(?s:.*)no good partition to fall back on"):
        sensor(use_last_good=True, max_staleness=3600).execute(context())


def test_the_last_good_partition_is_used_at_the_end_of_time() -> None:
    publish(partition="2013-01-04")
    seen = Seen(Status.NOT_PUBLISHED)
    assert resume(seen, timed_out=True, use_last_good=True)["instead_of"] == DAY
    with pytest.raises(AirflowSensorTimeout, match=r"Gave up after 600 s(?s:.*)no good partition"):
        resume(seen, timed_out=True, use_last_good=True, max_staleness=3600)


def test_a_repair_that_came_while_a_worker_was_started_wins() -> None:
    seen = Seen(Status.BREACHED, publish(Status.BREACHED))
    repaired = publish()
    assert resume(seen) == repaired.to_dict()
    assert resume(Seen(Status.NOT_PUBLISHED), timed_out=True) == repaired.to_dict()


def test_a_breach_that_came_while_a_worker_was_started_is_waited_out() -> None:
    seen = Seen(Status.PASS, publish())
    publish(Status.BREACHED)
    with pytest.raises(TaskDeferred) as caught:
        resume(seen, on_breach="wait")
    assert caught.value.kwargs is not None
    assert caught.value.kwargs["deadline"] > time.time()


def test_a_verdict_that_the_head_does_not_know_yet_is_not_overlooked(server: AssetStateServer) -> None:
    older = publish(partition="2013-01-04")
    publish()
    stale = server.values["contract/daily_delays/v1", "head"]
    publish(Status.BREACHED)
    server.values["contract/daily_delays/v1", "head"] = stale
    assert sensor(partition="latest").execute(context()) == older.to_dict()
    answer = resume(Seen(Status.NOT_PUBLISHED), timed_out=True, use_last_good=True, partition="2013-01-06")
    assert answer["partition"] == "2013-01-04"


def test_the_newest_partition_is_waited_for() -> None:
    publish(partition="2013-01-03")
    newest = publish(partition="2013-01-04")
    publish(Status.BREACHED)
    assert sensor(partition="latest").execute(context()) == newest.to_dict()
    with pytest.raises(TaskDeferred):
        sensor(partition="latest", max_staleness=86400).execute(context())


def test_an_interval_is_waited_for() -> None:
    hours = [f"2013-01-05T{hour:02}" for hour in range(3)]
    rule = PartitionRule("%Y-%m-%dT%H")
    span = {
        "partition": None,
        "interval": "2013-01-05T00:00/2013-01-05T03:00",
        "partition_format": "%Y-%m-%dT%H",
    }
    for hour in hours[:2]:
        verdict_store().publish(Verdict("daily_delays", "1.0.0", hour, Status.PASS), rule=rule)
    with pytest.raises(TaskDeferred) as caught:
        sensor(**span).execute(context())
    assert caught.value.trigger.wanted["partitions"] == hours
    assert sensor(at_least=2, **span).execute(context())["partitions"] == hours[:2]
    verdict_store().publish(Verdict("daily_delays", "1.0.0", hours[2], Status.WARN), rule=rule)
    answer = sensor(deferrable=False, **span).execute(context())
    assert (answer["status"], answer["partitions"], answer["missing"]) == ("WARN", hours, [])


def test_a_breach_of_columns_that_are_not_used_is_a_warning() -> None:
    reason = Reason("valid(carrier)", "invalid values = 0", "3", columns=("carrier",))
    made = Verdict("daily_delays", "1.0.0", DAY, Status.BREACHED, (reason,))
    verdict_store().publish(made, rule=PartitionRule())
    assert sensor(uses=["flights"]).execute(context())["status"] == "WARN"
    with pytest.raises(AirflowFailException, match=r"valid\(carrier\)"):
        sensor(uses=["flights", "carrier"]).execute(context())


def test_the_partition_of_the_events_that_started_the_run_is_waited_for() -> None:
    published = publish()
    event = SimpleNamespace(extra={"contract": "daily_delays", "partition": DAY}, partition_key=None)
    run = context() | {"triggering_asset_events": {"x": [event]}}
    assert sensor(partition=None).execute(run) == published.to_dict()


@pytest.mark.parametrize("action", ["proceed", "skip", "fail"])
def test_a_late_partition(action: Any) -> None:
    waiting = sensor(on_late=action, available_by="06:00", deferrable=False)
    if action == "proceed":
        assert waiting.execute(context())["status"] == "LATE"
        return
    with pytest.raises(AirflowSkipException if action == "skip" else AirflowFailException, match="LATE: due"):
        waiting.execute(context())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": "run"}, "partition='2013-01-05' and interval='run': give one of them"),
        ({"at_least": 2}, "at_least=2 is about the partitions of an interval"),
        (
            {"partition": None, "interval": "run", "use_last_good": True},
            "use_last_good is about one partition",
        ),
    ],
    ids=str,
)
def test_arguments_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sensor(**changes)


def test_a_contract_that_no_folder_has_is_known_at_once(tmp_path: Path) -> None:
    (tmp_path / "orders.odcs.yaml").write_text(yaml.safe_dump(document(id="daily_orders")))
    waiting = sensor(contract="daily_order>=1,<2", contracts=tmp_path, on_unknown="skip")
    with pytest.raises(AirflowSkipException, match=r"UNKNOWN_CONTRACT.*did you mean daily_orders\?"):
        waiting.execute(context())
    with pytest.raises(AirflowFailException, match=r"VERSION_MISMATCH.*has version 1\.2\.0\n.*shop team"):
        sensor(contract="daily_orders>=2,<3", contracts=tmp_path).execute(context())
    os.environ["AIRFLOW__AIRFLOW_EXT__CONTRACTS_FOLDER"] = str(tmp_path)
    with pytest.raises(AirflowFailException, match="UNKNOWN_CONTRACT"):
        sensor(deferrable=False).execute(context())
    published = publish()
    assert sensor().execute(context()) == published.to_dict()  # what is published exists


def test_a_folder_that_cannot_be_read_lets_wait(tmp_path: Path) -> None:
    with pytest.raises(TaskDeferred):
        sensor(contracts=tmp_path / "nowhere").execute(context())


@pytest.mark.parametrize("options", [{"on_late": "fail"}, {"deferrable": False}], ids=["fails", "pokes"])
def test_a_worker_tells_that_a_partition_is_late(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a backfill, and not what nobody missed when it was due."""
    monkeypatch.setattr("airflow_ext.contracts.claims.SETTLE_SECONDS", 0.5)
    os.environ["AIRFLOW__AIRFLOW_EXT__CONTRACT_CHANNELS"] = CHANNELS
    promise = Promise(Availability(), tell=(Recipient("email", "shop@example.com"),))
    made = Verdict("daily_delays", "1.0.0", DAY, Status.PASS)
    verdict_store().publish(made, rule=PartitionRule(), promise=promise)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")

    def wait(partition: str, run_type: str) -> None:
        told = context()
        told["dag_run"].run_type, told["ti"].dag_id, told["ti"].task_id = run_type, "report", "wait"
        with suppress(AirflowFailException):
            assert not sensor(partition=partition, **options).poke(told)

    with mail_server() as inbox:
        wait(yesterday, "backfill")
        wait("2013-01-06", "scheduled")
        assert inbox.mails == []
        for _ in range(2):
            wait(yesterday, "scheduled")
    (mail,) = inbox.mails
    assert "by DAG report, task wait" in mail.get_body().get_content()
