"""Channels as they really are: Airflow's notifiers against servers on this machine, which fail, hang and ask to wait."""

from __future__ import annotations

import email
import email.policy
import gc
import json
import os
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from airflow.sdk import BaseNotifier

from airflow_ext.notifications.sla_delivery import Bounds, Deliverer
from airflow_ext.notifications.sla_errors import describe, retry_after
from airflow_ext.sla import Channel, SlaEvent
from airflow_ext.sla.sender.model import Call, Outcome
from airflow_ext.testing.ports import free_ports

DUE = datetime(2026, 3, 2, 5, 0, tzinfo=UTC)
SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
SLACK = "airflow.providers.slack.notifications.slack.SlackNotifier"
WEBHOOK = "airflow.providers.http.notifications.http.HttpNotifier"
PAGERDUTY = "airflow.providers.pagerduty.notifications.pagerduty.PagerdutyNotifier"
APPRISE = "airflow.providers.apprise.notifications.apprise.AppriseNotifier"


def event(**changes: Any) -> SlaEvent:
    values: dict[str, Any] = {
        "key": "marts/by-0600/2026-03-02/0600",
        "policy": "by-0600",
        "promise": "done by 06:00 Europe/Berlin, every day",
        "severity": "page",
        "owner": "team {{ x }}",
        "dag_id": "marts",
        "run_id": "",
        "run_type": "",
        "due": DUE,
        "zone": "Europe/Berlin",
        "told_at": DUE + timedelta(minutes=6),
        "state": "",
        "logical_date": None,
        "started": None,
        "ended": None,
        "url": "https://airflow.example.com/dags/marts",
        "deadline_id": "aa11",
        "cause": "never_started",
        "incident_id": 7,
        "last_good": DUE - timedelta(days=1),
        "changes": ("the DAG, from version 7 to version 8",),
    }
    return SlaEvent(**{**values, **changes})


class Server(ThreadingHTTPServer):
    """Keeps what it gets; answers with ``status``, ``headers`` and ``body``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, Any]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: dict[str, Any] = {"ok": True, "ts": "1772.01", "channel": "C1", "dedup_key": "k"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.requests.append((self.path, json.loads(raw)))
        body = json.dumps(self.server.body).encode()
        self.send_response(self.server.status)
        for name, value in {
            **self.server.headers,
            "Content-Type": "application/json",
            "Content-Length": len(body),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def connect(name: str, **values: Any) -> None:
    os.environ[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(values)


def tell(
    channel: Channel | str, *, thread: str = "", bounds: Bounds | None = None, **changes: Any
) -> Outcome:
    (outcome,) = Deliverer(bounds)([Call(0, channel, event(**changes), thread)])
    return outcome


def test_slack_gets_the_text_and_answers_in_the_thread(server: Server) -> None:
    connect("chat", conn_type="slack", password="xoxb-1", extra={"base_url": f"{server.url}/api/"})
    channel = Channel(SLACK, slack_conn_id="chat", channel="#ops")
    first = tell(channel)
    assert (first.error, first.thread, first.keyed) == ("", "1772.01", False)
    assert tell(channel, thread=first.thread, kind="resolved", cause="excused").error == ""
    (path, one), (_, two) = server.requests
    assert (path, one["channel"], "thread_ts" in one, two["thread_ts"]) == (
        "/api/chat.postMessage",
        "#ops",
        False,
        "1772.01",
    )
    assert one["text"].startswith("marts missed its SLA: 6 min after it was due, it has not started.\n")
    for words in (
        "Changed    the DAG, from version 7 to version 8",
        "Owner      team {{ x }}",
        "Last good",
        "sla ack 7",
    ):
        assert words in one["text"]


def test_pagerduty_opens_and_closes_one_alert(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.pagerduty.hooks.pagerduty_events import PagerdutyEventsAsyncHook

    made = PagerdutyEventsAsyncHook.__init__

    def here(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.base_url = server.url  # it is written down in the provider

    monkeypatch.setattr(PagerdutyEventsAsyncHook, "__init__", here)
    connect("pd", conn_type="pagerduty_events", password="routing-1")
    channel = Channel(PAGERDUTY, pagerduty_events_conn_id="pd")
    assert replace(tell(channel), after=0) == Outcome(0, keyed=True)
    assert tell(channel, kind="resolved", cause="recovered").keyed
    (path, opened), (_, closed) = server.requests
    assert (path, opened["event_action"], closed["event_action"]) == ("/v2/enqueue", "trigger", "resolve")
    assert {opened["dedup_key"], closed["dedup_key"]} == {event().key}
    assert (opened["payload"]["severity"], opened["payload"]["source"]) == ("critical", "marts")
    assert opened["payload"]["custom_details"]["Owner"] == "team {{ x }}"
    assert opened["links"] == [{"href": event().url, "text": "Airflow"}]


def test_a_webhook_gets_json(server: Server) -> None:
    connect("hook", conn_type="http", host=server.url)
    assert tell(Channel(WEBHOOK, http_conn_id="hook", endpoint="sla")).error == ""
    ((path, got),) = server.requests
    assert (path, got["version"], got["kind"], got["incident_id"], got["late_seconds"]) == (
        "/sla",
        1,
        "missed",
        7,
        360,
    )
    assert (got["owner"], got["due"], got["changes"]) == (
        "team {{ x }}",
        DUE.isoformat(),
        list(event().changes),
    )


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # imported by Apprise
def test_apprise_tells_and_its_failure_is_one(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # what it sends with is left to the garbage collector
        connect(
            "all",
            conn_type="apprise",
            extra={"config": {"path": server.url.replace("http", "json") + "/x", "tag": "ops"}},
        )
        channel = Channel(APPRISE, apprise_conn_id="all", tag="ops")
        assert tell(channel).error == ""
        assert server.requests[0][1]["title"] == event().subject
        server.status = 500
        assert tell(channel).error.startswith("UnavailableError: Apprise did not tell")
        assert tell(Channel(APPRISE, apprise_conn_id="all", tag="nobody")).error.startswith(
            "UnavailableError: Apprise did not tell"
        )
        gc.collect()


class Inbox(Message):
    """Keeps every mail."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.mails.append(email.message_from_bytes(message.as_bytes(), policy=email.policy.default))


def test_mails_about_one_incident_are_one_thread() -> None:
    (port,) = free_ports(1)
    inbox = Inbox()
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        extra = {"disable_ssl": True, "disable_tls": True, "retry_limit": 0}
        connect("mail", conn_type="smtp", host="127.0.0.1", port=port, extra=extra)
        channel = Channel(SMTP, smtp_conn_id="mail", to="ops@example.com", from_email="airflow@example.com")
        assert tell(channel).error == ""
        assert tell(channel, kind="resolved", cause="excused", deadline_id="bb22", thread="").error == ""
        (outcome,) = Deliverer()([Call(0, channel, event(kind="resolved", deadline_id="cc", thread="aa11"))])
        assert outcome.error == ""
    finally:
        controller.stop()
    first, _, last = inbox.mails
    assert (first["Message-ID"], last["In-Reply-To"], last["References"]) == ("<aa11@airflow-ext>",) * 3
    assert "team {{ x }}" in first.get_body(("html",)).get_content()


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        pytest.param("17", 17.0, id="seconds"),
        pytest.param("soon", None, id="nonsense"),
        pytest.param("-5", None, id="negative"),
    ],
)
def test_a_channel_that_is_busy_is_asked_when_to_come_again(
    server: Server, asked: str, seconds: float | None
) -> None:
    server.status, server.headers = 429, {"Retry-After": asked}
    server.body = {"ok": False, "error": "ratelimited"}
    connect("chat", conn_type="slack", password="xoxb-1", extra={"base_url": f"{server.url}/api/"})
    outcome = tell(Channel(SLACK, slack_conn_id="chat"))
    assert ("SlackApiError" in outcome.error, outcome.retry_after) == (True, seconds)


def test_a_date_to_come_again_is_understood() -> None:
    error = ConnectionError()
    error.headers = {"retry-after": format_datetime(DUE + timedelta(minutes=2), usegmt=True)}  # type: ignore[attr-defined]
    assert retry_after(error, now=DUE) == 120.0


class Leaky(BaseNotifier):
    """Fails, and says all it knows."""

    def __init__(self, *, leaky_conn_id: str) -> None:
        super().__init__()
        self.leaky_conn_id = leaky_conn_id

    def notify(self, context: Any) -> None:  # noqa: ARG002 - the base class gives it
        from airflow.sdk import BaseHook

        found = BaseHook.get_connection(self.leaky_conn_id)
        path = secrets.token_hex(8)
        raise ConnectionError(
            f"{found.password} {found.extra_dejson} at https://u:p@hooks.example.com/{path}?q=1"
        )


def test_no_secret_is_in_an_error() -> None:
    password, token = secrets.token_hex(8), secrets.token_hex(8)
    connect("leaky", conn_type="generic", password=password, extra={"deep": [{"token": token}]})
    outcome = tell(Channel(f"{__name__}.Leaky", leaky_conn_id="leaky"))
    assert (
        outcome.error == "ConnectionError: *** {'deep': [{'token': '***'}]} at https://hooks.example.com/***"
    )
    assert describe(ValueError("")) == "ValueError"


def test_a_connection_that_is_missing_is_an_error_that_says_so() -> None:
    assert "nowhere" in tell(Channel(SLACK, slack_conn_id="nowhere")).error
    assert tell(Channel("tests.nowhere.Notifier")).error.startswith("ModuleNotFoundError")


class Hanging(BaseNotifier):
    """Hangs until it is let go."""

    gate = threading.Event()

    def notify(self, context: Any) -> None:  # noqa: ARG002 - the base class gives it
        self.gate.wait(30)


told: list[SlaEvent] = []


def note(given: SlaEvent) -> None:
    told.append(given)


async def note_later(given: SlaEvent) -> None:
    told.append(given)


def test_a_server_that_hangs_holds_up_nobody_and_uses_up_few_threads() -> None:
    Hanging.gate.clear()
    told.clear()
    hangs = Channel(f"{__name__}.Hanging")
    deliverer = Deliverer(Bounds(threads=4, timeout=0.3))
    calls = [Call(number, hangs, event()) for number in range(6)]
    calls += [Call(number, f"{__name__}.note", event()) for number in range(6, 12)]
    begin, before = time.monotonic(), threading.active_count()
    outcomes = {outcome.id: outcome for outcome in deliverer(calls)}
    assert time.monotonic() - begin < 5
    assert len(outcomes) == 12
    assert len(told) == 6
    assert threading.active_count() - before <= 2
    assert all("TimeoutError" in outcomes[number].error for number in range(6))
    (again,) = deliverer([Call(0, hangs, event())])
    assert "still hang" in again.error
    Hanging.gate.set()
    while deliverer._still_hanging(hangs):
        time.sleep(0.01)
    (at_last,) = deliverer([Call(0, hangs, event())])
    assert at_last.error == ""


def test_a_mail_server_that_never_greets_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        connect("mute", conn_type="slack", password="xoxb-1", extra={"base_url": f"http://127.0.0.1:{port}/"})
        outcome = tell(Channel(SLACK, slack_conn_id="mute"), bounds=Bounds(timeout=0.3))
    assert "TimeoutError" in outcome.error


def test_functions_get_the_event_at_once_or_later() -> None:
    told.clear()
    for name in ("note", "note_later"):
        assert tell(f"{__name__}.{name}").error == ""
    assert [given.key for given in told] == [event().key] * 2
