"""The ways to wait for a contract: in a shared database, for an interval, by a schedule."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, AssetAlias, task

from airflow_ext.contracts import Contract
from airflow_ext.operators.contract import ContractPublishOperator
from airflow_ext.sensors.contract import ContractSchedule, ContractSensor

HERE = Path(__file__).parent
ORDERS = Contract.from_file(HERE / "contracts_orders.odcs.yaml")
VISITS = Contract.from_file(HERE / "contracts_hours.odcs.yaml")
DAY = "{{ dag_run.conf['day'] }}"
STORE = "contracts_verdicts"
"""A connection the test creates."""


def rows_of_day(day: str, rows: str) -> int:
    """Write the day's rows and return how many."""
    import duckdb

    with duckdb.connect(os.environ["AIRFLOW_EXT_TEST_WORK"] + "/contracts.duckdb") as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS shop")
        connection.execute("CREATE TABLE IF NOT EXISTS shop.orders (day DATE, id INTEGER)")
        connection.execute("DELETE FROM shop.orders WHERE day = ?", [day])
        connection.execute("INSERT INTO shop.orders SELECT ?::DATE, range FROM range(?)", [day, int(rows)])
    return int(rows)


# Load and publish in one task, into the shared database.
with DAG("contracts_shared_publisher", schedule=None, default_args={"retries": 3}, max_active_runs=1):

    @task.contract_publish(contract=ORDERS, partition=DAY, store_conn_id=STORE, emit_event=False)
    def load_orders(day: str, rows: str) -> int:
        """Write the day's rows."""
        return rows_of_day(day, rows)

    load_orders(DAY, "{{ dag_run.conf['rows'] }}")

OPTIONS: dict[str, dict[str, Any]] = {
    "contracts_shared_fails": {"on_breach": "fail"},
    "contracts_shared_waits": {"on_breach": "wait"},
    "contracts_shared_last_good": {"use_last_good": True},
}
for name, options in OPTIONS.items():
    with DAG(name, schedule=None, default_args={"retries": 3}):
        ContractSensor(
            task_id="orders_ok",
            contract="test_orders>=1,<2",
            partition=DAY,
            store_conn_id=STORE,
            poll_interval=2,
            **options,
        )

with DAG("contracts_hours_publisher", schedule=None, max_active_tasks=1):

    @task
    def build_hours(dag_run: Any = None) -> list[str]:
        """Write a row an hour."""
        import duckdb

        hours: list[str] = dag_run.conf["hours"]
        with duckdb.connect(os.environ["AIRFLOW_EXT_TEST_WORK"] + "/contracts.duckdb") as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS shop")
            connection.execute("CREATE TABLE IF NOT EXISTS shop.visits (seen_at TIMESTAMP, id INTEGER)")
            for hour in hours:
                connection.execute("INSERT INTO shop.visits VALUES (?::TIMESTAMP, 1)", [f"{hour}:30:00"])
        return hours

    ContractPublishOperator.partial(
        task_id="publish",
        contract=VISITS,
        outlets=[VISITS.asset, AssetAlias(f"{VISITS.asset.name}/unkeyed")],
    ).expand(partition=build_hours())

with DAG("contracts_hours_waits", schedule=None):
    ContractSensor(
        task_id="hours_ok",
        contract="test_visits>=1,<2",
        partition_format="%Y-%m-%dT%H",
        interval="{{ dag_run.conf['interval'] }}",
        poll_interval=2,
    )

with DAG("contracts_scheduled", schedule=ContractSchedule("test_visits>=1,<2")):
    # no partition is given: the run is about those of its events
    ContractSensor(
        task_id="visits_ok", contract="test_visits>=1,<2", partition_format="%Y-%m-%dT%H", poll_interval=2
    )

with DAG("contracts_scheduled_by_key", schedule=ContractSchedule.partitioned("test_visits>=1,<2")):
    ContractSensor(
        task_id="visits_ok", contract="test_visits>=1,<2", partition_format="%Y-%m-%dT%H", poll_interval=2
    )

# Published from the command line; a partition that is late is told by the trigger of this one.
with DAG("contracts_late", schedule=None):
    ContractSensor(
        task_id="prices_ok", contract="test_prices>=2,<3", partition=DAY, uses=["price"], poll_interval=2
    )
