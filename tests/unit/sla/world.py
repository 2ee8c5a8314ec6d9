"""A small metadata database: Airflow's tables as far as the monitor reads them, beside the ledger, and a clock of its own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.orm import Session

from airflow_ext.contracts.head import Entry, Head
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.verdict import Status
from airflow_ext.sla.ledger.models import IncidentRow, OccurrenceRow, OutboxRow, PolicyRow, metadata
from airflow_ext.sla.monitor import tables
from airflow_ext.sla.monitor.service import Monitor, Report, Settings

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
CALLBACK = "tests.nowhere.tell"
_ENDED = ("success", "failed")


def at(text: str) -> datetime:
    """Return a UTC time of ``2026-03-02 05:00``."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class World:
    """What Airflow would have in its tables; its time moves only by :meth:`tick_at`."""

    def __init__(self, engine: Engine, *, start: str = "2026-03-01 12:00", **settings: Any) -> None:
        self.engine = engine
        tables.airflow.create_all(engine)
        metadata.create_all(engine)
        self.now = at(start)
        self.settings = Settings(**settings)
        self.scheduler_alive = True
        self.heads: dict[str, Head] = {}
        self.monitor = self.replica("one")

    def replica(self, name: str) -> Monitor:
        """Return one more monitor on the same tables and clock."""

        @contextmanager
        def sessions() -> Iterator[Session]:
            with Session(self.engine, expire_on_commit=False) as session:
                yield session

        return Monitor(
            sessions=sessions,
            holder=name,
            settings=self.settings,
            clock=lambda _: self.now,
            monotonic=lambda: self.now.timestamp(),
        )

    def tick_at(self, text: str | datetime, *, monitor: Monitor | None = None) -> Report:
        """Set the clock and let a monitor look until nothing is due."""
        self.now = at(text) if isinstance(text, str) else text
        self.beat()
        return (monitor or self.monitor).once()

    def beat(self) -> None:
        """Let the scheduler send its heartbeat, if it lives."""
        if self.scheduler_alive:
            self._write(delete(tables.JOB))
            job = {"job_type": "SchedulerJob", "state": "running", "latest_heartbeat": self.now}
            self._write(insert(tables.JOB).values(job))

    def add_dag(self, dag_id: str, deadline: Any, *, schedule: Any = "@daily", **more: Any) -> None:
        """Serialize a DAG, or a new version of one, the way Airflow does."""
        dag = DAG(dag_id, schedule=schedule, start_date=datetime(2026, 1, 1, tzinfo=UTC), deadline=deadline)
        alerts: list[Any] = list(dag.deadline or [])  # type: ignore[arg-type]  # Airflow makes it a list
        data = DagSerialization.to_dict(dag)
        ids = [uuid.uuid4() for _ in alerts]
        data["dag"]["deadline"] = [str(number) for number in ids] or None
        data["dag"] |= more
        serial = uuid.uuid4()
        stamps = {"created_at": self.now, "last_updated": self.now}
        self._write(insert(tables.SERIALIZED_DAG).values(id=serial, dag_id=dag_id, data=data, **stamps))
        for number, alert in zip(ids, alerts, strict=True):
            stored = {"__data__": {"path": alert.callback.path, "kwargs": alert.callback.kwargs}}
            self._write(
                insert(tables.DEADLINE_ALERT).values(id=number, serialized_dag_id=serial, callback_def=stored)
            )
        self._write(delete(tables.DAG).where(tables.DAG.c.dag_id == dag_id))
        row = {"dag_id": dag_id, "is_paused": False, "is_stale": False, "has_import_errors": False}
        self._write(insert(tables.DAG).values(**row, bundle_name="b", relative_fileloc=f"{dag_id}.py"))

    def set_dag(self, dag_id: str, **values: Any) -> None:
        """Change what Airflow knows of a DAG: ``is_paused``, ``is_stale``, ``has_import_errors``."""
        self._write(update(tables.DAG).where(tables.DAG.c.dag_id == dag_id).values(values))

    def run(self, dag_id: str, run_after: str, state: str = "success", **more: Any) -> str:
        """Add a run; ``ended`` is a time as text, like all others."""
        kind = more.pop("run_type", "scheduled")
        run_id = str(more.pop("run_id", f"{kind}__{run_after}"))
        times = {name: at(value) for name, value in more.items() if isinstance(value, str)}
        ended = times.pop("ended", at(run_after) + HOUR)
        values = {
            "queued_at": at(run_after),
            "start_date": None if state == "queued" else at(run_after),
            "end_date": ended if state in _ENDED else None,
            **times,
        }
        base = {
            "dag_id": dag_id,
            "run_id": run_id,
            "run_type": kind,
            "state": state,
            "run_after": at(run_after),
        }
        self._write(insert(tables.DAG_RUN).values(**base, **values))
        return run_id

    def set_run(self, dag_id: str, run_id: str, **values: Any) -> None:
        """Change a run: cleared, ended."""
        table = tables.DAG_RUN
        times = {
            name: at(value) if name.endswith("date") and value else value for name, value in values.items()
        }
        self._write(update(table).where(table.c.dag_id == dag_id, table.c.run_id == run_id).values(times))

    def drop_run(self, dag_id: str, run_id: str) -> None:
        """Delete a run."""
        table = tables.DAG_RUN
        self._write(delete(table).where(table.c.dag_id == dag_id, table.c.run_id == run_id))

    def task(
        self, dag_id: str, run_id: str, task_id: str, state: str | None, *, ended: str = "", index: int = -1
    ) -> None:
        """Add a task instance."""
        values = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": index, "state": state}
        end = at(ended) if ended else None
        self._write(insert(tables.TASK_INSTANCE).values(id=uuid.uuid4(), end_date=end, **values))

    def asset(self, name: str) -> int:
        """Return the id of an asset, which is made if need be."""
        with Session(self.engine) as session:
            number = session.scalar(select(tables.ASSET.c.id).where(tables.ASSET.c.name == name))
        if number is None:
            self._write(insert(tables.ASSET).values(name=name, uri=name))
            return self.asset(name)
        return int(number)

    def asset_event(self, name: str, moment: str, *, dag_id: str = "", run_id: str = "") -> None:
        """Add an event of an asset."""
        source = {"source_dag_id": dag_id or None, "source_run_id": run_id or None}
        row = {"asset_id": self.asset(name), "timestamp": at(moment), **source}
        self._write(insert(tables.ASSET_EVENT).values(row))

    def publish(
        self,
        name: str,
        partition: str,
        moment: str,
        *,
        status: Status = Status.PASS,
        source: Mapping[str, str] | None = None,
    ) -> None:
        """Add what a publication of a contract leaves: its head, and events with and without the partition if it holds."""
        self.heads[name] = self.heads.get(name, Head()).with_entry(
            partition, Entry(status, self.heads.get(name, Head()).seq + 1, "2.0.0"), PartitionRule()
        )
        where = {"asset_id": self.asset(name), "key": "head"}
        self._write(delete(tables.ASSET_STATE).where(tables.ASSET_STATE.c.asset_id == where["asset_id"]))
        value = json.dumps(self.heads[name].to_dict())
        self._write(insert(tables.ASSET_STATE).values(**where, value=value))
        for key in (partition, None) if status.holds else ():
            row = {
                "asset_id": where["asset_id"],
                "timestamp": at(moment),
                "partition_key": key,
                **(source or {}),
            }
            self._write(insert(tables.ASSET_EVENT).values(row))

    def feed(self, maker: str, user: str) -> None:
        """Let a DAG be scheduled on an asset that another makes."""
        asset = self.asset(f"{maker}/made")
        where = {"asset_id": asset, "task_id": "t", "dag_id": maker}
        with Session(self.engine) as session:
            there = session.scalar(select(tables.MAKES.c.asset_id).where(tables.MAKES.c.asset_id == asset))
        if there is None:
            self._write(insert(tables.MAKES).values(where))
        self._write(insert(tables.FEEDS).values(asset_id=asset, dag_id=user))

    def states(self, dag_id: str | None = None) -> dict[str, tuple[str, str]]:
        """Return state and cause of each occurrence by date and slot."""
        query = select(OccurrenceRow, PolicyRow.dag_id).join(
            PolicyRow, PolicyRow.id == OccurrenceRow.policy_id
        )
        with Session(self.engine) as session:
            rows = session.execute(query.order_by(OccurrenceRow.due_at)).all()
        return {
            f"{row.local_date} {row.slot}": (row.state, row.cause)
            for row, owner in rows
            if dag_id is None or owner == dag_id
        }

    def state(self, day: str, dag_id: str | None = None) -> tuple[str, str]:
        """Return state and cause of the one occurrence of a date."""
        (found,) = (value for name, value in self.states(dag_id).items() if name.startswith(day))
        return found

    def told(self) -> list[tuple[str, str, str]]:
        """Return kind of message, kind of incident and cause of every message, in order."""
        query = (
            select(OutboxRow.kind, IncidentRow.kind, IncidentRow.cause)
            .join(IncidentRow, IncidentRow.id == OutboxRow.incident_id)
            .order_by(OutboxRow.id)
        )
        with Session(self.engine) as session:
            return [(row[0], row[1], row[2]) for row in session.execute(query)]

    def rows(self, model: Any) -> list[Any]:
        """Return all rows of a table of the ledger."""
        with Session(self.engine) as session:
            return list(session.scalars(select(model).order_by(next(iter(model.__table__.primary_key)))))

    def _write(self, statement: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement)
