"""The one real DAG of the SLA benchmark; the others are copies of its rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, task

from airflow_ext.sla import sla

with DAG(
    "hourly",
    schedule="0 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    deadline=sla(
        within=timedelta(minutes=30),
        since="schedule",
        owner="bench",
        callback="benchmarks._sla_sink.nowhere",
    ),
):

    @task
    def work() -> None:
        """Do nothing."""

    work()
