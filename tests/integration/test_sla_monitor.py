"""The founding cases on a real Airflow: "by six, tell at five past", for every way in which it can fail to be done."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from airflow_ext.sla.monitor.service import Monitor, Settings
from airflow_ext.testing.airflow_client import AirflowClient, wait_until
from airflow_ext.testing.local_airflow import LocalAirflow
from tests.integration.chat import Chat, chat_server

DAGS = ("slam_late", "slam_failed", "slam_never", "slam_paused", "slam_dead", "slam_dst", "slam_import")
TICK = 1
NOTICE = 20
"""Seconds a notice may take on a machine that runs all of Airflow beside it; how fast it is, the benchmark says."""
SINK = """
import json
from datetime import UTC, datetime
def tell(event):
    with open({file!r}, "a") as sink:
        record = {{"dag": event.dag_id, "kind": event.kind, "cause": event.cause, "key": event.key, "text": event.text}}
        sink.write(json.dumps({{**record, "at": datetime.now(UTC).isoformat()}}) + chr(10))
"""


SLACK = "airflow.providers.slack.notifications.slack.SlackNotifier"
TEAM, LEAD = "#team", "#lead"


def chat_channel(name: str) -> dict[str, str]:
    return {"notifier": SLACK, "slack_conn_id": "slam_chat", "channel": name}


ESCALATING = {
    "channels": [chat_channel(TEAM)],
    "escalate": [{"after": "1 min", "channels": [chat_channel(LEAD)], "owner": "lead"}],
}


class Watch:
    """A monitor process, the YAML it reads and what it told."""

    def __init__(self, airflow: LocalAirflow, scratch: Path, chat: Chat) -> None:
        self.airflow, self.scratch, self.chat = airflow, scratch, chat
        self.folder = scratch / "slam"
        self.folder.mkdir(exist_ok=True)
        self.file, self.told_file = self.folder / "slas.yaml", self.folder / "told.jsonl"
        (self.folder / "slam_sink.py").write_text(SINK.format(file=str(self.told_file)))
        self.engine: Engine = create_engine(airflow.metadata_url)
        self.slas: list[dict[str, Any]] = []
        self._process: subprocess.Popen[bytes] | None = None

    def promise(self, dag_id: str, due: datetime, **more: Any) -> None:
        """Promise a DAG by a time of today."""
        sla = {"dag": dag_id, "by": f"{due:%H:%M:%S}", "tz": "UTC", "callback": "slam_sink.tell"}
        self.slas.append({**sla, "run_types": ["manual"], "name": "founding", **more})
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps({"slas": self.slas}))
        part.replace(self.file)

    def start(self) -> None:
        """Start the process as users do."""
        environment = {
            **self.airflow.environment,
            "AIRFLOW_CONN_SLAM_CHAT": json.dumps(
                {
                    "conn_type": "slack",
                    "password": secrets.token_hex(12),
                    "extra": {"base_url": self.chat.url},
                }
            ),
            "PYTHONPATH": str(self.folder),
            "AIRFLOW__AIRFLOW_EXT__SLA_TICK_SECONDS": str(TICK),
            "AIRFLOW__AIRFLOW_EXT__SLA_POLICIES": str(self.folder),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
        }
        log = (self.folder / "monitor.log").open("ab")
        self._process = subprocess.Popen(
            [self.airflow.python, "-m", "airflow", "ext", "sla", "monitor"],
            env=environment,
            cwd=self.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()

    def monitor(self, clock: Callable[[], datetime]) -> Monitor:
        """Return a monitor in this process, which tells nobody, with a clock of its own."""
        return Monitor(
            sessions=lambda: Session(self.engine, expire_on_commit=False),
            holder="here",
            settings=Settings(policies=self.folder, horizon=timedelta(hours=48)),
            clock=lambda _: clock(),
            monotonic=lambda: clock().timestamp(),
        )

    def stop(self) -> int:
        """End the process as a service manager does, and return its status."""
        if self._process is None:
            return 0
        os.killpg(self._process.pid, signal.SIGTERM)
        status = self._process.wait(timeout=40)
        self._process = None
        return status

    def sla(self, *words: str) -> str:
        """Run a command as on-call people do."""
        return self.airflow.command("ext", "sla", *words).stdout

    def incident(self, dag_id: str) -> str:
        """Return the number of a DAG's incident."""
        query = "select i.id from ext_sla_incident i join ext_sla_policy p on p.id = i.policy_id"
        ((number,),) = self.rows(f"{query} where p.dag_id = '{dag_id}'")
        return str(number)

    def told(self) -> list[dict[str, Any]]:
        """Return what was told so far."""
        if not self.told_file.exists():
            return []
        return [json.loads(line) for line in self.told_file.read_text().splitlines()]

    def rows(self, query: str) -> list[Any]:
        """Return the rows of a query."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(query)))

    def explain(self) -> str:
        """Return what helps when a wait was in vain."""
        log = (self.folder / "monitor.log").read_text()[-3000:]
        return (
            f"{self.rows('select policy_id, local_date, slot, state, cause from ext_sla_occurrence')}\n{log}"
        )


@pytest.fixture(scope="module")
def watch(airflow: LocalAirflow, scratch: Path) -> Iterator[Watch]:
    airflow.client.wait_for_dags(DAGS)
    with chat_server() as chat:
        made = Watch(airflow, scratch, chat)
        yield made
        made.stop()
    for name in DAGS:
        (scratch / name).touch()
    (scratch / "slam_broken").unlink(missing_ok=True)
    # Other tests take an import error for the end of their own DAGs.
    wait_until(lambda: not airflow.client.import_errors(), timeout=90, what="the file loads again")
    with made.engine.begin() as connection:
        connection.exec_driver_sql(
            "TRUNCATE ext_sla_policy, ext_sla_policy_version, ext_sla_occurrence CASCADE"
        )
    made.engine.dispose()


@pytest.mark.timeout(400)
def test_six_of_the_seven_are_told_in_time_and_once(
    airflow: LocalAirflow, client: AirflowClient, watch: Watch, scratch: Path
) -> None:
    client.request("PATCH", "/dags/slam_paused", json={"is_paused": True})
    (scratch / "slam_broken").touch()
    late = client.trigger("slam_late")
    wait_until(client.import_errors, timeout=60, what="the import error")
    watch.promise("slam_failed", datetime.now(UTC) + timedelta(hours=1))
    watch.start()
    wait_until(
        lambda: watch.rows("select 1 from ext_sla_occurrence"),
        timeout=60,
        what="the first occurrence",
        explain=watch.explain,
    )
    # The monitor reads its YAML every 20 s.
    due = (datetime.now(UTC) + timedelta(seconds=25)).replace(microsecond=0)
    for name in ("slam_late", "slam_never", "slam_paused", "slam_import"):
        watch.promise(name, due, **(ESCALATING if name in ("slam_never", "slam_paused") else {}))
    failed = client.trigger("slam_failed")
    client.wait_for_run("slam_failed", failed, state="failed")
    ended = datetime.fromisoformat(client.run("slam_failed", failed)["end_date"])
    found = wait_until(
        lambda: watch.told() if len(watch.told()) >= 5 else None,
        timeout=90,
        what="five notices",
        explain=watch.explain,
    )
    causes = {event["dag"]: (event["kind"], event["cause"]) for event in found}
    assert causes == {
        "slam_late": ("missed", "late"),
        "slam_never": ("missed", "never_started"),
        "slam_paused": ("missed", "paused"),
        "slam_import": ("missed", "import_error"),
        "slam_failed": ("failed_before_due", "failed"),
    }
    for event in found:
        since = ended if event["dag"] == "slam_failed" else due
        delay = (datetime.fromisoformat(event["at"]) - since).total_seconds()
        assert 0 <= delay <= NOTICE, (event["dag"], delay)
    # Somebody takes care of one of the two that escalate after a minute.
    watch.sla("ack", watch.incident("slam_paused"), "--why", "on it", "--who", "ann")
    (scratch / "slam_late").touch()
    client.wait_for_run("slam_late", late, state="success")
    over = wait_until(
        lambda: [event for event in watch.told() if event["kind"] == "resolved"],
        timeout=60,
        what="the end of the late one",
        explain=watch.explain,
    )
    assert [event["dag"] for event in over] == ["slam_late"]
    # The scheduler dies, and with it whatever would have been started in time; so does the triggerer, which nobody needs here.
    airflow.kill_component("scheduler")
    airflow.kill_component("triggerer")
    try:
        due = (datetime.now(UTC) + timedelta(seconds=25)).replace(microsecond=0)
        watch.promise("slam_dead", due)
        dead = wait_until(
            lambda: [event for event in watch.told() if event["dag"] == "slam_dead"],
            timeout=90,
            what="a notice while the scheduler is dead",
            explain=watch.explain,
        )
    finally:
        airflow.start_component("scheduler")
        airflow.start_component("triggerer")
    assert [(event["kind"], event["cause"]) for event in dead] == [("missed", "scheduler_dead")]
    assert (datetime.fromisoformat(dead[0]["at"]) - due).total_seconds() <= NOTICE
    told_the_lead(watch)
    told = [(event["key"], event["kind"]) for event in watch.told()]
    assert len(told) == len(set(told)) == 8
    assert watch.rows("select val from variable where key = 'airflow_ext_sla_heartbeat'")
    assert watch.stop() == 0
    assert watch.rows("select 1 from ext_sla_lease") == []
    (scratch / "slam_broken").unlink()
    wait_until(lambda: not client.import_errors(), timeout=60, what="the file loads again")
    airflow.wait_until_healthy()


def told_the_lead(watch: Watch) -> None:
    """The step goes out where nobody has acknowledged; what is excused is over in the threads it was told in."""
    chat = watch.chat
    wait_until(
        lambda: chat.about("slam_never", LEAD), timeout=90, what="the escalation", explain=watch.explain
    )
    (first,), (step,) = chat.about("slam_never", TEAM), chat.about("slam_never", LEAD)
    assert "1 of the escalation: nobody has acknowledged it" in step["text"]
    assert f"airflow ext sla ack {watch.incident('slam_never')}" in step["text"]
    watch.sla("excuse", watch.incident("slam_never"), "--why", "a drill", "--who", "ann")
    wait_until(
        lambda: len(chat.about("slam_never", LEAD)) == 2 and len(chat.about("slam_never", TEAM)) == 2,
        timeout=60,
        what="the end in both channels",
        explain=watch.explain,
    )
    for opened, channel in ((first, TEAM), (step, LEAD)):
        over = chat.about("slam_never", channel)[1]
        assert (over["thread_ts"], "slam_never is excused by ann: a drill." in over["text"]) == (
            opened["ts"],
            True,
        )
    assert len(chat.about("slam_paused", TEAM)) == 1
    assert chat.about("slam_paused", LEAD) == []
    (watch.folder / "chat.json").write_text(json.dumps(chat.messages, indent=1))  # to look at


def test_on_the_day_of_a_clock_change_it_is_told_at_six_by_the_clocks(watch: Watch) -> None:
    """The tables are real, the clock is not: the next such day is far."""
    policy = {
        "dag": "slam_dst",
        "by": "06:00",
        "tz": "Europe/Berlin",
        "grace": "5 min",
        "callback": "slam_sink.tell",
    }
    watch.file.write_text(json.dumps({"slas": [policy]}))
    now = datetime(2027, 3, 28, 0, 30, tzinfo=UTC)
    monitor = watch.monitor(lambda: now)
    query = "select o.state from ext_sla_occurrence o join ext_sla_policy p on p.id = o.policy_id where p.dag_id = 'slam_dst'"
    monitor.once()
    for moment, state in (("04:04:59", "expected"), ("04:05:00", "missed")):
        now = datetime.fromisoformat(f"2027-03-28T{moment}+00:00")
        monitor.once()
        states = [row[0] for row in watch.rows(f"{query} order by o.due_at")]
        assert states[0] == state


def test_a_contract_is_kept_by_a_publication_of_that_day_that_holds(
    client: AirflowClient, watch: Watch, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published for real, judged as if it were tomorrow morning; yesterday's is published and broken."""
    monkeypatch.setenv("AIRFLOW__AIRFLOW_EXT__CONTRACTS_FOLDER", str(Path(__file__).parent / "dags"))
    client.create_connection("contracts_db", "duckdb", host=str(scratch / "contracts.duckdb"))
    client.wait_for_dags(["contracts_publisher"])
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [(today - timedelta(days=1), 1, "failed"), (today, 7, "success")]
    runs = [
        (client.trigger("contracts_publisher", conf={"day": f"{day:%Y-%m-%d}", "rows": rows}), state)
        for day, rows, state in days
    ]
    sla = {"dag": "contracts_publisher", "contract": "test_orders>=1,<2", "by": "06:00", "tz": "UTC"}
    watch.file.write_text(json.dumps({"slas": [{**sla, "callback": "slam_sink.tell"}]}))
    now = today - timedelta(hours=12)
    monitor = watch.monitor(lambda: now)
    monitor.once()
    for run_id, state in runs:
        client.wait_for_run("contracts_publisher", run_id, state=state)
    now = today + timedelta(days=1, hours=6, seconds=1)
    monitor.once()
    query = (
        "select slot, state, o.cause from ext_sla_occurrence o join ext_sla_policy p on p.id = o.policy_id"
    )
    found = watch.rows(
        f"{query} where p.dag_id = 'contracts_publisher' and due_at <= '{now}' order by due_at"
    )
    assert [tuple(row) for row in found] == [
        (f"p/{days[0][0]:%Y-%m-%d}", "missed", "breached"),
        (f"p/{days[1][0]:%Y-%m-%d}", "met", ""),
    ]
