"""Messages of the outbox with all that is known about them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ext.sla.channel import Channel, channels_from_json
from airflow_ext.sla.escalation import Step, steps_from_json
from airflow_ext.sla.event import SlaEvent
from airflow_ext.sla.ledger.models import (
    IncidentRow,
    OccurrenceRow,
    OutboxRow,
    PolicyRow,
    PolicyVersionRow,
)
from airflow_ext.sla.ledger.outbox import CALLBACK, dedupe_key
from airflow_ext.sla.ledger.sql import among, chunks, table_of
from airflow_ext.sla.policy import Policy
from airflow_ext.sla.sender.background import Background

B, I, O, P, V = (  # noqa: E741  as in the queries
    table_of(model) for model in (OutboxRow, IncidentRow, OccurrenceRow, PolicyRow, PolicyVersionRow)
)


@dataclass(frozen=True)
class Definition:
    """What of a policy's version is needed to send."""

    policy: Policy
    channels: tuple[Channel, ...]
    callback: str
    steps: tuple[Step, ...]

    def target(self, step: int, channel: int) -> Channel | str | None:
        """Return who is told; ``None`` if the definition has no such channel."""
        if step and step > len(self.steps):
            return None
        if channel == CALLBACK:
            return self.callback or None
        found = self.steps[step - 1].channels if step else self.channels
        return found[channel] if 0 <= channel < len(found) else None


@lru_cache(maxsize=20_000)
def read_definition(text: str) -> Definition:
    """Read the definition of a policy's version."""
    data = json.loads(text)
    return Definition(
        policy=Policy.from_flat(data),
        channels=tuple(channels_from_json(data.get("channels") or "[]")),
        callback=data.get("callback") or "",
        steps=tuple(steps_from_json(data.get("escalate") or "[]")),
    )


@dataclass
class Entry:
    """One message.

    :param row: Columns of outbox, incident, occurrence and policy.
    :param partner: State of the message that this one is the answer to: for ``resolve``, the ``open`` one.
    """

    row: Any
    definition: Definition
    target: Channel | str | None
    partner: Any = None
    affected: tuple[str, ...] = field(default=())

    @property
    def id(self) -> int:
        """The message's id."""
        return int(self.row.id)

    @property
    def over(self) -> bool:
        """Whether it tells that the incident is over."""
        return bool(self.row.kind == "resolve")

    @cached_property
    def thread(self) -> dict[str, str]:
        """What the channel gave for this incident, and the digest the incident was told in."""
        text = self.row.thread_ref or (self.partner.thread_ref if self.partner is not None else None)
        data = json.loads(text) if text else {}
        return data if isinstance(data, dict) else {}

    @property
    def owner(self) -> str:
        """Who is told by this step."""
        step = self.row.step
        named = self.definition.steps[step - 1].owner if 0 < step <= len(self.definition.steps) else ""
        return named or self.row.owner

    def _first_mail(self, digest: str) -> str:
        row = self.row
        first = dedupe_key(row.key, kind="open", step=row.step, channel=row.channel)
        return message_id(f"{digest}:open" if digest else first)

    def event(
        self,
        *,
        now: datetime,
        base_url: str,
        background: Mapping[int, Background],
        more: Sequence[Entry] = (),
        key: str = "",
    ) -> SlaEvent:
        """Return what the channel is told.

        :param more: Other messages that this one stands for.
        :param key: Key of the digest, if it is one.
        """
        row, policy = self.row, self.definition.policy
        facts: dict[str, Any] = json.loads(row.facts)
        done = row.done_at is not None
        run_id = (row.occurrence_run if done else None) or row.run_id or ""
        url = f"{base_url.rstrip('/')}/dags/{quote(row.dag_id, safe='')}"
        if run_id:
            url += f"/runs/{quote(run_id, safe='')}"
        known = background.get(row.incident_id, Background())
        return SlaEvent(
            key=key or row.key,
            policy=policy.name,
            promise=policy.promise,
            severity=row.severity,
            owner=self.owner,
            dag_id=row.dag_id,
            run_id=run_id,
            run_type=str(facts.get("run_type") or ""),
            due=row.due_at,
            zone=policy.tz,
            told_at=now,
            state="success" if done else str(facts.get("state") or ""),
            logical_date=_time(facts.get("logical_date")),
            started=_time(facts.get("started")),
            ended=row.done_at or _time(facts.get("ended")),
            url=url,
            deadline_id=message_id(f"{key}:{row.kind}" if key else row.dedupe_key),
            kind="resolved" if self.over else row.incident_kind,
            cause=row.resolution if self.over else row.cause,
            subject_name=policy.subject_name,
            incident_id=row.incident_id,
            step=row.step,
            detected_late=timedelta(seconds=float(facts.get("detection_lag") or 0))
            if row.detected_late
            else None,
            thread=self._first_mail(key) if self.over else "",
            last_good=known.last_good,
            changes=known.changes,
            affected=known.affected,
            note=known.note,
            others=tuple(_other(entry) for entry in more),
            forecast=str(facts.get("forecast") or "") if row.incident_kind == "at_risk" else "",
        )


def message_id(key: str) -> str:
    """Return the first part of a mail's Message-ID for a message's key: the same key gives the same id."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _other(entry: Entry) -> str:
    subject = entry.definition.policy.subject_name
    return f"{subject} of {entry.row.dag_id}" if subject else str(entry.row.dag_id)


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None


def load(session: Session, ids: Sequence[int]) -> list[Entry]:
    """Return messages with what is known about them, in order of their ids."""
    joined = (
        select(
            *(
                B.c[name]
                for name in ("id", "incident_id", "dedupe_key", "kind", "step", "channel", "attempts")
            ),
            *(B.c[name] for name in ("thread_ref", "created_at")),
            *(I.c[name] for name in ("key", "cause", "severity", "owner", "run_id", "facts", "opened_at")),
            *(I.c[name] for name in ("parent_id", "detected_late", "acknowledged_at", "acknowledged_by")),
            *(I.c[name] for name in ("snoozed_until", "resolved_at", "resolution", "policy_id")),
            I.c.kind.label("incident_kind"),
            O.c.due_at,
            O.c.done_at,
            O.c.state.label("occurrence_state"),
            O.c.run_id.label("occurrence_run"),
            P.c.dag_id,
            V.c.definition,
        )
        .select_from(B)
        .join(I, I.c.id == B.c.incident_id)
        .join(O, O.c.id == I.c.occurrence_id)
        .join(P, P.c.id == O.c.policy_id)
        .join(V, V.c.id == O.c.version_id)
    )
    entries = []
    for some in chunks(list(ids)):
        for row in session.execute(joined.where(among(session, B.c.id, some)).order_by(B.c.id)):
            definition = read_definition(row.definition)
            entries.append(Entry(row, definition, definition.target(row.step, row.channel)))
    _find_partners(session, entries)
    return entries


def _find_partners(session: Session, entries: Sequence[Entry]) -> None:
    """Give answers the message they answer, and steps the first message to the same channel."""
    wanted = [entry for entry in entries if entry.over or entry.row.step]
    found: dict[int, list[Any]] = defaultdict(list)
    for some in chunks(sorted({entry.row.incident_id for entry in wanted})):
        query = select(B.c.incident_id, B.c.step, B.c.channel, B.c.state, B.c.thread_ref, B.c.sent_at)
        for row in session.execute(query.where(among(session, B.c.incident_id, some), B.c.kind == "open")):
            found[row.incident_id].append(row)
    for entry in wanted:
        for row in found[entry.row.incident_id]:
            if entry.over:
                matches = (row.step, row.channel) == (entry.row.step, entry.row.channel)
            else:
                told = entry.definition.target(row.step, row.channel)
                matches = row.step < entry.row.step and bool(row.thread_ref) and told == entry.target
            if matches:
                entry.partner = row
