"""Which time a run owes, and what is refused when a policy is written."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.policy import DEFAULT_LATE_START, Policy, RunFacts

ARGUMENTS: dict[str, Any] = {
    "by": None,
    "within": None,
    "tz": None,
    "days": None,
    "grace": timedelta(0),
    "owner": "team-x",
    "severity": "page",
    "name": None,
    "run_types": None,
    "late_start": DEFAULT_LATE_START,
}


def make(**changes: Any) -> Policy:
    return Policy.make(**{**ARGUMENTS, **changes})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def run(run_type: str, after: str, *, created: str | None = None, **more: str) -> RunFacts:
    return RunFacts(
        run_type=run_type,
        run_after=at(after),
        created=at(created or after),
        **{name: at(value) for name, value in more.items()},
    )


SIX_IN_BERLIN = {"by": "06:00", "tz": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(
            run("scheduled", "2026-03-02T23:00"), "2026-03-03T05:00", id="midnight-run-same-morning"
        ),
        pytest.param(run("scheduled", "2026-03-02T21:00"), "2026-03-03T05:00", id="evening-run-next-morning"),
        pytest.param(
            run("scheduled", "2026-03-02T16:00"), "2026-03-03T05:00", id="afternoon-run-next-morning"
        ),
        pytest.param(run("scheduled", "2026-03-02T05:00"), "2026-03-03T05:00", id="run-of-six-next-morning"),
        pytest.param(
            run("scheduled", "2026-03-02T23:00", created="2026-03-03T05:30"),
            "2026-03-03T05:00",
            id="created-late-is-late",
        ),
        pytest.param(
            run("scheduled", "2026-03-02T23:00", created="2026-03-03T17:30"), None, id="catch-up-is-nobodys"
        ),
        pytest.param(run("scheduled", "2020-03-02T23:00", created="2026-03-03T17:30"), None, id="old-date"),
        pytest.param(
            run("asset_triggered", "2026-03-03T05:30"), "2026-03-03T05:00", id="asset-run-after-six"
        ),
        pytest.param(
            run("asset_triggered", "2026-03-03T04:30"), "2026-03-03T05:00", id="asset-run-before-six"
        ),
        pytest.param(run("asset_triggered", "2026-03-03T21:30"), "2026-03-04T05:00", id="asset-run-at-night"),
        pytest.param(
            run("operator_triggered", "2026-03-03T02:00", logical_date="2026-03-02T23:00"),
            "2026-03-03T05:00",
            id="triggered-with-a-date",
        ),
        pytest.param(
            run("operator_triggered", "2026-03-03T02:00", interval_end="2025-03-02T23:00"),
            None,
            id="triggered-for-an-old-date",
        ),
        pytest.param(run("backfill", "2026-03-02T23:00"), None, id="backfill"),
        pytest.param(run("manual", "2026-03-02T23:00"), None, id="manual"),
        pytest.param(run("scheduled", "2026-03-28T23:00"), "2026-03-29T04:00", id="day-of-23-hours"),
        pytest.param(run("scheduled", "2026-10-24T22:00"), "2026-10-25T05:00", id="day-of-25-hours"),
    ],
)
def test_by(facts: RunFacts, expected: str | None) -> None:
    due = make(**SIX_IN_BERLIN).due_for(facts)
    assert (due.at if due else None) == (at(expected) if expected else None)


def test_a_run_of_a_day_that_is_not_promised_owes_nothing() -> None:
    policy = make(**SIX_IN_BERLIN, days="mon-fri")
    assert policy.due_for(run("scheduled", "2026-03-06T23:00")) is None  # due on a Saturday
    friday = policy.due_for(run("scheduled", "2026-03-05T23:00"))
    assert friday is not None
    assert friday.day == date(2026, 3, 6)


def test_late_start_zero_makes_every_run_owe_the_next_time() -> None:
    policy = make(**SIX_IN_BERLIN, late_start=timedelta(0))
    due = policy.due_for(run("asset_triggered", "2026-03-03T16:00"))
    assert due is not None
    assert due.at == at("2026-03-04T05:00")


def test_within_counts_from_the_queue() -> None:
    policy = make(within=timedelta(minutes=30))
    queued = policy.due_for(run("manual", "2026-03-03T10:00", queued="2026-03-03T10:01"))
    created = policy.due_for(run("scheduled", "2026-03-03T09:00", created="2026-03-03T10:00"))
    assert queued is not None
    assert created is not None
    assert (queued.at, created.at) == (at("2026-03-03T10:31"), at("2026-03-03T10:30"))
    assert policy.due_for(run("backfill", "2026-03-03T10:00")) is None


def test_run_types_are_what_was_asked_for() -> None:
    policy = make(**SIX_IN_BERLIN, run_types=["backfill", "manual"])
    assert policy.due_for(run("manual", "2026-03-02T23:00")) is not None
    assert policy.due_for(run("backfill", "2026-03-02T23:00")) is not None
    assert policy.due_for(run("scheduled", "2026-03-02T23:00")) is None


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(make(**SIX_IN_BERLIN, days=["mon"], grace=timedelta(minutes=5)), id="by"),
        pytest.param(make(within=timedelta(minutes=90), owner="", run_types=["manual"]), id="within"),
    ],
)
def test_flat_form_survives_json_and_is_flat(policy: Policy) -> None:
    flat = policy.to_flat()
    assert not [value for value in flat.values() if isinstance(value, (dict, list, tuple))]
    assert Policy.from_flat(json.loads(json.dumps(flat))) == policy


@pytest.mark.parametrize(
    ("changes", "name", "promise"),
    [
        pytest.param(
            {**SIX_IN_BERLIN, "days": "mon-fri", "grace": timedelta(minutes=5)},
            "by-0600-Europe-Berlin-mon-fri",
            "done by 06:00 Europe/Berlin, mon-fri (grace 5 min)",
            id="by",
        ),
        pytest.param(
            {"within": timedelta(hours=1, minutes=30)},
            "within-1h30min",
            "done within 1 h 30 min of being queued",
            id="within",
        ),
        pytest.param(
            {"by": "06:00:30", "tz": "Etc/GMT+5", "name": "n.1"},
            "n.1",
            "done by 06:00:30 Etc/GMT+5, every day",
            id="named",
        ),
    ],
)
def test_name_and_words(changes: dict[str, Any], name: str, promise: str) -> None:
    policy = make(**changes)
    assert (policy.name, policy.promise) == (name, promise)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        pytest.param({}, InvalidError, "neither is given", id="neither"),
        pytest.param({"by": "06:00", "within": timedelta(1)}, InvalidError, "both are given", id="both"),
        pytest.param({"by": "06:00"}, InvalidError, "needs tz=", id="no-zone"),
        pytest.param({"by": "06:00", "tz": "Mars/Base"}, InvalidError, "tz='Mars/Base'", id="zone"),
        pytest.param({"by": "25:00", "tz": "UTC"}, InvalidError, "by='25:00'", id="time"),
        pytest.param(
            {**SIX_IN_BERLIN, "days": "someday"}, InvalidError, "'someday' is not a weekday", id="day"
        ),
        pytest.param(
            {"within": timedelta(1), "days": "mon"}, InvalidError, "not with within=", id="within-days"
        ),
        pytest.param({"within": timedelta(0)}, InvalidError, "within=", id="within-nothing"),
        pytest.param({"within": timedelta(days=400)}, InvalidError, "366 d", id="within-too-long"),
        pytest.param({"within": 60}, TypeError, "timedelta", id="within-number"),
        pytest.param({**SIX_IN_BERLIN, "grace": -timedelta(1)}, InvalidError, "grace=", id="grace-negative"),
        pytest.param(
            {**SIX_IN_BERLIN, "grace": timedelta(1)}, InvalidError, "grace=", id="grace-of-a-period"
        ),
        pytest.param({**SIX_IN_BERLIN, "grace": "5m"}, TypeError, "grace='5m'", id="grace-text"),
        pytest.param(
            {**SIX_IN_BERLIN, "late_start": timedelta(2)}, InvalidError, "late_start=", id="late-start"
        ),
        pytest.param(
            {**SIX_IN_BERLIN, "severity": "loud"}, InvalidError, "page, ticket, info", id="severity"
        ),
        pytest.param({**SIX_IN_BERLIN, "owner": "x" * 251}, InvalidError, "at most 250", id="long-owner"),
        pytest.param({**SIX_IN_BERLIN, "owner": 7}, TypeError, "owner=7", id="owner"),
        pytest.param({**SIX_IN_BERLIN, "name": "a b"}, InvalidError, "name='a b'", id="name"),
        pytest.param(
            {**SIX_IN_BERLIN, "run_types": "manual"}, TypeError, r"\['manual'\]", id="run-types-text"
        ),
        pytest.param({**SIX_IN_BERLIN, "run_types": ["x"]}, InvalidError, "asset_triggered", id="run-type"),
        pytest.param({**SIX_IN_BERLIN, "run_types": []}, InvalidError, "run_types=", id="no-run-types"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make(**changes)


def key(policy: Policy, *, dag_id: str = "d", run_id: str = "r", due: str = "2026-03-02T05:00") -> str:
    return policy.occurrence_key(dag_id=dag_id, run_id=run_id, due=at(due))


def test_runs_that_owe_one_time_of_one_local_date_share_a_key() -> None:
    policy = make(**SIX_IN_BERLIN, name="early")
    assert key(policy) == key(policy, run_id="other") == "d/early/2026-03-02/0600"
    assert key(policy, due="2026-03-03T05:00") == "d/early/2026-03-03/0600"


def test_the_date_of_a_key_is_local() -> None:
    policy = make(by="00:30", tz="Europe/Berlin", name="night")
    assert key(policy, due="2026-03-01T23:30") == "d/night/2026-03-02/0030"


def test_each_run_of_a_within_has_a_key_of_its_own() -> None:
    policy = make(within=timedelta(hours=1), name="slow")
    keys = [key(policy, run_id=f"r{number}") for number in range(100)]
    assert len(set(keys)) == 100
    assert keys == [key(policy, run_id=f"r{number}") for number in range(100)]
    assert key(policy) == "d/slow/2026-03-02/run-454349e422f0"


@pytest.mark.parametrize(
    "kind",
    [pytest.param(SIX_IN_BERLIN, id="by"), pytest.param({"within": timedelta(hours=1)}, id="within")],
)
def test_a_key_of_long_names_is_short_enough_and_still_one_of_its_own(kind: dict[str, Any]) -> None:
    """The longest ids that Airflow and sla() take differ only where they are cut."""
    policies = [make(**kind, name="p" * 99 + end) for end in "ab"]
    keys = [key(policy, dag_id="d" * 249 + end) for policy in policies for end in "ab"]
    assert len(set(keys)) == 4
    assert {len(each) for each in keys} == {255}
    assert all("/2026-03-02/" in each for each in keys)
