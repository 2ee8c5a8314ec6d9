"""Team *planning*: write the morning digest as soon as the day's delays are good, however often that takes a repair.

Its promise is to be done within a minute; while the contract is breached it waits, and its owner is told.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, task

from airflow_ext.sensors.contract import ContractSensor
from airflow_ext.sla import Channel, sla

NEW_YORK = pendulum.timezone("America/New_York")

with DAG(
    "delay_digest",
    schedule="@daily",
    start_date=pendulum.datetime(2013, 1, 1, tz=NEW_YORK),
    end_date=pendulum.datetime(2013, 12, 31, tz=NEW_YORK),
    catchup=False,
    default_args={"owner": "planning"},
    deadline=sla(
        within=timedelta(seconds=60),
        tz="America/New_York",
        owner="planning",
        severity="page",
        channels=[
            Channel(
                "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
                smtp_conn_id="night_mail",
                from_email="airflow@flights.example",
                to="planning@flights.example",
            )
        ],
    ),
    tags=["team:planning"],
    doc_md=__doc__,
):

    @task(pool="warehouse")
    def digest(day: str) -> str:
        """Return one sentence about the day."""
        from airflow.sdk import BaseHook

        flights, cancelled, share = (
            BaseHook.get_connection("warehouse")
            .get_hook()
            .get_first(
                "SELECT sum(flights), sum(cancelled), sum(delayed_share * flights) / sum(flights) "
                "FROM marts.daily_delays WHERE flight_date = ?",
                parameters=(day,),
            )
        )
        return f"{day}: {flights} flights, {cancelled} cancelled, {share:.0%} delayed"

    delays_are_good = ContractSensor(
        task_id="delays_are_good",
        contract="daily_delays>=1,<2",
        timezone="America/New_York",
        on_breach="wait",
        poll_interval=2,
        timeout=3600,
    )
    delays_are_good >> digest(day="{{ logical_date.in_timezone('America/New_York') | ds }}")
