"""Syncs by every backend: the connections point to local servers of the tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_ext.operators.sync import SyncOperator, SyncTable, SyncWait
from airflow_ext.sensors.sync import SyncSensor
from airflow_ext.triggers.sync import SyncEndTrigger

FAST = SyncWait(poll_interval=1)
ALONE = SyncWait(poll_interval=1.5)
"""Tasks that wait in this interval have a poller of their own, whose requests a test can tell from others."""

with DAG("sync_three", schedule=None) as three:
    SyncOperator(
        task_id="fivetran",
        sync_conn_id="it_fivetran",
        sync="shop",
        tables=["shop_public.orders"],
        waiting=FAST,
    )
    SyncOperator(task_id="airbyte", sync_conn_id="it_airbyte", sync="shop", waiting=FAST)
    SyncOperator(
        task_id="embedded", sync_conn_id="it_embedded", tables=[SyncTable("parcels", mode="replace")]
    )
    # It may begin after the sync has ended.
    SyncSensor(
        task_id="fresh",
        sync_conn_id="it_fivetran",
        sync="shop",
        within=timedelta(minutes=10),
        poll_interval=1,
    )

with DAG("sync_follows", schedule=[Asset("sync/it_fivetran/shop/shop_public.orders")]):
    SyncOperator(
        task_id="hooked", sync_conn_id="it_fivetran", sync="hooked", waiting=SyncWait(poll_interval=300)
    )

crm = Asset(
    "it_crm_synced",
    watchers=[
        AssetWatcher(
            name="crm", trigger=SyncEndTrigger(sync_conn_id="it_fivetran", sync="crm", poll_interval=2)
        )
    ],
)

with DAG("sync_watched", schedule=[crm]):

    @task
    def told(triggering_asset_events: Any = None) -> Any:
        """Return what the watcher told."""
        return [event.extra["payload"] for event in triggering_asset_events[crm]]

    told()

with DAG("sync_dies", schedule=None, default_args={"retries": 2, "retry_delay": 1}):
    SyncOperator(task_id="worker", sync_conn_id="it_airbyte", sync="dies", deferrable=False, waiting=FAST)

with DAG("sync_killed", schedule=None):
    SyncOperator(task_id="fivetran", sync_conn_id="it_fivetran", sync="killed", waiting=ALONE)
    SyncOperator(task_id="airbyte", sync_conn_id="it_airbyte", sync="killed", waiting=ALONE)
