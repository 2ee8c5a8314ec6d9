"""Contracts between DAGs on a running Airflow."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.testing.airflow_client import AirflowClient, wait_until

DAGS = [
    "contracts_publisher",
    "contracts_fails",
    "contracts_waits",
    "contracts_reschedules",
    "contracts_gives_up",
    "contracts_wants_more",
    "contracts_on_event",
    "contracts_on_partition",
]
ASSET = "contract/test_orders/v1"


@pytest.fixture(scope="module")
def shop(airflow: Any, scratch: Path) -> AirflowClient:
    client: AirflowClient = airflow.client
    client.create_connection("contracts_db", "duckdb", host=str(scratch / "contracts.duckdb"))
    client.wait_for_dags(DAGS)
    return client


def tell(text: str) -> None:
    """Show a figure in the run's output (``-s``)."""
    sys.stderr.write(f"\n{text}\n")


def publish(client: AirflowClient, day: str, rows: int, state: str) -> str:
    run = client.trigger("contracts_publisher", conf={"day": day, "rows": rows})
    client.wait_for_run("contracts_publisher", run, state=state)
    return run


def start(client: AirflowClient, dag_id: str, day: str) -> str:
    """Start a consumer and wait until it waits."""
    run = client.trigger(dag_id, conf={"day": day})
    client.wait_for_task(dag_id, run, "orders_ok", states={"deferred", "up_for_reschedule"})
    return run


def task(client: AirflowClient, dag_id: str, run: str) -> dict[str, Any]:
    return dict(client.tasks(dag_id, run)["orders_ok"])


def seconds_after_verdict(client: AirflowClient, dag_id: str, run: str, publisher: str) -> float:
    """Return the time from a verdict to the end of a consumer."""
    stored = client.request(
        "GET", f"/assets/{_asset_id(client)}/state-store/p%2F{run_day(client, publisher)}"
    )["value"]
    value = json.loads(stored) if isinstance(stored, str) else stored
    ended = datetime.fromisoformat(task(client, dag_id, run)["end_date"])
    return (ended - datetime.fromisoformat(value["at"])).total_seconds()


def run_day(client: AirflowClient, publisher: str) -> str:
    return str(client.run("contracts_publisher", publisher)["conf"]["day"])


def events(client: AirflowClient, day: str) -> list[dict[str, Any]]:
    """Return the contract's asset events about a day."""
    found = client.request("GET", "/assets/events", params={"asset_id": _asset_id(client), "limit": 100})
    return [event for event in found["asset_events"] if event["extra"].get("partition") == day]


def _asset_id(client: AirflowClient) -> int:
    found = client.request("GET", "/assets", params={"name_pattern": ASSET})["assets"]
    return int(next(asset["id"] for asset in found if asset["name"] == ASSET))


def test_a_contract_published_before_is_seen_at_once(shop: AirflowClient) -> None:
    publish(shop, "2013-02-01", 5, "success")
    run = shop.trigger("contracts_fails", conf={"day": "2013-02-01"})
    shop.wait_for_run("contracts_fails", run, state="success")
    verdict = shop.xcom("contracts_fails", run, "orders_ok")
    assert (verdict["status"], verdict["partition"], verdict["rows"]) == ("PASS", "2013-02-01", 5)


def test_a_contract_published_while_waiting_releases(shop: AirflowClient) -> None:
    waiting = {
        dag_id: start(shop, dag_id, "2013-02-02") for dag_id in ("contracts_fails", "contracts_reschedules")
    }
    publisher = publish(shop, "2013-02-02", 6, "success")
    for dag_id, run in waiting.items():
        shop.wait_for_run(dag_id, run, state="success")
        assert shop.xcom(dag_id, run, "rows_of") == 6
        tell(
            f"{dag_id}: released {seconds_after_verdict(shop, dag_id, run, publisher):.1f} s after the verdict"
        )


def test_a_breach_fails_a_waiter_in_seconds_and_its_repair_releases_the_patient(shop: AirflowClient) -> None:
    day = "2013-02-03"
    fails, waits = start(shop, "contracts_fails", day), start(shop, "contracts_waits", day)
    publisher = publish(shop, day, 2, "failed")

    shop.wait_for_run("contracts_fails", fails, state="failed")
    ended = task(shop, "contracts_fails", fails)
    assert ended["try_number"] == 1  # retries would wait for the same breach again
    seconds = seconds_after_verdict(shop, "contracts_fails", fails, publisher)
    tell(f"failed {seconds:.1f} s after the verdict")
    assert seconds < 20
    log = shop.log("contracts_fails", fails, "orders_ok")
    for words in (
        "Contract test_orders 1.1.0 does not hold for partition 2013-02-03: BREACHED (asked for test_orders>=1,<2)",
        "owner: shop team; support: slack #shop",
        f"published by: DAG contracts_publisher, run {publisher}, task publish, try 1",
        "enough orders: expected rows >= 5, actual 2",
    ):
        assert words in log.replace("\\n", "\n")

    assert shop.tasks("contracts_publisher", publisher)["publish"]["try_number"] == 1
    assert "error     enough orders  rows >= 5  2" in shop.log("contracts_publisher", publisher, "publish")
    assert events(shop, day) == []
    assert shop.states("contracts_waits", waits)["orders_ok"] == "deferred"

    repaired = publish(shop, day, 7, "success")
    shop.wait_for_run("contracts_waits", waits, state="success")
    seconds = seconds_after_verdict(shop, "contracts_waits", waits, repaired)
    tell(f"released {seconds:.1f} s after the repair")
    assert shop.xcom("contracts_waits", waits, "rows_of") == 7


def test_each_kind_of_consumer_is_started_once_and_only_if_the_contract_holds(shop: AirflowClient) -> None:
    day = "2013-02-04"
    publish(shop, day, 1, "failed")
    publish(shop, day, 8, "success")

    def woken() -> dict[str, Any] | None:
        runs = [run for run in shop.runs("contracts_on_event") if run["state"] == "success"]
        return next(
            (run for run in runs if day in shop.xcom("contracts_on_event", run["dag_run_id"], "days")), None
        )

    wait_until(woken, timeout=60, what="the plain consumer ran")
    found = events(shop, day)
    assert sorted(str(event["partition_key"]) for event in found) == ["2013-02-04", "None"]
    assert {event["extra"]["status"] for event in found} == {"PASS"}

    def keyed() -> dict[str, Any] | None:
        runs = shop.runs("contracts_on_partition")
        return next((r for r in runs if r.get("partition_key") == day and r["state"] == "success"), None)

    run = wait_until(keyed, timeout=60, what="the partitioned consumer ran")
    assert shop.xcom("contracts_on_partition", run["dag_run_id"], "orders_ok")["partition"] == day


def test_a_wait_that_is_over_says_what_it_saw(shop: AirflowClient) -> None:
    run = shop.trigger("contracts_gives_up", conf={"day": "2013-02-05"})
    shop.wait_for_run("contracts_gives_up", run, state="failed")
    words = "Gave up after 3 s. Contract test_orders>=1,<2, partition 2013-02-05: NOT_PUBLISHED"
    assert words in shop.log("contracts_gives_up", run, "orders_ok")
    assert task(shop, "contracts_gives_up", run)["try_number"] == 1


def test_a_version_outside_the_range_fails_the_waiter(shop: AirflowClient) -> None:
    run = start(shop, "contracts_wants_more", "2013-02-06")
    publish(shop, "2013-02-06", 5, "success")
    shop.wait_for_run("contracts_wants_more", run, state="failed")
    log = shop.log("contracts_wants_more", run, "orders_ok")
    assert "VERSION_MISMATCH, published is version 1.1.0" in log
