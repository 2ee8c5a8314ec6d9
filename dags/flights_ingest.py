"""Team *operations*: bring each day's flights and weather from the operational PostgreSQL into the warehouse.

The connections ``flights_to_warehouse``, ``flights_source`` and ``warehouse`` live in Vault. ``flights_source`` has no
password at all: each task leases an account of its own, which is dropped when the task ends.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_ext.operators.sync import SyncOperator, SyncTable
from airflow_ext.sla import Channel, sla

NEW_YORK = pendulum.timezone("America/New_York")
DAY = "{{ logical_date.in_timezone('America/New_York') | ds }}"  # ds alone is the date in UTC
NEXT_DAY = "{{ logical_date.in_timezone('America/New_York').add(days=1) | ds }}"

with DAG(
    "flights_ingest",
    schedule="@daily",
    start_date=pendulum.datetime(2013, 1, 1, tz=NEW_YORK),
    end_date=pendulum.datetime(2013, 12, 31, tz=NEW_YORK),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "operations", "retries": 1, "retry_delay": timedelta(seconds=10)},
    deadline=sla(
        within=timedelta(minutes=30),
        tz="America/New_York",
        owner="operations",
        channels=[
            Channel(
                "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
                smtp_conn_id="night_mail",
                from_email="airflow@flights.example",
                to="operations@flights.example",
            )
        ],
    ),
    tags=["team:operations"],
    doc_md=__doc__,
):
    SyncOperator(
        task_id="sync",
        sync_conn_id="flights_to_warehouse",
        tables=[
            SyncTable("flights", mode="window", cursor="flight_date"),
            SyncTable("weather", mode="window", cursor="observed_on"),
            SyncTable("airlines", mode="replace"),
            SyncTable("airports", mode="replace"),
            SyncTable("planes", mode="replace"),
        ],
        window_start=DAY,
        window_end=NEXT_DAY,
        partition=DAY,
        pool="warehouse",
    )
