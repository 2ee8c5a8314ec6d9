"""DAGs with promises about time; each mails to its own address."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_ext.sla import Channel, sla

SCRATCH = Path(os.environ["AIRFLOW_EXT_TEST_WORK"])


def mail_to(name: str) -> Channel:
    """Return a channel that mails to ``name``."""
    return Channel(
        "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
        smtp_conn_id="sla_mail",
        from_email="airflow@example.com",
        to=f"{name}@example.com",
    )


@task.sensor(poke_interval=0.5, timeout=180)
def wait_for_file(name: str) -> bool:
    """Wait until the test lets the run end."""
    return (SCRATCH / name).exists()


@task
def end(*, well: bool) -> None:
    """End well or not."""
    if not well:
        raise RuntimeError("as told")


with DAG(
    "sla_missed",
    schedule=None,
    deadline=[
        sla(
            within=timedelta(seconds=5),
            grace=timedelta(seconds=1),
            owner="team-x",
            severity="page",
            channels=[mail_to("missed")],
        ),
        sla(within=timedelta(seconds=5), callback="airflow_ext_test_nowhere.tell", name="broken-channel"),
    ],
):
    wait_for_file("sla_missed")

with DAG("sla_met", schedule=None, deadline=sla(within=timedelta(minutes=3), channels=[mail_to("met")])):
    end(well=True)

with DAG(
    "sla_failed", schedule=None, deadline=sla(within=timedelta(seconds=12), channels=[mail_to("failed")])
):
    end(well=False)

with DAG(
    "sla_by",
    schedule=None,
    deadline=sla(by="06:00", tz="Europe/Berlin", run_types=["manual"], channels=[mail_to("by")]),
):
    end(well=True)
