"""Syncs by every backend on a running Airflow: the local servers of vendors, and the embedded engine on PostgreSQL.

All runs start together; each test looks at its own. The servers hold a run until its test lets it end.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from airflow_ext.testing.airbyte import JobScript, LocalAirbyte
from airflow_ext.testing.airflow_client import AirflowClient, wait_until
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.postgres import LocalPostgres

SECRET = secrets.token_hex(16)
STARTED = ["sync_three", "sync_dies", "sync_killed"]
BY_EVENTS = ["sync_follows", "sync_watched"]
pytestmark = pytest.mark.timeout(300)

Runs = dict[str, str]


@pytest.fixture(scope="module")
def fivetran(airflow: LocalAirflow) -> Iterator[LocalFivetran]:
    with LocalFivetran() as server:
        server.connection("shop", SyncScript(seconds=3))
        server.connection("hooked", SyncScript(seconds=1000))
        server.connection("killed", SyncScript(seconds=1000))
        server.connection("crm", SyncScript(seconds=1), schedule_type="auto", sync_frequency=60)
        # A request is tried four times; then the task sleeps, and asks again what its run has brought.
        server.fail(503, times=4, path="*/shop/schemas")
        server.webhook(f"{airflow.url}/airflow-ext/sync/webhook/it_fivetran", secret=SECRET)
        yield server


@pytest.fixture(scope="module")
def airbyte() -> Iterator[LocalAirbyte]:
    with LocalAirbyte() as server:
        server.connection("shop", JobScript(seconds=4, queued=2, waiting_as="queued", rows=42))
        server.connection("dies", JobScript(seconds=1000))
        server.connection("killed", JobScript(seconds=1000))
        yield server


@pytest.fixture(scope="module")
def client(
    airflow: LocalAirflow,
    fivetran: LocalFivetran,
    airbyte: LocalAirbyte,
    postgres: LocalPostgres,
    scratch: Path,
) -> AirflowClient:
    made = airflow.client
    postgres.create_database("it_parcels")
    postgres.execute(
        "CREATE TABLE parcels AS SELECT n AS id, n * 0.5 AS weight FROM generate_series(1, 7) n",
        database="it_parcels",
    )
    made.create_connection(
        "it_shop",
        "postgres",
        host="127.0.0.1",
        port=postgres.port,
        login=postgres.user,
        password=postgres.password,
        schema="it_parcels",
    )
    made.create_connection("it_warehouse", "duckdb", host=str(scratch / "sync.duckdb"))
    ends = {"source_conn_id": "it_shop", "destination_conn_id": "it_warehouse"}
    made.create_connection("it_embedded", "ext-dlt", extra=ends)
    made.create_connection(
        "it_fivetran",
        "ext-fivetran",
        host=fivetran.url,
        login=fivetran.api_key,
        password=fivetran.api_secret,
        extra={"webhook_secret": SECRET},
    )
    # Another provider's type is read as it is.
    made.create_connection(
        "it_airbyte",
        "airbyte",
        host=airbyte.url + airbyte.base,
        login=airbyte.client_id,
        password=airbyte.client_secret,
    )
    return made


@pytest.fixture(scope="module")
def runs(client: AirflowClient) -> Iterator[Runs]:
    """One run of each DAG, under way; none of them is left when the tests are over."""
    client.wait_for_dags([*STARTED, *BY_EVENTS])
    yield {dag_id: client.trigger(dag_id) for dag_id in STARTED}
    for dag_id in (*STARTED, *BY_EVENTS):
        for run in client.runs(dag_id):
            if run["state"] not in ("success", "failed"):
                with suppress(httpx.HTTPStatusError):  # it has just ended
                    path = f"/dags/{dag_id}/dagRuns/{run['dag_run_id']}"
                    client.request("PATCH", path, json={"state": "failed"})


def starts(server: LocalAirbyte | LocalFivetran, name: str) -> int:
    """Return how often a sync was asked to run."""
    if isinstance(server, LocalFivetran):
        return len(server.calls(method="POST", path=f"*/{name}/sync"))
    return len([job for job in server.jobs if job.connection.name == name])


def test_a_deferred_task_that_a_user_ends_cancels_its_run(
    client: AirflowClient, runs: Runs, fivetran: LocalFivetran, airbyte: LocalAirbyte
) -> None:
    def looks(*, job: bool) -> int:
        if not job:
            return len(fivetran.calls(method="GET", path="*/connections/killed"))
        ids = [each.id for each in airbyte.jobs if each.connection.name == "killed"]
        return len(airbyte.calls(method="GET", path=f"*/jobs/{ids[0]}")) if ids else 0

    # The worker looks twice at a connection and once at a job; whatever comes then comes from the triggerer.
    wait_until(lambda: looks(job=False) > 2 and looks(job=True) > 1, timeout=90, what="the triggerer waits")
    for name in ("fivetran", "airbyte"):
        path = f"/dags/sync_killed/dagRuns/{runs['sync_killed']}/taskInstances/{name}"
        client.request("PATCH", path, json={"new_state": "failed"})
    wait_until(
        lambda: [job for job in airbyte.jobs if job.status == "cancelled"],
        timeout=30,
        what="the job is cancelled",
    )
    killed = fivetran.connections["killed"]
    wait_until(
        lambda: [sync for sync in killed.history if sync.status == "CANCELED"] and not killed.paused,
        timeout=30,
        what="the sync is cancelled and its connection goes on",
    )


def test_a_run_outlives_a_killed_worker_and_is_adopted_by_the_next_try(
    client: AirflowClient, runs: Runs, airbyte: LocalAirbyte
) -> None:
    run = runs["sync_dies"]

    def looks() -> int:
        ids = [each.id for each in airbyte.jobs if each.connection.name == "dies"]
        return len(airbyte.calls(method="GET", path=f"*/jobs/{ids[0]}")) if ids else 0

    wait_until(lambda: looks() > 1, timeout=90, what="the worker waits")
    os.kill(client.tasks("sync_dies", run)["worker"]["pid"], signal.SIGKILL)
    client.wait_for_task("sync_dies", run, "worker", states={"running"}, min_try=2)
    [job] = [each for each in airbyte.jobs if each.connection.name == "dies"]
    job.script = replace(job.script, seconds=airbyte.now() - job.created)
    client.wait_for_run("sync_dies", run, state="success")
    assert starts(airbyte, "dies") == 1
    log = client.log("sync_dies", run, "worker")
    assert "Going on with the run of dies that an earlier try started" in log


def test_all_three_backends_bring_their_tables(
    client: AirflowClient, runs: Runs, fivetran: LocalFivetran, airbyte: LocalAirbyte
) -> None:
    run = runs["sync_three"]
    client.wait_for_run("sync_three", run, state="success")
    assert fivetran.met()
    told = client.xcom("sync_three", run, "fivetran")
    assert told["run_id"] == fivetran.connections["shop"].history[0].sync_id
    assert client.xcom("sync_three", run, "fresh")["run_id"] == told["run_id"]
    assert client.xcom("sync_three", run, "airbyte")["rows"] == 42
    embedded = client.xcom("sync_three", run, "embedded")
    assert (embedded["backend"], embedded["tables"]["parcels"]["rows"]) == ("dlt", 7)
    events = client.asset_events("sync/it_fivetran/shop/shop_public.orders")
    assert [event["extra"]["run_id"] for event in events] == [told["run_id"]]
    # A table that the DAG does not name has its event through the alias; no DAG names it, so it is not active.
    by_alias = client.request("GET", "/assets/events", params={"source_dag_id": "sync_three", "limit": 100})
    names = {event["name"] for event in by_alias["asset_events"]}
    assert names == {
        f"sync/it_{vendor}/shop/{schema}.{table}"
        for vendor, schema in (("fivetran", "shop_public"), ("airbyte", "raw"))
        for table in ("orders", "customers")
    } | {"sync/it_embedded/parcels"}
    for server in (fivetran, airbyte):
        assert starts(server, "shop") == 1
        assert not server.calls(status=401)


@pytest.mark.usefixtures("runs")
def test_the_event_of_a_table_starts_a_dag_and_a_webhook_ends_its_wait(
    client: AirflowClient, fivetran: LocalFivetran
) -> None:
    """Its own next look would come after five minutes."""
    hooked = fivetran.connections["hooked"]
    looks = "*/connections/hooked"
    wait_until(
        lambda: len(fivetran.calls(method="GET", path=looks)) > 2, timeout=120, what="the triggerer waits"
    )
    assert hooked.current is not None
    hooked.current.script = replace(hooked.current.script, seconds=fivetran.now() - hooked.current.begins)
    ended = time.monotonic()
    [run] = client.runs("sync_follows")
    client.wait_for_run("sync_follows", run["dag_run_id"], state="success")
    assert time.monotonic() - ended < 120


@pytest.mark.usefixtures("runs")
def test_a_sync_on_the_vendors_own_schedule_starts_the_dag_that_watches_it(
    client: AirflowClient, fivetran: LocalFivetran
) -> None:
    crm = fivetran.connections["crm"]
    looks = "*/connections/crm"
    wait_until(
        lambda: len(fivetran.calls(method="GET", path=looks)) > 1, timeout=60, what="the watcher watches"
    )
    crm.created = fivetran.now() - 3600  # its hour is over
    [run] = wait_until(lambda: client.runs("sync_watched"), timeout=60, what="the DAG starts")
    client.wait_for_run("sync_watched", run["dag_run_id"], state="success")
    [told] = client.xcom("sync_watched", run["dag_run_id"], "told")
    assert (told["sync"], told["status"], told["run_id"]) == ("crm", "succeeded", crm.history[0].sync_id)
    assert datetime.fromisoformat(told["ended"]).timestamp() == pytest.approx(crm.succeeded, abs=1e-3)
    assert not starts(fivetran, "crm")


def test_the_connections_can_be_tested(client: AirflowClient, fivetran: LocalFivetran) -> None:
    fields = {"connection_id": "it_test", "conn_type": "ext-fivetran", "host": fivetran.url}
    good = {**fields, "login": fivetran.api_key, "password": fivetran.api_secret}
    told = client.request("POST", "/connections/test", json=good)
    assert (told["status"], told["message"]) == (True, "Fivetran account Local")
    told = client.request("POST", "/connections/test", json={**good, "password": "wrong-secret"})
    assert told["status"] is False
    assert "AuthFailed" in told["message"]
    assert "wrong-secret" not in told["message"]
