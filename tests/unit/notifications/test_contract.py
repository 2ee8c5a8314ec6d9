"""Telling of a contract whose state changed, to a real mail server on this machine."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk import BaseNotifier

from airflow_ext.contracts import Contract, Reason, RunReference, Status, Verdict
from airflow_ext.contracts.notice import Notice, notice_of, recipients, remember
from airflow_ext.contracts.store import AssetVerdictStore
from airflow_ext.exceptions import InvalidError
from airflow_ext.notifications.contract import arguments_for, channels_from, tell
from airflow_ext.sla.channel import Channel
from benchmarks._contracts_pairs import BASE
from tests.unit.mailbox import MAIL, Inbox, mail_server

LATE = Reason("valid(amount)", "invalid values = 0", "3 <b>", "error", "orders", ("amount",))


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with mail_server() as inbox:
        yield inbox


class Memory:
    """The state of one asset."""

    def __init__(self, *, down: bool = False) -> None:
        self.values: dict[str, Any] = {}
        self.down = down

    def get(self, key: str, default: Any = None) -> Any:
        if self.down:
            raise ConnectionError("no store")
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any) -> None:
        self.values[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.get(key, default)


def orders(**fields: Any) -> Contract:
    support = [
        {"channel": "shop@example.com", "tool": "email", "scope": "notifications"},
        {"channel": "talk@example.com", "tool": "email", "scope": "interactive"},
        {"channel": "#shop", "tool": "slack"},
    ]
    consumers = [
        {"name": "finance", "uses": ["amount"], "contact": "finance@example.com"},
        {"name": "support", "uses": ["note"], "contact": "email: help@example.com"},
        {"name": "all", "contact": "#everything"},
    ]
    own = [{"property": "airflow.consumers", "value": consumers}]
    return Contract.from_text(yaml.safe_dump({**BASE, "support": support, "customProperties": own, **fields}))


def verdict(status: Status, *reasons: Reason, seq: int = 1, partition: str = "2013-01-05") -> Verdict:
    return Verdict(
        "orders",
        "1.2.0",
        partition,
        status,
        reasons,
        rows=1234,
        counts={"failed": len(reasons)},
        seq=seq,
        at="2013-01-06T00:00:00+00:00",
        owner="shop",
        run=RunReference("shop", "run", "publish", url="http://localhost:8080/x"),
    )


BREACH = verdict(Status.BREACHED, LATE)


def test_owner_and_concerned_consumers_are_mailed(inbox: Inbox) -> None:
    assert tell({}, orders(), BREACH, channels={"email": MAIL}, state=Memory()) == 2
    assert inbox.to == ["shop@example.com", "finance@example.com"]
    mail = inbox.mails[0]
    assert mail["Subject"] == "[BREACHED] contract orders 1.2.0, partition 2013-01-05"
    body = mail.get_body().get_content()
    assert "valid(amount): expected invalid values = 0, actual 3 &lt;b&gt;" in body


def test_each_status_of_a_partition_is_told_once(inbox: Inbox) -> None:
    state, channels = Memory(), {"email": MAIL}

    def told(status: Status, *reasons: Reason, seq: int, partition: str = "2013-01-05") -> int:
        published = verdict(status, *reasons, seq=seq, partition=partition)
        return tell({}, orders(), published, channels=channels, state=state)

    assert told(Status.PASS, seq=1) == 0, "what holds from the start is no news"
    assert told(Status.BREACHED, LATE, seq=2) == 2
    assert told(Status.BREACHED, LATE, seq=3) == 0
    assert told(Status.PASS, seq=4) == 3, "the repair, also to whom it may concern"
    assert told(Status.PASS, seq=5) == 0
    assert told(Status.BREACHED, LATE, seq=6, partition="2013-01-06") == 2
    assert "holds again" in inbox.mails[2].get_body().get_content()


def test_a_warning_is_for_the_owner() -> None:
    soft = Reason("rows", "rows < 9", "10", "warning", "orders")
    assert [one.who for one in recipients(orders(), verdict(Status.WARN, soft))] == ["owner", "owner"]


def test_a_breach_of_the_table_concerns_everybody() -> None:
    missing = Reason("schema.table", "table orders", "no such table")
    whos = [one.who for one in recipients(orders(), verdict(Status.BREACHED, missing))]
    assert whos == ["owner", "owner", "finance", "support", "all"]


def test_a_channel_that_fails_does_not_stop_the_others(
    inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    channels = {"slack": Channel("no.such.module.Notifier"), "email": MAIL}
    state = Memory()
    assert tell({}, orders(), BREACH, channels=channels, state=state) == 2
    assert "was not sent to #shop: ModuleNotFoundError" in caplog.text
    assert len(inbox.mails) == 2
    assert state.get("told") == {"2013-01-05": "BREACHED"}


def test_nothing_that_goes_wrong_reaches_the_task(caplog: pytest.LogCaptureFixture) -> None:
    assert tell({}, orders(), BREACH, channels={"email": MAIL}, state=Memory(down=True)) == 0
    assert "no notice was sent: ConnectionError" in caplog.text
    os.environ["AIRFLOW__AIRFLOW_EXT__CONTRACT_CHANNELS"] = "{"
    assert tell({}, orders(), BREACH) == 0
    assert "is not JSON" in caplog.text


class Hanging(BaseNotifier):
    """Never comes back."""

    release = threading.Event()

    def notify(self, context: Any) -> None:  # noqa: ARG002  Airflow passes it
        Hanging.release.wait(30)


def test_a_channel_that_hangs_is_left_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_ext.notifications.contract.CHANNEL_SECONDS", 0.05)
    path = f"{Hanging.__module__}.{Hanging.__name__}"
    try:
        assert tell({}, orders(), BREACH, channels={"*": Channel(path)}, state=Memory(), seconds=0.1) == 0
        assert "no end within" in caplog.text
        assert "the time for it is over" in caplog.text
    finally:
        Hanging.release.set()


def test_without_configuration_nothing_is_read() -> None:
    assert tell({}, orders(), BREACH, channels={}, state=Memory(down=True)) == 0


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[]", id="list"),
        pytest.param('{"slack": "x.Y"}', id="no-object"),
        pytest.param('{"slack": {"channel": "#a"}}', id="no-notifier"),
        pytest.param('{"slack": {"notifier": "Y"}}', id="no-path"),
        pytest.param('{"slack": {"notifier": "x.Y", "token": "abc"}}', id="a-secret"),
    ],
)
def test_wrong_configuration_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="contract_channels"):
        channels_from(text)


def test_a_contract_cannot_write_a_template() -> None:
    class Plain(BaseNotifier):
        template_fields = ("text",)

        def __init__(self, text: str, room: str) -> None:
            super().__init__()
            self.text, self.room = text, room

        def notify(self, context: Any) -> None: ...

    notice: Notice = notice_of(BREACH, "PASS")
    hostile = notice.to(SimpleNamespace(tool="x", channel="{{ conn.mail }}", url="", who="o"))  # type: ignore[arg-type]
    filled = arguments_for(Plain, Channel("a.B", room="to {{ notice.channel }}"), hostile)
    assert filled == {"text": "{{ notice.text }}", "room": "to {{ conn.mail }}"}


def test_what_was_told_is_bounded() -> None:
    told: dict[str, str] = {}
    for number in range(300):
        told = remember(told, verdict(Status.BREACHED, partition=str(number)))
    assert len(told) == 200
    assert "299" in told


def test_what_was_late_is_told_when_it_comes(inbox: Inbox) -> None:
    """Somebody who waited has told that it is late; what comes in time is no news."""
    state = Memory()
    store = AssetVerdictStore(lambda _: state, settle=lambda _: None)
    store.claim_late([("contract/orders/v1", "2013-01-06")], token="x", now=0)

    def told(partition: str, seq: int) -> int:
        published = verdict(Status.PASS, seq=seq, partition=partition)
        return tell({}, orders(), published, channels={"email": MAIL}, state=state, store=store)

    assert told("2013-01-05", 1) == 0
    assert told("2013-01-06", 2) == 3
    assert "was late, is published now and holds" in inbox.mails[0].get_body().get_content()
    assert told("2013-01-06", 3) == 0
