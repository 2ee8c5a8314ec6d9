"""What is told when an SLA is missed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from airflow_ext.sla import message


@dataclass(frozen=True)
class SlaEvent:
    """One missed promise, as channels and callbacks get it.

    :param key: Name of the occurrence, at most 255 characters: DAG, policy, local date, and slot, which is
        the time of day for ``by`` and stands for the run for ``within``.
    :param policy: The policy's name.
    :param promise: The promise in words.
    :param severity: ``page``, ``ticket`` or ``info``.
    :param owner: Who answers for it; may be empty.
    :param run_id: The run that is late or failed; empty if there is none.
    :param due: When it had to be done, without grace.
    :param zone: The policy's time zone, for local times.
    :param told_at: When this event was made.
    :param state: State of the run or task a moment ago: ``queued``, ``running``, ``failed`` or ``success`` (then too
        late); empty if there is none.
    :param started: When the run started; ``None`` if it has not.
    :param ended: When the run ended; ``None`` if it has not.
    :param url: The page of the run, else of the DAG, in the Airflow UI.
    :param deadline_id: Airflow's id of the deadline; the same if Airflow tells it twice. Empty from the monitor.
    :param kind: ``missed``, ``failed_before_due``, ``at_risk`` (likely to be missed) or ``resolved``.
    :param cause: Why, in a word of :data:`airflow_ext.sla.judge.CAUSES`; empty without the monitor.
    :param subject_name: What the promise is about where it is not the whole run: ``task load``, ``asset orders``.
    :param incident_id: Number of the incident in the ledger, for acknowledging it.
    :param step: 0 for the first message, 1.. for the steps of ``escalate``.
    :param detected_late: Whether the monitor itself was late in seeing it, and by how much.
    :param thread: Id of the first mail about it, for mail programs; empty in that mail.
    :param last_good: When the promise was last kept, or done late, before this; ``None`` if that is not known.
    :param changes: What has changed since then, in words.
    :param affected: Promises that broke because of this one, and are not told on their own.
    :param note: Who excused it, and why.
    :param forecast: Grounds of what is only likely, in words.
    :param others: Further promises that this message stands for, if it is a digest.
    """

    key: str
    policy: str
    promise: str
    severity: str
    owner: str
    dag_id: str
    run_id: str
    run_type: str
    due: datetime
    zone: str
    told_at: datetime
    state: str
    logical_date: datetime | None
    started: datetime | None
    ended: datetime | None
    url: str
    deadline_id: str = ""
    kind: str = "missed"
    cause: str = ""
    subject_name: str = ""
    incident_id: int | None = None
    step: int = 0
    detected_late: timedelta | None = None
    thread: str = ""
    last_good: datetime | None = None
    changes: tuple[str, ...] = ()
    affected: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    forecast: str = ""
    note: str = ""

    @property
    def late(self) -> timedelta:
        """How long after it was due the run ended, or is not done yet; negative if it failed before."""
        return (self.ended or self.told_at) - self.due

    @cached_property
    def facts(self) -> dict[str, str]:
        """The facts of the message by their names, in the order they help."""
        return dict(message.lines(self))

    @cached_property
    def subject(self) -> str:
        """One line."""
        return message.subject(self)

    @cached_property
    def text(self) -> str:
        """The whole message as plain text."""
        return message.text(self)

    @cached_property
    def html(self) -> str:
        """The whole message as HTML."""
        return message.html(self)
