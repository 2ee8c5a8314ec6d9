"""The columns of Airflow's tables that monitor and sender read.

Written down here, so that a change in Airflow is seen in one place (a test holds them against Airflow's models), and so that
the judge can be tested on a database with nothing else in it.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Integer, LargeBinary, MetaData, String, Table, Text, Uuid

from airflow_ext.sla.ledger.models import UtcTime

airflow = MetaData()

DAG_RUN = Table(
    "dag_run",
    airflow,
    Column("id", Integer, primary_key=True),
    Column("dag_id", String(250), nullable=False, index=True),
    Column("run_id", String(250), nullable=False),
    Column("run_type", String(50), nullable=False),
    Column("state", String(50)),
    Column("run_after", UtcTime, nullable=False, index=True),
    Column("queued_at", UtcTime),
    Column("start_date", UtcTime),
    Column("end_date", UtcTime),
    Column("logical_date", UtcTime),
    Column("data_interval_end", UtcTime),
)
TASK_INSTANCE = Table(
    "task_instance",
    airflow,
    Column("id", Uuid, primary_key=True),
    Column("dag_id", String(250), nullable=False),
    Column("run_id", String(250), nullable=False),
    Column("task_id", String(250), nullable=False),
    Column("map_index", Integer, nullable=False),
    Column("state", String(20)),
    Column("start_date", UtcTime),
    Column("end_date", UtcTime),
)
DAG = Table(
    "dag",
    airflow,
    Column("dag_id", String(250), primary_key=True),
    Column("is_paused", Boolean),
    Column("is_stale", Boolean),
    Column("has_import_errors", Boolean),
    Column("bundle_name", String(250)),
    Column("relative_fileloc", String(2000)),
)
IMPORT_ERROR = Table(
    "import_error",
    airflow,
    Column("id", Integer, primary_key=True),
    Column("bundle_name", String(250)),
    Column("filename", String(1024)),
)
JOB = Table(
    "job",
    airflow,
    Column("id", Integer, primary_key=True),
    Column("job_type", String(30)),
    Column("state", String(20)),
    Column("latest_heartbeat", UtcTime),
)
ASSET = Table(
    "asset",
    airflow,
    Column("id", Integer, primary_key=True),
    Column("name", String(1500)),
    Column("uri", String(1500)),
)
ASSET_EVENT = Table(
    "asset_event",
    airflow,
    Column("id", Integer, primary_key=True),
    Column("asset_id", Integer),
    Column("timestamp", UtcTime),
    Column("source_dag_id", String(250)),
    Column("source_run_id", String(250)),
    Column("partition_key", String(250)),
    Column("extra", JSON),
)
DAG_VERSION = Table(
    "dag_version",
    airflow,
    Column("id", Uuid, primary_key=True),
    Column("version_number", Integer),
    Column("dag_id", String(250)),
    Column("bundle_version", String(250)),
    Column("created_at", UtcTime),
)
ASSET_STATE = Table(
    "asset_state_store",
    airflow,
    Column("asset_id", Integer, primary_key=True),
    Column("key", String(512), primary_key=True),
    Column("value", Text),
)
FEEDS = Table(
    "dag_schedule_asset_reference",
    airflow,
    Column("asset_id", Integer, primary_key=True),
    Column("dag_id", String(250), primary_key=True),
)
READS = Table(
    "task_inlet_asset_reference",
    airflow,
    Column("asset_id", Integer, primary_key=True),
    Column("dag_id", String(250), primary_key=True),
    Column("task_id", String(250), primary_key=True),
)
MAKES = Table(
    "task_outlet_asset_reference",
    airflow,
    Column("asset_id", Integer, primary_key=True),
    Column("dag_id", String(250), primary_key=True),
    Column("task_id", String(250), primary_key=True),
)
SERIALIZED_DAG = Table(
    "serialized_dag",
    airflow,
    Column("id", Uuid, primary_key=True),
    Column("dag_id", String(250), nullable=False),
    Column("data", JSON),
    Column("data_compressed", LargeBinary),
    Column("created_at", UtcTime, nullable=False),
    Column("last_updated", UtcTime, nullable=False),
)
DEADLINE_ALERT = Table(
    "deadline_alert",
    airflow,
    Column("id", Uuid, primary_key=True),
    Column("serialized_dag_id", Uuid, nullable=False),
    Column("callback_def", JSON, nullable=False),
)
VARIABLE = Table(
    "variable",
    airflow,
    Column("id", Integer, primary_key=True),
    Column("key", String(250)),
    Column("val", Text),
    Column("is_encrypted", Boolean),
)
