"""Syncs of both vendors on a running Airflow, with the local servers."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator

import pytest

from airflow_ext.testing.airbyte import JobScript, LocalAirbyte
from airflow_ext.testing.airflow_client import AirflowClient, wait_until
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from airflow_ext.testing.local_airflow import LocalAirflow

SECRET = secrets.token_hex(16)
DAGS = ["sync_both", "sync_follows", "sync_dies", "sync_killed"]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def fivetran() -> Iterator[LocalFivetran]:
    with LocalFivetran() as server:
        yield server


@pytest.fixture(scope="module")
def airbyte() -> Iterator[LocalAirbyte]:
    with LocalAirbyte() as server:
        yield server


@pytest.fixture(scope="module")
def client(airflow: LocalAirflow, fivetran: LocalFivetran, airbyte: LocalAirbyte) -> AirflowClient:
    made = airflow.client
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
    made.wait_for_dags(DAGS)
    return made


def test_both_vendors_run_and_a_webhook_ends_the_wait_of_the_next(
    client: AirflowClient, airflow: LocalAirflow, fivetran: LocalFivetran, airbyte: LocalAirbyte
) -> None:
    fivetran.connection("shop", SyncScript(seconds=10))
    fivetran.connection("hooked", SyncScript(seconds=15))
    airbyte.connection("shop", JobScript(seconds=10, queued=3, waiting_as="queued", rows=42))
    fivetran.webhook(f"{airflow.url}/airflow-ext/sync/webhook/it_fivetran", secret=SECRET)
    run = client.trigger("sync_both")
    client.wait_for_run("sync_both", run, state="success")
    told = client.xcom("sync_both", run, "fivetran")
    assert told["run_id"] == fivetran.connections["shop"].history[0].sync_id
    assert client.xcom("sync_both", run, "fresh")["run_id"] == told["run_id"]
    assert client.xcom("sync_both", run, "airbyte")["rows"] == 42
    events = client.asset_events("sync/it_fivetran/shop/shop_public.orders")
    assert [event["extra"]["run_id"] for event in events] == [told["run_id"]]
    # A table that the DAG does not name has its event through the alias; no DAG names it, so it is not active.
    by_alias = client.request("GET", "/assets/events", params={"source_dag_id": "sync_both", "limit": 100})
    names = {event["name"] for event in by_alias["asset_events"]}
    assert names == {
        f"sync/it_{vendor}/shop/{schema}.{table}"
        for vendor, schema in (("fivetran", "shop_public"), ("airbyte", "raw"))
        for table in ("orders", "customers")
    }
    for server in (fivetran, airbyte):
        assert (
            len(server.calls(method="POST", path="*/sync") + server.calls(method="POST", path="*/jobs")) == 1
        )
        assert not server.calls(status=401)

    # The event of the table has started the next DAG, whose own poll would come after five minutes.
    follower = wait_until(
        lambda: [run for run in client.runs("sync_follows") if run["state"] == "success"],
        timeout=90,
        what="sync_follows has succeeded",
    )[0]
    ended = fivetran.connections["hooked"].succeeded or 0.0
    task = client.tasks("sync_follows", follower["dag_run_id"])["hooked"]
    assert task["state"] == "success"
    assert time.time() - ended < 60


def test_a_run_outlives_a_killed_worker_and_is_adopted_by_the_next_try(
    client: AirflowClient, airbyte: LocalAirbyte
) -> None:
    connection = airbyte.connection("dies", JobScript(seconds=1000))
    run = client.trigger("sync_dies")
    wait_until(
        lambda: [job for job in airbyte.jobs if job.connection is connection], timeout=60, what="job runs"
    )
    wait_until(lambda: len(airbyte.calls(path="*/jobs/*")) > 1, timeout=30, what="the worker waits")
    pid = client.tasks("sync_dies", run)["worker"]["pid"]
    os.kill(pid, signal.SIGKILL)
    client.wait_for_task("sync_dies", run, "worker", states={"running"}, min_try=2)
    airbyte.advance(1001)
    client.wait_for_run("sync_dies", run, state="success")
    assert len([job for job in airbyte.jobs if job.connection is connection]) == 1
    assert "Going on with the run of dies that an earlier try started" in client.log(
        "sync_dies", run, "worker"
    )


def test_a_deferred_task_that_a_user_ends_cancels_its_run(
    client: AirflowClient, fivetran: LocalFivetran, airbyte: LocalAirbyte
) -> None:
    shop = fivetran.connection("killed", SyncScript(seconds=1000))
    connection = airbyte.connection("killed", JobScript(seconds=1000))
    run = client.trigger("sync_killed")
    for name in ("fivetran", "airbyte"):
        client.wait_for_task("sync_killed", run, name, states={"deferred"})
    time.sleep(4)  # the triggerer has to have taken them up
    for name in ("fivetran", "airbyte"):
        client.request(
            "PATCH",
            f"/dags/sync_killed/dagRuns/{run}/taskInstances/{name}",
            json={"new_state": "failed"},
        )
    wait_until(
        lambda: [job for job in airbyte.jobs if job.connection is connection and job.status == "cancelled"],
        timeout=30,
        what="the job is cancelled",
    )
    wait_until(
        lambda: [sync for sync in shop.history if sync.status == "CANCELED"] and not shop.paused,
        timeout=30,
        what="the sync is cancelled and its connection goes on",
    )


def test_the_connections_can_be_tested(client: AirflowClient, fivetran: LocalFivetran) -> None:
    fields = {"connection_id": "it_test", "conn_type": "ext-fivetran", "host": fivetran.url}
    good = {**fields, "login": fivetran.api_key, "password": fivetran.api_secret}
    told = client.request("POST", "/connections/test", json=good)
    assert (told["status"], told["message"]) == (True, "Fivetran account Local")
    told = client.request("POST", "/connections/test", json={**good, "password": "wrong-secret"})
    assert told["status"] is False
    assert "AuthFailed" in told["message"]
    assert "wrong-secret" not in told["message"]
