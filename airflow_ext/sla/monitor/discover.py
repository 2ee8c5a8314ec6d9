"""Reads the policies of serialized DAGs and of YAML files into the ledger, a version for each change."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from airflow_ext.sla.declare import CALLBACK_PATH, definitions
from airflow_ext.sla.expected import rule_of
from airflow_ext.sla.forecast import FORECASTS
from airflow_ext.sla.ledger.models import (
    AT_RISK,
    EXCUSED,
    EXPECTED,
    IncidentRow,
    OccurrenceRow,
    PolicyRow,
    PolicyTaskRow,
    PolicyVersionRow,
)
from airflow_ext.sla.ledger.sql import add_new, among, chunks, set_each, table_of
from airflow_ext.sla.monitor.judging import retire
from airflow_ext.sla.monitor.tables import DAG, DEADLINE_ALERT, SERIALIZED_DAG
from airflow_ext.sla.monitor.timetables import schedule_text
from airflow_ext.sla.policy import Policy

log = logging.getLogger(__name__)
O, P, V, T = (table_of(model) for model in (OccurrenceRow, PolicyRow, PolicyVersionRow, PolicyTaskRow))  # noqa: E741
I = table_of(IncidentRow)  # noqa: E741
S, A = SERIALIZED_DAG, DEADLINE_ALERT
DAG_SOURCE, YAML_SOURCE = "dag", "yaml"
_OVERLAP = timedelta(minutes=2)
_WHY = "withdrawn"
_UNREADABLE = (KeyError, ValueError, TypeError, AttributeError)
"""What a definition raises that another version of this package has written, or somebody by hand."""


@dataclass(frozen=True)
class Found:
    """A policy as it is written now.

    :param definition: Its flat form with channels, callback and escalation.
    :param schedule: Text of the DAG's schedule, empty if its times decide nothing.
    :param tasks: Ids of the tasks it is about.
    :param there: Whether its DAG is there.
    """

    dag_id: str
    source: str
    policy: Policy
    definition: str
    schedule: str
    tasks: tuple[str, ...]
    there: bool = True

    @property
    def fingerprint(self) -> str:
        """Changes with anything that makes another version."""
        return hashlib.sha256(self.definition.encode()).hexdigest()


def discover(session: Session, *, now: datetime, since: datetime) -> int:
    """Bring the ledger's policies up to what DAGs that were serialized since then say; the caller commits.

    :returns: Policies that are new or changed.
    """
    query = select(S.c.dag_id).where(S.c.last_updated >= since - _OVERLAP).distinct()
    changed = 0
    for some in chunks(list(session.scalars(query)), 500):
        newest = _latest(session, some)
        changed += _take_over(session, newest, {row.dag_id for row in newest}, now=now)
    return changed


def take_over_files(session: Session, files: Sequence[tuple[str, dict[str, Any]]], *, now: datetime) -> int:
    """Bring the ledger's policies up to what files say; the caller commits.

    :param files: DAG and definition of each policy.
    :returns: Policies that are new or changed.
    """
    found, unread = _of_files(session, files, now=now)
    changed = _store(session, found, now=now)
    gone = _no_longer_there(session, found, source=YAML_SOURCE, looked=None, unread=unread)
    retire(session, gone, why=_WHY, now=now)
    return changed


def discover_part(session: Session, *, now: datetime, after: str, most: int = 500) -> tuple[int, str]:
    """Do the same for the next DAGs by name, whenever they were serialized; the caller commits.

    Going through all of them in parts finds what the look at those of late has missed: a DAG that is back, for example.

    :param after: Name of the last DAG of the part before, empty at the start.
    :returns: Policies that are new or changed, and the last DAG of this part; empty at the end.
    """
    query = select(DAG.c.dag_id).where(DAG.c.is_stale.is_(False), DAG.c.dag_id > after)
    names: list[str] = list(session.scalars(query.order_by(DAG.c.dag_id).limit(most)))
    changed = _take_over(session, _latest(session, names), set(names), now=now)
    return changed, names[-1] if len(names) == most else ""


def _take_over(session: Session, newest: Sequence[Any], looked: set[str], *, now: datetime) -> int:
    found, unread = _read(session, newest, now=now)
    changed = _store(session, found, now=now)
    gone = _no_longer_there(session, found, source=DAG_SOURCE, looked=looked, unread=unread)
    retire(session, gone, why=_WHY, now=now)
    return changed


def _latest(session: Session, dag_ids: Sequence[str]) -> list[Any]:
    """Return the newest serialized form of each DAG, of those that are not stale."""
    place = func.row_number().over(partition_by=S.c.dag_id, order_by=S.c.created_at.desc()).label("place")
    newest = select(S.c.id, S.c.dag_id, place).where(among(session, S.c.dag_id, dag_ids)).subquery()
    query = (
        select(newest.c.id, newest.c.dag_id)
        .join(DAG, DAG.c.dag_id == newest.c.dag_id)
        .where(newest.c.place == 1, DAG.c.is_stale.is_(False))
    )
    return list(session.execute(query))


def _read(session: Session, newest: Sequence[Any], *, now: datetime) -> tuple[list[Found], set[str]]:
    """Return the policies of serialized DAGs, and the DAGs of which something cannot be read."""
    names = {row.id: row.dag_id for row in newest}
    alerts: dict[Any, list[Any]] = {}
    query = select(A.c.id, A.c.serialized_dag_id, A.c.callback_def).where(A.c.serialized_dag_id.in_(names))
    for alert in session.execute(query):
        data = alert.callback_def.get("__data__", alert.callback_def)
        if data.get("path") == CALLBACK_PATH:
            alerts.setdefault(alert.serialized_dag_id, []).append((str(alert.id), data.get("kwargs")))
    found: list[Found] = []
    unread: set[str] = set()
    query = select(S.c.id, S.c.data, S.c.data_compressed).where(S.c.id.in_(alerts))
    for row in session.execute(query):
        dag = _dag_of(row)
        # Airflow leaves the rows of a DAG that has given up its deadlines.
        kept = {alert_id: place for place, alert_id in enumerate(dag.get("deadline") or ())}
        for alert_id, kwargs in sorted(alerts[row.id], key=lambda alert: kept.get(alert[0], 0)):
            if alert_id not in kept:
                continue
            try:
                found += [
                    _found(names[row.id], DAG_SOURCE, each, dag, now=now) for each in definitions(kwargs)
                ]
            except _UNREADABLE:
                log.exception("An SLA of DAG %s cannot be read; it is left as it was", names[row.id])
                unread.add(names[row.id])
    return _told_apart(found), unread


def _told_apart(found: list[Found]) -> list[Found]:
    """Give policies of one DAG that have the same name a number each, in their order, so that none is lost."""
    counts: Counter[tuple[str, str]] = Counter()
    apart = []
    for item in found:
        counts[item.dag_id, item.policy.name] += 1
        number = counts[item.dag_id, item.policy.name]
        if number > 1:
            name = f"{item.policy.name[:90]}-{number}"
            log.warning(
                "Two SLAs of DAG %s are called %s; one is %s now: give name=",
                item.dag_id,
                item.policy.name,
                name,
            )
            definition = json.dumps({**json.loads(item.definition), "policy": name}, sort_keys=True)
            item = replace(item, policy=item.policy.renamed(name), definition=definition)
        apart.append(item)
    return apart


def _dag_of(row: Any) -> dict[str, Any]:
    data = row.data if row.data is not None else json.loads(zlib.decompress(row.data_compressed))
    return dict(data["dag"])


def _found(
    dag_id: str, source: str, definition: Mapping[str, Any], dag: Mapping[str, Any], *, now: datetime
) -> Found:
    policy = Policy.from_flat(definition)
    schedule = schedule_text(dag, now=now) if policy.kind in ("by", "within") and dag else ""
    if policy.since in ("queue", "start") or policy.partitions is not None:
        schedule = ""
    text = json.dumps(dict(definition), sort_keys=True)
    found = Found(dag_id, source, policy, text, schedule, _tasks(policy, dag), there=bool(dag))
    for name, value in _columns(found).items():
        column = P.c[name]
        longest = getattr(column.type, "length", None)
        if (value is None and not column.nullable) or (longest and len(value or "") > longest):
            # Said here, because the database would refuse it together with the policies of all other DAGs.
            raise ValueError(f"{name} of {dag_id} is empty, or longer than {longest} characters")
    return found


def _tasks(policy: Policy, dag: Mapping[str, Any]) -> tuple[str, ...]:
    if policy.task:
        return (policy.task,)
    if not policy.group:
        return ()
    tasks = tuple(sorted(_members(dag.get("task_group") or {}, policy.group)))
    if not tasks:
        log.warning("SLA %s names group %s, which has no task", policy.name, policy.group)
    return tasks or (policy.group,)


def _members(group: Mapping[str, Any], wanted: str, *, inside: bool = False) -> Iterable[str]:
    here = inside or group.get("_group_id") == wanted
    for name, (kind, child) in (group.get("children") or {}).items():
        if kind == "taskgroup" or isinstance(child, Mapping):
            yield from _members(child.get("__var", child), wanted, inside=here)
        elif here:
            yield name


def _of_files(
    session: Session, files: Sequence[tuple[str, dict[str, Any]]], *, now: datetime
) -> tuple[list[Found], set[str]]:
    dags: dict[str, Mapping[str, Any]] = {}
    for some in chunks(sorted({dag_id for dag_id, _ in files}), 500):
        names = {row.id: row.dag_id for row in _latest(session, some)}
        query = select(S.c.id, S.c.data, S.c.data_compressed).where(S.c.id.in_(names))
        dags |= {names[row.id]: _dag_of(row) for row in session.execute(query)}
    found: list[Found] = []
    unread: set[str] = set()
    for dag_id, data in files:
        try:
            found.append(_found(dag_id, YAML_SOURCE, data, dags.get(dag_id, {}), now=now))
        except _UNREADABLE:
            log.exception("An SLA in YAML for DAG %s cannot be read; it is left as it was", dag_id)
            unread.add(dag_id)
    return found, unread


def _store(session: Session, found: Sequence[Found], *, now: datetime) -> int:
    if not found:
        return 0
    _rename(session, found)
    known = _known(session, {item.dag_id for item in found})
    new, changed = [], []
    for item in found:
        row = known.get((item.dag_id, item.policy.name, item.source))
        if row is None:
            new.append(item)
        elif item.there and (
            row.fingerprint != item.fingerprint
            or row.rule != rule_of(item.policy, item.schedule)
            or row.retired_at is not None
        ):
            changed.append((row, item))
    add_new(session, P, [{**_columns(item), "version_id": None, "created_at": now} for item in new])
    fresh = _known(session, {item.dag_id for item in new})
    versions = [(fresh[item.dag_id, item.policy.name, item.source].id, 1, item) for item in new]
    versions += _change(session, changed, now=now)
    _add_versions(session, versions, now=now)
    return len(new) + len(changed)


def _known(session: Session, dag_ids: set[str]) -> dict[tuple[str, str, str], Any]:
    known = {}
    for some in chunks(sorted(dag_ids)):
        query = select(P.c.id, P.c.dag_id, P.c.name, P.c.source, P.c.fingerprint, P.c.rule, P.c.retired_at)
        for row in session.execute(query.where(P.c.dag_id.in_(some))):
            known[row.dag_id, row.name, row.source] = row
    return known


def _columns(item: Found) -> dict[str, Any]:
    policy = item.policy
    return {
        "dag_id": item.dag_id,
        "name": policy.name,
        "source": item.source,
        "fingerprint": item.fingerprint,
        "kind": policy.kind,
        "since": policy.since,
        "subject": policy.subject,
        "asset_name": policy.asset_name,
        "asset_uri": policy.asset_uri,
        "run_types": f",{','.join(policy.run_types)},",
        "rule": rule_of(policy, item.schedule),
        "schedule": item.schedule,
        "owner": policy.owner,
        "severity": policy.severity,
        "on_paused": policy.on_paused,
        "on_failure": policy.on_failure,
        "materialised_until": None,
        "retired_at": None,
        "retired_why": "",
    }


def _change(
    session: Session, changed: Sequence[tuple[Any, Found]], *, now: datetime
) -> list[tuple[int, int, Found]]:
    """Drop what is expected by the old version and is not due yet; whatever was judged keeps the version it had.

    So does what is due and only has its grace left: it would not be written anew. What somebody was told of or has excused
    is not dropped, with it would go who did what, and why.
    """
    ids = [row.id for row, _ in changed]
    if not ids:
        return []
    guess = and_(O.c.state == AT_RISK, O.c.cause.in_(FORECASTS))
    # A later episode of the day is not written anew either: the day goes on by the version it began with.
    fresh = [row.id for row, item in changed if item.policy.kind == "fresh"]
    episode = among(session, O.c.policy_id, fresh) & O.c.slot.startswith("fresh-") & (O.c.slot != "fresh-1")
    session.execute(
        delete(O).where(
            among(session, O.c.policy_id, ids),
            or_(O.c.state.in_((EXPECTED, EXCUSED)), guess),
            O.c.due_at > now,
            ~episode,
            ~select(I.c.id).where(I.c.occurrence_id == O.c.id).exists(),
        )
    )
    query = select(V.c.policy_id, func.max(V.c.version).label("newest")).where(
        among(session, V.c.policy_id, ids)
    )
    newest = {row.policy_id: row.newest for row in session.execute(query.group_by(V.c.policy_id))}
    versions = []
    for row, item in changed:
        session.execute(update(P).where(P.c.id == row.id).values(_columns(item)))
        session.execute(delete(T).where(T.c.policy_id == row.id))
        if row.fingerprint != item.fingerprint:
            versions.append((row.id, newest.get(row.id, 0) + 1, item))
        else:
            add_new(session, T, [{"policy_id": row.id, "task_id": task} for task in item.tasks])
    return versions


def _add_versions(session: Session, versions: Sequence[tuple[int, int, Found]], *, now: datetime) -> None:
    if not versions:
        return
    rows = [
        {
            "policy_id": policy_id,
            "version": number,
            "fingerprint": item.fingerprint,
            "definition": item.definition,
            "created_at": now,
        }
        for policy_id, number, item in versions
    ]
    add_new(session, V, rows)
    add_new(
        session,
        T,
        [{"policy_id": policy_id, "task_id": task} for policy_id, _, item in versions for task in item.tasks],
    )
    policies = among(session, V.c.policy_id, [policy_id for policy_id, _, _ in versions])
    query = select(V.c.policy_id.label("id"), func.max(V.c.id).label("version_id")).where(policies)
    newest = [dict(row) for row in session.execute(query.group_by(V.c.policy_id)).mappings()]
    set_each(session, P, newest, same={})


def _rename(session: Session, found: Sequence[Found]) -> None:
    """Let a policy follow its DAG to a new id, with all its history."""
    for item in found:
        old = item.policy.formerly
        if not old or old == item.dag_id:
            continue
        names = (P.c.name == item.policy.name) & (P.c.source == item.source)
        if session.scalar(select(P.c.id).where(P.c.dag_id == item.dag_id, names)) is None:
            session.execute(update(P).where(P.c.dag_id == old, names).values(dag_id=item.dag_id))


def _no_longer_there(
    session: Session, found: Sequence[Found], *, source: str, looked: set[str] | None, unread: set[str]
) -> set[int]:
    """Return policies in force that are written no more, of DAGs that are still there.

    A DAG that is gone is another matter: its promise is broken, and the judge says so.

    :param looked: DAGs that were looked at, ``None`` for all.
    :param unread: DAGs of which something cannot be read: nobody has taken that back.
    """
    there = {(item.dag_id, item.policy.name) for item in found}
    query = select(P.c.id, P.c.dag_id, P.c.name).where(P.c.source == source, P.c.retired_at.is_(None))
    if looked is not None:
        query = query.where(among(session, P.c.dag_id, looked))
    rows = [row for row in session.execute(query) if row.dag_id not in unread]
    return {row.id for row in rows if (row.dag_id, row.name) not in there}
