"""A publisher of one contract and the kinds of consumers it has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, PartitionedAssetTimetable, task

from airflow_ext.contracts import Contract
from airflow_ext.operators.contract import ContractPublishOperator
from airflow_ext.sensors.contract import ContractSensor

ORDERS = Contract.from_file(Path(__file__).parent / "contracts_orders.odcs.yaml")
DAY = "{{ dag_run.conf['day'] }}"
RETRYING = {"retries": 3}


@task
def build(day: str, rows: str) -> None:
    """Write the day's rows."""
    import duckdb

    with duckdb.connect(os.environ["AIRFLOW_EXT_TEST_WORK"] + "/contracts.duckdb") as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS shop")
        connection.execute("CREATE TABLE IF NOT EXISTS shop.orders (day DATE, id INTEGER)")
        connection.execute("DELETE FROM shop.orders WHERE day = ?", [day])
        connection.execute("INSERT INTO shop.orders SELECT ?::DATE, range FROM range(?)", [day, int(rows)])


@task
def rows_of(verdict: Any) -> int:
    """Return what a task sees of a verdict."""
    return int(verdict["rows"])


with DAG("contracts_publisher", schedule=None, default_args=RETRYING, max_active_runs=1):
    publish = ContractPublishOperator(task_id="publish", contract=ORDERS, partition=DAY)
    build(DAY, "{{ dag_run.conf['rows'] }}") >> publish

OPTIONS: dict[str, dict[str, Any]] = {
    "contracts_fails": {"on_breach": "fail"},
    "contracts_waits": {"on_breach": "wait"},
    "contracts_reschedules": {"deferrable": False, "mode": "reschedule", "poll_interval": 10},
    "contracts_gives_up": {"timeout": 3},
    "contracts_wants_more": {"contract": "test_orders>=1.2,<2"},
}
for name, options in OPTIONS.items():
    with DAG(name, schedule=None, default_args=RETRYING):
        arguments: dict[str, Any] = {
            "contract": "test_orders>=1,<2",
            "partition": DAY,
            "poll_interval": 2,
            **options,
        }
        rows_of(ContractSensor(task_id="orders_ok", **arguments).output)

with DAG("contracts_on_event", schedule=[ORDERS.asset]):

    @task
    def days(triggering_asset_events: Any = None) -> list[str]:
        """Return the partitions that woke us."""
        return [event.extra["partition"] for events in triggering_asset_events.values() for event in events]

    days()

with DAG("contracts_on_partition", schedule=PartitionedAssetTimetable(assets=ORDERS.asset)):
    # no partition is given: the run has the key of the event
    ContractSensor(task_id="orders_ok", contract="test_orders>=1,<2", poll_interval=2)
