"""Misses with one cause are one incident with children, and what stays broken when the cause is over is told after all."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from airflow_ext.sla import sla
from airflow_ext.sla.ledger.models import IncidentRow, OutboxRow
from airflow_ext.sla.monitor.causes import downstream, upstream
from airflow_ext.sla.trends import actions
from tests.unit.sla.world import CALLBACK, MINUTE, World


@pytest.fixture
def chain(world: World) -> World:
    """Raw feeds marts, which feeds reports; each has promised six, raw already half past five."""
    for dag_id, by in (("raw", "05:30"), ("marts", "06:00"), ("reports", "06:00"), ("other", "06:00")):
        world.add_dag(dag_id, sla(by=by, tz="UTC", callback=CALLBACK, name="p"))
    world.feed("raw", "marts")
    world.feed("marts", "reports")
    world.tick_at("2026-03-01 12:00")
    return world


def told(world: World) -> list[tuple[str, str]]:
    """Return whose incident each message is about, and which."""
    keys = {row.id: row.key.partition("/")[0] for row in world.rows(IncidentRow)}
    return [(keys[row.incident_id], row.kind) for row in world.rows(OutboxRow)]


def test_what_is_upstream_is_one_incident_and_the_rest_its_children(chain: World) -> None:
    chain.tick_at("2026-03-02 05:30")
    chain.tick_at("2026-03-02 06:00")
    raw, *others = chain.rows(IncidentRow)
    parents = {row.key.partition("/")[0]: row.parent_id for row in others}
    assert parents == {"marts": raw.id, "reports": raw.id, "other": None}
    assert told(chain) == [("raw", "open"), ("other", "open")]


def test_in_one_look_too_also_after_a_long_silence(chain: World) -> None:
    chain.tick_at("2026-03-02 09:00")
    assert told(chain) == [("raw", "open"), ("other", "open")]
    for dag_id in ("raw", "marts", "reports"):
        chain.run(dag_id, "2026-03-02 00:00", ended="2026-03-02 09:30")
    chain.tick_at("2026-03-02 10:00")
    assert told(chain)[2:] == [("raw", "resolve")]
    assert chain.state("2026-03-02", "reports") == ("recovered", "late")


def test_what_has_a_cause_of_its_own_is_no_child(chain: World) -> None:
    chain.run("marts", "2026-03-02 00:00", "failed", ended="2026-03-02 01:00")
    chain.set_dag("reports", is_paused=True)
    chain.tick_at("2026-03-02 06:00")
    assert {row.parent_id for row in chain.rows(IncidentRow)} == {None}


def test_what_stays_broken_when_the_cause_is_over_is_told(chain: World) -> None:
    chain.tick_at("2026-03-02 06:00")
    chain.run("raw", "2026-03-02 00:00", ended="2026-03-02 06:10")
    chain.run("marts", "2026-03-02 00:00", ended="2026-03-02 06:20")
    chain.tick_at("2026-03-02 06:25")
    assert ("reports", "open") not in told(chain)
    chain.tick_at("2026-03-02 06:42")
    assert told(chain)[-1] == ("reports", "open")
    chain.run("reports", "2026-03-02 00:00", ended="2026-03-02 07:00")
    chain.tick_at("2026-03-02 07:01")
    assert told(chain)[-1] == ("reports", "resolve")


def test_if_the_cause_is_excused_they_are_told_at_once(chain: World) -> None:
    chain.tick_at("2026-03-02 06:00")
    with Session(chain.engine) as session:
        raw = session.query(IncidentRow).order_by(IncidentRow.id).first()
        assert raw is not None
        actions.excuse(session, raw, who="ann", why="never mind", now=chain.now)
        session.commit()
    chain.tick_at("2026-03-02 06:02")
    assert {("marts", "open"), ("reports", "open")} <= set(told(chain))


def test_a_promise_about_an_asset_has_its_makers_upstream(world: World) -> None:
    world.add_dag("raw", sla(by="05:30", tz="UTC", callback=CALLBACK))
    world.add_dag("reader", sla(asset="raw/made", by="06:00", tz="UTC", callback=CALLBACK), schedule=None)
    world.feed("raw", "somebody")
    world.tick_at("2026-03-01 12:00")
    world.tick_at("2026-03-02 06:00")
    assert told(world) == [("raw", "open")]


def test_why_data_did_not_come_is_said_of_the_dag_that_makes_it(world: World) -> None:
    world.add_dag("raw", None)
    world.add_dag("reader", sla(asset="raw/made", by="06:00", tz="UTC", callback=CALLBACK), schedule=None)
    world.feed("raw", "reader")
    world.set_dag("reader", is_paused=True)
    world.tick_at("2026-03-01 12:00")
    world.tick_at("2026-03-02 06:00")
    assert world.state("2026-03-02") == ("missed", "no_event")
    world.set_dag("raw", is_paused=True)
    world.tick_at("2026-03-03 06:00")
    assert world.state("2026-03-03") == ("missed", "paused")


def test_dags_that_feed_each_other_have_one_incident(database: Engine) -> None:
    world = World(database)
    for dag_id in ("a", "b"):
        world.add_dag(dag_id, sla(by="06:00", tz="UTC", callback=CALLBACK))
    world.feed("a", "b")
    world.feed("b", "a")
    world.tick_at("2026-03-01 12:00")
    world.tick_at("2026-03-02 06:00")
    assert [kind for _, kind in told(world)] == ["open"]
    with Session(database) as session:
        assert upstream(session, ["a"]) == {"a": ["b"]}
        assert downstream(session, "a") == ["b"]


def test_what_was_never_repaired_explains_nothing_once_the_promise_was_kept_again(chain: World) -> None:
    chain.run("raw", "2026-03-02 00:00", "failed", ended="2026-03-02 01:00")
    for dag_id in ("marts", "reports", "other"):
        chain.run(dag_id, "2026-03-02 00:00", ended="2026-03-02 01:00")
    chain.tick_at("2026-03-02 06:01")
    chain.tick_at("2026-03-02 12:01")
    for dag_id in ("raw", "reports", "other"):
        chain.run(dag_id, "2026-03-03 00:00", ended="2026-03-03 01:00")
    chain.run("marts", "2026-03-03 00:00", "running")
    chain.tick_at("2026-03-03 06:01")
    assert told(chain) == [("raw", "open"), ("marts", "open")]


def test_nor_does_what_nobody_looks_after_any_more(chain: World) -> None:
    chain.run("raw", "2026-03-02 00:00", "failed", ended="2026-03-02 01:00")
    for dag_id in ("marts", "reports", "other"):
        chain.run(dag_id, "2026-03-02 00:00", ended="2026-03-02 01:00")
    chain.tick_at("2026-03-02 06:01")
    chain.add_dag("raw", None)
    chain.tick_at("2026-03-02 12:01")
    for dag_id in ("reports", "other"):
        chain.run(dag_id, "2026-03-03 00:00", ended="2026-03-03 01:00")
    chain.run("marts", "2026-03-03 00:00", "running")
    chain.tick_at("2026-03-03 06:01")
    assert ("marts", "open") in told(chain)


def test_in_one_look_the_cause_is_found_whatever_was_due_and_written_first(world: World) -> None:
    world.add_dag("marts", sla(by="06:00", tz="UTC", callback=CALLBACK, name="p"))
    world.tick_at("2026-03-01 12:00")
    world.now += MINUTE
    world.add_dag("raw", sla(by="06:30", tz="UTC", callback=CALLBACK, name="p"))
    world.feed("raw", "marts")
    world.tick_at("2026-03-01 12:02")
    world.run("raw", "2026-03-02 00:00", "failed", ended="2026-03-02 06:20")
    world.tick_at("2026-03-02 07:00")
    assert told(world) == [("raw", "open")]
