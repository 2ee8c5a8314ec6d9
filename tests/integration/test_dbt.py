"""DbtTaskGroup on a running scheduler, triggerer and api-server."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.testing.local_airflow import LocalAirflow

pytestmark = pytest.mark.timeout(600)

DAGS = ("green", "red", "retry", "alone", "cleared", "folders", "grouped", "slow")
NODES = {
    "raw_customers",
    "raw_orders",
    "raw_payments",
    "stg_customers",
    "stg_orders",
    "stg_payments",
    "customers_history",
    "orders",
    "customers",
    "top_customer",
}
GROUP = NODES | {"build", "announce", "done"}
SLOW = "1000000000"
"""Rows that one model hashes: some seconds."""
NEVER = "1000000000000"
"""Likewise: it would take an hour."""


@pytest.fixture(scope="module", autouse=True)
def _shop(airflow: LocalAirflow, scratch: Path) -> None:
    for name in DAGS:
        airflow.client.create_connection(f"shop_{name}", "duckdb", host=str(scratch / f"shop_{name}.duckdb"))
    airflow.client.wait_for_dags([f"dbt_{name}" for name in DAGS])


@pytest.fixture(scope="module")
def begun(airflow: LocalAirflow) -> dict[str, str]:
    """Runs that need nothing of a test but to be looked at, by DAG; they go on beside each other."""
    conf = {
        "dbt_green": {"day": "2013-01-02"},
        "dbt_red": {"fail": "orders"},
        "dbt_alone": {"fail": "orders"},
        "dbt_grouped": {},
        "dbt_folders": {"fail": "customers"},
    }
    return {dag_id: airflow.client.trigger(dag_id, conf=words) for dag_id, words in conf.items()}


def states(airflow: LocalAirflow, dag_id: str, run_id: str) -> dict[str, str | None]:
    return {
        name.removeprefix("shop."): state for name, state in airflow.client.states(dag_id, run_id).items()
    }


def asset_events(airflow: LocalAirflow, name: str, run_id: str) -> list[dict[str, Any]]:
    return [event for event in airflow.client.asset_events(name) if event["source_run_id"] == run_id]


def test_every_node_of_a_green_build_has_a_green_task(airflow: LocalAirflow, begun: dict[str, str]) -> None:
    client, run = airflow.client, begun["dbt_green"]
    client.wait_for_run("dbt_green", run, state="success")
    assert states(airflow, "dbt_green", run) == dict.fromkeys(GROUP | {"before", "after"}, "success")
    assert "model.shop.orders: success" in client.log("dbt_green", run, "shop.orders")
    assert "3 pass" in client.log("dbt_green", run, "shop.orders")
    told = client.log("dbt_green", run, "shop.build")
    assert "dbt: 7 pass, 10 success" in told, "what is ephemeral is not built"
    assert "older than the project" not in told


def test_built_nodes_emit_keyed_and_unkeyed_events_with_facts(
    airflow: LocalAirflow, begun: dict[str, str]
) -> None:
    run = begun["dbt_green"]
    airflow.client.wait_for_run("dbt_green", run, state="success")
    events = asset_events(airflow, "dbt/shop/raw_orders", run)
    assert {event["partition_key"] for event in events} == {"2013-01-02", None}
    assert {event["extra"]["rows"] for event in events} == {4}


def test_a_failed_node_fails_its_task_and_the_run_and_skips_what_follows(
    airflow: LocalAirflow, begun: dict[str, str]
) -> None:
    client, run = airflow.client, begun["dbt_red"]
    client.wait_for_run("dbt_red", run, state="failed")
    expected = dict.fromkeys(GROUP, "success")
    expected |= {"orders": "failed", "done": "failed", "customers": "skipped", "top_customer": "skipped"}
    assert states(airflow, "dbt_red", run) == expected
    assert "told to fail: orders" in client.log("dbt_red", run, "shop.orders")
    assert asset_events(airflow, "dbt/shop/stg_orders", run)
    assert not asset_events(airflow, "dbt/shop/orders", run)


def test_a_transient_failure_ends_green_and_only_the_rest_is_built_again(
    airflow: LocalAirflow, tmp_path: Path
) -> None:
    client, gate = airflow.client, tmp_path / "gate"
    run = client.trigger("dbt_retry", conf={"gate": str(gate)})
    client.wait_for_task("dbt_retry", run, "shop.build", states={"up_for_retry"})
    waiting = states(airflow, "dbt_retry", run)
    assert {name for name in NODES if waiting[name] == "deferred"} >= {"orders", "customers", "top_customer"}
    gate.touch()
    client.wait_for_run("dbt_retry", run, state="success")
    assert states(airflow, "dbt_retry", run) == dict.fromkeys(GROUP, "success")
    second = client.log("dbt_retry", run, "shop.build", try_number=2)
    assert "1 of 8 START sql table model main.orders" in second
    assert "main.stg_orders" not in second
    assert {
        task["try_number"] for name, task in client.tasks("dbt_retry", run).items() if name != "shop.build"
    } == {1}


def test_clearing_a_failed_node_with_downstream_builds_only_those(airflow: LocalAirflow) -> None:
    client = airflow.client
    run = client.trigger("dbt_red", conf={"fail": "top_customer"})
    client.wait_for_run("dbt_red", run, state="failed")
    client.clear("dbt_red", run, task_ids=["shop.top_customer"], downstream=True)
    again = client.wait_for_task("dbt_red", run, "shop.top_customer", states={"failed"}, min_try=2)
    assert again["try_number"] == 2
    client.clear("dbt_red", run, task_ids=["shop.customers"])
    client.wait_for_task("dbt_red", run, "shop.customers", states={"success"}, min_try=2)
    assert "1 of 3 START sql table model main.customers" in client.log("dbt_red", run, "shop.customers")
    assert len(asset_events(airflow, "dbt/shop/customers", run)) == 2
    assert client.tasks("dbt_red", run)["shop.build"]["try_number"] == 1


def test_nodes_cleared_together_are_built_in_one_run_of_dbt(airflow: LocalAirflow, tmp_path: Path) -> None:
    client, gate = airflow.client, tmp_path / "gate"
    run = client.trigger("dbt_cleared", conf={"gate": str(gate)})
    client.wait_for_run("dbt_cleared", run, state="failed")
    gate.touch()
    client.clear("dbt_cleared", run, task_ids=["shop.orders"], downstream=True)
    client.wait_for_task("dbt_cleared", run, "shop.done", min_try=2)
    client.wait_for_run("dbt_cleared", run, state="success")
    assert states(airflow, "dbt_cleared", run) == dict.fromkeys(GROUP, "success")
    builder = "shop.customers"  # the first of them
    log = client.log("dbt_cleared", run, builder, try_number=2)
    assert "Cleared together and built in one run of dbt: customers, orders, top_customer" in log
    assert "1 of 8 START sql table model main.orders" in log
    for other in ("shop.orders", "shop.top_customer"):
        assert f"Built by {builder}" in client.log("dbt_cleared", run, other, try_number=2)
    names = ("orders", "customers", "top_customer")
    assert [len(asset_events(airflow, f"dbt/shop/{name}", run)) for name in names] == [1, 1, 1]


def test_a_node_that_fails_again_does_not_cost_the_others_their_events(airflow: LocalAirflow) -> None:
    client = airflow.client
    run = client.trigger("dbt_cleared", conf={"fail": "orders"})
    client.wait_for_run("dbt_cleared", run, state="failed")
    client.clear("dbt_cleared", run, task_ids=["shop.orders", "shop.stg_orders"])
    orders = client.wait_for_task("dbt_cleared", run, "shop.orders", states={"failed"}, min_try=2)
    assert orders["try_number"] == 2
    client.wait_for_task("dbt_cleared", run, "shop.stg_orders", states={"success"}, min_try=2)
    assert "told to fail: orders" in client.log("dbt_cleared", run, "shop.orders", try_number=2)
    assert len(asset_events(airflow, "dbt/shop/stg_orders", run)) == 2
    assert asset_events(airflow, "dbt/shop/orders", run) == []


def test_folders_are_as_bad_as_the_worst_of_their_nodes(airflow: LocalAirflow, begun: dict[str, str]) -> None:
    client, run = airflow.client, begun["dbt_folders"]
    client.wait_for_run("dbt_folders", run, state="failed")
    assert states(airflow, "dbt_folders", run) == {
        "build": "success",
        "announce": "success",
        "seeds": "success",
        "snapshots": "success",
        "models": "failed",
        "done": "failed",
    }
    log = client.log("dbt_folders", run, "shop.models")
    assert "model.shop.orders: success; started" in log
    assert "told to fail: customers" in log
    assert "Compiled SQL of model.shop.customers:" in log
    assert not asset_events(airflow, "dbt/shop/customers", run)
    client.clear("dbt_folders", run, task_ids=["shop.models"], downstream=True)
    client.wait_for_task("dbt_folders", run, "shop.done", states={"failed"}, min_try=2)
    found = {name: len(asset_events(airflow, f"dbt/shop/{name}", run)) for name in ("orders", "customers")}
    assert found == {"orders": 2, "customers": 0}, "each time by who was green"


def test_a_selection_is_drawn_with_its_tests_in_groups(airflow: LocalAirflow, begun: dict[str, str]) -> None:
    client, run = airflow.client, begun["dbt_grouped"]
    client.wait_for_run("dbt_grouped", run, state="success")
    found = states(airflow, "dbt_grouped", run)
    assert set(found.values()) == {"success"}
    assert {"models.orders", "models.stg_orders", "seeds.raw_orders"} <= set(found)
    assert "models.customers" not in found
    assert any("unique" in name for name in found)
    assert "test.shop." in client.log(
        "dbt_grouped", run, next(f"shop.{name}" for name in found if "unique" in name)
    )


def test_clearing_a_whole_run_builds_everything_anew(airflow: LocalAirflow, begun: dict[str, str]) -> None:
    client, run = airflow.client, begun["dbt_green"]
    client.wait_for_run("dbt_green", run, state="success")
    client.clear("dbt_green", run)
    client.wait_for_task("dbt_green", run, "shop.done", min_try=2)
    client.wait_for_run("dbt_green", run, state="success")
    assert "1 of 17 START" in client.log("dbt_green", run, "shop.build", try_number=2)
    assert "START" not in client.log("dbt_green", run, "shop.orders", try_number=2)


def test_a_dag_test_settles_the_nodes_from_the_build(
    airflow: LocalAirflow, scratch: Path, tmp_path: Path
) -> None:
    # With metadata of its own: a running scheduler would start the same tasks.
    metadata = tmp_path / "airflow.db"
    env = {
        **airflow.environment,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{metadata}",
        "AIRFLOW_CONN_SHOP_RED": json.dumps(
            {"conn_type": "duckdb", "host": str(scratch / "shop_red.duckdb")}
        ),
    }
    words = ["dags", "test", "dbt_red", "2013-02-01", "--conf", '{"fail": "orders"}']
    for command in (["db", "migrate"], words):
        subprocess.run(
            [sys.executable, "-m", "airflow", *command], env=env, cwd=tmp_path, check=False, timeout=300
        )
    with contextlib.closing(sqlite3.connect(metadata)) as connection:
        found = dict(connection.execute("select task_id, state from task_instance").fetchall())
        ended = connection.execute("select state from dag_run").fetchall()
    expected = dict.fromkeys((f"shop.{name}" for name in GROUP), "success")
    expected |= dict.fromkeys(("shop.orders", "shop.done"), "failed")
    expected |= dict.fromkeys(("shop.customers", "shop.top_customer"), "skipped")
    assert (found, ended) == (expected, [("failed",)])


def test_a_build_alone_fails_with_dbts_message(airflow: LocalAirflow, begun: dict[str, str]) -> None:
    client, run = airflow.client, begun["dbt_alone"]
    client.wait_for_run("dbt_alone", run, state="failed")
    assert "told to fail: orders" in client.log("dbt_alone", run, "build")


def test_a_killed_build_fails_what_it_did_not_reach_and_leaves_no_process(airflow: LocalAirflow) -> None:
    client = airflow.client
    run = client.trigger("dbt_slow", conf={"slow": NEVER})
    client.wait_for_task("dbt_slow", run, "shop.stg_orders", states={"success"})
    client.request(
        "PATCH", f"/dags/dbt_slow/dagRuns/{run}/taskInstances/shop.build", json={"new_state": "failed"}
    )
    client.wait_for_run("dbt_slow", run, state="failed")
    found = states(airflow, "dbt_slow", run)
    assert (found["announce"], found["top_customer"]) == ("success", "failed")
    assert "the build task failed before this was done" in client.log("dbt_slow", run, "shop.top_customer")
    good = [name for name in NODES if found[name] == "success"]
    assert "stg_orders" in good
    assert [len(asset_events(airflow, f"dbt/shop/{name}", run)) for name in good] == [1] * len(good)
    deadline = time.monotonic() + 20
    while (alive := _dbt_children()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive == []


def test_who_builds_into_one_target_takes_turns_whatever_builds_there(airflow: LocalAirflow) -> None:
    # Two that wrote to one file of DuckDB at once would fail.
    client = airflow.client
    first = client.trigger("dbt_slow", conf={"slow": SLOW})
    client.wait_for_task("dbt_slow", first, "shop.build", states={"running"})
    other = client.trigger("dbt_other")
    client.wait_for_run("dbt_other", other, state="success")
    assert f"Waiting until dbt_slow.shop.build of run {first}" in client.log("dbt_other", other, "run")
    client.wait_for_run("dbt_slow", first, state="success")
    client.clear("dbt_slow", first, task_ids=["shop.customers"], downstream=True)
    client.wait_for_task("dbt_slow", first, "shop.customers", states={"running"}, min_try=2)
    second = client.trigger("dbt_slow")
    client.wait_for_run("dbt_slow", second, state="success")
    told = client.log("dbt_slow", second, "shop.build")
    assert f"Waiting until dbt_slow.shop.customers of run {first}" in told
    client.wait_for_run("dbt_slow", first, state="success")


def _dbt_children() -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "airflow_ext/dbt/child.py" in command and str(os.getpid()) != folder.name:
            found.append(command)
    return found
