"""What sleeps in the triggerer goes on with nothing but its event, as ``dag.test()`` demands."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred

from airflow_ext.operators.sync import ResyncOperator, SyncOperator, SyncWait
from airflow_ext.sensors.contract import ContractSensor
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.sync.remote import TaskState, context, fivetran_connection
from tests.unit.triggers.contract_waiters import DAY, publish


def resumed(task: Any, told: Any, run: Any) -> Any:
    """Run the trigger to its event and resume with it."""
    trigger = told.value.trigger
    trigger.resume_after = 0.0

    async def payload() -> Any:
        async with asyncio.timeout(20), aclosing(trigger.run()) as events:
            return (await anext(events)).payload

    return task.execute_complete(run, asyncio.run(payload()))


@pytest.mark.parametrize("operator", [SyncOperator, ResyncOperator])
def test_a_sync_goes_on(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalFivetran() as server:
        monkeypatch.setenv("AIRFLOW_CONN_FT", fivetran_connection(server))
        server.connection("shop", SyncScript(seconds=0.1))
        with DAG("ingest", schedule=None):
            task = operator(
                task_id="load", sync_conn_id="ft", sync="shop", waiting=SyncWait(poll_interval=0.05)
            )
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(context(TaskState()))
        result = resumed(task, deferred, context(TaskState()))  # the state of the task is lost, too
        run_id = server.connections["shop"].history[0].sync_id
        assert run_id in (result.get("run_id"), *(run["run_id"] for run in result.get("runs", ())))


@pytest.mark.parametrize("push_xcom", [True, False])
def test_a_contract_that_holds_lets_its_sensor_go_on(push_xcom: bool) -> None:
    with AssetStateServer().serving():
        task = ContractSensor(
            task_id="wait", contract="orders>=1,<2", partition=DAY, poll_interval=0.05, do_xcom_push=push_xcom
        )
        run: Any = {
            "ti": SimpleNamespace(get_first_reschedule_date=lambda _: None),
            "dag_run": SimpleNamespace(partition_key=None),
        }
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(run)
        published = publish()
        assert resumed(task, deferred, run) == published.to_dict()
