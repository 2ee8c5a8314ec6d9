"""A local mail server that keeps what it gets: the night mailbox of the story's people."""

from __future__ import annotations

import email
import email.policy
import html
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

from airflow_ext.testing.ports import free_ports


@dataclass(frozen=True)
class Mail:
    """One delivered message.

    :param at: When it arrived.
    :param to: Recipients of the envelope.
    :param message: The message itself.
    """

    at: datetime
    to: tuple[str, ...]
    message: EmailMessage

    @property
    def text(self) -> str:
        """The body as a mail program shows it, without its markup."""
        body = self.message.get_body(("plain", "html"))
        if body is None:
            return ""
        text = str(body.get_content())
        if body.get_content_type() == "text/html":
            text = re.sub(r"</td>\s*<td[^>]*>", ": ", text)
            text = re.sub(r"</(p|tr|div|table)>", "\n", text)
            text = html.unescape(re.sub(r"<[^>]+>", "", text))
        return re.sub(r"\n{2,}", "\n", text).strip()


class Mailbox:
    """An SMTP server on a free port of the loopback; a context manager.

    :param folder: Where each message is kept as a file.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.mails: list[Mail] = []
        (self.port,) = free_ports(1)
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)

    def __enter__(self) -> Mailbox:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  aiosmtpd's name
        """Keep one message."""
        now = datetime.now(UTC)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        (self.folder / f"{now:%Y%m%dT%H%M%S.%f}.eml").write_bytes(envelope.content)
        self.mails.append(Mail(at=now, to=tuple(envelope.rcpt_tos), message=message))
        return "250 OK"
