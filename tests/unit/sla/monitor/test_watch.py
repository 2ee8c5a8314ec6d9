"""What has ended since the last look is seen without a look at all that ended before."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from airflow_ext.sla import sla
from airflow_ext.sla.ledger.models import PolicyRow
from airflow_ext.sla.monitor.watch import Watch
from tests.unit.sla.world import CALLBACK, World

SIX: dict[str, Any] = {"by": "06:00", "tz": "Europe/Berlin", "callback": CALLBACK}


def test_only_dags_of_which_a_run_has_ended_are_news(database: Engine) -> None:
    world = World(database)
    for name in ("a", "b", "c"):
        world.add_dag(name, sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    world.run("c", "2026-03-01 00:00")
    names = {row.id: row.dag_id for row in world.rows(PolicyRow)}
    watch = Watch(batch=1, sweep=100)

    def news() -> list[str]:
        with Session(database) as session:
            return sorted(names[number] for number in watch.news(session, now=world.now))

    assert news() == ["a", "b", "c"]  # the first look goes through all
    assert news() == []
    run_id = world.run("a", "2026-03-02 00:00", "running")
    assert news() == []
    world.set_run("a", run_id, state="failed")
    assert news() == ["a"]
    world.set_run("a", run_id, state="queued")
    assert news() == []
    world.run("b", "2026-03-02 00:00")  # it began and ended between two looks
    world.drop_run("a", run_id)
    assert [news(), watch.more, news(), watch.more] == [["a"], True, ["b"], False]
    assert news() == []
    world.now += timedelta(minutes=1)
    assert news() == ["a", "b", "c"]  # the sweep


def test_tasks_of_unfinished_runs_and_assets_with_events_are_news(database: Engine) -> None:
    world = World(database)
    world.add_dag("a", [sla(**SIX, task="load"), sla(**SIX, asset="orders", name="data")])
    world.asset_event("orders", "2026-03-01 11:00")
    world.tick_at("2026-03-01 12:00")
    task, asset = (row.id for row in sorted(world.rows(PolicyRow), key=lambda row: row.subject, reverse=True))
    watch = Watch(batch=10, sweep=100)
    with Session(database) as session:
        assert watch.news(session, now=world.now) == sorted([task, asset])
        world.run("a", "2026-03-02 00:00", "running")
        world.asset_event("orders", "2026-03-02 00:10")
        assert watch.news(session, now=world.now) == sorted([task, asset])
