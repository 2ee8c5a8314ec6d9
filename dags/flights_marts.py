"""Team *analytics*: build the delay marts with dbt when a day's flights are there, and publish their contract.

The DAG has no clock: it starts when `flights_ingest` has loaded a day, for that day's partition. Every dbt
node is a task, dbt itself runs once. The verdict on the day decides whether the contract is published.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Asset, PartitionedAssetTimetable

from airflow_ext.contracts import Contract
from airflow_ext.operators.contract import ContractPublishOperator
from airflow_ext.operators.dbt import DbtProject, DbtTaskGroup

HERE = Path(__file__).parent

with DAG(
    "flights_marts",
    schedule=PartitionedAssetTimetable(assets=Asset("sync/flights_to_warehouse/flights")),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "analytics", "retries": 1, "retry_delay": timedelta(seconds=10)},
    tags=["team:analytics"],
    doc_md=__doc__,
):
    marts = DbtTaskGroup(
        group_id="marts",
        project=DbtProject(project_dir=HERE / "dbt" / "flights", profile_conn_id="warehouse"),
        vars={"delay_format": "{{ var.value.get('flights_delay_format', 'minutes') }}"},
        pool="warehouse",
    )
    publish = ContractPublishOperator(
        task_id="publish_daily_delays",
        contract=Contract.from_file(HERE / "contracts" / "daily_delays.odcs.yaml"),
        pool="warehouse",
        retries=0,
    )
    marts >> publish
