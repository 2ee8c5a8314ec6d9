"""A real metadata database with many DAGs and terminal runs, written by SQL, and a monitor with a clock of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from airflow_ext.sla.monitor.service import Monitor, Report, Settings
from airflow_ext.testing.postgres import LocalPostgres

DAGS = Path(__file__).with_name("sla_dags")

_CLONES = (
    """
    INSERT INTO dag (dag_id, is_paused, is_stale, exceeds_max_non_backfill, bundle_name, relative_fileloc, fileloc,
        timetable_type, timetable_partitioned, timetable_periodic, partition_mapper_info, max_active_tasks,
        max_consecutive_failed_dag_runs, has_task_concurrency_limits, has_import_errors, fail_fast)
    SELECT 'hourly_' || n, false, false, false, bundle_name, 'copy.py', fileloc, timetable_type, timetable_partitioned,
        timetable_periodic, partition_mapper_info, max_active_tasks, max_consecutive_failed_dag_runs,
        has_task_concurrency_limits, false, fail_fast
    FROM dag, generate_series(1, :count) n WHERE dag_id = 'hourly'
    """,
    """
    INSERT INTO dag_version (id, version_number, dag_id, bundle_name, created_at, last_updated)
    SELECT md5('v' || n)::uuid, 1, 'hourly_' || n, bundle_name, created_at, last_updated
    FROM dag_version, generate_series(1, :count) n WHERE dag_id = 'hourly'
    """,
    """
    INSERT INTO serialized_dag (id, dag_id, data, created_at, last_updated, dag_hash, dag_version_id)
    SELECT md5('s' || n)::uuid, 'hourly_' || n,
        jsonb_set(jsonb_set(data::jsonb, '{dag,deadline}', jsonb_build_array(md5('a' || n)::uuid)),
            '{dag,dag_id}', to_jsonb('hourly_' || n)), created_at, last_updated, md5('h' || n), md5('v' || n)::uuid
    FROM serialized_dag, generate_series(1, :count) n WHERE dag_id = 'hourly'
    """,
    """
    INSERT INTO deadline_alert (id, created_at, serialized_dag_id, name, reference, "interval", callback_def)
    SELECT md5('a' || n)::uuid, a.created_at, md5('s' || n)::uuid, a.name, a.reference, a."interval", a.callback_def
    FROM deadline_alert a JOIN serialized_dag s ON s.id = a.serialized_dag_id, generate_series(1, :count) n
    WHERE s.dag_id = 'hourly'
    """,
)
_RUNS = """
    INSERT INTO dag_run (dag_id, run_id, run_type, state, run_after, logical_date, queued_at, start_date, end_date,
        clear_number, span_status, data_interval_start, data_interval_end)
    SELECT 'hourly_' || n, 'scheduled__' || :run_after, 'scheduled', 'success', :run_after, :run_after, :run_after,
        :run_after, CAST(:run_after AS timestamptz) + CAST(:first AS interval) + (n %% :spread) * interval '1 second', 0,
        'not_started', :run_after, :run_after
    FROM generate_series(CAST(:low AS int), CAST(:high AS int)) n
"""


@dataclass
class Stage:
    """The database and one monitor on it."""

    engine: Engine
    count: int
    now: datetime
    monitor: Monitor
    environment: dict[str, str]

    def sessions(self) -> Session:
        """Return a session, to be closed by the caller."""
        return Session(self.engine, expire_on_commit=False)

    def replica(self, name: str, **more: Any) -> Monitor:
        """Return a monitor on this database and clock.

        :param more: Further arguments of the monitor.
        """
        return Monitor(
            sessions=self.sessions,
            holder=name,
            clock=lambda _: self.now,
            monotonic=lambda: self.now.timestamp(),
            **{"settings": Settings(), **more},
        )

    def beat(self) -> None:
        """Let the scheduler that is not there send its heartbeat."""
        with self.engine.begin() as connection:
            connection.execute(
                text("UPDATE job SET latest_heartbeat = :now WHERE hostname IS NULL"), {"now": self.now}
            )

    def tick(self, now: datetime) -> Report:
        """Set the clock and look once."""
        self.now = now
        self.beat()
        return self.monitor.tick()

    def settle(self, now: datetime) -> None:
        """Set the clock and tick until nothing is left to do."""
        self.now = now
        self.beat()
        self.monitor.once()

    def add_runs(self, run_after: datetime, *, first: timedelta, spread: int, low: int, high: int) -> None:
        """Write terminal runs of the DAGs ``low`` to ``high``, which ended from ``first`` after their time on.

        :param spread: Seconds over which their ends are spread.
        """
        values = {
            "run_after": run_after,
            "first": f"{first.total_seconds()} seconds",
            "spread": max(1, spread),
            "low": low,
            "high": high,
        }
        with self.engine.begin() as connection:
            connection.execute(text(_RUNS.replace("%%", "%")), values)

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Return the rows of a query."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]


@contextmanager
def stage(
    home: Path, *, count: int, start: datetime, env: Mapping[str, str] | None = None
) -> Iterator[Stage]:
    """Migrate a database, parse the real DAG, copy its rows, and give a monitor whose clock stands at ``start``.

    :param env: Further environment of the commands.
    """
    settings = {"shared_buffers": "512MB", "max_wal_size": "4GB", "work_mem": "32MB"}
    with LocalPostgres(home / "postgres", settings=settings) as server:
        server.create_database("airflow")
        url = server.url("airflow", driver="postgresql+psycopg2")
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
            "PYTHONPATH": str(DAGS.parents[1]),
            **(env or {}),
        }
        for words in (("db", "migrate"), ("dags", "reserialize")):
            subprocess.run(
                [sys.executable, "-m", "airflow", *words],
                env=environment,
                check=True,
                capture_output=True,
                timeout=300,
            )
        engine = create_engine(url)
        with engine.begin() as connection:
            for statement in _CLONES:
                connection.execute(text(statement), {"count": count})
            job = "INSERT INTO job (job_type, state, latest_heartbeat) VALUES ('SchedulerJob', 'running', now())"
            connection.execute(text(job))
            # The clock of this benchmark stands before today: what is serialized is older than that.
            old = "UPDATE serialized_dag SET last_updated = :start, created_at = :start"
            connection.execute(text(old), {"start": start - timedelta(days=1)})
            # The real DAG takes part through its policy; it has no runs of its own here.
            connection.execute(text("UPDATE dag SET is_stale = true WHERE dag_id = 'hourly'"))
        vacuum(engine)

        made = Stage(engine, count, start, None, environment)  # type: ignore[arg-type]  # set in a moment
        made.monitor = made.replica("bench")
        try:
            yield made
        finally:
            engine.dispose()


def vacuum(engine: Engine) -> None:
    """Give the planner figures, as autovacuum does in time."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def seconds(work: object) -> float:
    """Return how long a callable takes."""
    begin = time.perf_counter()
    work()  # type: ignore[operator]  # a callable
    return time.perf_counter() - begin
