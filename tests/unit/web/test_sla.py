"""SLAs over REST, on Airflow's own app: who may read, who may act, and what they get."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.utils.session import create_session
from sqlalchemy import delete, update

from airflow_ext.sla import sla
from airflow_ext.sla.ledger.models import (
    ActionRow,
    IncidentRow,
    OccurrenceRow,
    OutboxRow,
    PolicyRow,
    PolicyVersionRow,
    ReplicaRow,
)
from airflow_ext.sla.ledger.models import (
    metadata as tables,
)
from airflow_ext.sla.sender.background import look_up
from tests.unit.web.conftest import Site

NOW = datetime.now(UTC).replace(microsecond=0)
BASE = "/airflow-ext/sla"


@pytest.fixture
def incident(metadata: None) -> Iterator[int]:
    """A missed promise of the DAG ``shop``, and one of a DAG that nobody may see."""
    from airflow import settings

    tables.create_all(settings.get_engine())
    with create_session() as session:
        numbers = [add(session, dag_id) for dag_id in ("shop", "secret")]
    yield numbers[0]
    with create_session() as session:
        for model in (
            ActionRow,
            OutboxRow,
            IncidentRow,
            OccurrenceRow,
            PolicyVersionRow,
            PolicyRow,
            ReplicaRow,
        ):
            session.execute(delete(model))


def add(session: Any, dag_id: str) -> int:
    kwargs = sla(
        by="06:00", tz="UTC", owner="team-x", budget="3 in 30", callback="tests.nowhere.tell"
    ).callback.kwargs
    policy = PolicyRow(
        dag_id=dag_id,
        name="by-0600",
        source="dag",
        fingerprint="f",
        kind="by",
        subject="run",
        run_types="scheduled",
        rule="r",
        owner="team-x",
        severity="page",
        created_at=NOW,
    )
    session.add(policy)
    session.flush()
    version = PolicyVersionRow(
        policy_id=policy.id, version=1, fingerprint="f", definition=json.dumps(dict(kwargs)), created_at=NOW
    )
    session.add(version)
    session.flush()
    policy.version_id = version.id
    occurrence = OccurrenceRow(
        policy_id=policy.id,
        version_id=version.id,
        local_date=date(2026, 3, 2),
        slot="0600",
        state="missed",
        cause="never_started",
        next_check_at=NOW,
        created_at=NOW,
        **dict.fromkeys(("due_at", "tell_at", "watch_from", "window_start", "window_end"), NOW),
        other_start=NOW,
        other_end=NOW,
    )
    session.add(occurrence)
    session.flush()
    found = IncidentRow(
        occurrence_id=occurrence.id,
        policy_id=policy.id,
        key=f"{dag_id}/by-0600",
        kind="missed",
        cause="never_started",
        severity="page",
        owner="team-x",
        opened_at=NOW,
    )
    session.add(found)
    session.flush()
    return int(found.id)


def ask(
    site: Site, method: str, path: str, *, user: str | None = "only-shop", role: str = "VIEWER", **more: Any
) -> httpx.Response:
    headers = dict(more.pop("headers", {}))
    if user is not None:
        token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=user, role=role))
        headers["Authorization"] = f"Bearer {token}"

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(site.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://airflow", headers=headers
        ) as client:
            return await client.request(method, BASE + path, **more)

    return asyncio.run(send())


def test_who_may_see_the_dag_sees_its_promises_and_no_others(site: Site, incident: int) -> None:
    assert [item["dag_id"] for item in ask(site, "GET", "/incidents").json()["incidents"]] == ["shop"]
    (promise,) = ask(site, "GET", "/promises").json()["promises"]
    assert (promise["dag_id"], promise["state"], promise["budget"]["allowed"]) == ("shop", "missed", 3)
    status = ask(site, "GET", "/status").json()
    assert (status["promises"], status["incidents"], status["monitors"]) == (1, 1, 0)
    story = ask(site, "GET", f"/incidents/{incident}")
    assert (story.status_code, story.json()["cause_text"]) == (200, "no run was created")
    assert story.headers["cache-control"] == "no-store"
    with create_session() as session:
        session.execute(update(IncidentRow).where(IncidentRow.id != incident).values(parent_id=incident))
        known = look_up(session, [incident])[incident]
    assert known.affected == ("secret (by-0600)",), "it broke because of this one"
    assert ask(site, "GET", f"/incidents/{incident}").json()["affects"] == []


@pytest.mark.parametrize(
    ("who", "statuses"),
    [
        pytest.param({"user": None}, (401, 401), id="nobody"),
        pytest.param({"user": "only-other"}, (404, 404), id="another-dag-only"),
        pytest.param({"user": "no-RUN"}, (404, 404), id="no-runs"),
        pytest.param({"user": "no-plugins"}, (403, 403), id="no-plugins"),
        pytest.param({"user": "only-shop"}, (200, 403), id="reads-only"),
        pytest.param({"user": "only-shop", "role": "USER"}, (200, 200), id="edits"),
    ],
)
def test_reading_and_acting_are_for_those_who_may(
    site: Site, incident: int, who: dict[str, Any], statuses: tuple[int, int]
) -> None:
    read = ask(site, "GET", f"/incidents/{incident}", **who)
    act = ask(site, "POST", f"/incidents/{incident}/ack", json={"why": "looking"}, **who)
    assert (read.status_code, act.status_code) == statuses, act.text
    assert act.headers["content-type"] == "application/json"
    with create_session() as session:
        assert (session.get_one(IncidentRow, incident).acknowledged_at is not None) == (statuses[1] == 200)


def test_a_deadline_is_suggested_to_who_may_see_the_runs(site: Site, incident: int) -> None:
    found = ask(site, "GET", "/suggest/shop?tz=Europe/Berlin")
    assert (found.status_code, found.json()["by"], found.json()["zone"]) == (200, "", "Europe/Berlin")
    assert ask(site, "GET", "/suggest/shop", user="only-other").status_code == 404
    assert ask(site, "GET", "/suggest/secret").status_code == 404
    wrong = ask(site, "GET", "/suggest/shop?tz=Mars")
    assert (wrong.status_code, "is not a time zone" in wrong.json()["detail"]) == (422, True)


def test_what_is_not_there_is_not_found(site: Site, incident: int) -> None:
    assert ask(site, "GET", "/incidents/99999").status_code == 404
    assert ask(site, "POST", "/incidents/99999/ack", json={"why": "x"}, role="USER").status_code == 404


def test_people_act_and_it_is_kept_who_and_why(site: Site, incident: int) -> None:
    path = f"/incidents/{incident}"
    who: dict[str, Any] = {"user": "only-shop", "role": "USER"}
    held = ask(site, "POST", f"{path}/snooze", json={"why": "lunch", "minutes": 60}, **who).json()
    until = datetime.fromisoformat(held["snoozed_until"])
    assert abs(until - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)
    over = ask(site, "POST", f"{path}/excuse", json={"why": "holiday"}, **who).json()
    assert (over["state"], over["resolution"]) == ("excused", "excused")
    assert [(item["action"], item["who"], item["why"]) for item in over["actions"]] == [
        ("snooze", "only-shop", "lunch"),
        ("excuse", "only-shop", "holiday"),
    ]
    again = ask(site, "POST", f"{path}/ack", json={"why": "x"}, **who)
    assert (again.status_code, "is over" in again.json()["detail"]) == (409, True)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({"content": '{"why": "x"}', "headers": {"Content-Type": "text/plain"}}, id="as-text"),
        pytest.param({"data": {"why": "x"}}, id="a-form"),
        pytest.param({"json": {}}, id="no-reason"),
        pytest.param({"json": {"why": "x", "more": 1}}, id="unknown-field"),
        pytest.param({"json": {"why": "x" * 2001}}, id="too-long"),
    ],
)
def test_a_wrong_body_changes_nothing(site: Site, incident: int, request_: dict[str, Any]) -> None:
    answer = ask(site, "POST", f"/incidents/{incident}/ack", role="USER", **request_)
    assert answer.status_code in (415, 422)
    with create_session() as session:
        assert session.get_one(IncidentRow, incident).acknowledged_at is None
