"""Waiting for contracts on a running Airflow: a shared database, intervals, schedules, a killed triggerer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from airflow_ext.contracts.sql_store import SqlVerdictStore
from airflow_ext.testing.airflow_client import AirflowClient, wait_until
from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.postgres import LocalPostgres

DAGS = [
    "contracts_shared_publisher",
    "contracts_shared_fails",
    "contracts_shared_waits",
    "contracts_shared_last_good",
    "contracts_hours_publisher",
    "contracts_hours_waits",
    "contracts_scheduled",
    "contracts_scheduled_by_key",
]


class Opener:
    """Opens the shared database from the test."""

    name = "verdicts"

    def __init__(self, server: LocalPostgres) -> None:
        self._server = server

    async def aprepare(self) -> None:
        """Everything is known."""

    def forget(self) -> None:
        """There is nothing to forget."""

    def open(self) -> tuple[Any, str]:
        return self._server.connect("verdicts"), "postgres"


@pytest.fixture(scope="module")
def shop(airflow: LocalAirflow, scratch: Any, postgres: LocalPostgres) -> AirflowClient:
    client = airflow.client
    postgres.create_database("verdicts")
    client.create_connection(
        "contracts_verdicts",
        "postgres",
        host="127.0.0.1",
        port=postgres.port,
        login=postgres.user,
        password=postgres.password,
        schema="verdicts",
    )
    known = client.request("GET", "/connections", params={"limit": 100})["connections"]
    if "contracts_db" not in {each["connection_id"] for each in known}:
        client.create_connection("contracts_db", "duckdb", host=str(scratch / "contracts.duckdb"))
    client.wait_for_dags(DAGS)
    return client


def publish(client: AirflowClient, day: str, rows: int, state: str) -> str:
    run = client.trigger("contracts_shared_publisher", conf={"day": day, "rows": rows})
    client.wait_for_run("contracts_shared_publisher", run, state=state)
    return run


def start(client: AirflowClient, dag_id: str, **conf: str) -> str:
    """Start a consumer and wait until it waits."""
    run = client.trigger(dag_id, conf=conf)
    client.wait_for_task(dag_id, run, "hours_ok" if "hours" in dag_id else "orders_ok", states={"deferred"})
    return run


def test_breach_and_repair_in_a_database_that_airflows_share(
    shop: AirflowClient, airflow: LocalAirflow, postgres: LocalPostgres
) -> None:
    """The repair comes while no triggerer lives: the one started later misses nothing."""
    good, day = "2013-03-01", "2013-03-02"
    run = publish(shop, good, 6, "success")
    assert shop.xcom("contracts_shared_publisher", run, "load_orders") == 6
    assert shop.xcom("contracts_shared_publisher", run, "load_orders", key="verdict")["seq"] == 1

    fails, waits = (
        start(shop, "contracts_shared_fails", day=day),
        start(shop, "contracts_shared_waits", day=day),
    )
    falls_back = start(shop, "contracts_shared_last_good", day=day)
    publisher = publish(shop, day, 2, "failed")
    shop.wait_for_run("contracts_shared_fails", fails, state="failed")
    ended = shop.tasks("contracts_shared_fails", fails)["orders_ok"]
    assert ended["try_number"] == 1
    store = SqlVerdictStore(Opener(postgres))
    verdict = store.verdict("contract/test_orders/v1", day)
    assert verdict is not None
    seconds = datetime.fromisoformat(ended["end_date"]) - datetime.fromisoformat(verdict.at)
    assert seconds.total_seconds() < 20
    log = shop.log("contracts_shared_fails", fails, "orders_ok").replace("\\n", "\n")
    assert "does not hold for partition 2013-03-02: BREACHED" in log
    assert f"published by: DAG contracts_shared_publisher, run {publisher}, task load_orders, try 1" in log
    shop.wait_for_run("contracts_shared_last_good", falls_back, state="success")
    answer = shop.xcom("contracts_shared_last_good", falls_back, "orders_ok")
    assert (answer["partition"], answer["instead_of"]) == (good, day)

    airflow.kill_component("triggerer")
    publish(shop, day, 7, "success")
    airflow.start_component("triggerer")
    shop.wait_for_run("contracts_shared_waits", waits, state="success", timeout=90)
    assert shop.xcom("contracts_shared_waits", waits, "orders_ok")["rows"] == 7
    head = store.head("contract/test_orders/v1")
    assert {key: (str(entry.status), entry.seq) for key, entry in head.entries.items()} == {
        good: ("PASS", 1),
        day: ("PASS", 3),
    }


def test_an_interval_and_the_schedules_of_an_hourly_contract(shop: AirflowClient) -> None:
    hours = ["2013-03-05T00", "2013-03-05T01"]
    waiting = start(shop, "contracts_hours_waits", interval="2013-03-05T00:00/2013-03-05T02:00")
    for hour in hours:
        assert shop.states("contracts_hours_waits", waiting)["hours_ok"] == "deferred"
        run = shop.trigger("contracts_hours_publisher", conf={"hours": [hour]})
        shop.wait_for_run("contracts_hours_publisher", run, state="success")
    shop.wait_for_run("contracts_hours_waits", waiting, state="success")
    answer = shop.xcom("contracts_hours_waits", waiting, "hours_ok")
    assert (answer["status"], answer["partitions"], answer["missing"]) == ("PASS", hours, [])

    def keys() -> set[str]:
        runs = shop.runs("contracts_scheduled_by_key")
        return {run["partition_key"] for run in runs if run["state"] == "success"}

    wait_until(lambda: keys() >= set(hours), timeout=60, what="a run per partition")

    def told() -> set[str]:
        found: set[str] = set()
        for run in shop.runs("contracts_scheduled"):
            if run["state"] == "success":
                verdict = shop.xcom("contracts_scheduled", run["dag_run_id"], "visits_ok")
                found |= {verdict["partition"]} if "partition" in verdict else set(verdict["partitions"])
        return found

    wait_until(lambda: told() >= set(hours), timeout=60, what="the plain consumer saw both partitions")
