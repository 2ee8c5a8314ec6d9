"""``airflow-ext sla``: the monitor; the verbs for people are in :mod:`airflow_ext.cli.sla_verbs`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ext.cli import sla_verbs
from airflow_ext.exceptions import UnavailableError

if TYPE_CHECKING:
    from airflow_ext.sla.monitor.service import Monitor, Settings

log = logging.getLogger(__name__)
SECTION = "airflow_ext"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``sla`` to a command line."""
    group = subparsers.add_parser("sla", help="SLAs: the monitor, what is late, what to do about it")
    verbs = group.add_subparsers(dest="verb", metavar="COMMAND", required=True, parser_class=type(group))
    monitor = verbs.add_parser(
        "monitor",
        help="watch over all SLAs until it is stopped",
        description="Write down what is expected, judge what is due, tell what broke. Start one or more of them.",
    )
    monitor.add_argument("--once", action="store_true", help="look once, send what is pending, and end")
    monitor.set_defaults(func=_monitor)
    sla_verbs.add(verbs)


def read_settings() -> Settings:
    """Return what the configuration says about the monitor.

    :raises airflow.exceptions.AirflowConfigException: If a value is no number.
    """
    from airflow.configuration import conf

    from airflow_ext.sla.monitor.judging import Limits
    from airflow_ext.sla.monitor.service import Settings

    tick = timedelta(seconds=max(1, conf.getint(SECTION, "sla_tick_seconds", fallback=10)))
    policies = conf.get(SECTION, "sla_policies", fallback="")
    threshold = conf.getint("scheduler", "scheduler_health_check_threshold", fallback=30)
    return Settings(
        tick=tick,
        horizon=timedelta(hours=max(2, conf.getint(SECTION, "sla_horizon_hours", fallback=24))),
        retention=timedelta(days=max(1, conf.getint(SECTION, "sla_retention_days", fallback=400))),
        policies=Path(policies) if policies else None,
        ping_url=conf.get(SECTION, "sla_ping_url", fallback=""),
        limits=Limits(lag_limit=2 * tick, scheduler_threshold=timedelta(seconds=threshold)),
    )


def build_monitor() -> Monitor:
    """Return a monitor of this Airflow.

    :raises UnavailableError: If the tables are not there.
    """
    # What looks up connections and Variables here is a server, not a task.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    from airflow import settings as airflow_settings
    from sqlalchemy import inspect
    from sqlalchemy.orm import Session

    from airflow_ext.notifications.sla_delivery import OutboxSender
    from airflow_ext.sla.ledger.models import TABLES
    from airflow_ext.sla.monitor.service import Monitor

    engine = airflow_settings.get_engine()
    if not set(TABLES) <= set(inspect(engine).get_table_names()):
        raise UnavailableError("the tables of the ledger are not there: run airflow db migrate")
    holder = f"{socket.gethostname()[:60]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def sessions() -> Session:
        return Session(engine, expire_on_commit=False)

    return Monitor(
        sessions=sessions,
        holder=holder,
        settings=read_settings(),
        send=OutboxSender(sessions=sessions, holder=holder),
        ping=_ping,
    )


def _ping(url: str) -> None:
    """Get an address in the background: a slow server must not hold up the judging. The address is a secret."""

    def get() -> None:
        import httpx

        try:
            httpx.get(url, timeout=10).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("The ping to [airflow_ext] sla_ping_url failed: %s", type(error).__name__)

    threading.Thread(target=get, name="sla-ping", daemon=True).start()


def _monitor(args: argparse.Namespace) -> int:
    monitor = build_monitor()
    if args.once:
        report = monitor.once()
        monitor.leave()
        print(f"{report.judged.looked} occurrences looked at, {report.written} written")
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: monitor.stop())
    print(
        f"SLA monitor {monitor.holder}, a look every {monitor.settings.tick.total_seconds():g} s", flush=True
    )
    monitor.run()
    return 0
