"""Who is told what when the state of a contract changes for a partition."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from airflow_ext.contracts.lateness import Late
from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.recipients import Recipient, contact_of, support_channels, without_doubles
from airflow_ext.contracts.settings import Consumer
from airflow_ext.contracts.verdict import Status, Verdict

TOLD_SIZE = 200
"""Partitions of a contract whose last notice is remembered."""
_SHOWN = 10


@dataclass(frozen=True)
class Notice:
    """What one recipient is told.

    :param key: One per contract, partition and publication: lets the other side drop a second copy.
    :param contract: Contract id.
    :param version: Version that was judged.
    :param partition: Partition key.
    :param status: What it is now.
    :param before: What was told last; ``PASS`` where nothing was.
    :param subject: One line.
    :param text: The message.
    :param html: The message as HTML.
    :param tool: Tool of the recipient.
    :param channel: Channel of the recipient.
    :param channel_url: Address of the channel.
    :param who: ``owner``, or the name of a consumer.
    """

    key: str
    contract: str
    version: str
    partition: str
    status: str
    before: str
    subject: str
    text: str
    html: str
    tool: str = ""
    channel: str = ""
    channel_url: str = ""
    who: str = ""

    def to(self, recipient: Recipient) -> Notice:
        """Return the notice for one recipient."""
        return replace(
            self,
            tool=recipient.tool,
            channel=recipient.channel,
            channel_url=recipient.url,
            who=recipient.who,
        )


def notice_of(verdict: Verdict, before: str) -> Notice:
    """Return what is to be told about a verdict.

    :param before: What was told last.
    """
    reasons = verdict.reasons[:_SHOWN]
    more = verdict.counts.get("failed", 0) + verdict.counts.get("warnings", 0) - len(reasons)
    lines = [f"{reason.severity}: {reason}" for reason in reasons]
    lines += [f"... and {more} more"] if more > 0 else []
    rows, headline = list(_rows(verdict, before)), _headline(verdict, before)
    return Notice(
        key=f"{verdict.contract}/v{verdict.major}/{verdict.partition}/{verdict.status}/{verdict.seq}",
        contract=verdict.contract,
        version=verdict.version,
        partition=verdict.partition,
        status=str(verdict.status),
        before=before,
        subject=f"[{verdict.status}] contract {verdict.contract} {verdict.version}, partition {verdict.partition}",
        text=_text(headline, rows, lines),
        html=_html(headline, rows, lines),
    )


def late_notice(late: Late, *, seen_by: str, now: str) -> Notice:
    """Return what is to be told about a partition that is due and not there.

    :param seen_by: Who waits for it and noticed.
    :param now: When, for a reader.
    """
    what = f"{late.contract} {late.version}, partition {late.partition}"
    headline = f"The contract {what}, is late: it was due {late.due}."
    rows = [
        ("State", f"{Status.LATE}, before {Status.NOT_PUBLISHED}"),
        ("Due", f"{late.due}, grace included"),
        ("Published last", late.last or "nothing"),
        ("Owner", late.owner or "nobody is named"),
        *([("Support", late.support)] if late.support else []),
        ("Noticed", f"{now} by {seen_by or 'somebody'}, who waits for it"),
    ]
    return Notice(
        key=f"{late.asset.removeprefix('contract/')}/{late.partition}/{Status.LATE}",
        contract=late.contract,
        version=late.version,
        partition=late.partition,
        status=str(Status.LATE),
        before=str(Status.NOT_PUBLISHED),
        subject=f"[{Status.LATE}] contract {what}",
        text=_text(headline, rows, ()),
        html=_html(headline, rows, ()),
    )


def _headline(verdict: Verdict, before: str) -> str:
    what = f"{verdict.contract} {verdict.version}, partition {verdict.partition}"
    match verdict.status:
        case Status.PASS if before == Status.LATE:
            return f"The contract {what}, was late, is published now and holds."
        case Status.PASS:
            return f"The contract {what}, holds again (it was {before})."
        case Status.WARN:
            return f"The contract {what}, holds, with warnings."
        case _:
            return f"The contract {what}, does not hold: {verdict.status}."


def _rows(verdict: Verdict, before: str) -> Iterator[tuple[str, str]]:
    yield "State", f"{verdict.status}, before {before}"
    if verdict.rows is not None:
        yield "Rows", f"{verdict.rows:,}"
    yield "Owner", verdict.owner or "nobody is named"
    if verdict.support:
        yield "Support", verdict.support
    yield "Judged", verdict.at
    yield "Run", str(verdict.run)
    if verdict.run.url:
        yield "Link", verdict.run.url


def _text(headline: str, rows: Collection[tuple[str, str]], lines: Iterable[str]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    body = "\n".join(f"{name:<{width}}{value}" for name, value in rows)
    listed = "\n".join(f"  {line}" for line in lines)
    return f"{headline}\n\n{body}\n" + (f"\n{listed}\n" if listed else "")


def _html(headline: str, rows: Iterable[tuple[str, str]], lines: Iterable[str]) -> str:
    cells = "".join(
        '<tr><td style="padding:2px 16px 2px 0;color:#666;vertical-align:top">'
        f'{escape(name)}</td><td style="padding:2px 0">{_linked(value)}</td></tr>'
        for name, value in rows
    )
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        '<div style="font-family:sans-serif;font-size:15px">'
        f'<p style="font-size:17px"><b>{escape(headline)}</b></p>'
        f"<table>{cells}</table>{f'<ul>{items}</ul>' if items else ''}</div>"
    )


def _linked(value: str) -> str:
    shown = escape(value)
    return f'<a href="{shown}">{shown}</a>' if value.startswith(("https://", "http://")) else shown


def recipients(contract: Contract, verdict: Verdict) -> list[Recipient]:
    """Return who is told: the support channels for notices, and the consumers it concerns.

    A channel whose ``scope`` is ``interactive`` or ``announcements`` is for people and is left alone. A consumer is
    told of what breaks a column it uses, and of the repair; not of warnings.
    """
    found = support_channels(contract)
    if verdict.status is not Status.WARN:
        found += [
            contact_of(consumer)
            for consumer in contract.consumers
            if consumer.contact and concerns(consumer, verdict)
        ]
    return without_doubles(found)


def concerns(consumer: Consumer, verdict: Verdict) -> bool:
    """Say whether a verdict matters to a consumer: by the columns it uses, if it says which."""
    errors = [reason for reason in verdict.reasons if reason.severity == "error"]
    hidden = verdict.counts.get("failed", 0) > len(errors)
    if not consumer.uses or not errors or hidden:
        return True
    return any(reason.touches(consumer.uses) for reason in errors)


def told_before(told: Any, verdict: Verdict, earlier: Verdict | None) -> str:
    """Return what was told last of a partition.

    :param told: What is remembered, as :func:`remember` gave it.
    :param earlier: The verdict before, where nothing is remembered.
    """
    if isinstance(told, Mapping) and isinstance(status := told.get(verdict.partition), str):
        return status
    return str(earlier.status) if earlier is not None else str(Status.PASS)


def remember(told: Any, verdict: Verdict) -> dict[str, str]:
    """Return what is to be remembered after a notice; the partitions told last."""
    kept = dict(told) if isinstance(told, Mapping) else {}
    kept.pop(verdict.partition, None)
    kept[verdict.partition] = str(verdict.status)
    return dict(list(kept.items())[-TOLD_SIZE:])
