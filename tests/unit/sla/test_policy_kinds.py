"""The kinds of promise beside a whole run's ``by`` and ``within``, calendars and escalation: what is taken, what is refused."""

from __future__ import annotations

import importlib.util
import json
from datetime import date, timedelta
from typing import Any

import pytest
from airflow.sdk import Asset

from airflow_ext.exceptions import InvalidError, MissingExtraError
from airflow_ext.sla import Channel, Step, sla
from airflow_ext.sla.clock import Due, due_on, parse_clock, parse_zone
from airflow_ext.sla.escalation import steps_from_json, steps_to_json
from airflow_ext.sla.policy import Policy

MAIL = Channel("airflow.providers.smtp.notifications.smtp.SmtpNotifier", smtp_conn_id="mail", to="ops@x")
SIX: dict[str, Any] = {"by": "06:00", "tz": "Europe/Berlin"}
HOUR = timedelta(hours=1)


def policy_of(**arguments: Any) -> Policy:
    """Build it as a DAG does, and read it back from what Airflow stores."""
    kwargs = json.loads(json.dumps(sla(channels=[MAIL], **arguments).callback.kwargs))
    assert not [value for value in kwargs.values() if isinstance(value, (dict, list))]
    return Policy.from_flat(kwargs)


@pytest.mark.parametrize(
    ("arguments", "kind", "subject", "name", "promise"),
    [
        pytest.param(
            {**SIX, "task": "load"},
            "by",
            "task",
            "load-by-0600-Europe-Berlin",
            "task load done by 06:00 Europe/Berlin, every day",
            id="task",
        ),
        pytest.param(
            {"within": HOUR, "group": "marts", "since": "start"},
            "within",
            "task",
            "marts-within-1h",
            "group marts done within 1 h of its start",
            id="group",
        ),
        pytest.param(
            {"fresh": 6 * HOUR, "asset": Asset("s3://lake/orders")},
            "fresh",
            "asset",
            "s3-lake-orders-fresh-6h",
            "asset s3://lake/orders updated again before it is 6 h old",
            id="asset",
        ),
        pytest.param(
            {"within": HOUR, "contract": "orders>=2,<3"},
            "within",
            "asset",
            "contract-orders-v2-within-1h",
            "contract orders v2 published within 1 h of its scheduled time",
            id="contract",
        ),
        pytest.param(
            {"every": 6 * HOUR, "at_least": 2, "grace": timedelta(minutes=5)},
            "every",
            "run",
            "every-6h",
            "done at least 2 times in every 6 h (grace 5 min)",
            id="every",
        ),
        pytest.param(
            {**SIX, "calendar": "DE-BY", "budget": "3 in 30"},
            "by",
            "run",
            "by-0600-Europe-Berlin",
            "done by 06:00 Europe/Berlin, every day, working days of DE-BY",
            id="calendar",
        ),
    ],
)
def test_kind_subject_name_and_words(
    arguments: dict[str, Any], kind: str, subject: str, name: str, promise: str
) -> None:
    policy = policy_of(**arguments)
    assert (policy.kind, policy.subject, policy.name, policy.promise) == (kind, subject, name, promise)
    assert Policy.from_flat(policy.to_flat()) == policy


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        pytest.param({**SIX, "fresh": HOUR}, InvalidError, "both are given", id="two-kinds"),
        pytest.param({**SIX, "tz": "Europe/Berln"}, InvalidError, "did you mean Europe/Berlin", id="zone"),
        pytest.param({"within": HOUR, "grace": 2 * HOUR}, InvalidError, "is longer than within=", id="grace"),
        pytest.param(
            {"every": HOUR, "grace": 2 * HOUR}, InvalidError, "is longer than every=", id="grace-every"
        ),
        pytest.param({"every": 5 * HOUR}, InvalidError, "does not divide a day", id="every"),
        pytest.param({**SIX, "at_least": 2}, InvalidError, "goes with every=", id="at-least"),
        pytest.param({**SIX, "calendar": "ZQ"}, InvalidError, "calendar='ZQ' is not known", id="calendar"),
        pytest.param(
            {**SIX, "calendar": "DE", "days": "sat-sun"}, InvalidError, "has no working day", id="no-day"
        ),
        pytest.param(
            {"within": HOUR, "calendar": "DE"}, InvalidError, "leave calendar out", id="calendar-within"
        ),
        pytest.param({**SIX, "exceptions": "2026-12-24"}, TypeError, "must be a list", id="exceptions-text"),
        pytest.param({**SIX, "exceptions": ["24.12."]}, InvalidError, "write a date", id="exceptions"),
        pytest.param(
            {**SIX, "maintenance": ["2026-12-05T22:00/2026-12-05T21:00"]},
            InvalidError,
            "ends before",
            id="maintenance",
        ),
        pytest.param({**SIX, "task": "a", "asset": "b"}, InvalidError, "one of them", id="two-subjects"),
        pytest.param({**SIX, "asset": 3}, TypeError, "must be an Asset", id="asset"),
        pytest.param(
            {**SIX, "contract": "orders>=1,<3"}, InvalidError, "spans major versions", id="contract"
        ),
        pytest.param({**SIX, "since": "queue"}, InvalidError, "goes with within=", id="since"),
        pytest.param(
            {"within": HOUR, "asset": "a", "since": "queue"},
            InvalidError,
            "data has no queue",
            id="since-asset",
        ),
        pytest.param({**SIX, "on_paused": "ignore"}, InvalidError, "excuse_after_ack", id="on-paused"),
        pytest.param({**SIX, "budget": "3/30"}, InvalidError, "3 in 30", id="budget"),
        pytest.param(
            {**SIX, "escalate": Step(after=HOUR, channels=[MAIL])}, TypeError, "list", id="escalate"
        ),
        pytest.param(
            {**SIX, "escalate": [Step(after=HOUR, channels=[MAIL]), Step(after=HOUR, channels=[MAIL])]},
            InvalidError,
            "in the order",
            id="escalate-order",
        ),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sla(channels=[MAIL], **arguments)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_ext.sla import calendars

    calendars.holidays_of.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"airflow-ext\[calendars\]"):
        sla(channels=[MAIL], calendar="DE", **SIX)


def test_working_days_and_what_is_excused() -> None:
    policy = policy_of(
        **SIX,
        calendar="DE-BY",
        exceptions=["2026-01-12..2026-01-13"],
        maintenance=["2026-01-15T05:00/2026-01-15T07:00"],
    )
    days = [date(2026, 1, day) for day in range(5, 17)]
    at, zone = parse_clock("06:00"), parse_zone("Europe/Berlin")
    dues = {day: Due(day, due_on(day, at=at, zone=zone)) for day in days if policy.promised_on(day)}
    assert [day.day for day in dues] == [5, 7, 8, 9, 12, 13, 14, 15, 16]  # the 6th is Epiphany in Bavaria
    excused = {day.day: policy.excuse_for(due) for day, due in dues.items() if policy.excuse_for(due)}
    assert excused == {12: "exception", 13: "exception", 15: "maintenance"}


def test_another_promise_is_another_version_and_the_same_one_is_not() -> None:
    assert policy_of(**SIX).fingerprint == policy_of(**SIX).fingerprint
    assert policy_of(**SIX).fingerprint != policy_of(**SIX, grace=HOUR).fingerprint


def test_steps_survive_their_text() -> None:
    steps = [Step(after=HOUR, channels=[MAIL], owner="lead"), Step(after=2 * HOUR, channels=[MAIL])]
    assert steps_from_json(steps_to_json(steps)) == steps
