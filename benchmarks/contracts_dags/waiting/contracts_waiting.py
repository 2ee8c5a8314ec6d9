"""A task that waits for a contract, and one that waits for a task; the benchmark copies both."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.sensors.external_task import ExternalTaskSensor
from airflow.sdk import DAG, Asset

from airflow_ext.sensors.contract import ContractSensor

POLL = float(os.environ["AIRFLOW_EXT_BENCH_POLL"])
CONTRACTS = int(os.environ["AIRFLOW_EXT_BENCH_CONTRACTS"])

with DAG("upstream", schedule=None):
    EmptyOperator(task_id="done")

with DAG("waiting", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC)):
    # A triggerer takes one XCom per turn of its loop, whoever pushes it; some of the copies do.
    ContractSensor(
        task_id="contract",
        contract="bench0>=1,<2",
        partition="2013-01-05",
        poll_interval=POLL,
        do_xcom_push=False,
    )
    ExternalTaskSensor(
        task_id="external_task",
        external_dag_id="upstream",
        external_task_id="done",
        deferrable=True,
        poll_interval=POLL,
    )

# An asset has state only while a DAG names it; of its own, since each trigger carries its whole DAG.
with DAG("names", schedule=None):
    EmptyOperator(task_id="names", inlets=[Asset(f"contract/bench{n}/v1") for n in range(CONTRACTS)])
