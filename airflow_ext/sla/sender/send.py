"""One round of the sender: take, sift, group, call, write down.

A message is taken and committed before its channel is called, and what became of it is committed as soon as it is known. So a
sender that dies leaves its messages to others: each is told at least once, and with the same key, so once on channels that
take keys.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import FAILED, PENDING, SENT, SUPPRESSED
from airflow_ext.sla.sender.background import look_up
from airflow_ext.sla.sender.claims import B, claim, give_back, write
from airflow_ext.sla.sender.entries import Entry, load
from airflow_ext.sla.sender.escalate import escalate
from airflow_ext.sla.sender.model import Call, Deliver, Outcome, SendReport, Settings
from airflow_ext.sla.sender.sift import add_answers, sift
from airflow_ext.sla.sender.storm import Breaker, Group, group

_JITTER = (0.8, 1.2)
_UNTRIED = timedelta(seconds=5)
_LONGEST_REF = 500
_GATHER = 4
_MOST_BACKGROUND = 100
"""Groups whose background is looked up: a few statements each."""


def send_due(
    session: Session,
    now: datetime,
    deliver: Deliver,
    *,
    holder: str,
    breaker: Breaker,
    base_url: str = "",
    settings: Settings | None = None,
    dice: random.Random | None = None,
) -> SendReport:
    """Tell what is due, and return what was done; commits several times.

    :param deliver: Calls the channels.
    :param holder: Who sends, for claims.
    :param breaker: Knows how often each channel was called; the same object in each round.
    :param base_url: Address of the Airflow UI, for links.
    :param dice: Source of the jitter between tries.
    :raises sqlalchemy.exc.DBAPIError: If the database does not answer; what is claimed is taken up again later.
    """
    settings = settings or Settings()
    round_ = _Round(session, now, settings, dice or random.Random())  # noqa: S311  # no secret
    report = round_.report
    report.escalated = escalate(session, now=now)
    add_answers(session, now=now)
    session.commit()
    round_.token, ids = claim(session, holder=holder, now=now, lasting=settings.claim, most=settings.batch)
    report.taken = len(ids)
    if not ids:
        return report
    entries = round_.settle(ids)
    groups, waiting = group(entries, breaker=breaker, settings=settings, now=now)
    for entry in waiting:
        round_.postpone([entry.id], now + settings.window / _GATHER)
    round_.mark(groups)
    session.commit()
    calls = round_.calls(groups, base_url)
    left = dict(enumerate(groups))
    for some in left.values():
        breaker.note(some, now)
    for outcome in deliver(calls):
        told = left.pop(outcome.id)
        round_.note(told, calls[outcome.id], outcome)
        session.commit()
    for some in left.values():
        round_.postpone([entry.id for entry in some.entries], now + _UNTRIED)
    session.commit()
    return report


class _Round:
    """The state of one round."""

    def __init__(self, session: Session, now: datetime, settings: Settings, dice: random.Random) -> None:
        self.session, self.now, self.settings, self.dice = session, now, settings, dice
        self.report = SendReport()
        self.token = ""

    def settle(self, ids: list[int]) -> list[Entry]:
        """Write down what is not told, and return what is."""
        entries = load(self.session, ids)
        if lost := set(ids) - {entry.id for entry in entries}:
            give_back(self.session, self.token, lost, state=FAILED, last_error="its policy is gone")
            self.report.given_up += len(lost)
        sifted = sift(self.session, entries, now=self.now)
        reasons: dict[tuple[str, str], list[int]] = defaultdict(list)
        for entry, state, why in sifted.settled:
            reasons[state, why].append(entry.id)
        for (state, why), some in reasons.items():
            give_back(self.session, self.token, some, state=state, last_error=why)
            if state == SUPPRESSED:
                self.report.suppressed[why] += len(some)
            else:
                self.report.given_up += len(some)
        for entry, later in sifted.later:
            self.postpone([entry.id], later)
        return sifted.tell

    def postpone(self, ids: list[int], until: datetime) -> None:
        """Put messages off; that is no try."""
        give_back(self.session, self.token, ids, not_before=until)
        self.report.postponed += len(ids)

    def mark(self, groups: list[Group]) -> None:
        """Write down what belongs to which digest, so that another sender makes the same one."""
        for some in groups:
            new = [entry.id for entry in some.entries if "digest" not in entry.thread]
            if some.digest and new:
                write(self.session, self.token, new, thread_ref=_reference({"digest": some.digest}))
        # What may have been told under its own key is told again under it, not in a digest, which has another one.
        alone = [
            entry.id
            for some in groups
            for entry in some.entries
            if not some.digest and not entry.over and not entry.thread
        ]
        write(self.session, self.token, alone, thread_ref=_reference({"alone": True}))

    def calls(self, groups: list[Group], base_url: str) -> list[Call]:
        """Return the calls that tell the groups."""
        background = look_up(
            self.session, [some.entries[0].row.incident_id for some in groups[:_MOST_BACKGROUND]]
        )
        found = []
        for number, some in enumerate(groups):
            first, *more = some.entries
            event = first.event(
                now=self.now, base_url=base_url, background=background, more=more, key=some.digest
            )
            found.append(Call(number, some.target, event, first.thread.get("ref", "")))
        self.session.commit()
        return found

    def note(self, some: Group, call: Call, outcome: Outcome) -> None:
        """Write down what became of a call; the caller commits."""
        ids = [entry.id for entry in some.entries]
        if not outcome.tried:
            self.postpone(ids, self.now + _UNTRIED)
            return
        self.report.calls += 1
        self.report.channels["failed" if outcome.error else "sent", call.label] += 1
        if outcome.error:
            self._failed(some, outcome)
            return
        self.report.sent += len(ids)
        self.report.digested += len(ids) if some.digest else 0
        known: dict[str, Any] = {
            name: value for name, value in some.entries[0].thread.items() if name not in ("digest", "alone")
        }
        if some.digest:
            known["digest"] = some.digest
        if outcome.thread:
            known["ref"] = outcome.thread
        if outcome.keyed:
            known["keyed"] = True
        give_back(
            self.session,
            self.token,
            ids,
            state=SENT,
            sent_at=self.now + timedelta(seconds=outcome.after),
            attempts=B.c.attempts + 1,
            last_error="",
            thread_ref=_reference(known),
        )

    def _failed(self, some: Group, outcome: Outcome) -> None:
        last = [entry.id for entry in some.entries if entry.row.attempts + 1 >= self.settings.tries]
        again = [entry.id for entry in some.entries if entry.row.attempts + 1 < self.settings.tries]
        counted = {"attempts": B.c.attempts + 1, "last_error": outcome.error}
        give_back(self.session, self.token, last, state=FAILED, **counted)
        tried = max(entry.row.attempts for entry in some.entries)
        later = self.now + timedelta(seconds=outcome.after) + self._wait(tried, outcome)
        give_back(self.session, self.token, again, state=PENDING, not_before=later, **counted)
        self.report.given_up += len(last)
        self.report.failed += len(again)

    def _wait(self, tried: int, outcome: Outcome) -> timedelta:
        wait: timedelta = min(self.settings.first_wait * 2 ** min(tried, 30), self.settings.longest_wait)
        wait *= self.dice.uniform(*_JITTER)
        asked = timedelta(seconds=max(0.0, outcome.retry_after or 0.0))
        return max(wait, min(asked, self.settings.longest_ask))


def _reference(known: dict[str, Any]) -> str | None:
    if not known:
        return None
    text = json.dumps(known)
    if len(text) > _LONGEST_REF:
        known = {name: value for name, value in known.items() if name != "ref"}
        text = json.dumps(known)
    return text
