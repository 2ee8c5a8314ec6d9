"""The tables of the ledger, all named ``ext_sla_*``.

::

    ext_sla_policy 1--n ext_sla_policy_version 1--n ext_sla_occurrence 1--0..1 ext_sla_incident 1--n ext_sla_outbox
          `--n ext_sla_policy_task                          `------------n ext_sla_action n------'
    ext_sla_lease, ext_sla_replica, ext_sla_mark            who does what among the monitors, and how far they are

**Writers.** The monitor alone inserts policies, occurrences and incidents, and the first outbox rows of an
incident in the same transaction. The sender alone changes outbox rows, and inserts those of later steps.
Commands and page insert actions, and set the columns of an incident that an action stands for.

**Names.** The text key of an occurrence (DAG, policy, local date, slot) is not a column: it is
:meth:`airflow_ext.sla.policy.Policy.occurrence_key` of its parts, and stands in the incident, where it is needed.

All times are in UTC. Strings that come from Airflow have the lengths Airflow gives them.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.mysql import TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Apart from Airflow's own tables: Airflow refuses a manager whose tables are among them."""

EXPECTED, AT_RISK, MET = "expected", "at_risk", "met"
MISSED, RECOVERED, EXCUSED, VOID = "missed", "recovered", "excused", "void"
OPEN_STATES = (EXPECTED, AT_RISK, MISSED)
"""States that can still change: the others are the end."""
PENDING, SENT, FAILED, SUPPRESSED = "pending", "sent", "failed", "suppressed"


class UtcTime(TypeDecorator[datetime]):
    """An aware time, stored as UTC; the same text or number as in Airflow's own columns, so they compare."""

    impl = DateTime(timezone=True).with_variant(TIMESTAMP(fsp=6), "mysql")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse times without a zone: they would be stored as if they were UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give the zone back where the database has none."""
        if value is None or value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _only_if(condition: str) -> dict[str, Any]:
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


# SQLite counts up only a column of type INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Root of the tables."""

    metadata = metadata


class PolicyRow(Base):
    """One policy as long as it bears its name; what it says stands in its versions.

    What the judge joins on is copied here from the newest version, so one tick needs no JSON.

    ``source`` is ``dag`` (the DAG's own ``deadline=``) or ``yaml``. ``subject`` is ``run``, ``task`` or ``asset``,
    ``kind`` is ``by``, ``within``, ``fresh`` or ``every``, ``since`` is ``schedule``, ``queue``, ``start`` or empty.
    ``run_types`` has a comma before and after each word. ``rule`` is the same for all policies whose occurrences
    fall on the same times, ``schedule`` the DAG's schedule as text where occurrences follow it. A policy without ``retired_at`` is in force.
    """

    __tablename__ = "ext_sla_policy"
    __table_args__ = (
        UniqueConstraint("dag_id", "name", "source"),
        Index("ix_ext_sla_policy_rule", "rule"),
        Index("ix_ext_sla_policy_subject", "subject"),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    dag_id: Mapped[str] = mapped_column(String(250))
    name: Mapped[str] = mapped_column(String(100))
    source: Mapped[str] = mapped_column(String(10))
    version_id: Mapped[int | None] = mapped_column(_Id)
    fingerprint: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(10))
    since: Mapped[str] = mapped_column(String(10), default="")
    subject: Mapped[str] = mapped_column(String(10))
    asset_name: Mapped[str | None] = mapped_column(String(1500))
    asset_uri: Mapped[str | None] = mapped_column(String(1500))
    run_types: Mapped[str] = mapped_column(String(120))
    rule: Mapped[str] = mapped_column(String(64))
    schedule: Mapped[str] = mapped_column(Text, default="")
    owner: Mapped[str] = mapped_column(String(250), default="")
    severity: Mapped[str] = mapped_column(String(10))
    on_paused: Mapped[str] = mapped_column(String(20), default="alert")
    on_failure: Mapped[str] = mapped_column(String(10), default="tell")
    materialised_until: Mapped[datetime | None] = mapped_column(UtcTime)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    retired_at: Mapped[datetime | None] = mapped_column(UtcTime)
    retired_why: Mapped[str] = mapped_column(String(100), default="")


class PolicyTaskRow(Base):
    """A task that a policy of subject ``task`` is about; a task group has several."""

    __tablename__ = "ext_sla_policy_task"

    policy_id: Mapped[int] = mapped_column(
        ForeignKey("ext_sla_policy.id", ondelete="CASCADE"), primary_key=True
    )
    task_id: Mapped[str] = mapped_column(String(250), primary_key=True)


class PolicyVersionRow(Base):
    """What a policy said from one moment on. Never changed: occurrences point to what they were judged by.

    ``definition`` is the JSON of :meth:`airflow_ext.sla.policy.Policy.to_flat` with ``channels``, ``callback`` and
    ``escalate`` as :func:`airflow_ext.sla.channel.channels_to_json` and
    :func:`airflow_ext.sla.escalation.steps_to_json` give them. It holds no secret.
    """

    __tablename__ = "ext_sla_policy_version"
    __table_args__ = (UniqueConstraint("policy_id", "version"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    policy_id: Mapped[int] = mapped_column(ForeignKey("ext_sla_policy.id", ondelete="CASCADE"))
    version: Mapped[int] = mapped_column(Integer)
    fingerprint: Mapped[str] = mapped_column(String(64))
    definition: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class OccurrenceRow(Base):
    """One policy on one local date and slot: the unit that is kept or missed.

    ``slot`` is the time of day of ``by`` (``0600``), the scheduled time of ``within`` from the schedule
    (``at-0500Z``), ``run-`` and a digest for ``within`` of a single run, the window's start for ``every``
    (``1200Z``), ``fresh`` with the number of the day's episode for freshness.

    A run belongs to it if its anchor lies in ``window_start <= x < window_end`` (scheduled runs) or
    ``other_start <= x < other_end`` (all others and asset events), or if it is ``bound_run``. It is told when
    ``tell_at``, which is ``due_at`` with the grace, has passed.

    ``state``: ``expected`` -> ``at_risk`` (failed, may still be repaired in time; or likely to be late) -> ``met`` | ``missed`` ->
    ``recovered`` (done too late, at ``done_at``) | ``excused`` | ``void`` (the policy was withdrawn or changed, the
    run deleted). ``cause`` is a word of :data:`airflow_ext.sla.judge.CAUSES`. ``next_check_at`` is when the judge
    looks again; ``NULL`` once it is settled.
    """

    __tablename__ = "ext_sla_occurrence"
    __table_args__ = (
        UniqueConstraint("policy_id", "local_date", "slot"),
        # Partial where the database can: what is settled is nearly all of the table, and leaves the first three.
        Index("ix_ext_sla_occurrence_check", "next_check_at", **_only_if("next_check_at IS NOT NULL")),
        Index("ix_ext_sla_occurrence_open", "policy_id", "watch_from", **_only_if("settled_at IS NULL")),
        Index("ix_ext_sla_occurrence_ahead", "watch_from", **_only_if("settled_at IS NULL")),
        Index("ix_ext_sla_occurrence_settled", "settled_at", **_only_if("settled_at IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    policy_id: Mapped[int] = mapped_column(_Id)  # no foreign key: it would double the time of materialising
    version_id: Mapped[int] = mapped_column(_Id)
    local_date: Mapped[date] = mapped_column(Date)
    slot: Mapped[str] = mapped_column(String(40))
    due_at: Mapped[datetime] = mapped_column(UtcTime)
    tell_at: Mapped[datetime] = mapped_column(UtcTime)
    watch_from: Mapped[datetime] = mapped_column(UtcTime)
    window_start: Mapped[datetime] = mapped_column(UtcTime)
    window_end: Mapped[datetime] = mapped_column(UtcTime)
    other_start: Mapped[datetime] = mapped_column(UtcTime)
    other_end: Mapped[datetime] = mapped_column(UtcTime)
    bound_run: Mapped[str | None] = mapped_column(String(250))
    state: Mapped[str] = mapped_column(String(10), default=EXPECTED)
    cause: Mapped[str] = mapped_column(String(20), default="")
    run_id: Mapped[str | None] = mapped_column(String(250))
    done_at: Mapped[datetime | None] = mapped_column(UtcTime)
    next_check_at: Mapped[datetime | None] = mapped_column(UtcTime)
    judged_at: Mapped[datetime | None] = mapped_column(UtcTime)
    settled_at: Mapped[datetime | None] = mapped_column(UtcTime)
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class IncidentRow(Base):
    """A promise that broke, or will if nobody acts; at most one for each occurrence.

    ``key`` names the occurrence to the outside: the ``dedup_key`` of incident tools, the thread of a chat.
    ``kind`` is ``at_risk`` (a guess), ``failed_before_due`` or ``missed``; it turns into what is worse without a new message.
    ``facts`` is a JSON object of what was seen when it was opened: ``state``, ``run_type``, ``started``, ``ended``,
    ``logical_date`` of the run, ``detection_lag`` in seconds and the grounds of a ``forecast``. ``parent_id`` is the incident that caused it:
    a child is not told on its own. ``acknowledged_at`` and ``snoozed_until`` hold up later steps, ``resolved_at``
    ends them; each has its :class:`ActionRow` unless the monitor resolved it.
    """

    __tablename__ = "ext_sla_incident"
    __table_args__ = (
        UniqueConstraint("occurrence_id"),
        Index("ix_ext_sla_incident_open", "resolved_at", "opened_at"),
        Index("ix_ext_sla_incident_policy", "policy_id", "opened_at"),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    occurrence_id: Mapped[int] = mapped_column(ForeignKey("ext_sla_occurrence.id", ondelete="CASCADE"))
    policy_id: Mapped[int] = mapped_column(_Id)
    parent_id: Mapped[int | None] = mapped_column(_Id)
    key: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(20))
    cause: Mapped[str] = mapped_column(String(20))
    severity: Mapped[str] = mapped_column(String(10))
    owner: Mapped[str] = mapped_column(String(250), default="")
    run_id: Mapped[str | None] = mapped_column(String(250))
    facts: Mapped[str] = mapped_column(Text, default="{}")
    opened_at: Mapped[datetime] = mapped_column(UtcTime)
    detected_late: Mapped[bool] = mapped_column(Boolean, default=False)
    acknowledged_at: Mapped[datetime | None] = mapped_column(UtcTime)
    acknowledged_by: Mapped[str] = mapped_column(String(250), default="")
    snoozed_until: Mapped[datetime | None] = mapped_column(UtcTime)
    resolved_at: Mapped[datetime | None] = mapped_column(UtcTime)
    resolution: Mapped[str] = mapped_column(String(20), default="")


class OutboxRow(Base):
    """One message to one channel, to be sent at least once.

    ``dedupe_key`` is the incident's key, ``kind``, ``step`` and ``channel``, joined by colons and shortened by a digest: see
    :func:`airflow_ext.sla.ledger.outbox.dedupe_key`. Inserting it twice does nothing.
    ``kind`` is ``open`` or ``resolve``; the sender may add its own. ``step`` is 0 for the policy's channels, 1.. for the
    steps of ``escalate``. ``channel`` is the number of the channel within its step, -1 for the plain callback; the
    channel itself stands in the policy version of the incident's occurrence.

    ``state``: ``pending`` -> ``sent`` | ``failed`` (given up) | ``suppressed`` (storm, child, resolved before it was told).
    A sender takes rows with ``state = 'pending' and not_before <= now`` whose ``claimed_until`` is ``NULL`` or past, sets
    ``claimed_by`` and ``claimed_until`` and commits, sends, then sets the result and commits: a sender that dies in between
    leaves a row that another takes over. ``last_error`` holds a class name and a masked text. ``thread_ref`` is
    what the channel gave to answer in the same thread.
    """

    __tablename__ = "ext_sla_outbox"
    __table_args__ = (
        UniqueConstraint("dedupe_key"),
        Index("ix_ext_sla_outbox_next", "state", "not_before"),
        Index("ix_ext_sla_outbox_incident", "incident_id"),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    incident_id: Mapped[int] = mapped_column(ForeignKey("ext_sla_incident.id", ondelete="CASCADE"))
    dedupe_key: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(20))
    step: Mapped[int] = mapped_column(Integer, default=0)
    channel: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(10), default=PENDING)
    not_before: Mapped[datetime] = mapped_column(UtcTime)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    claimed_by: Mapped[str | None] = mapped_column(String(100))
    claimed_until: Mapped[datetime | None] = mapped_column(UtcTime)
    last_error: Mapped[str] = mapped_column(Text, default="")
    thread_ref: Mapped[str | None] = mapped_column(String(500))
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    sent_at: Mapped[datetime | None] = mapped_column(UtcTime)


class ActionRow(Base):
    """What a person did, and why: kept as long as the occurrence. Never changed.

    ``action`` is ``ack``, ``snooze`` (until ``until``) or ``excuse``.
    """

    __tablename__ = "ext_sla_action"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    occurrence_id: Mapped[int] = mapped_column(
        ForeignKey("ext_sla_occurrence.id", ondelete="CASCADE"), index=True
    )
    incident_id: Mapped[int | None] = mapped_column(_Id)
    action: Mapped[str] = mapped_column(String(10))
    who: Mapped[str] = mapped_column(String(250))
    why: Mapped[str] = mapped_column(Text, default="")
    until: Mapped[datetime | None] = mapped_column(UtcTime)
    at: Mapped[datetime] = mapped_column(UtcTime)


class LeaseRow(Base):
    """A duty that one replica at a time has: ``duties`` (policies, occurrences, heartbeat, pruning) and, where rows
    cannot be skipped while locked (SQLite), ``judge``.
    """

    __tablename__ = "ext_sla_lease"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    holder: Mapped[str] = mapped_column(String(100))
    expires_at: Mapped[datetime] = mapped_column(UtcTime)


class MarkRow(Base):
    """How far a duty has read a table of Airflow, so that the next look reads only what is new."""

    __tablename__ = "ext_sla_mark"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(UtcTime)


class ReplicaRow(Base):
    """One monitor process and how it does; ``lag_seconds`` is how far behind its judging is."""

    __tablename__ = "ext_sla_replica"

    holder: Mapped[str] = mapped_column(String(100), primary_key=True)
    started_at: Mapped[datetime] = mapped_column(UtcTime)
    beat_at: Mapped[datetime] = mapped_column(UtcTime)
    tick_seconds: Mapped[float] = mapped_column(Float)
    last_tick_ms: Mapped[float] = mapped_column(Float, default=0.0)
    lag_seconds: Mapped[float] = mapped_column(Float, default=0.0)


TABLES: dict[str, Any] = {table.name: table for table in metadata.sorted_tables}
