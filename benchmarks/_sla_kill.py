"""Kills at each step from the judgement to the sent message: nothing is lost, and nothing told twice where keys are taken.

A round has its own due time and its own promises that break. The monitor is the real one, in a process that is forked anew
and stops at one step: it is killed there, or its connection is cut, or the scheduler or the triggerer beside it is killed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event

from airflow_ext.notifications.sla_delivery import OutboxSender
from airflow_ext.sla.sender.model import Settings
from airflow_ext.testing.airflow_client import wait_until
from airflow_ext.testing.processes import ProcessHome
from benchmarks._sla_sink import Sink, sink
from benchmarks._sla_stage import Stage, stage
from benchmarks._sla_storm import START
from benchmarks.report import Report

SEED, ROUNDS, DAGS = 20261125, 50, 12
FEW = 3
"""So many misses are told one by one; all of the DAGs together as a digest."""
STEPS = {
    "before judging": "FOR UPDATE OF ext_sla_occurrence",
    "before the incident": "INSERT INTO ext_sla_incident",
    "between incident and message": "INSERT INTO ext_sla_outbox",
    "before the commit": "",
    "before a message is taken": "UPDATE ext_sla_outbox SET claimed_by",
    "taken, before it is sent": "ext_sla_outbox.channel, ext_sla_outbox.attempts",
    "sent, before that is written": "UPDATE ext_sla_outbox SET state=",
}
"""Part of the statement before which a round stops; none for the commit of the messages."""
COMPONENTS = ("monitor", "database connection", "scheduler", "triggerer")
CLAIM = timedelta(seconds=2)
PATIENCE = 60.0


@dataclass(frozen=True)
class Round:
    """One round.

    :param number: Counts the hours.
    :param misses: How many DAGs do not run in it.
    """

    number: int
    component: str
    step: str
    misses: int

    @property
    def due(self) -> datetime:
        """When what is missed can be told."""
        return START + timedelta(minutes=59, seconds=5) + self.number * timedelta(hours=1)


def kill_part(home: Path, report: Report, *, quick: bool) -> None:  # noqa: ARG001  # it has no small case
    """Add the bars of the matrix."""
    dice = random.Random(SEED)  # noqa: S311  # no secret
    # Every pair of component and step at least once, the rest by the dice.
    pairs = [(component, step) for component in COMPONENTS for step in STEPS]
    pairs += [dice.choice(pairs) for _ in range(ROUNDS - len(pairs))]
    dice.shuffle(pairs)
    rounds = [Round(n, *pair, misses=dice.choice((FEW, DAGS))) for n, pair in enumerate(pairs)]
    report.say(f"kill: {ROUNDS} rounds, seed {SEED}")
    bad: Counter[str] = Counter()
    stories = []
    with (
        sink(home) as told,
        stage(home, count=DAGS, start=START, env={"AIRFLOW_EXT_BENCH_SINK": told.url}) as ready,
        _beside(home, ready) as beside,
    ):
        for each in rounds:
            found = _play(ready, told, beside, each)
            bad.update({name: count for name, count in found.items() if count})
            text = f"kill: round {each.number}: {each.component}, {each.step}, {each.misses} misses"
            if any(found.values()):
                stories.append(f"{text}: {found}")
            report.say(f"{text}: {'bad: ' + str(found) if any(found.values()) else 'good'}")
    for name in (
        "not judged",
        "with other than one alert on the keyed channel",
        "not told on the plain channel",
    ):
        report.bar(
            f"kills from judgement to message, {ROUNDS} rounds: promises {name}",
            bad[name],
            "==",
            0,
            unit="promises",
            peers={"seed": SEED, "bad": stories},
        )


@contextmanager
def _beside(home: Path, ready: Stage) -> Iterator[_Beside]:
    with ProcessHome(home / "components") as processes:
        made = _Beside(processes, ready, home)
        for name in ("scheduler", "triggerer"):
            made.start(name)
        yield made


class _Beside:
    """The scheduler and the triggerer on the same database."""

    def __init__(self, processes: ProcessHome, ready: Stage, home: Path) -> None:
        self._processes, self._home = processes, home
        self._ready = ready
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._before: dict[str, int] = {}

    def start(self, name: str) -> None:
        """Start a component."""
        self._before[name] = self._newest(name)
        words = [sys.executable, "-m", "airflow", name, "--skip-serve-logs"]
        log = self._home / f"{name}.log"
        self._running[name] = self._processes.spawn(words, log=log, env=self._ready.environment)

    def wait(self, name: str) -> None:
        """Wait until a component is at work."""
        wait_until(lambda: self._newest(name) > self._before[name], timeout=60, what=f"the {name} is at work")

    def _newest(self, name: str) -> int:
        rows = self._ready.query(f"SELECT coalesce(max(id), 0) FROM job WHERE job_type = '{name.title()}Job'")
        return int(str(rows[0][0]))

    def kill(self, name: str) -> None:
        """Kill a component as the kernel does, with its children, and start it anew."""
        process = self._running[name]
        if process.poll() is not None:
            raise RuntimeError(
                f"{name} has ended by itself: {(self._home / f'{name}.log').read_text()[-1000:]}"
            )
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
        self.start(name)


def _play(ready: Stage, told: Sink, beside: _Beside, each: Round) -> dict[str, int]:
    """Play one round and return how many promises came out wrong, by what is wrong."""
    if each.component in ("scheduler", "triggerer"):
        beside.wait(each.component)
    ready.now = each.due - timedelta(minutes=20)
    if each.misses < DAGS:
        begin = (each.due - timedelta(minutes=30)).replace(second=0)
        ready.add_runs(begin, first=timedelta(minutes=1), spread=1, low=each.misses + 1, high=DAGS)
    ready.settle(ready.now)
    ready.now = each.due
    before = {channel: len(told.calls(channel)) for channel in ("keyed", "plain")}
    ready.engine.dispose()  # no connection is shared with the fork
    child, step, proceed = _fork(ready, each)
    reached = os.read(step, 1)
    if reached and each.component in ("scheduler", "triggerer"):
        beside.kill(each.component)
    if reached:
        os.write(proceed, b"x")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        if each.component != "monitor":
            raise RuntimeError(f"the monitor died of {status} in {each}")
        again, step_2, proceed_2 = _fork(ready, Round(each.number, "nothing", "", each.misses))
        os.waitpid(again, 0)
        for number in (step_2, proceed_2):
            os.close(number)
    elif each.component == "monitor" or not reached:
        raise RuntimeError(f"the step was not reached in {each}, status {status}")
    for number in (step, proceed):
        os.close(number)
    return _judge(ready, told, each, before)


def _judge(ready: Stage, told: Sink, each: Round, before: dict[str, int]) -> dict[str, int]:
    wanted = {f"hourly_{number}" for number in range(1, each.misses + 1)}
    moment = each.due.replace(second=0).isoformat()
    judged = ready.query(
        "SELECT p.dag_id FROM ext_sla_occurrence o JOIN ext_sla_policy p ON p.id = o.policy_id "
        f"JOIN ext_sla_incident i ON i.occurrence_id = o.id WHERE o.state = 'missed' AND o.due_at = '{moment}'"
    )
    alerts: dict[str, set[str]] = {name: set() for name in wanted}
    for call in told.calls("keyed")[before["keyed"] :]:
        for name in call["dags"]:
            alerts.setdefault(name, set()).add(call["key"])
    plain = {name for call in told.calls("plain")[before["plain"] :] for name in call["dags"]}
    return {
        "not judged": len(wanted ^ {str(row[0]) for row in judged}),
        "with other than one alert on the keyed channel": sum(
            len(keys) != 1 or name not in wanted for name, keys in alerts.items()
        ),
        "not told on the plain channel": len(wanted - plain),
    }


def _fork(ready: Stage, each: Round) -> tuple[int, int, int]:
    """Start a monitor in a process of its own and return its id, where it says that the step is reached, where it waits."""
    said, saying = os.pipe()
    waiting, proceed = os.pipe()
    child = os.fork()
    if child:
        os.close(saying)
        os.close(waiting)
        return child, said, proceed
    status = 1
    try:
        os.close(said)
        os.close(proceed)
        _serve(ready, _Trap(ready.engine, each, saying, waiting) if each.step else None)
        status = 0
    except BaseException as error:  # noqa: BLE001  # a fork must not go on as if it were its parent
        print(f"kill: the monitor: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _serve(ready: Stage, trap: _Trap | None) -> None:
    """Run the monitor as a service until nothing is due and all is told."""
    ready.engine = create_engine(ready.engine.url)
    if trap is not None:
        trap.set(ready.engine)
    settings = Settings(claim=CLAIM, first_wait=timedelta(seconds=0.2))
    sender = OutboxSender(sessions=ready.sessions, holder=f"m{os.getpid()}", settings=settings)
    monitor = ready.replica(f"m{os.getpid()}", send=sender)
    service = threading.Thread(target=monitor.run, daemon=True)
    service.start()
    watching = create_engine(ready.engine.url)
    deadline = time.monotonic() + PATIENCE
    now = ready.now.isoformat()
    left = (
        f"SELECT (SELECT count(*) FROM ext_sla_occurrence WHERE state = 'expected' AND tell_at <= '{now}') "
        "+ (SELECT count(*) FROM ext_sla_outbox WHERE state = 'pending')"
    )
    while time.monotonic() < deadline:
        with watching.connect() as connection:
            if not connection.exec_driver_sql(left).scalar() and (trap is None or trap.sprung):
                break
        time.sleep(0.1)
    monitor.stop()


class _Trap:
    """Waits for one step and does there what the round is about."""

    def __init__(self, engine: Engine, each: Round, saying: int, waiting: int) -> None:
        self.url, self.each, self.saying, self.waiting = engine.url, each, saying, waiting
        self.sprung = False
        self._writes = False

    def set(self, engine: Engine) -> None:
        """Listen to the statements of an engine."""
        event.listen(engine, "before_cursor_execute", self._execute)
        event.listen(engine, "commit", self._commit)

    def _execute(self, connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        plain = " ".join(statement.split())
        pattern = STEPS[self.each.step]
        if pattern and pattern in plain:
            self._spring(connection)
        self._writes = self._writes or "INSERT INTO ext_sla_outbox" in plain

    def _commit(self, connection: Any) -> None:
        if self.each.step == "before the commit" and self._writes:
            self._spring(connection)

    def _spring(self, connection: Any) -> None:
        if self.sprung:
            return
        self.sprung = True
        os.write(self.saying, b"x")
        os.read(self.waiting, 1)
        if self.each.component == "monitor":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.each.component == "database connection":
            number = connection.connection.dbapi_connection.info.backend_pid
            with create_engine(self.url).begin() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({number})")
