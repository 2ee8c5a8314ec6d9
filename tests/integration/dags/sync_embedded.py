"""A sync of the embedded engine: the connections point to files of the tests."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_ext.operators.sync import SyncFiles, SyncOperator, SyncTable

with DAG("sync_embedded", schedule=None):
    orders = SyncOperator(
        task_id="orders",
        sync_conn_id="it_embedded",
        tables=[SyncTable("orders", primary_key="id", cursor="id")],
    )
    shops = SyncOperator(
        task_id="shops", sync_conn_id="it_embedded_files", tables=[SyncFiles("shops", path="*.csv")]
    )
    orders >> shops
