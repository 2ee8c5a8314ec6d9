"""What ``doctor`` looks at for SLAs: the ledger, the monitors, what waits to be told, and the channels it is told to."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_ext.cli.doctor_finding import Finding, fail, ok, warn
from airflow_ext.cli.doctor_install import importable
from airflow_ext.sla.channel import Channel, channels_from_json, load
from airflow_ext.sla.escalation import steps_from_json
from airflow_ext.sla.wording import duration

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_START = "Start one: airflow ext sla monitor (the page on SLAs has a systemd unit and Helm values)."
_STUCK = timedelta(minutes=10)
_UNPRUNED = timedelta(days=2)
_LAGS = 3
_SHOWN = 3


def ledger() -> Iterator[Finding]:
    """The tables are there, at the revision of this package, and pruned."""
    from airflow import settings
    from sqlalchemy import inspect as look
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.orm import Session

    from airflow_ext.sla.ledger.models import TABLES

    engine = settings.get_engine()
    try:
        there = set(TABLES) & set(look(engine).get_table_names())
    except SQLAlchemyError:
        return  # the check of the database says so
    if not there:
        yield warn(
            "the tables of the ledger are not there: SLAs are kept as Airflow's deadlines only",
            "Run: airflow db migrate.",
        )
        return
    if missing := sorted(set(TABLES) - there):
        yield fail(f"tables of the ledger are missing: {', '.join(missing)}", "Run: airflow db migrate.")
        return
    with Session(engine) as session:
        current, newest = _revision(session), _head()
        if current != newest:
            yield fail(
                f"the ledger is at revision {current or 'none'}, this version of airflow-ext needs {newest}",
                "Run: airflow db migrate; no monitor may run meanwhile.",
            )
            return
        yield from _size(session)


def _revision(session: Session) -> str | None:
    from sqlalchemy import column, select, table

    from airflow_ext.sla.ledger.manager import VERSION_TABLE

    found: str | None = session.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    return found


def _head() -> str | None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from airflow_ext.sla.ledger.manager import LedgerManager

    config = Config(LedgerManager.alembic_file)
    config.set_main_option("script_location", str(LedgerManager.migration_dir).replace("%", "%%"))
    return ScriptDirectory.from_config(config).get_current_head()


def _size(session: Session) -> Iterator[Finding]:
    from airflow.configuration import conf
    from sqlalchemy import func, select, text

    from airflow_ext.sla.ledger.models import TABLES, OccurrenceRow

    count = session.scalar(select(func.count()).select_from(OccurrenceRow)) or 0
    oldest = session.scalar(select(func.min(OccurrenceRow.settled_at)))
    size = ""
    if session.get_bind().dialect.name == "postgresql":
        each = " + ".join(f"pg_total_relation_size('{name}')" for name in TABLES)
        size = f", {(session.scalar(text(f'select {each}')) or 0) / 1e6:.0f} MB"
    kept = timedelta(days=max(1, conf.getint("airflow_ext", "sla_retention_days", fallback=400)))
    if oldest is not None and datetime.now(UTC) - oldest > kept + _UNPRUNED:
        yield warn(
            f"the ledger has {count} occurrences{size}, the oldest of {oldest:%Y-%m-%d}, which should be gone",
            f"A monitor prunes what is older than [airflow_ext] sla_retention_days ({kept.days}): let one run.",
        )
    else:
        yield ok(f"the ledger is at its newest revision: {count} occurrences{size}")


def monitors() -> Iterator[Finding]:
    """Somebody judges what is due, in time, and what broke is told."""
    from sqlalchemy.exc import SQLAlchemyError

    from airflow_ext.cli.sla_verbs import open_ledger
    from airflow_ext.exceptions import UnavailableError
    from airflow_ext.sla.trends import views

    try:
        with open_ledger() as session:
            now = datetime.now(UTC)
            yield from _replicas(session, views.status(session, now=now), now=now)
            yield from _outbox(session, now=now)
    except (UnavailableError, SQLAlchemyError):
        return  # the checks of database and ledger say so


def _replicas(session: Session, status: Mapping[str, Any], *, now: datetime) -> Iterator[Finding]:
    from airflow_ext.sla.ledger.models import ReplicaRow

    if not status["monitors"]:
        kept = f"{status['promises']} promises are watched by nobody" if status["promises"] else ""
        if status["last_beat"]:
            age = duration(now - datetime.fromisoformat(status["last_beat"]))
            yield fail(f"the last SLA monitor was seen {age} ago; {kept or 'none is alive'}", _START)
        elif kept:
            yield fail(f"no SLA monitor is alive: {kept}", _START)
        else:
            yield ok("no SLA monitor is alive, and no promise was ever given to one")
        return
    rows = [row for row in session.query(ReplicaRow).order_by(ReplicaRow.holder) if _alive(row, now)]
    worst = max(rows, key=lambda row: row.lag_seconds)
    names = ", ".join(row.holder.rpartition(":")[0] for row in rows[:_SHOWN])
    beat = duration(now - max(row.beat_at for row in rows))
    if worst.lag_seconds > _LAGS * worst.tick_seconds + 1:
        yield warn(
            f"SLA monitor {worst.holder} judges {duration(timedelta(seconds=worst.lag_seconds))} late",
            "Start another replica, or look what slows its database; it catches up by itself after an outage.",
        )
    else:
        yield ok(f"{len(rows)} SLA monitors are at work ({names}), last heartbeat {beat} ago")
    if any(now - row.beat_at <= timedelta(seconds=2 * row.tick_seconds) for row in rows):
        yield from _heartbeat(session, now)


def _alive(row: Any, now: datetime) -> bool:
    return bool(now - row.beat_at <= timedelta(seconds=max(30.0, 3 * row.tick_seconds)))


def _heartbeat(session: Session, now: datetime) -> Iterator[Finding]:
    from sqlalchemy import select

    from airflow_ext.sla.heartbeat import VARIABLE_KEY, is_fresh
    from airflow_ext.sla.monitor.tables import VARIABLE

    value = session.scalar(select(VARIABLE.c.val).where(VARIABLE.c.key == VARIABLE_KEY))
    if not is_fresh(value, now=now):
        yield warn(
            f"Variable {VARIABLE_KEY} is stale although a monitor is at work: callbacks of deadlines tell misses too",
            "Compare the clocks of the database and this machine; see the monitor's log for a duty that failed.",
        )


def _outbox(session: Session, *, now: datetime) -> Iterator[Finding]:
    from sqlalchemy import func, select

    from airflow_ext.sla.ledger.models import FAILED, PENDING, OutboxRow

    stuck = session.query(OutboxRow).filter(OutboxRow.state == PENDING, OutboxRow.created_at < now - _STUCK)
    if first := stuck.order_by(OutboxRow.created_at).first():
        why = f": {first.last_error}" if first.last_error else ""
        yield warn(
            f"{stuck.count()} SLA messages wait, the oldest since {duration(now - first.created_at)}{why}",
            f"airflow ext sla explain {first.incident_id} shows its channel and tries; correct its connection.",
        )
    lost = select(func.count(), func.max(OutboxRow.incident_id)).where(
        OutboxRow.state == FAILED, OutboxRow.created_at > now - timedelta(days=1)
    )
    count, incident = session.execute(lost).one()
    if count:
        yield warn(
            f"{count} SLA messages of the last day were given up after all their tries",
            f"airflow ext sla explain {incident} says why of the last one.",
        )


def definitions_in_force() -> list[tuple[str, dict[str, Any]]]:
    """Return DAG and definition of each policy that the ledger has in force; none if there is no ledger."""
    from sqlalchemy import select

    from airflow_ext.cli.sla_verbs import open_ledger
    from airflow_ext.exceptions import UnavailableError
    from airflow_ext.sla.ledger.models import PolicyRow, PolicyVersionRow

    try:
        with open_ledger() as session:
            query = (
                select(PolicyRow.dag_id, PolicyVersionRow.definition)
                .join(PolicyVersionRow, PolicyVersionRow.id == PolicyRow.version_id)
                .where(PolicyRow.retired_at.is_(None), PolicyRow.source == "yaml")
            )
            return [(row.dag_id, json.loads(row.definition)) for row in session.execute(query)]
    except UnavailableError:
        return []


def channels(found: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Finding]:
    """Each notifier and function can be imported, and each connection that one names is there.

    :param found: DAG and definition of each SLA.
    """
    dags: set[str] = set()
    told: set[Channel] = set()
    functions: set[str] = set()
    for dag_id, definition in found:
        dags.add(dag_id)
        told |= set(channels_from_json(definition.get("channels") or "[]"))
        for step in steps_from_json(definition.get("escalate") or "[]"):
            told |= set(step.channels)
        if definition.get("callback"):
            functions.add(definition["callback"])
    if not dags:
        yield ok("no DAG has an sla()")
        return
    notifiers = {channel.notifier for channel in told}
    missing = sorted(path for path in notifiers | functions if not importable(path))
    if missing:
        yield fail(
            f"SLAs of {len(dags)} DAGs tell channels that cannot be imported here: {', '.join(missing)}",
            "Correct the path in Channel(...) or callback=, or install it where monitor and triggerer run.",
        )
    unknown = sorted(
        {
            name
            for channel in told
            if channel.notifier not in missing
            for name in _unknown_connections(channel)
        }
    )
    for name, notifier in unknown[:_SHOWN]:
        yield fail(
            f"{notifier} of an sla() needs connection {name!r}, which is nowhere",
            f"Make it (airflow connections add {name} ...), or name another in Channel(...).",
        )
    if len(unknown) > _SHOWN:
        yield fail(f"{len(unknown) - _SHOWN} more connections of SLA channels are nowhere", "Make them.")
    if not missing and not unknown:
        yield ok(
            f"SLAs of {len(dags)} DAGs; their {len(notifiers)} notifiers can be imported and have their connections"
        )


def _unknown_connections(channel: Channel) -> Iterator[tuple[str, str]]:
    from airflow.models.connection import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    for name, parameter in inspect.signature(load(channel.notifier)).parameters.items():
        if not name.endswith("conn_id"):
            continue
        value = channel.arguments.get(name, parameter.default)
        if not isinstance(value, str) or not value or "{{" in value:
            continue
        try:
            Connection.get_connection_from_secrets(value)
        except AirflowNotFoundException:
            yield value, channel.label
