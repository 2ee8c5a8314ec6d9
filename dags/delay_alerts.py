"""Team *network*: look at yesterday's worst carriers, but only on data whose contract holds.

The DAG knows the contract's name and the versions it understands, not whose task builds the table.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, task

from airflow_ext.sensors.contract import ContractSensor

NEW_YORK = pendulum.timezone("America/New_York")

with DAG(
    "delay_alerts",
    schedule="@daily",
    start_date=pendulum.datetime(2013, 1, 1, tz=NEW_YORK),
    end_date=pendulum.datetime(2013, 12, 31, tz=NEW_YORK),
    catchup=False,
    default_args={"owner": "network"},
    tags=["team:network"],
    doc_md=__doc__,
):

    @task(pool="warehouse")
    def worst_carriers(day: str) -> list[dict[str, object]]:
        """Return the three carriers with the longest mean arrival delay of the day."""
        from airflow.sdk import BaseHook

        rows = (
            BaseHook.get_connection("warehouse")
            .get_hook()
            .get_records(
                "SELECT carrier_name, flights, round(mean_arr_delay, 1) FROM marts.daily_delays "
                "WHERE flight_date = ? ORDER BY mean_arr_delay DESC LIMIT 3",
                parameters=(day,),
            )
        )
        return [{"carrier": name, "flights": flights, "mean_delay": delay} for name, flights, delay in rows]

    delays_are_good = ContractSensor(
        task_id="delays_are_good",
        contract="daily_delays>=1,<2",
        timezone="America/New_York",
        on_breach="fail",
        poll_interval=2,
        timeout=900,
    )
    delays_are_good >> worst_carriers(day="{{ logical_date.in_timezone('America/New_York') | ds }}")
