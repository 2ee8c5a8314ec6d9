"""The public API as its users write it: checked by mypy, never run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import DAG, Asset, PartitionedAssetTimetable

from airflow_ext.contracts import Contract, ContractRange, Status, Verdict
from airflow_ext.dbt.index import DbtIndex
from airflow_ext.operators.contract import ContractPublishOperator
from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject, DbtTaskGroup
from airflow_ext.operators.sync import ResyncOperator, SchemaGate, SyncOperator, SyncTable, SyncWait
from airflow_ext.secrets.vault import VaultBackend
from airflow_ext.sensors.contract import ContractSchedule, ContractSensor
from airflow_ext.sensors.sync import SyncSensor
from airflow_ext.sla import Channel, SlaEvent, sla
from airflow_ext.testing.airflow_client import AirflowClient
from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.vault import LocalVault


def tell(event: SlaEvent) -> None:
    """A callback as users write one."""
    late: timedelta | None = event.late
    print(event.subject, event.owner, late)


with DAG(
    "typed",
    schedule=PartitionedAssetTimetable(assets=Asset("orders")),
    start_date=pendulum.datetime(2026, 1, 1),
    deadline=[
        sla(
            by="06:00",
            tz="Europe/Berlin",
            days="mon-fri",
            owner="a",
            channels=[Channel("a.b.Notifier", to="x")],
        ),
        sla(within=timedelta(minutes=5), callback="tests.typing.api.tell"),
    ],
):
    contract: Contract = Contract.from_file(Path("contract.yaml"))
    version: str = contract.version
    sync = SyncOperator(
        task_id="sync",
        sync_conn_id="pair",
        tables=[SyncTable("orders", mode="merge", primary_key=["id"], cursor="changed_at")],
        window_start="{{ ds }}",
        window_end="{{ macros.ds_add(ds, 1) }}",
    )
    vendor = SyncOperator(
        task_id="vendor",
        sync_conn_id="fivetran",
        sync="shop",
        tables=["shop_public.orders"],
        waiting=SyncWait(poll_interval=30, timeout=3600),
        schema_gate=SchemaGate(column_added="warn"),
        on_running="wait",
    )
    again = ResyncOperator(task_id="again", sync_conn_id="fivetran", sync="shop", scope=["public.orders"])
    fresh = SyncSensor(task_id="fresh", sync_conn_id="fivetran", sync="shop", within=timedelta(hours=1))
    project = DbtProject(project_dir="shop", profile_conn_id="warehouse")
    index: DbtIndex = project.index()
    group = DbtTaskGroup("shop", project=project, vars={"day": "{{ ds }}"}, threads=4)
    alone = DbtBuildOperator(task_id="alone", project=project, full_refresh=True)
    publish = ContractPublishOperator(task_id="publish", contract=contract, on_breach="fail")
    wait = ContractSensor(task_id="wait", contract="orders>=1,<2", on_breach="wait", poll_interval=10)
    hours = ContractSensor(
        task_id="hours",
        contract="visits>=1,<2",
        partition_format="%Y-%m-%dT%H",
        interval="run",
        at_least=22,
        uses=["id"],
        on_late="skip",
        available_by=timedelta(hours=1),
        grace=60,
        store_conn_id="verdicts",
    )
    sync >> group >> publish
    wait >> alone

plain = DAG("plain", schedule=ContractSchedule("orders>=1,<2"))
by_key = DAG("by_key", schedule=ContractSchedule.partitioned("orders>=1,<2"))

majors: tuple[int, ...] = ContractRange.parse("orders>=1,<3").majors


def read(verdict: Verdict) -> bool:
    """A verdict as users read one."""
    return verdict.status is Status.PASS and not verdict.reasons


def serve(folder: Path) -> None:
    """The local servers as tests use them."""
    with LocalPostgres(folder / "postgres") as server, LocalVault() as vault:
        role_id, secret_id = vault.approle("airflow", policies=["read"])
        backend = VaultBackend(url=vault.url, auth_type="approle", role_id=role_id, secret_id=secret_id)
        value: str | None = backend.get_conn_value("warehouse")
        print(value, server.url())
        with LocalAirflow(folder / "airflow", dags={"mine": folder}) as airflow:
            client: AirflowClient = airflow.client
            run: str = client.trigger("typed")
            print(client.wait_for_run("typed", run, state="success")["state"])
