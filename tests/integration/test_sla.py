"""Promises about time on a real Airflow, told to a real mail server."""

from __future__ import annotations

import email
import email.policy
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from sqlalchemy import create_engine, text

from airflow_ext.testing.airflow_client import AirflowClient, wait_until
from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.ports import free_ports

DAGS = ("sla_missed", "sla_met", "sla_failed", "sla_by")


class Inbox(Message):
    """Keeps every mail with the time it came."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[tuple[datetime, Any]] = []

    def handle_message(self, message: Any) -> None:
        mail = email.message_from_bytes(message.as_bytes(), policy=email.policy.default)
        self.mails.append((datetime.now(UTC), mail))

    def to(self, name: str) -> list[tuple[datetime, Any]]:
        """Return the mails to one address."""
        return [(came, mail) for came, mail in self.mails if mail["To"] == f"{name}@example.com"]


@pytest.fixture(scope="module")
def inbox(airflow: LocalAirflow) -> Iterator[Inbox]:
    (port,) = free_ports(1)
    handler = Inbox()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    airflow.client.create_connection(
        "sla_mail",
        "smtp",
        host="127.0.0.1",
        port=port,
        extra='{"disable_ssl": true, "disable_tls": true}',
    )
    airflow.client.wait_for_dags(DAGS)
    yield handler
    controller.stop()


def rows(airflow: LocalAirflow, query: str, **values: Any) -> list[Any]:
    """Read Airflow's tables: there is no public API for deadlines."""
    engine = create_engine(airflow.metadata_url)
    try:
        with engine.connect() as connection:
            return list(connection.execute(text(query), values))
    finally:
        engine.dispose()


def deadlines(airflow: LocalAirflow, run_id: str) -> list[datetime]:
    query = (
        "select d.deadline_time from deadline d join dag_run r on r.id = d.dagrun_id where r.run_id = :run_id"
    )
    return [row[0] for row in rows(airflow, query, run_id=run_id)]


def test_a_missed_promise_is_told_within_seconds_and_once(
    airflow: LocalAirflow, client: AirflowClient, inbox: Inbox, scratch: Path
) -> None:
    run_id = client.trigger("sla_missed")
    (due, _) = sorted(deadlines(airflow, run_id), reverse=True)
    came, mail = wait_until(lambda: inbox.to("missed"), timeout=60, what="a mail")[0]
    (scratch / "sla_missed").touch()
    delay = (came - due).total_seconds()
    html = mail.get_body(("html",)).get_content()
    (scratch / "sla_notice.html").write_text(
        f"<!-- {delay:.1f} s after the deadline -->\n{html}"
    )  # to look at
    assert 0 <= delay < 15
    assert mail["Subject"].startswith("[page] SLA missed: sla_missed is still running, was due ")
    assert "team-x" in html
    assert f'href="{airflow.url}/dags/sla_missed/runs/manual__' in html
    client.wait_for_run("sla_missed", run_id, state="success")
    assert len(inbox.to("missed")) == 1


def test_a_channel_that_cannot_be_told_is_seen_in_the_callback_and_hurts_nothing(
    airflow: LocalAirflow, client: AirflowClient, inbox: Inbox
) -> None:
    query = "select output from callback where state = 'failed' and output like '%broken-channel%'"
    ((output,),) = wait_until(lambda: rows(airflow, query), timeout=60, what="a failed callback")
    assert "1 of 1 channels could not be told: airflow_ext_test_nowhere.tell (ModuleNotFoundError)" in output
    health = client.request("GET", "/monitor/health")
    assert health["triggerer"]["status"] == "healthy"
    assert inbox.mails


def test_a_promise_that_is_met_is_silent(airflow: LocalAirflow, client: AirflowClient, inbox: Inbox) -> None:
    run_id = client.trigger("sla_met")
    promised = deadlines(airflow, run_id)
    client.wait_for_run("sla_met", run_id, state="success")
    assert len(promised) == 1
    wait_until(lambda: not deadlines(airflow, run_id), timeout=20, what="the deadline is gone")
    assert inbox.to("met") == []


def test_a_run_that_failed_is_told_as_failed(client: AirflowClient, inbox: Inbox) -> None:
    run_id = client.trigger("sla_failed")
    client.wait_for_run("sla_failed", run_id, state="failed")
    ((_, mail),) = wait_until(lambda: inbox.to("failed"), timeout=60, what="a mail")
    assert "sla_failed failed" in mail["Subject"]
    assert "before it was due" in mail.get_body(("html",)).get_content()


@pytest.mark.parametrize(
    ("age", "expected"),
    [pytest.param(timedelta(0), 1, id="today"), pytest.param(timedelta(days=400), 0, id="an-old-date")],
)
def test_a_run_for_an_old_date_owes_no_time_of_day(
    airflow: LocalAirflow, client: AirflowClient, inbox: Inbox, age: timedelta, expected: int
) -> None:
    run_id = client.trigger("sla_by", logical_date=datetime.now(UTC) - age)
    assert len(deadlines(airflow, run_id)) == expected
    client.wait_for_run("sla_by", run_id, state="success")


def test_the_scheduler_came_through_it_all(client: AirflowClient, inbox: Inbox) -> None:
    start = time.monotonic()
    run_id = client.trigger("sla_met")
    client.wait_for_run("sla_met", run_id, state="success")
    assert time.monotonic() - start < 60
    assert inbox.to("met") == []
