"""The words of a notice."""

from __future__ import annotations

import dataclasses
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_ext.sla.event import SlaEvent
from airflow_ext.sla.wording import duration, moment

DUE = datetime(2026, 3, 2, 5, 0, tzinfo=UTC)
EVENT = SlaEvent(
    key="marts/early/2026-03-02",
    policy="early",
    promise="done by 06:00 Europe/Berlin, every day (grace 5 min)",
    severity="page",
    owner="team-x",
    dag_id="marts",
    run_id="scheduled__2026-03-02",
    run_type="scheduled",
    due=DUE,
    zone="Europe/Berlin",
    told_at=DUE + timedelta(minutes=5, seconds=2),
    state="running",
    logical_date=None,
    started=DUE - timedelta(hours=1),
    ended=None,
    url="http://airflow/dags/marts/runs/scheduled__2026-03-02",
    deadline_id="0190",
)


def test_text_of_a_late_run() -> None:
    assert EVENT.text == (
        "marts missed its SLA: the run is 5 min 2 s late and still running.\n"
        "\n"
        "Promise   done by 06:00 Europe/Berlin, every day (grace 5 min)\n"
        "Due       Mon 02 Mar 2026 06:00:00 CET\n"
        "Late      5 min 2 s so far\n"
        "State     running since Mon 02 Mar 2026 05:00:00 CET\n"
        "Run       scheduled__2026-03-02 (scheduled)\n"
        "Owner     team-x\n"
        "Severity  page\n"
        "Policy    early\n"
        "Link      http://airflow/dags/marts/runs/scheduled__2026-03-02\n"
    )


@pytest.mark.parametrize(
    ("changes", "subject", "headline"),
    [
        pytest.param(
            {},
            "[page] SLA missed: marts is still running, was due 06:00:00 CET",
            "the run is 5 min 2 s late and still running.",
            id="running",
        ),
        pytest.param(
            {"state": "queued", "started": None},
            "[page] SLA missed: marts has not started, was due 06:00:00 CET",
            "the run is 5 min 2 s late and has not started.",
            id="queued",
        ),
        pytest.param(
            {"state": "failed", "ended": DUE - timedelta(minutes=20)},
            "[page] SLA missed: marts failed, was due 06:00:00 CET",
            "the run failed 20 min before it was due.",
            id="failed-before",
        ),
        pytest.param(
            {"state": "failed", "ended": DUE + timedelta(minutes=1)},
            "[page] SLA missed: marts failed, was due 06:00:00 CET",
            "the run failed 1 min after it was due.",
            id="failed-after",
        ),
        pytest.param(
            {"state": "success", "ended": DUE + timedelta(minutes=7)},
            "[page] SLA missed: marts finished 7 min late, was due 06:00:00 CET",
            "the run finished 7 min late.",
            id="too-late",
        ),
    ],
)
def test_each_end_is_told_as_it_is(changes: dict[str, Any], subject: str, headline: str) -> None:
    event = dataclasses.replace(EVENT, **changes)
    assert event.subject == subject
    assert event.text.splitlines()[0] == f"marts missed its SLA: {headline}"
    assert headline in event.html


def test_html_escapes_and_links() -> None:
    event = dataclasses.replace(EVENT, owner="<b>& Co")
    assert "&lt;b&gt;&amp; Co" in event.html
    assert f'<a href="{EVENT.url}">' in event.html


def test_nobody_in_charge_is_said() -> None:
    assert "nobody is named" in dataclasses.replace(EVENT, owner="").text


def test_the_date_of_a_run_is_shown_where_it_has_one() -> None:
    assert "Date      Sun 01 Mar 2026" in dataclasses.replace(EVENT, logical_date=DUE - timedelta(1)).text


def test_survives_pickle_after_use() -> None:
    assert EVENT.html
    assert pickle.loads(pickle.dumps(EVENT)) == EVENT  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(timedelta(0), "0 s", id="nothing"),
        pytest.param(timedelta(seconds=-5), "5 s", id="sign"),
        pytest.param(timedelta(seconds=3601), "1 h", id="skips-the-small"),
        pytest.param(timedelta(minutes=80), "1 h 20 min", id="two-units"),
        pytest.param(timedelta(days=3, hours=4, minutes=5), "3 d 4 h", id="days"),
    ],
)
def test_durations(value: timedelta, expected: str) -> None:
    assert duration(value) == expected


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        pytest.param("Europe/Berlin", "06:00:00 CET", id="letters"),
        pytest.param("America/Sao_Paulo", "02:00:00 -0300 America/Sao_Paulo", id="no-letters"),
    ],
)
def test_moments(zone: str, expected: str) -> None:
    assert moment(DUE, zone=zone, day=False) == expected
