"""The one real DAG of the SLA benchmark; the others are copies of its rows."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, task

from airflow_ext.sla import Channel, sla

# Parts that tell somebody give the address of their server.
url = os.environ.get("AIRFLOW_EXT_BENCH_SINK", "")
channels = [Channel(f"benchmarks._sla_sink.{name}", url=url) for name in ("Keyed", "Plain")] if url else []

with DAG(
    "hourly",
    schedule="0 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    deadline=sla(
        within=timedelta(minutes=30),
        since="schedule",
        owner="bench",
        channels=channels,
        callback=None if url else "benchmarks._sla_sink.nowhere",
    ),
):

    @task
    def work() -> None:
        """Do nothing."""

    work()
