"""What is likely to be late before it is: shown always, told where a policy wants that, and never without a history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from airflow_ext.sla import sla
from airflow_ext.sla.forecast import running, waiting
from airflow_ext.sla.ledger.models import IncidentRow
from tests.unit.sla.world import CALLBACK, MINUTE, World, at

SIX: dict[str, Any] = {"by": "06:00", "tz": "UTC", "callback": CALLBACK}
OPEN, OVER = "open", "resolve"


def a_world(database: Engine, *, runs: int = 12, minutes: int = 60, **more: Any) -> World:
    """A DAG that starts at midnight UTC, has always taken about an hour, and has promised six."""
    world = World(database, start="2026-03-01 12:00")
    world.add_dag("d", sla(**{**SIX, **more}))
    history(world, "d", runs=runs, minutes=minutes)
    world.tick_at("2026-03-01 12:00")
    return world


def history(world: World, dag_id: str, *, runs: int = 12, minutes: int = 60) -> None:
    for number in range(runs):
        begin = at("2026-02-10 00:00") + timedelta(days=number)
        ended = begin + timedelta(minutes=minutes + number % 3)
        world.run(dag_id, f"{begin:%Y-%m-%d %H:%M}", ended=f"{ended:%Y-%m-%d %H:%M}")


def test_a_run_that_began_too_late_is_at_risk_and_told_if_wanted(database: Engine) -> None:
    world = a_world(database, on_risk="tell")
    run_id = world.run("d", "2026-03-02 00:00", "running", start_date="2026-03-02 04:30")
    world.tick_at("2026-03-02 04:40")
    assert world.told() == []
    world.set_run("d", run_id, start_date="2026-03-02 05:30")
    world.tick_at("2026-03-02 05:35")
    assert world.state("2026-03-02") == ("at_risk", "slow")
    assert world.told() == [(OPEN, "at_risk", "slow")]
    (incident,) = world.rows(IncidentRow)
    assert "usually 1 h 1 min (12 runs), going for 5 min, 12 of 12 like it would be late" in incident.facts
    world.tick_at("2026-03-02 06:00")
    assert world.state("2026-03-02") == ("missed", "late")
    assert world.told() == [(OPEN, "missed", "late")], "told once"
    world.set_run("d", run_id, state="success", end_date="2026-03-02 06:31")
    world.tick_at("2026-03-02 06:35")
    assert [kind for kind, _, _ in world.told()] == [OPEN, OVER]


def test_a_risk_that_was_told_and_ended_late_between_two_looks_was_a_miss(database: Engine) -> None:
    world = a_world(database, on_risk="tell")
    run_id = world.run("d", "2026-03-02 00:00", "running", start_date="2026-03-02 05:30")
    world.tick_at("2026-03-02 05:35")
    world.set_run("d", run_id, state="success", end_date="2026-03-02 06:00:05")
    world.tick_at("2026-03-02 06:00:10")
    assert world.state("2026-03-02") == ("recovered", "late")
    assert world.told() == [(OPEN, "missed", "late"), (OVER, "missed", "late")]


def test_a_warning_that_was_wrong_is_told_as_over(database: Engine) -> None:
    world = a_world(database, on_risk="tell")
    run_id = world.run("d", "2026-03-02 00:00", "running", start_date="2026-03-02 05:30")
    world.tick_at("2026-03-02 05:35")
    world.set_run("d", run_id, state="success", end_date="2026-03-02 05:50")
    world.tick_at("2026-03-02 05:51")
    assert world.state("2026-03-02") == ("met", "")
    assert [kind for kind, _, _ in world.told()] == [OPEN, OVER]


def test_a_quiet_risk_is_told_when_it_has_become_a_miss_or_failed(database: Engine) -> None:
    world = a_world(database)
    world.tick_at("2026-03-02 05:10")
    assert (world.state("2026-03-02"), world.told()) == (("at_risk", "no_time"), [])
    run_id = world.run("d", "2026-03-02 00:00", "failed", ended="2026-03-02 05:20")
    world.tick_at("2026-03-02 05:21")
    assert world.told() == [(OPEN, "failed_before_due", "failed")]
    world.drop_run("d", run_id)
    world.tick_at("2026-03-02 06:01")
    assert world.state("2026-03-02") == ("missed", "never_started")
    assert len(world.told()) == 1
    world.tick_at("2026-03-03 05:10")
    world.tick_at("2026-03-03 06:00")
    assert world.state("2026-03-03") == ("missed", "never_started")
    assert len(world.told()) == 2


def test_a_risk_that_has_gone_goes_back(database: Engine) -> None:
    world = a_world(database)
    run_id = world.run("d", "2026-03-02 00:00", "running", start_date="2026-03-02 05:30")
    world.tick_at("2026-03-02 05:31")
    assert world.state("2026-03-02") == ("at_risk", "slow")
    world.set_run("d", run_id, start_date="2026-03-02 04:10")
    world.tick_at("2026-03-02 05:02")
    assert world.state("2026-03-02") == ("expected", "")


def test_a_promise_that_is_changed_leaves_no_risk_of_the_old_one(database: Engine) -> None:
    world = a_world(database)
    world.run("d", "2026-03-02 00:00", "running", start_date="2026-03-02 05:30")
    world.tick_at("2026-03-02 05:31")
    world.add_dag("d", sla(**{**SIX, "by": "07:00"}, name="by-0600-UTC"))
    world.tick_at("2026-03-02 05:52")
    world.tick_at("2026-03-02 06:01")
    assert world.states()["2026-03-02 0700"] == ("expected", "")
    assert (len([name for name in world.states() if name.startswith("2026-03-02")]), world.told()) == (1, [])


def test_without_ten_good_runs_nothing_is_said(database: Engine) -> None:
    world = a_world(database, runs=9, on_risk="tell")
    world.run("d", "2026-03-02 00:00", "running", start_date="2026-03-02 05:59")
    world.tick_at("2026-03-02 05:59:30")
    assert world.state("2026-03-02") == ("expected", "")


def test_what_feeds_it_is_counted_in(database: Engine) -> None:
    world = a_world(database)
    history(world, "raw", minutes=120)
    world.feed("raw", "d")
    world.run("raw", "2026-03-02 00:00", "running", start_date="2026-03-02 02:30")
    world.tick_at("2026-03-02 02:40")
    assert world.state("2026-03-02") == ("expected", ""), "04:31 and an hour is in time"
    world.set_run("raw", "scheduled__2026-03-02 00:00", start_date="2026-03-02 03:30")
    world.tick_at("2026-03-02 03:41")
    assert world.state("2026-03-02") == ("at_risk", "fed_late")


@pytest.mark.parametrize(
    ("left", "share"),
    [pytest.param(200, 0.0, id="time-enough"), pytest.param(30, 1.0, id="half-as-long-again-is-too-long")],
)
def test_a_run_longer_than_all_before_is_likely_late_only_if_due_soon(left: int, share: float) -> None:
    now = at("2026-03-02 05:00")
    found = running(started=now - 90 * MINUTE, past=[60 * MINUTE] * 10, limit=now + left * MINUTE, now=now)
    assert found is not None
    assert (found.share, found.likely) == (share, share == 1.0)


def test_only_runs_that_took_as_long_speak_for_the_rest() -> None:
    now = at("2026-03-02 05:00")
    past = [10 * MINUTE] * 15 + [60 * MINUTE] * 5
    found = running(started=now - 20 * MINUTE, past=past, limit=now + 30 * MINUTE, now=now)
    assert found is not None
    assert (found.share, found.eta) == (1.0, now + 40 * MINUTE)
    early = waiting(past=past, limit=now + 30 * MINUTE, begin=now, now=now)
    assert early is not None
    assert (early.share, early.likely) == (0.25, False)
