"""The founding cases on a real Airflow: "by six, tell at five past", for every way in which it can fail to be done."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from airflow_ext.notifications.sla_delivery import OutboxSender
from airflow_ext.sla.monitor.service import Monitor, Settings
from airflow_ext.testing.airflow_client import wait_until
from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.postgres import LocalPostgres
from benchmarks._sla_sink import ROOT, Sink, sink
from benchmarks.report import Report

DAGS = Path(__file__).with_name("sla_cases_dags")
TICK, SLACK = 10, 5
AHEAD = timedelta(seconds=45)
"""From writing a promise down to its due time: the monitor reads its YAML every 20 s."""
CASES = {
    "case_late": "late",
    "case_never": "never_started",
    "case_paused": "paused",
    "case_import": "import_error",
    "case_failed": "failed",
    "case_dead": "scheduler_dead",
    "case_dst": "never_started",
}
DST = datetime(2026, 3, 29, 4, 5, tzinfo=UTC)
"""Five past six in Berlin on the day on which its clocks go forward."""


def cases_part(home: Path, report: Report, *, quick: bool) -> None:  # noqa: ARG001  # it has no small case
    """Add the bars about what is told, when, and how often."""
    report.say("cases: starting Airflow")
    work = home / "work"
    work.mkdir()
    with sink(home) as told, LocalPostgres(home / "postgres") as server:
        server.create_database("airflow")
        with LocalAirflow(
            home / "airflow",
            dags={"cases": DAGS},
            metadata_url=server.url("airflow", driver="postgresql+psycopg2"),
            env={
                "AIRFLOW_EXT_BENCH_WORK": str(work),
                "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
                "AIRFLOW__AIRFLOW_EXT__SLA_TICK_SECONDS": str(TICK),
                "AIRFLOW__AIRFLOW_EXT__SLA_POLICIES": str(work),
                "PYTHONPATH": str(ROOT),
            },
        ) as airflow:
            _Cases(airflow, told, work, report).run()


class _Cases:
    def __init__(self, airflow: LocalAirflow, told: Sink, work: Path, report: Report) -> None:
        self.airflow, self.told, self.work, self.report = airflow, told, work, report
        self.engine = create_engine(airflow.metadata_url)
        self.slas: list[dict[str, Any]] = []
        self.delays: dict[str, float] = {}

    def run(self) -> None:
        with self._monitor():
            self._six()
        self._dst()
        self.engine.dispose()
        causes = {dag: self._causes(dag) for dag in CASES}
        self.report.bar(
            "founding cases that are told with their cause, of 7",
            sum(causes[dag] == [cause] for dag, cause in CASES.items()),
            "==",
            len(CASES),
            unit="cases",
            peers={"told": causes, "core deadline alerts": 1},
        )
        self.report.bar(
            f"founding cases, from the due time or the failure to the channel, the slowest (a look every {TICK} s)",
            max(self.delays.values()),
            "<=",
            TICK + SLACK,
            unit="s",
            peers={dag: round(delay, 1) for dag, delay in self.delays.items()},
        )
        # That a promise is over is told too, and is another matter.
        broken = [call for call in self.told.calls("keyed") if call["kind"] != "resolved"]
        names = [name for call in broken for name in call["dags"]]
        self.report.bar(
            "founding cases that the keyed channel was told other than once",
            sum(names.count(dag) != 1 for dag in CASES),
            "==",
            0,
            unit="cases",
        )

    def _promise(self, dag_id: str, **more: Any) -> None:
        channels = [
            {"notifier": f"benchmarks._sla_sink.{name}", "url": self.told.url} for name in ("Keyed", "Plain")
        ]
        self.slas.append({"dag": dag_id, "name": "founding", "channels": channels, **more})
        part = self.work / "slas.part"
        part.write_text(json.dumps({"slas": self.slas}))
        part.replace(self.work / "slas.yaml")

    def _promise_today(self, dag_id: str, due: datetime) -> None:
        self._promise(dag_id, by=f"{due:%H:%M:%S}", tz="UTC", run_types=["manual"])

    @contextmanager
    def _monitor(self) -> Iterator[None]:
        client = self.airflow.client
        client.wait_for_dags(CASES)
        self._promise_today("case_failed", datetime.now(UTC) + timedelta(hours=1))
        with (self.work / "monitor.log").open("ab") as log:
            process = subprocess.Popen(
                [self.airflow.python, "-m", "airflow", "ext", "sla", "monitor"],
                env=self.airflow.environment,
                cwd=self.work,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(
                lambda: self._rows("SELECT 1 FROM ext_sla_occurrence"), timeout=60, what="the monitor is up"
            )
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)

    def _six(self) -> None:
        client = self.airflow.client
        client.request("PATCH", "/dags/case_paused", json={"is_paused": True})
        (self.work / "broken").touch()
        client.trigger("case_late")
        wait_until(client.import_errors, timeout=90, what="the import error")
        due = (datetime.now(UTC) + AHEAD).replace(microsecond=0)
        for dag in ("case_late", "case_never", "case_paused", "case_import"):
            self._promise_today(dag, due)
        failed = client.trigger("case_failed")
        client.wait_for_run("case_failed", failed, state="failed")
        ended = datetime.fromisoformat(client.run("case_failed", failed)["end_date"])
        self.report.say("cases: waiting for the due time of four, the fifth has failed")
        for dag in ("case_failed", "case_late", "case_never", "case_paused", "case_import"):
            self._wait(dag, ended if dag == "case_failed" else due)
        self.airflow.kill_component("scheduler")
        due = (datetime.now(UTC) + AHEAD).replace(microsecond=0)
        self._promise_today("case_dead", due)
        self.report.say("cases: the scheduler is dead")
        self._wait("case_dead", due)
        time.sleep(2 * TICK)  # whatever would be told a second time

    def _wait(self, dag: str, since: datetime) -> None:
        def arrived() -> float | None:
            return next((call["at"] for call in self.told.calls("keyed") if dag in call["dags"]), None)

        self.report.say(f"cases: {dag}")
        at = wait_until(arrived, timeout=120, what=f"a notice about {dag}")
        self.delays[dag] = at - since.timestamp()

    def _dst(self) -> None:
        """The tables are real, the clock is not: the last such day is long past."""
        self.slas.clear()
        self._promise("case_dst", by="06:00", tz="Europe/Berlin", grace="5 min")
        now = DST - timedelta(hours=3)

        def sessions() -> Session:
            return Session(self.engine, expire_on_commit=False)

        monitor = Monitor(
            sessions=sessions,
            holder="dst",
            settings=Settings(policies=self.work),
            send=OutboxSender(sessions=sessions, holder="dst"),
            clock=lambda _: now,
            monotonic=lambda: now.timestamp(),
        )
        for moment in (now, DST - timedelta(seconds=1)):
            now = moment
            monitor.once()
        if self._causes("case_dst"):
            return  # told too early: the bar shows it
        now = DST
        began = time.time()
        monitor.once()
        self._wait("case_dst", datetime.fromtimestamp(began, UTC))

    def _causes(self, dag: str) -> list[str]:
        query = (
            "SELECT i.cause FROM ext_sla_incident i JOIN ext_sla_policy p ON p.id = i.policy_id "
            f"WHERE p.dag_id = '{dag}' ORDER BY i.id"
        )
        return [str(row[0]) for row in self._rows(query)]

    def _rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(query)))
