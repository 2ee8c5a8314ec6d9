"""How policies come into the ledger, change while occurrences are open, and leave it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from airflow_ext.sla import sla
from airflow_ext.sla.declare import ALSO
from airflow_ext.sla.ledger.models import (
    ActionRow,
    IncidentRow,
    OccurrenceRow,
    PolicyRow,
    PolicyTaskRow,
    PolicyVersionRow,
)
from airflow_ext.sla.monitor import tables
from airflow_ext.sla.monitor.timetables import ticks_of
from airflow_ext.sla.trends import actions
from tests.unit.sla.world import CALLBACK, HOUR, MINUTE, World

SIX: dict[str, Any] = {"by": "06:00", "tz": "Europe/Berlin", "callback": CALLBACK}


def test_a_change_makes_a_version_and_what_was_judged_keeps_its_own(world: World) -> None:
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    world.tick_at("2026-03-02 05:00")
    world.now = world.now.replace(hour=12)
    world.add_dag("d", sla(**SIX, grace=30 * MINUTE))
    world.tick_at("2026-03-02 12:01")
    first, second = world.rows(PolicyVersionRow)
    assert (first.version, second.version) == (1, 2)
    judged, following = world.rows(OccurrenceRow)
    assert (judged.version_id, judged.state) == (first.id, "missed")
    assert (following.version_id, following.tell_at - following.due_at) == (second.id, 30 * MINUTE)


def test_a_change_within_the_grace_loses_no_promise(world: World) -> None:
    world.add_dag("d", sla(**SIX, grace=5 * MINUTE))
    world.tick_at("2026-03-01 12:00")
    world.tick_at("2026-03-02 05:01")
    world.add_dag("d", sla(**SIX, grace=5 * MINUTE, owner="new"))
    world.tick_at("2026-03-02 05:02")
    world.tick_at("2026-03-02 05:05")
    assert world.state("2026-03-02") == ("missed", "never_started")


def test_a_change_forgets_no_excuse_and_who_gave_it(world: World) -> None:
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    world.run("d", "2026-03-02 00:00", "failed", ended="2026-03-02 01:00")
    world.tick_at("2026-03-02 01:01")
    with Session(world.engine) as session:
        incident = session.query(IncidentRow).one()
        actions.excuse(session, incident, who="ann", why="known", now=world.now)
        session.commit()
    world.add_dag("d", sla(**SIX, owner="new"))
    world.tick_at("2026-03-02 01:03")
    world.tick_at("2026-03-02 05:01")
    assert world.state("2026-03-02") == ("excused", "excused")
    assert [row.who for row in world.rows(ActionRow)] == ["ann"]
    assert [kind for kind, _, _ in world.told()] == ["open", "resolve"]


def test_a_change_of_freshness_leaves_the_rest_of_the_day_watched(world: World) -> None:
    world.add_dag("d", sla(fresh=HOUR, callback=CALLBACK, name="p"))
    world.tick_at("2026-03-01 12:00")
    world.tick_at("2026-03-01 13:20")
    world.run("d", "2026-03-01 13:20", ended="2026-03-01 13:30")
    world.tick_at("2026-03-01 13:31")
    world.add_dag("d", sla(fresh=HOUR, callback=CALLBACK, name="p", owner="new"))
    world.tick_at("2026-03-01 13:40")
    world.tick_at("2026-03-01 14:31")
    assert [kind for kind, _, _ in world.told()] == ["open", "resolve", "open"]


@pytest.mark.parametrize("damage", [{"policy": None}, {"owner": "new" * 100}, {ALSO: "{"}])
def test_what_cannot_be_read_is_left_as_it_was_and_keeps_no_other_from_being_read(
    world: World, caplog: pytest.LogCaptureFixture, damage: dict[str, Any]
) -> None:
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    world.now += MINUTE
    world.add_dag("d", sla(**SIX, owner="new"))
    world.add_dag("e", sla(**SIX))
    alert = tables.DEADLINE_ALERT
    with world.engine.begin() as connection:
        for row in connection.execute(select(alert)).all():
            stored = json.loads(json.dumps(row.callback_def))
            if stored["__data__"]["kwargs"]["owner"] == "new":
                stored["__data__"]["kwargs"] |= damage
                connection.execute(update(alert).where(alert.c.id == row.id).values(callback_def=stored))
    world.tick_at("2026-03-01 12:02")
    assert [(row.dag_id, row.retired_at) for row in world.rows(PolicyRow)] == [("d", None), ("e", None)]
    assert "DAG d cannot be read" in caplog.text


def test_a_timetable_that_breaks_keeps_no_other_from_being_watched(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def of(schedule: str) -> Any:
        if "17 *" in schedule:
            raise RuntimeError("a timetable of users")
        return ticks_of(schedule)

    world.add_dag("a", sla(**SIX), schedule="17 * * * *")
    world.add_dag("b", sla(**SIX))
    with mock.patch("airflow_ext.sla.monitor.materialise.ticks_of", of):
        world.tick_at("2026-03-01 12:00")
    assert (world.states("a"), bool(world.states("b"))) == ({}, True)
    assert "cannot be worked out" in caplog.text
    world.tick_at("2026-03-01 12:02")
    assert world.states("a")


def test_two_with_the_same_name_are_both_kept(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.add_dag("d", [sla(**SIX, severity="info"), sla(**SIX, severity="page")])
    world.tick_at("2026-03-01 12:00")
    named = {row.name: row.severity for row in world.rows(PolicyRow)}
    assert named == {"by-0600-Europe-Berlin": "info", "by-0600-Europe-Berlin-2": "page"}
    assert "give name=" in caplog.text


def test_the_same_policy_again_is_no_change(world: World) -> None:
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    world.add_dag("d", sla(**SIX))
    report = world.tick_at("2026-03-01 12:01")
    assert report.changed == 0
    assert len(world.rows(PolicyVersionRow)) == 1


def test_a_policy_that_vanishes_takes_what_it_still_expects_with_it(world: World) -> None:
    world.add_dag("d", [sla(**SIX), sla(by="07:00", tz="UTC", callback=CALLBACK)])
    world.tick_at("2026-03-01 12:00")
    run_id = world.run("d", "2026-03-02 00:00", "failed", ended="2026-03-02 01:00")
    world.tick_at("2026-03-02 01:01")
    assert {state for state, _ in world.states().values()} == {"at_risk"}
    world.add_dag("d", sla(by="07:00", tz="UTC", callback=CALLBACK))
    world.tick_at("2026-03-02 01:02")
    assert world.state("2026-03-02 0600") == ("void", "withdrawn")
    assert world.state("2026-03-02 0700") == ("at_risk", "failed")
    assert run_id
    world.add_dag("d", None)
    world.tick_at("2026-03-02 02:00")
    assert all(row.retired_why == "withdrawn" for row in world.rows(PolicyRow))
    assert [kind for kind, _, _ in world.told()] == ["open", "open", "resolve", "resolve"]


def test_a_renamed_dag_takes_its_history_along(world: World) -> None:
    world.add_dag("old", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    world.set_dag("old", is_stale=True)
    world.add_dag("new", sla(**SIX, formerly="old"))
    world.tick_at("2026-03-01 13:00")
    world.run("new", "2026-03-02 00:00")
    world.tick_at("2026-03-02 06:00")
    (policy,) = world.rows(PolicyRow)
    assert policy.dag_id == "new"
    assert world.state("2026-03-02") == ("met", "")
    assert world.told() == []


def test_a_group_is_all_its_tasks(world: World) -> None:
    from airflow.sdk import DAG, TaskGroup
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("d", schedule="@daily") as dag, TaskGroup("marts"):
        from airflow.providers.standard.operators.empty import EmptyOperator

        EmptyOperator(task_id="one")
        with TaskGroup("inner"):
            EmptyOperator(task_id="two")
    group = DagSerialization.to_dict(dag)["dag"]["task_group"]
    world.add_dag("d", sla(**SIX, group="marts"), task_group=group)
    world.tick_at("2026-03-01 12:00")
    assert [row.task_id for row in world.rows(PolicyTaskRow)] == ["marts.inner.two", "marts.one"]


def test_stored_data_that_cannot_be_read_leaves_the_policy_as_it_was(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    broken = sla(**SIX)
    broken.callback.kwargs["grace"] = "soon"
    world.add_dag("d", broken)
    world.add_dag("e", sla(**SIX))
    with caplog.at_level(logging.ERROR):
        world.tick_at("2026-03-01 12:00")
    assert [row.dag_id for row in world.rows(PolicyRow)] == ["e"]
    assert "cannot be read" in caplog.text


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 9)) + "slas: [*a8]"
YAML = """
slas:
  - dag: theirs
    by: "06:00"
    tz: Europe/Berlin
    grace: 5 min
    owner: finance
    channels:
      - notifier: airflow.providers.smtp.notifications.smtp.SmtpNotifier
        smtp_conn_id: mail
    escalate:
      - after: 30 min
        channels: [{notifier: a.B}]
"""


def test_slas_of_a_file_and_a_broken_file_changes_nothing(database: Any, tmp_path: Path) -> None:
    file = tmp_path / "slas.yaml"
    file.write_text(YAML)
    world = World(database, policies=tmp_path)
    world.add_dag("theirs", None)
    world.tick_at("2026-03-01 12:00")
    (policy,) = world.rows(PolicyRow)
    assert (policy.dag_id, policy.source, policy.owner) == ("theirs", "yaml", "finance")
    file.write_text(YAML.replace("Europe/Berlin", "Europe/Berln"))
    world.tick_at("2026-03-01 12:01")
    assert world.rows(PolicyRow)[0].retired_at is None
    world.tick_at("2026-03-02 05:06")
    assert world.told() == [("open", "missed", "never_started")]
    file.write_text("slas: []")
    world.tick_at("2026-03-02 05:07")
    assert world.rows(PolicyRow)[0].retired_at is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a: [", "no YAML", id="yaml"),
        pytest.param("[" * 3000, "nested too deeply", id="deep"),
        pytest.param(BOMB, "aliases counted", id="bomb"),
        pytest.param(
            "slas: [{dag: d, within: 99999999999999 d, callback: a.b}]", "longer than", id="too long"
        ),
        pytest.param("- 1", "under the key 'slas'", id="list"),
        pytest.param("slas: [{by: '06:00'}]", "dag=None", id="dag"),
        pytest.param(
            "slas: [{dag: d, by: '06:00', tz: UTC, callback: a.b, until: 3}]", "until: not known", id="key"
        ),
        pytest.param("slas: [{dag: d, within: 5, callback: a.b}]", "5 min", id="duration"),
        pytest.param("slas: [{dag: d, by: 360, tz: UTC, callback: a.b}]", "SLA 1: by=360", id="by"),
        pytest.param("slas: [{dag: d, by: '06:00', tz: UTC}]", "tell nobody", id="nobody"),
        pytest.param(
            "slas: [{dag: d, within: 1 h, callback: a.b, channels: x}]", "must be a list", id="channels"
        ),
        pytest.param("slas: [{dag: d, within: 1 h, channels: [{to: x}]}]", "with notifier", id="notifier"),
        pytest.param(
            "slas: [{dag: d, within: 1 h, channels: [{notifier: a.B, password: x}]}]", "secret", id="secret"
        ),
    ],
)
def test_what_a_file_must_not_say(tmp_path: Path, text: str, words: str) -> None:
    from airflow_ext.exceptions import InvalidError
    from airflow_ext.sla.policy_files import read_policies

    (tmp_path / "slas.yml").write_text(text)
    with pytest.raises(InvalidError, match=words):
        read_policies(tmp_path)
