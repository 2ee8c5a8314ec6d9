"""What becomes of an occurrence: every way in which a promise can break, and what must not fool the judge."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from airflow_ext.sla import sla
from airflow_ext.sla.ledger.models import IncidentRow, OccurrenceRow
from airflow_ext.sla.trends import views
from tests.unit.sla.world import CALLBACK, HOUR, MINUTE, World

SIX: dict[str, Any] = {"by": "06:00", "tz": "Europe/Berlin", "grace": 5 * MINUTE, "callback": CALLBACK}
MIDNIGHT = "2026-03-02 00:00"  # 01:00 in Berlin; due is 05:00 UTC, told from 05:05 on
OPEN, OVER = "open", "resolve"


@pytest.fixture
def daily(world: World) -> World:
    """A DAG that runs at midnight UTC and has promised 06:00 in Berlin, known since noon."""
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    return world


def test_a_run_in_time_is_met_and_makes_no_sound(daily: World) -> None:
    daily.run("d", MIDNIGHT, ended="2026-03-02 05:04")
    daily.tick_at("2026-03-02 05:05")
    assert daily.state("2026-03-02") == ("met", "")
    assert daily.told() == []


def test_a_late_run_is_told_once_and_its_end_too(daily: World) -> None:
    run_id = daily.run("d", MIDNIGHT, "running")
    daily.tick_at("2026-03-02 05:04:59")
    assert daily.told() == []
    for minute in (5, 6, 7):
        daily.tick_at(f"2026-03-02 05:0{minute}")
    assert daily.state("2026-03-02") == ("missed", "late")
    assert daily.told() == [(OPEN, "missed", "late")]
    daily.set_run("d", run_id, state="success", end_date="2026-03-02 05:20")
    daily.tick_at("2026-03-02 05:22")
    assert daily.state("2026-03-02") == ("recovered", "late")
    assert daily.told() == [(OPEN, "missed", "late"), (OVER, "missed", "late")]


def test_a_failure_is_told_when_it_happens_and_not_again_when_due(daily: World) -> None:
    daily.run("d", MIDNIGHT, "failed", ended="2026-03-02 01:00")
    daily.tick_at("2026-03-02 01:01")
    assert daily.state("2026-03-02") == ("at_risk", "failed")
    assert daily.told() == [(OPEN, "failed_before_due", "failed")]
    daily.tick_at("2026-03-02 05:06")
    assert daily.state("2026-03-02") == ("missed", "failed")
    assert daily.told() == [(OPEN, "missed", "failed")]


def test_a_failure_that_is_repaired_in_time_is_met_and_told_as_over(daily: World) -> None:
    run_id = daily.run("d", MIDNIGHT, "failed", ended="2026-03-02 01:00")
    daily.tick_at("2026-03-02 01:01")
    daily.set_run("d", run_id, state="running", end_date=None)  # cleared
    daily.tick_at("2026-03-02 01:05")
    daily.set_run("d", run_id, state="success", end_date="2026-03-02 02:00")
    daily.tick_at("2026-03-02 02:01")
    assert daily.state("2026-03-02") == ("met", "")
    assert [kind for kind, _, _ in daily.told()] == [OPEN, OVER]


def test_on_failure_wait_tells_a_failure_only_when_due(world: World) -> None:
    world.add_dag("d", sla(**SIX, on_failure="wait"))
    world.tick_at("2026-03-01 12:00")
    world.run("d", MIDNIGHT, "failed")
    world.tick_at("2026-03-02 02:00")
    assert world.told() == []
    world.tick_at("2026-03-02 05:06")
    assert world.told() == [(OPEN, "missed", "failed")]


@pytest.mark.parametrize(
    ("dag", "alive", "state", "cause"),
    [
        pytest.param({}, True, None, "never_started", id="never-started"),
        pytest.param({"is_paused": True}, True, None, "paused", id="paused"),
        pytest.param({"has_import_errors": True, "is_stale": True}, True, None, "import_error", id="import"),
        pytest.param({"is_stale": True}, True, None, "dag_gone", id="gone"),
        pytest.param({}, False, None, "scheduler_dead", id="scheduler-dead"),
        pytest.param({}, False, "running", "scheduler_dead", id="scheduler-dead-while-running"),
        pytest.param({}, True, "queued", "queued", id="queued"),
        pytest.param({"is_paused": True}, True, "queued", "paused", id="paused-while-queued"),
    ],
)
def test_why_there_is_nothing(
    daily: World, dag: dict[str, bool], alive: bool, state: str | None, cause: str
) -> None:
    daily.scheduler_alive = alive
    if dag:
        daily.set_dag("d", **dag)
    if state:
        daily.run("d", MIDNIGHT, state)
    daily.tick_at("2026-03-02 05:05")
    daily.tick_at("2026-03-02 05:06")
    assert daily.state("2026-03-02") == ("missed", cause)
    assert daily.told() == [(OPEN, "missed", cause)]


def test_a_dag_that_is_gone_is_told_once_and_watched_again_when_it_is_back(daily: World) -> None:
    daily.set_dag("d", is_stale=True)
    for day in ("02", "03", "04"):
        daily.tick_at(f"2026-03-{day} 06:00")
    assert daily.told() == [(OPEN, "missed", "dag_gone")]
    daily.set_dag("d", is_stale=False)
    daily.tick_at("2026-03-04 12:00")
    daily.tick_at("2026-03-05 06:00")
    assert daily.state("2026-03-05") == ("missed", "never_started")


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"], ids=["23-hours", "25-hours"])
def test_days_on_which_clocks_change(database: Any, day: str) -> None:
    world = World(database, start=f"{day} 00:30")
    world.add_dag("d", sla(**SIX), schedule="0 0 * * *")
    due = {"2026-03-29": "04:0", "2026-10-25": "05:0"}[day]
    world.tick_at(f"{day} 00:31")
    world.tick_at(f"{day} {due}4")
    assert world.told() == []
    world.tick_at(f"{day} {due}5")
    assert world.told() == [(OPEN, "missed", "never_started")]


def test_what_was_done_counts_even_if_the_run_is_cleared_or_deleted_afterwards(daily: World) -> None:
    run_id = daily.run("d", MIDNIGHT, ended="2026-03-02 01:00")
    daily.tick_at("2026-03-02 01:01")
    daily.drop_run("d", run_id)
    daily.tick_at("2026-03-02 06:00")
    assert daily.state("2026-03-02") == ("met", "")


@pytest.mark.parametrize(
    "run",
    [
        pytest.param({"run_type": "backfill"}, id="backfill"),
        pytest.param({"run_type": "manual"}, id="manual"),
        pytest.param({"run_after": "2026-03-01 00:00"}, id="the-day-before"),
        pytest.param({"run_after": "2026-03-02 05:00"}, id="the-next-days"),
    ],
)
def test_other_runs_do_not_keep_the_promise(daily: World, run: dict[str, str]) -> None:
    daily.run("d", run.pop("run_after", MIDNIGHT), ended="2026-03-02 04:00", **run)
    daily.tick_at("2026-03-02 05:05")
    assert daily.state("2026-03-02") == ("missed", "never_started")


def test_any_good_run_of_an_asset_triggered_dag_counts(world: World) -> None:
    from airflow.sdk import Asset

    world.add_dag("d", sla(**SIX), schedule=[Asset("a")])
    world.tick_at("2026-03-01 12:00")
    world.run("d", "2026-03-02 02:00", run_type="asset_triggered", ended="2026-03-02 02:30")
    world.run("d", "2026-03-02 04:50", "running", run_type="asset_triggered")
    world.tick_at("2026-03-02 05:06")
    assert world.state("2026-03-02") == ("met", "")


def test_a_weekly_dag_owes_nothing_on_other_days(world: World) -> None:
    world.add_dag("d", sla(**SIX), schedule="0 0 * * 3")
    world.tick_at("2026-03-01 12:00")
    for day in range(2, 7):
        world.tick_at(f"2026-03-0{day} 12:00")
    assert list(world.states()) == ["2026-03-04 0600"]


@pytest.mark.parametrize("ack", [False, True])
def test_a_pause_is_excused_as_the_policy_says(world: World, ack: bool) -> None:
    world.add_dag("d", sla(**SIX, on_paused="excuse_after_ack"))
    world.add_dag("e", sla(**SIX, on_paused="excuse"))
    world.tick_at("2026-03-01 12:00")
    for name in "de":
        world.set_dag(name, is_paused=True)
    world.tick_at("2026-03-02 06:00")
    if ack:
        with world.engine.begin() as connection:
            connection.execute(IncidentRow.__table__.update().values(acknowledged_at=world.now))  # type: ignore[attr-defined]
    world.tick_at("2026-03-03 06:00")
    assert world.state("2026-03-02", "d") == ("missed", "paused")
    assert world.state("2026-03-03", "d") == (("excused" if ack else "missed"), "paused")
    assert [world.state(f"2026-03-0{day}", "e") for day in (2, 3)] == [("excused", "paused")] * 2
    assert len(world.told()) == (1 if ack else 2)


def test_a_monitor_that_was_away_tells_what_it_missed_and_that_it_is_late(daily: World) -> None:
    daily.run("d", MIDNIGHT, ended="2026-03-02 04:00")
    daily.run("d", "2026-03-03 00:00", ended="2026-03-03 07:00")
    daily.run("d", "2026-03-04 00:00", "running")
    daily.tick_at("2026-03-04 12:00")
    daily.tick_at("2026-03-04 12:01")
    assert [daily.state(f"2026-03-0{day}")[0] for day in (2, 3, 4)] == ["met", "recovered", "missed"]
    assert [kind for kind, _, _ in daily.told()] == [OPEN, OPEN]
    assert all(row.detected_late for row in daily.rows(IncidentRow))


def test_within_of_the_schedule_sees_that_a_run_never_came(world: World) -> None:
    world.add_dag("d", sla(within=30 * MINUTE, since="schedule", callback=CALLBACK), schedule="@hourly")
    world.tick_at("2026-03-02 00:10")
    world.run("d", "2026-03-02 01:00", ended="2026-03-02 01:29")
    world.run("d", "2026-03-02 02:00", ended="2026-03-02 02:31")
    world.tick_at("2026-03-02 03:31")
    states = {name[-7:]: state for name, state in world.states().items()}
    assert states["010000Z"] == ("met", "")
    assert states["020000Z"] == ("recovered", "late")
    assert states["030000Z"] == ("missed", "never_started")


def test_within_of_queue_and_start_are_about_each_run(world: World) -> None:
    promises = [
        sla(within=10 * MINUTE, name="queue", callback=CALLBACK),
        sla(within=10 * MINUTE, since="start", name="start", callback=CALLBACK),
    ]
    world.add_dag("d", promises, schedule=None)
    world.tick_at("2026-03-02 00:00")
    world.run("d", "2026-03-02 01:00", "queued", run_type="manual", run_id="slow")
    world.run("d", "2026-03-02 01:00", "running", run_type="manual", run_id="gone")
    world.tick_at("2026-03-02 01:01")
    world.drop_run("d", "gone")
    world.tick_at("2026-03-02 01:11")
    found = sorted((row.state, row.cause) for row in world.rows(OccurrenceRow))
    assert found == [("missed", "queued"), ("void", "run_deleted"), ("void", "run_deleted")]
    world.set_run("d", "slow", state="running", start_date="2026-03-02 01:12")
    world.tick_at("2026-03-02 01:13")
    assert len(world.rows(OccurrenceRow)) == 4


def test_a_task_is_judged_by_all_its_instances(world: World) -> None:
    world.add_dag("d", sla(**SIX, task="load"))
    world.tick_at("2026-03-01 12:00")
    run_id = world.run("d", MIDNIGHT, "running")
    world.task("d", run_id, "load", "success", ended="2026-03-02 03:00", index=0)
    world.task("d", run_id, "load", "success", ended="2026-03-02 05:04", index=1)
    world.task("d", run_id, "report", None)
    world.tick_at("2026-03-02 05:05")
    assert world.state("2026-03-02") == ("met", "")
    other = world.run("d", "2026-03-03 00:00", "running")
    world.task("d", other, "load", "success", ended="2026-03-03 03:00", index=0)
    world.task("d", other, "load", "up_for_retry", ended="2026-03-03 03:00", index=1)
    world.tick_at("2026-03-03 05:05")
    assert world.state("2026-03-03") == ("missed", "late")


def test_an_asset_is_judged_by_its_events_but_not_those_of_backfills(world: World) -> None:
    world.add_dag("d", sla(**SIX, asset="orders"))
    world.tick_at("2026-03-01 12:00")
    backfill = world.run("d", "2026-02-01 00:00", run_type="backfill")
    world.asset_event("orders", "2026-03-02 04:00", dag_id="d", run_id=backfill)
    world.tick_at("2026-03-02 05:05")
    assert world.state("2026-03-02") == ("missed", "no_event")
    world.asset_event("orders", "2026-03-02 05:30")
    world.tick_at("2026-03-02 05:31")
    assert world.state("2026-03-02") == ("recovered", "late")
    world.asset_event("orders", "2026-03-02 20:00")  # after 18:00 in Berlin it is the next day's
    world.tick_at("2026-03-03 05:05")
    assert world.state("2026-03-03") == ("met", "")


def test_freshness_is_one_story_for_each_time_it_grows_stale(world: World) -> None:
    world.add_dag("d", sla(fresh=timedelta(hours=6), asset="orders", callback=CALLBACK), schedule=None)
    world.asset_event("orders", "2026-03-01 12:00")
    world.tick_at("2026-03-01 12:00")
    world.tick_at("2026-03-01 17:59")
    assert world.told() == []
    world.tick_at("2026-03-01 18:01")
    assert world.told() == [(OPEN, "missed", "stale")]
    world.tick_at("2026-03-02 00:30")  # still stale: no new message at midnight
    assert len(world.told()) == 1
    world.asset_event("orders", "2026-03-02 01:00")
    world.tick_at("2026-03-02 01:01")
    assert [kind for kind, _, _ in world.told()] == [OPEN, OVER]
    world.tick_at("2026-03-02 07:01")
    assert [kind for kind, _, _ in world.told()] == [OPEN, OVER, OPEN]


def test_how_often_is_counted_in_each_window(world: World) -> None:
    world.add_dag("d", sla(every=timedelta(hours=6), at_least=2, callback=CALLBACK), schedule="@hourly")
    world.tick_at("2026-03-02 00:00")
    for hour in ("01", "03", "07"):
        world.run("d", f"2026-03-02 {hour}:00", ended=f"2026-03-02 {hour}:30")
    world.tick_at("2026-03-02 12:00")
    assert world.states()["2026-03-02 20260302T000000Z"] == ("met", "")
    assert world.states()["2026-03-02 20260302T060000Z"] == ("missed", "too_few")


def test_a_window_that_is_kept_again_ends_the_incident_of_one_that_was_not(world: World) -> None:
    world.add_dag("d", sla(every=HOUR, callback=CALLBACK))
    world.tick_at("2026-03-01 12:00")
    world.tick_at("2026-03-01 13:01")
    world.run("d", "2026-03-01 13:10", ended="2026-03-01 13:20")
    world.tick_at("2026-03-01 14:01")
    assert [(kind, cause) for kind, _, cause in world.told()] == [(OPEN, "too_few"), (OVER, "too_few")]
    with Session(world.engine) as session:
        found = views.status(session, now=world.now)
    assert (found["late"], found["unacknowledged"]) == (0, 0)


def test_a_dag_that_is_gone_is_told_once_also_if_it_promised_to_come_often(world: World) -> None:
    world.add_dag("d", sla(every=HOUR, callback=CALLBACK))
    world.tick_at("2026-03-01 12:00")
    world.set_dag("d", is_stale=True)
    for hour in (13, 14, 15):
        world.tick_at(f"2026-03-01 {hour}:01")
    assert world.told() == [(OPEN, "missed", "dag_gone")]


def test_exceptions_are_written_down_as_excused(world: World) -> None:
    world.add_dag("d", sla(**SIX, exceptions=["2026-03-02"]))
    world.tick_at("2026-03-01 12:00")
    world.tick_at("2026-03-02 06:00")
    assert world.state("2026-03-02") == ("excused", "exception")
    assert world.told() == []
    assert all(row.next_check_at is None for row in world.rows(OccurrenceRow) if row.state == "excused")
