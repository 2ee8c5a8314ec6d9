"""A dbt group survives the sudden end of whatever runs it: its states equal dbt's, nothing is built twice."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from airflow_ext.testing.local_airflow import LocalAirflow

pytestmark = pytest.mark.timeout(600)

SLOW = "1500000000"
"""Rows that one model hashes: some seconds."""


@pytest.fixture(scope="module", autouse=True)
def _shop(airflow: LocalAirflow, scratch: Path) -> None:
    airflow.client.create_connection("shop_killed", "duckdb", host=str(scratch / "shop_killed.duckdb"))
    airflow.client.wait_for_dags(["dbt_killed"])


def begun(airflow: LocalAirflow) -> str:
    """Start a run and wait until a part of its nodes is done."""
    run = airflow.client.trigger("dbt_killed", conf={"slow": SLOW})
    airflow.client.wait_for_task("dbt_killed", run, "shop.stg_orders", states={"success"})
    return run


def dbt_parent(airflow: LocalAirflow) -> int:
    """Return the process that runs the build task, which has dbt as its child; 0 if there is none."""
    home = f"AIRFLOW_HOME={airflow.home}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            if b"airflow_ext/dbt/child.py" in command and home in (folder / "environ").read_bytes():
                return int(re.findall(r"PPid:\s+(\d+)", (folder / "status").read_text())[0])
        except OSError:
            continue
    return 0


def assert_ends_well(airflow: LocalAirflow, run: str, *, tries: int) -> None:
    client = airflow.client
    client.wait_for_run("dbt_killed", run, state="success", timeout=300)
    tasks = client.tasks("dbt_killed", run)
    assert {task["state"] for task in tasks.values()} == {"success"}
    build = tasks["shop.build"]
    assert build["try_number"] == tries
    assert {task["try_number"] for name, task in tasks.items() if name != "shop.build"} == {1}
    if tries > 1:
        log = client.log("dbt_killed", run, "shop.build", try_number=tries)
        assert "main.customers" in log
        assert "main.stg_orders" not in log, "what was done is not built again"


def test_a_killed_worker(airflow: LocalAirflow) -> None:
    run = begun(airflow)
    parent = dbt_parent(airflow)
    assert parent > 1
    os.kill(parent, signal.SIGKILL)
    assert_ends_well(airflow, run, tries=2)


def test_a_killed_triggerer(airflow: LocalAirflow) -> None:
    run = begun(airflow)
    airflow.kill_component("triggerer")
    airflow.client.wait_for_task("dbt_killed", run, "shop.build", states={"success"})
    airflow.start_component("triggerer")
    assert_ends_well(airflow, run, tries=1)


def test_a_killed_scheduler_with_all_its_workers(airflow: LocalAirflow) -> None:
    run = begun(airflow)
    airflow.kill_component("scheduler")
    deadline = time.monotonic() + 20
    while dbt_parent(airflow) and time.monotonic() < deadline:
        time.sleep(0.2)
    airflow.start_component("scheduler")
    assert_ends_well(airflow, run, tries=2)
