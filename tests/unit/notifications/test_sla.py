"""Telling a missed SLA, to a real mail server on this machine."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from airflow.sdk import BaseNotifier

from airflow_ext.exceptions import UnavailableError
from airflow_ext.notifications import sla as tell
from airflow_ext.sla import Channel, SlaEvent, sla
from airflow_ext.sla.policy import Policy
from airflow_ext.testing.ports import free_ports

SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
DUE = datetime(2026, 3, 2, 5, 0, tzinfo=UTC)
MAIL = Channel(SMTP, smtp_conn_id="mail", to="ops@example.com", from_email="airflow@example.com")
received: list[Any] = []


class Inbox(Message):
    """Keeps every mail."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.mails.append(email.message_from_bytes(message.as_bytes(), policy=email.policy.default))


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    (port,) = free_ports(1)
    handler = Inbox()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    os.environ["AIRFLOW_CONN_MAIL"] = json.dumps(
        {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": port,
            "extra": {"disable_ssl": True, "disable_tls": True, "retry_limit": 0},
        }
    )
    yield handler
    controller.stop()


@pytest.fixture(autouse=True)
def _forget() -> None:
    received.clear()
    tell._told.clear()


class BlockingNotifier(BaseNotifier):
    """A notifier with ``notify`` only."""

    template_fields = ("text",)

    def __init__(self, *, text: str, title: str = "") -> None:
        super().__init__()
        self.text, self.title = text, title

    def notify(self, context: Any) -> None:  # noqa: ARG002 - the base class gives it
        received.append((self.text, self.title))


class BrokenNotifier(BaseNotifier):
    """Always fails."""

    async def async_notify(self, context: Any) -> None:  # noqa: ARG002 - the base class gives it
        raise ConnectionResetError("gone")


def note(event: SlaEvent) -> None:
    received.append(event)


async def note_async(event: SlaEvent) -> None:
    received.append(event)


HERE = __name__


def context(**changes: Any) -> dict[str, Any]:
    run = {
        "dag_run_id": "manual__2026-03-02T04:00:00+00:00",
        "dag_id": "marts",
        "logical_date": None,
        "start_date": "2026-03-02T04:00:00Z",
        "end_date": None,
        "run_type": "scheduled",
        "state": "running",
    }
    deadline = {"id": "0190-11", "deadline_time": DUE + timedelta(minutes=5)}
    return {"dag_run": {**run, **changes}, "deadline": deadline}


def arguments(*channels: Channel, callback: str | None = None) -> dict[str, Any]:
    alert = sla(
        by="06:00",
        tz="Europe/Berlin",
        grace=timedelta(minutes=5),
        owner="team-x",
        severity="page",
        channels=channels,
        callback=callback,
    )
    return dict(alert.callback.kwargs)


def test_a_mail_with_the_whole_story_arrives(inbox: Inbox) -> None:
    os.environ["AIRFLOW__API__BASE_URL"] = "https://airflow.example.com/prefix/"
    result = asyncio.run(tell.tell_missed_sla(**arguments(MAIL), context=context()))
    assert result is None
    (mail,) = inbox.mails
    body = mail.get_body(("html",)).get_content()
    assert mail["To"] == "ops@example.com"
    assert mail["Subject"] == "[page] SLA missed: marts is still running, was due 06:00:00 CET"
    assert mail["Message-ID"] == "<0190-11@airflow-ext>"
    for words in ("team-x", "done by 06:00 Europe/Berlin", "Mon 02 Mar 2026 06:00:00 CET", "running since"):
        assert words in body
    link = "https://airflow.example.com/prefix/dags/marts/runs/manual__2026-03-02T04%3A00%3A00%2B00%3A00"
    assert f'href="{link}"' in body


def test_a_run_that_ended_in_time_after_all_is_silent(inbox: Inbox) -> None:
    ended = context(state="success", end_date="2026-03-02T05:04:59Z")
    asyncio.run(tell.tell_missed_sla(**arguments(MAIL), context=ended))
    assert inbox.mails == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"state": "success", "end_date": "2026-03-02T05:06:00Z"}, "finished 6 min late", id="late"
        ),
        pytest.param({"state": "failed", "end_date": "2026-03-02T04:30:00Z"}, "marts failed", id="failed"),
        pytest.param({"state": "queued", "start_date": None}, "has not started", id="queued"),
    ],
)
def test_the_state_is_told_as_it_is(inbox: Inbox, changes: dict[str, Any], words: str) -> None:
    asyncio.run(tell.tell_missed_sla(**arguments(MAIL), context=context(**changes)))
    assert words in inbox.mails[0]["Subject"]


def test_own_templates_win_over_ours(inbox: Inbox) -> None:
    own = Channel(
        SMTP, smtp_conn_id="mail", to="a@x", from_email="b@x", subject="{{ sla.owner }}: {{ sla.dag_id }}"
    )
    asyncio.run(tell.tell_missed_sla(**arguments(own), context=context()))
    assert inbox.mails[0]["Subject"] == "team-x: marts"


def test_braces_in_what_we_tell_are_no_template(inbox: Inbox) -> None:
    asyncio.run(tell.tell_missed_sla(**{**arguments(MAIL), "owner": "{{ 1/0 }}"}, context=context()))
    assert "{{ 1/0 }}" in inbox.mails[0].get_body(("html",)).get_content()


def test_notifiers_that_only_block_are_told_too() -> None:
    asyncio.run(tell.tell_missed_sla(**arguments(Channel(f"{HERE}.BlockingNotifier")), context=context()))
    ((text, title),) = received
    assert text.startswith("marts missed its SLA")
    assert title.startswith("[page]")


@pytest.mark.parametrize("name", ["note", "note_async"])
def test_a_plain_function_gets_the_event(name: str) -> None:
    asyncio.run(tell.tell_missed_sla(**arguments(callback=f"{HERE}.{name}"), context=context()))
    (event,) = received
    assert event.key == "marts/by-0600-Europe-Berlin/2026-03-02/0600"
    assert (event.due, event.state) == (DUE, "running")


def test_the_context_of_a_later_airflow_works_too() -> None:
    run = SimpleNamespace(
        run_id="r", dag_id="marts", start_date=None, end_date=None, run_type="manual", state="queued"
    )
    asyncio.run(
        tell.tell_missed_sla(
            **arguments(callback=f"{HERE}.note"),
            context={"dag_run": run, "ti": None},
            deadline={"id": "7", "deadline_time": DUE.isoformat()},
            something_new=1,
        )
    )
    assert (received[0].run_id, received[0].deadline_id) == ("r", "7")
    assert received[0].due == DUE - timedelta(minutes=5)


def event() -> SlaEvent:
    policy = Policy.from_flat(arguments(callback="a.b"))
    return tell.make_event(policy=policy, context=context(), deadline=None, base_url="http://x", now=DUE)


def test_two_late_runs_of_one_day_are_two_incidents_and_a_copy_is_dropped() -> None:
    alert = sla(within=timedelta(minutes=20), callback=f"{HERE}.note")
    for run_id in ("r1", "r2", "r2"):
        asyncio.run(tell.tell_missed_sla(**alert.callback.kwargs, context=context(dag_run_id=run_id)))
    first, second = (event.key for event in received)
    assert first != second


def test_what_another_triggerer_has_told_is_not_told_again() -> None:
    alert = sla(within=timedelta(minutes=20), callback=f"{HERE}.note")
    asyncio.run(tell.tell_missed_sla(**alert.callback.kwargs, context=context()))
    os.environ["AIRFLOW_VAR_AIRFLOW_EXT_SLA_TOLD"] = json.dumps([received[0].key])
    tell._told.clear()
    asyncio.run(tell.tell_missed_sla(**alert.callback.kwargs, context=context()))
    assert len(received) == 1


@pytest.mark.parametrize(
    ("age", "told"),
    [
        pytest.param(timedelta(seconds=15), 0, id="at-work"),
        pytest.param(timedelta(seconds=25), 1, id="stopped"),
        pytest.param(timedelta(hours=-1), 1, id="of-the-future"),
        pytest.param(None, 1, id="nonsense"),
    ],
)
def test_it_is_silent_only_while_the_monitor_is_at_work(age: timedelta | None, told: int) -> None:
    beat = json.dumps({"at": (datetime.now(UTC) - age).isoformat(), "tick": 10}) if age is not None else "{"
    os.environ["AIRFLOW_VAR_AIRFLOW_EXT_SLA_HEARTBEAT"] = beat
    alert = sla(within=timedelta(minutes=20), callback=f"{HERE}.note")
    asyncio.run(tell.tell_missed_sla(**alert.callback.kwargs, context=context()))
    assert len(received) == told


def counting(fails: int) -> tuple[list[int], Callable[[], Awaitable[None]]]:
    calls: list[int] = []

    async def teller() -> None:
        calls.append(len(calls))
        if len(calls) <= fails:
            raise ConnectionResetError("gone")

    return calls, teller


def test_only_what_failed_is_tried_again() -> None:
    good, tell_good = counting(0)
    shaky, tell_shaky = counting(2)
    failed = asyncio.run(
        tell.tell_all({"good": tell_good, "shaky": tell_shaky}, event=event(), waits=(0, 0, 0))
    )
    assert failed == {}
    assert (len(good), len(shaky)) == (1, 3)


def test_one_broken_channel_does_not_keep_the_others_from_being_told(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tell, "WAITS", (0.0,))  # a time, not behaviour
    broken = Channel(f"{HERE}.BrokenNotifier")
    missing = Channel("nowhere.at.All")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(UnavailableError, match="2 of 3 channels could not be told") as caught,
    ):
        asyncio.run(tell.tell_missed_sla(**arguments(broken, missing, MAIL), context=context()))
    assert len(inbox.mails) == 1
    assert "1. BrokenNotifier (ConnectionResetError), 2. All (ModuleNotFoundError)" in str(caught.value)
    assert "gone" in caplog.text


def test_a_channel_that_hangs_is_given_up() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    failed = asyncio.run(tell.tell_all({"hangs": hang}, event=event(), waits=(0,), timeout=0.01))
    assert failed == {"hangs": "TimeoutError"}
