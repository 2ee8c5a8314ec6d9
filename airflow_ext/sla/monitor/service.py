"""The monitor's loop: duties that one replica has, judging that all share, and a thread that sends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.ledger.models import OPEN_STATES
from airflow_ext.sla.monitor import leases
from airflow_ext.sla.monitor.causes import let_go
from airflow_ext.sla.monitor.clock import JumpGuard, database_now
from airflow_ext.sla.monitor.discover import discover, discover_part, take_over_files
from airflow_ext.sla.monitor.forecasting import Histories, look_ahead
from airflow_ext.sla.monitor.judging import Limits, Tally, judge_due, look_early
from airflow_ext.sla.monitor.materialise import has_policies_per_run, materialise, materialise_runs
from airflow_ext.sla.monitor.prune import prune
from airflow_ext.sla.monitor.watch import Watch
from airflow_ext.sla.policy_files import read_policies

log = logging.getLogger(__name__)

Sessions = Callable[[], AbstractContextManager[Session]]
Clock = Callable[[Session], datetime]
Sender = Callable[[datetime], int]
"""Sends what is pending, at most a batch, and returns how many it took; called from a thread of its own."""
_FILES, _DISCOVER, _ALL, _PRUNE, _PING = (
    timedelta(seconds=20),
    timedelta(minutes=1),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(minutes=1),
)
_WRITE = timedelta(minutes=1)
_AHEAD = timedelta(minutes=1)
_FAR_BEHIND = 10
"""After so many full batches, larger ones: what a batch costs by itself counts for more than how long one tick lasts."""
_BEHIND = 20
"""While more is due than one batch, what can wait is done in one tick of so many."""
_BUSY = 200
"""With more occurrences judged in a tick than this, looking ahead waits for a quieter one."""
_LONGEST_WAIT = 30.0


@dataclass(frozen=True)
class Settings:
    """What ``[airflow_ext]`` says.

    :param tick: Time between two looks.
    :param horizon: How far ahead occurrences are written.
    :param retention: How long settled ones are kept.
    :param policies: File or folder with SLAs in YAML.
    :param ping_url: Address to get once a minute; never logged.
    """

    tick: timedelta = timedelta(seconds=10)
    horizon: timedelta = timedelta(hours=24)
    retention: timedelta = timedelta(days=400)
    policies: Path | None = None
    ping_url: str = ""
    limits: Limits = field(default_factory=Limits)


@dataclass
class Report:
    """What one tick did.

    :param held: Whether judging waited because the clock had jumped.
    :param more: Whether more is due now than one batch.
    """

    held: bool = False
    more: bool = False
    duties: bool = False
    changed: int = 0
    written: int = 0
    judged: Tally = field(default_factory=Tally)
    early: Tally = field(default_factory=Tally)
    ahead: Tally = field(default_factory=Tally)
    seconds: float = 0.0


class Monitor:
    """One replica.

    :param sessions: Gives a session on the metadata database, which it closes.
    :param holder: A name no other replica has.
    :param ping: Gets an address; called once a minute from the loop.
    :param clock: Tells the time; the database's by default.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        holder: str,
        settings: Settings,
        send: Sender | None = None,
        ping: Callable[[str], None] | None = None,
        clock: Clock = database_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions, self.holder, self.settings = sessions, holder, settings
        self._send, self._ping, self._clock, self._monotonic = send, ping, clock, monotonic
        self._guard = JumpGuard()
        self._started = datetime.now(UTC)
        self._last: dict[str, datetime] = {}
        self._watch = Watch(batch=settings.limits.batch, sweep=settings.limits.sweep)
        self._histories = Histories()
        self._lease_until: datetime | None = None
        self._more_to_write = False
        self._after = ""
        self._behind = 0
        self._last_tick = timedelta(0)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._problem = ""
        self._per_run = True

    def tick(self) -> Report:
        """Look once: duties if they are ours, then what is due.

        :raises sqlalchemy.exc.DBAPIError: If the database does not answer; nothing is half done then.
        """
        begin = time.perf_counter()
        report = Report()
        with self._sessions() as session:
            now = self._clock(session)
            report.held = self._guard.holds(now, self._monotonic())
            report.duties = self._has_duties(session, now)
            if report.held:
                log.error("The clock has jumped to %s: judging waits until it lasts", now.isoformat())
            else:
                if report.duties:
                    self._prepare(session, now, report)
                self._judge(session, now, report)
                if report.duties and not report.more:
                    self._duty(session, lambda: self._early(session, now, report))
                if report.duties:
                    self._ahead(session, now, report)
            self._beat(session, now, report)
        report.seconds = time.perf_counter() - begin
        self._last_tick = timedelta(seconds=report.seconds)
        self._measure(report)
        self._wake.set()
        return report

    def once(self, *, most: int = 1000) -> Report:
        """Tick until nothing is due, send what there is, and return the last tick's report."""
        report = self.tick()
        for _ in range(most):
            if not report.more:
                break
            report = self.tick()
        while self._send is not None and self._send(datetime.now(UTC)):
            pass
        return report

    def leave(self) -> None:
        """Give the duties back without being forgotten: the next ``--once`` is another process, and must not wait."""
        with self._sessions() as session:
            leases.give_back(session, holder=self.holder)
            session.commit()
        self._lease_until = None

    def run(self) -> None:
        """Tick until :meth:`stop`; a database that is away is waited for."""
        sender = threading.Thread(target=self._sending, name="sla-sender", daemon=True)
        sender.start()
        failures = 0
        while not self._stop.is_set():
            begin = time.monotonic()
            try:
                more = self.tick().more
                failures = 0
            except DBAPIError as error:
                failures += 1
                more = False
                log.warning("The database does not answer (%s); trying again", type(error).__name__)
            except Exception:
                failures += 1
                more = False
                log.exception("A tick failed")
            if not more:
                wait = self.settings.tick.total_seconds() - (time.monotonic() - begin)
                self._stop.wait(min(_LONGEST_WAIT, 2.0**failures) if failures else max(wait, 0.05))
        self._wake.set()
        sender.join(timeout=_LONGEST_WAIT)
        with suppress(DBAPIError), self._sessions() as session:
            leases.release(session, holder=self.holder)
            session.commit()

    def stop(self) -> None:
        """Let :meth:`run` end after the tick it is in."""
        self._stop.set()

    def _has_duties(self, session: Session, now: datetime) -> bool:
        """Say whether the duties are this replica's; while its lease lasts beyond the next tick, nobody has to be asked."""
        until = self._lease_until
        if until is None or not until - 2 * self.settings.tick < now + self.settings.tick <= until:
            return self._renew(session, now)
        return True

    def _renew(self, session: Session, now: datetime) -> bool:
        ttl = 3 * self.settings.tick
        held = leases.acquire(session, leases.DUTIES, holder=self.holder, now=now, ttl=ttl)
        session.commit()
        self._lease_until = now + ttl if held else None
        return held

    def _prepare(self, session: Session, now: datetime, report: Report) -> None:
        if self.settings.policies is not None and self._is_time("files", _FILES, now):
            self._duty(session, lambda: self._read_files(session, now, report))
        if self._is_time("discover", _DISCOVER, now):
            self._duty(session, lambda: self._discover(session, now, report))
        if self._behind % _BEHIND:
            report.more |= bool(self._after) or self._more_to_write
            return  # what is due comes first; now and then the rest has its turn all the same
        if self._after or self._is_time("discover-all", _ALL, now):
            self._duty(session, lambda: self._discover_part(session, now, report))
        if report.changed or self._more_to_write or self._is_time("write", _WRITE, now):
            self._duty(session, lambda: self._write(session, now, report))
        if self._is_time("let-go", _WRITE, now):
            self._duty(session, lambda: self._let_go(session, now))
        if self._per_run:
            self._duty(session, lambda: self._write_runs(session, now, report))
        if self._is_time("prune", _PRUNE, now):
            self._duty(session, lambda: self._prune(session, now))

    def _read_files(self, session: Session, now: datetime, report: Report) -> None:
        assert self.settings.policies is not None  # noqa: S101  it is asked for
        try:
            files = read_policies(self.settings.policies)
        except InvalidError as error:
            if str(error) != self._problem:
                log.error("SLAs in YAML stay as they were: %s", error)
            self._problem = str(error)
            return
        self._problem = ""
        report.changed += take_over_files(session, files, now=now)

    def _discover(self, session: Session, now: datetime, report: Report) -> None:
        report.changed += discover(session, now=now, since=self._last.get("discovered", now))
        self._last["discovered"] = now

    def _discover_part(self, session: Session, now: datetime, report: Report) -> None:
        changed, self._after = discover_part(session, now=now, after=self._after)
        report.changed += changed
        report.more |= bool(self._after)

    def _write(self, session: Session, now: datetime, report: Report) -> None:
        report.written, self._more_to_write = materialise(session, now=now, horizon=self.settings.horizon)
        report.more |= self._more_to_write
        if not self._more_to_write:
            self._per_run = has_policies_per_run(session)

    def _let_go(self, session: Session, now: datetime) -> None:
        let_go(session, now=now)

    def _write_runs(self, session: Session, now: datetime, report: Report) -> None:
        report.written += materialise_runs(session, now=now)

    def _prune(self, session: Session, now: datetime) -> None:
        if prune(session, now=now, retention=self.settings.retention) >= 5000:
            self._last.pop("prune")  # there is more: go on in the next tick

    def _judge(self, session: Session, now: datetime, report: Report) -> None:
        if session.get_bind().dialect.name == "sqlite":
            ttl = 3 * self.settings.tick
            if not leases.acquire(session, leases.JUDGE, holder=self.holder, now=now, ttl=ttl):
                session.rollback()
                return
        limits = self.settings.limits
        if self._behind >= _FAR_BEHIND:
            limits = replace(limits, batch=3 * limits.batch)
        report.judged = judge_due(session, now=now, limits=limits)
        session.commit()
        full = report.judged.looked >= limits.batch
        self._behind = self._behind + 1 if full else 0
        report.more |= full

    def _early(self, session: Session, now: datetime, report: Report) -> None:
        policies = self._watch.news(session, now=now)
        report.early = look_early(session, policies, now=now, limits=self.settings.limits)
        report.more |= self._watch.more

    def _ahead(self, session: Session, now: datetime, report: Report) -> None:
        busy = report.more or report.judged.looked > _BUSY
        if busy or not self._is_time("ahead", _AHEAD, now):
            return

        def look() -> None:
            found = look_ahead(
                session, now=now, histories=self._histories, lag_limit=self.settings.limits.lag_limit
            )
            report.ahead.states.update(found)

        self._duty(session, look)

    def _beat(self, session: Session, now: datetime, report: Report) -> None:
        if session.get_bind().dialect.name == "postgresql":
            # If the server dies, the last of these may be lost, and nothing hangs on it: not worth a wait for the disk.
            session.execute(text("SET LOCAL synchronous_commit = off"))
        if report.duties and not report.held:
            leases.show_heartbeat(session, now=now, tick=self.settings.tick)
        forget = self._is_time("forget", _PRUNE, now)
        leases.beat(
            session,
            holder=self.holder,
            now=now,
            started=self._started,
            tick=self.settings.tick,
            last_tick=self._last_tick,
            lag=report.judged.lag,
            forget=forget,
        )
        if report.duties:
            self._renew(session, now)
        session.commit()
        if self._ping and self.settings.ping_url and not report.held and self._is_time("ping", _PING, now):
            self._ping(self.settings.ping_url)

    def _duty(self, session: Session, work: Callable[[], None]) -> None:
        """Do one duty in a transaction of its own; what breaks it must not keep others from being done."""
        try:
            work()
            session.commit()
        except DBAPIError as error:
            session.rollback()
            if error.connection_invalidated:
                raise
            log.exception("A duty failed")
        except Exception:
            session.rollback()
            log.exception("A duty failed")

    def _is_time(self, name: str, every: timedelta, now: datetime) -> bool:
        last = self._last.get(name)
        if last is not None and last <= now < last + every:
            return False
        self._last[name] = now
        return True

    def _sending(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self.settings.tick.total_seconds())
            self._wake.clear()
            try:
                while self._send is not None and not self._stop.is_set() and self._send(datetime.now(UTC)):
                    pass
            except Exception:
                log.exception("Sending failed")
                self._stop.wait(1)

    def _measure(self, report: Report) -> None:
        from airflow.sdk.observability import stats

        lag, seconds = report.judged.lag.total_seconds(), report.seconds
        gauges: dict[str, Any] = {
            "heartbeat": time.time(),
            "lag_seconds": lag,
            "tick_seconds": seconds,
            "looked": report.judged.looked,
        }
        for name, value in gauges.items():
            stats.gauge(f"airflow_ext.sla.monitor.{name}", value)
        for tally in (report.judged, report.early, report.ahead):
            for state, count in tally.states.items():
                if state not in OPEN_STATES[:1] and count:
                    stats.incr(f"airflow_ext.sla.occurrences.{state}", count)
