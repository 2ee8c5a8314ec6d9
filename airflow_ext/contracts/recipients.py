"""Who is told of a contract: its support channels, and the consumers it knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ext.contracts.settings import Consumer

if TYPE_CHECKING:
    from airflow_ext.contracts.model import Contract

MAX_RECIPIENTS = 20
"""Recipients that a head carries, so that waiters can tell them."""
_MAX_CHARACTERS = 200
_SCOPES = ("", "notifications", "issues")


@dataclass(frozen=True)
class Recipient:
    """One place that is told.

    :param tool: ODCS tool, such as ``slack`` or ``email``; ``other`` where none is named.
    :param channel: Channel or address.
    :param url: Address of the channel, empty if not said.
    :param who: ``owner``, or the name of a consumer.
    """

    tool: str
    channel: str
    url: str = ""
    who: str = "owner"

    def to_list(self) -> list[str]:
        """Return plain JSON values, bounded."""
        return [text[:_MAX_CHARACTERS] for text in (self.tool, self.channel, self.url, self.who)]

    @classmethod
    def from_list(cls, value: Any) -> Recipient | None:
        """Read what :meth:`to_list` wrote; ``None`` for anything else."""
        if not isinstance(value, list) or len(value) != 4 or not all(isinstance(each, str) for each in value):
            return None
        return cls(*(each[:_MAX_CHARACTERS] for each in value))


def support_channels(contract: Contract) -> list[Recipient]:
    """Return the support channels for notices; those that are for people only are left alone."""
    return [
        Recipient(str(item.get("tool") or "other").lower(), str(item["channel"]), str(item.get("url") or ""))
        for item in contract.document.get("support") or ()
        if str(item.get("scope") or "").lower() in _SCOPES
    ]


def contact_of(consumer: Consumer) -> Recipient:
    """Return where a consumer is told: an address, a ``#channel``, or ``tool: channel``."""
    tool, colon, channel = consumer.contact.partition(":")
    if colon and re.fullmatch(r"[a-z]+", tool) and not channel.startswith("//"):
        return Recipient(tool, channel.strip(), who=consumer.name)
    if "@" in consumer.contact[1:] and not consumer.contact.startswith("#"):
        return Recipient("email", consumer.contact, who=consumer.name)
    tool = "slack" if consumer.contact.startswith("#") else "other"
    return Recipient(tool, consumer.contact, who=consumer.name)


def all_recipients(contract: Contract) -> list[Recipient]:
    """Return everybody: support channels, and every consumer that says where."""
    consumers = [contact_of(consumer) for consumer in contract.consumers if consumer.contact]
    return without_doubles([*support_channels(contract), *consumers])


def without_doubles(found: list[Recipient]) -> list[Recipient]:
    """Return the first of each channel."""
    unique = {(one.tool, one.channel): one for one in reversed(found)}
    return [one for one in found if unique[one.tool, one.channel] is one]
