"""A real mail server on this machine, and an Airflow connection to it."""

from __future__ import annotations

import email
import email.policy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from airflow_ext.sla.channel import Channel
from airflow_ext.testing.ports import free_ports

SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
ARGUMENTS = {"smtp_conn_id": "mail", "to": "{{ notice.channel }}", "from_email": "airflow@example.com"}
MAIL = Channel(SMTP, **ARGUMENTS)
CHANNELS = json.dumps({"email": {"notifier": SMTP, **ARGUMENTS}})
"""For ``[airflow_ext] contract_channels``."""


class Inbox(Message):
    """Keeps every mail."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.mails.append(email.message_from_bytes(message.as_bytes(), policy=email.policy.default))

    @property
    def to(self) -> list[str]:
        return [mail["To"] for mail in self.mails]


@contextmanager
def mail_server() -> Iterator[Inbox]:
    """Serve, with connection ``mail`` in the environment."""
    (port,) = free_ports(1)
    handler = Inbox()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    extra = {"disable_ssl": True, "disable_tls": True, "retry_limit": 0}
    os.environ["AIRFLOW_CONN_MAIL"] = json.dumps(
        {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra}
    )
    try:
        yield handler
    finally:
        controller.stop()
