"""The SLA commands on a ledger that the monitor has written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow import settings
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from airflow_ext.cli import main
from airflow_ext.sla import Channel
from airflow_ext.sla.ledger.models import ActionRow, OccurrenceRow
from tests.unit.sla.sender.test_send import BOSS, MAIL, STEPS, Desk
from tests.unit.sla.world import at


@pytest.fixture
def database() -> Engine:
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


@pytest.fixture
def desk(database: Engine, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Five days: two good, one late, one missed, one to come."""
    monkeypatch.setattr(settings, "engine", database)
    desk = Desk(database)
    desk.wire.answers[BOSS] = {"error": "ConnectionError: gone"}
    more: dict[str, Any] = {"owner": "team-x", "budget": "1 in 10", "escalate": STEPS}
    desk.promise("marts", severity="page", channels=[MAIL, Channel("tests.nowhere.Chat")], **more)
    for day in ("02", "03"):
        desk.world.run("marts", f"2026-03-{day} 00:00", ended=f"2026-03-{day} 04:00")
        desk.send_at(f"2026-03-{day} 05:01")
    desk.send_at("2026-03-04 05:01")
    desk.world.run("marts", "2026-03-04 00:00", ended="2026-03-04 05:40")
    desk.send_at("2026-03-04 05:41")
    desk.send_at("2026-03-05 05:01")
    desk.send_at("2026-03-05 05:40")
    return desk


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main.main(["sla", *words]) == status
    captured = capsys.readouterr()
    return captured.out or captured.err


def test_an_incident_is_seen_explained_and_taken_care_of(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Open incidents: 1, not acknowledged: 1" in run(capsys, "status", status=1)
    (item,) = json.loads(run(capsys, "list", "--format", "json"))
    assert (item["dag_id"], item["cause"], item["state"], item["owner"]) == (
        "marts",
        "never_started",
        "missed",
        "team-x",
    )
    number = str(item["id"])
    run(capsys, "ack", number, "--why", "looking at it", "--who", "ann")
    run(capsys, "snooze", number, "--why", "lunch", "--who", "ann", "--for", "2h")
    story = run(capsys, "explain", number)
    for words in (
        "marts (by-0500-UTC), no run was created; acknowledged by ann",
        "Last good  Wed 04 Mar 2026 05:40:00 UTC",
        "missed the last one, 2 of 4 in all",
        "ConnectionError: gone",
        "looking at it",
        "lunch",
    ):
        assert words in story
    run(capsys, "excuse", number, "--why", "holiday", "--who", "ann")
    assert desk.world.rows(OccurrenceRow)[3].state == "excused"
    assert [row.action for row in desk.world.rows(ActionRow)] == ["ack", "snooze", "excuse"]
    desk.wire.calls.clear()
    desk.world.now = at("2030-01-01 00:00")  # the command's clock is the real one
    desk.send()
    assert {call.event.kind for call in desk.wire.calls} == {"resolved"}, "the channels hear of it"
    assert "No incidents" in run(capsys, "list")
    assert len(json.loads(run(capsys, "list", "--all", "--days", "9999", "--format", "json"))) == 2
    assert "is over (excused)" in run(capsys, "ack", number, "--why", "again", status=1)


def test_what_the_commands_say_fits_the_terminal(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        for words in (
            ["list"],
            ["list", "--all", "--days", "9999"],
            ["explain", "2"],
            ["report"],
            ["suggest"],
        ):
            text = run(capsys, *words)
            assert max(map(len, text.splitlines())) <= columns, text


def test_budget_and_burn_are_reported(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    (item,) = json.loads(run(capsys, "report", "marts", "--format", "json"))
    assert item["budget"] == {"allowed": 1, "in": 10, "used": 2, "remaining": -1.0}
    assert item["burn"] == {"3": pytest.approx(6.67), "10": None, "30": None}
    assert "not enough history" in run(capsys, "suggest")


def test_a_deadline_is_suggested_for_a_dag_that_has_none(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(1, 21):
        begin, minute = f"2026-02-{day:02} 00:00", 10 + day
        desk.world.run("raw", begin, ended=f"2026-02-{day:02} 04:{minute}")
    desk.world.run("raw", "2026-02-21 00:00", "failed")
    text = run(capsys, "suggest", "raw", "--tz", "Europe/Berlin")
    assert "its last 21 runs, 1 of them failed" in text
    assert 'sla(by="05:30", tz="Europe/Berlin", ...)' in text
    assert "sla(within=timedelta(minutes=270), ...)" in text
    desk.world.run("new", "2026-02-21 00:00")
    assert "not enough history" in run(capsys, "suggest", "new")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        pytest.param(["explain", "99"], "there is no incident 99", id="unknown"),
        pytest.param(["ack", "2", "--why", " "], "why= is empty", id="no-reason"),
        pytest.param(
            ["snooze", "2", "--why", "x", "--for", "soon"], "write a number and m, h or d", id="span"
        ),
        pytest.param(["snooze", "2", "--why", "x", "--for", "99d"], "31 days", id="too-long"),
        pytest.param(["report", "nowhere"], "has no SLA in force", id="no-dag"),
        pytest.param(["suggest", "nowhere"], "neither an SLA nor a run", id="no-dag-no-run"),
        pytest.param(["suggest", "marts", "--tz", "Berlin"], "is not a time zone", id="zone"),
        pytest.param(["list", "--all", "--days", "0"], "at least 1", id="days"),
    ],
)
def test_wrong_use_says_what_to_do(
    desk: Desk, capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    assert hint in run(capsys, *words, status=1)


def test_without_tables_the_way_out_is_named(
    database: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "engine", database)
    assert "run airflow db migrate" in run(capsys, "status", status=1)
