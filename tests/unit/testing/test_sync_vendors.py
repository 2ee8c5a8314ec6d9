"""The local Fivetran and Airbyte answer as their wire contracts say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from airflow_ext.testing.airbyte import JobScript, LocalAirbyte
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from tests.unit.sync.remote import Clock


@pytest.fixture
def fivetran() -> Iterator[LocalFivetran]:
    with LocalFivetran(clock=Clock()) as server:
        yield server


@pytest.fixture
def ft(fivetran: LocalFivetran) -> Iterator[httpx.Client]:
    auth = (fivetran.api_key, fivetran.api_secret)
    with httpx.Client(base_url=f"{fivetran.url}/v1", auth=auth) as client:
        yield client


@pytest.fixture
def airbyte() -> Iterator[LocalAirbyte]:
    with LocalAirbyte(clock=Clock()) as server:
        yield server


@pytest.fixture
def ab(airbyte: LocalAirbyte) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=airbyte.url + airbyte.base) as client:
        body = {"client_id": airbyte.client_id, "client_secret": airbyte.client_secret}
        # the SDK's way to ask: as a form
        answer = client.post("/applications/token", data=body).json()
        assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 180)
        client.headers["Authorization"] = f"Bearer {answer['access_token']}"
        yield client


def test_a_sync_passes_in_time(fivetran: LocalFivetran, ft: httpx.Client) -> None:
    fivetran.connection("shop", SyncScript(delay=2, seconds=10))
    path = "/connections/shop"

    def state() -> str:
        return str(ft.get(path).json()["data"]["status"]["sync_state"])

    answer = ft.post(f"{path}/sync", json={"force": False})
    assert (answer.status_code, answer.json()["code"], "data" in answer.json()) == (200, "Success", False)
    seen = [state()]
    for seconds in (3, 4, 6):
        fivetran.advance(seconds)
        seen.append(state())
    assert seen == ["scheduled", "syncing", "syncing", "scheduled"]
    assert ft.get(path).json()["data"]["succeeded_at"] == "2027-01-15T08:00:12.000000Z"
    [entry] = ft.get(f"{path}/sync-history").json()["data"]["items"]
    assert (entry["status"], entry["start"], entry["end"]) == (
        "COMPLETED",
        "2027-01-15T08:00:02.000000Z",
        "2027-01-15T08:00:12.000000Z",
    )


def test_force_restarts_and_no_force_does_nothing(fivetran: LocalFivetran, ft: httpx.Client) -> None:
    shop = fivetran.connection("shop", SyncScript(seconds=10))
    for force in (False, False, True):
        ft.post("/connections/shop/sync", json={"force": force})
    assert [sync.status for sync in shop.history] == ["CANCELED", ""]


def test_a_schedule_and_a_reschedule_go_on_by_themselves(fivetran: LocalFivetran, ft: httpx.Client) -> None:
    script = SyncScript(seconds=10, outcome="reschedule", reschedule_after=100)
    shop = fivetran.connection("shop", script, SyncScript(seconds=10), schedule_type="auto", sync_frequency=1)
    fivetran.advance(71)
    status = ft.get("/connections/shop").json()["data"]["status"]
    assert (status["sync_state"], status["rescheduled_for"]) == (
        "rescheduled",
        "2027-01-15T08:02:50.000000Z",
    )
    fivetran.advance(110)
    assert ft.get("/connections/shop").json()["data"]["succeeded_at"] is not None
    assert [sync.status for sync in shop.history] == ["RESCHEDULED", "COMPLETED"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "code"),
    [
        ("GET", "/connections/nope", {}, None, 404, "NotFound_Connector"),
        ("GET", "/connections/bare/schemas", {}, None, 404, "NotFound_SchemaConfig"),
        ("GET", "/connections", {"Authorization": "Basic eDp5"}, None, 401, "AuthFailed"),
        ("GET", "/connections", {"Accept": "text/html"}, None, 406, "NotAcceptable"),
        ("POST", "/connections/shop/resync", {}, {"scope": {}}, 400, "BadRequest"),
        ("POST", "/connections/shop/resync", {}, {"scope": {"public": ["nope"]}}, 400, "BadRequest"),
        ("PATCH", "/connections/shop", {}, {"run_setup_tests": False}, 400, "BadRequest"),
        ("GET", "/connectors/shop", {}, None, 404, "NotFound"),
        ("GET", "/connections?limit=2000", {}, None, 400, "BadRequest"),
        ("POST", "/webhooks/account", {}, {"url": "http://x", "events": []}, 400, "BadRequest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_fivetran_refuses(
    fivetran: LocalFivetran,
    ft: httpx.Client,
    method: str,
    path: str,
    headers: dict[str, str],
    body: object,
    status: int,
    code: str,
) -> None:
    fivetran.connection("shop")
    fivetran.connection("bare", tables=None)
    auth = None if "Authorization" in headers else httpx.USE_CLIENT_DEFAULT
    answer = ft.request(method, path, headers=headers, json=body, auth=auth)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_lists_have_pages_and_requests_a_limit(fivetran: LocalFivetran, ft: httpx.Client) -> None:
    for number in range(5):
        fivetran.connection(f"s{number}")
    first = ft.get("/connections", params={"limit": 3}).json()["data"]
    rest = ft.get("/connections", params={"limit": 3, "cursor": first["next_cursor"]}).json()["data"]
    assert [each["id"] for each in first["items"] + rest["items"]] == [f"s{number}" for number in range(5)]
    assert "next_cursor" not in rest
    fivetran.limit(2)
    answers = [ft.get("/account/info") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["X-Rate-Limit-Remaining"] == "1"
    assert answers[2].headers["Retry-After"] == "3600"
    fivetran.advance(3601)
    assert ft.get("/account/info").status_code == 200


def test_a_job_passes_in_time(airbyte: LocalAirbyte, ab: httpx.Client) -> None:
    script = JobScript(seconds=20, queued=5, waiting_as="queued", attempts=2, rows=9)
    connection = airbyte.connection("shop", script)
    body = {"connectionId": connection.id, "jobType": "sync"}
    job = ab.post("/jobs", json=body).json()
    assert ab.post("/jobs", json=body).status_code == 409
    seen = [job["status"]]
    for seconds in (6, 6, 3, 6):
        airbyte.advance(seconds)
        told = ab.get(f"/jobs/{job['jobId']}").json()
        seen.append(told["status"])
    assert seen == ["queued", "running", "incomplete", "running", "succeeded"]
    assert (told["rowsSynced"], told["startTime"]) == (9, "2027-01-15T08:00:00Z")
    assert ab.delete(f"/jobs/{job['jobId']}").json()["status"] == "succeeded"
    job = ab.post("/jobs", json=body).json()
    assert ab.delete(f"/jobs/{job['jobId']}").json()["status"] == "cancelled"
    assert len(ab.get("/jobs", params={"status": "cancelled"}).json()["data"]) == 1


def test_a_token_of_airbyte_expires(airbyte: LocalAirbyte, ab: httpx.Client) -> None:
    assert ab.get("/connections").status_code == 200
    airbyte.advance(181)
    assert ab.get("/connections").json()["status"] == 401
    assert ab.get("/health").status_code == 200


@pytest.mark.parametrize("vendor", ["fivetran", "airbyte", "hightouch"])
def test_the_command_serves_until_it_is_told_to_end(vendor: str) -> None:
    command = [sys.executable, "-m", "airflow_ext.cli.main", "sync", "serve-fake", vendor, "--sync", "mine:1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
    text = "".join(lines)
    assert f"AIRFLOW_CONN_LOCAL_{vendor.upper()}=" in text
    assert 'sync="mine"' in text
