"""Every metric of SLAs: its name, kind and tags. Docs, rules and dashboard are held against this list by tests.

No tag has as many values as there are runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow_ext.sla.sender.model import SendReport

PREFIX = "airflow_ext."


@dataclass(frozen=True)
class Metric:
    """One metric.

    :param kind: ``counter``, ``gauge`` or ``timer``; timers are in milliseconds, as Airflow's are.
    :param every: Whether each replica sends it; else only the one that holds the lease does.
    """

    kind: str
    tags: tuple[str, ...]
    text: str
    every: bool = True


_PROMISE = ("dag_id", "policy", "owner", "severity")
CATALOGUE: Mapping[str, Metric] = {
    "sla.monitor.lag_seconds": Metric("gauge", (), "How far behind the judging is"),
    "sla.monitor.heartbeat": Metric("gauge", (), "When the last look was, as Unix time"),
    "sla.monitor.tick_seconds": Metric("gauge", (), "How long the last look took"),
    "sla.monitor.looked": Metric("gauge", (), "Occurrences judged in the last look"),
    "sla.occurrences.at_risk": Metric(
        "counter", (), "Occurrences that failed before they were due or are likely to be late"
    ),
    "sla.occurrences.met": Metric("counter", (), "Occurrences that were met"),
    "sla.occurrences.missed": Metric("counter", (), "Occurrences that were missed"),
    "sla.occurrences.recovered": Metric("counter", (), "Occurrences that were done late"),
    "sla.occurrences.excused": Metric("counter", (), "Occurrences that count for nothing"),
    "sla.occurrences.void": Metric("counter", (), "Occurrences whose policy or run is gone"),
    "sla.occurrences_by_state": Metric(
        "gauge", ("state",), "Occurrences that were due in the last 24 h, by state", every=False
    ),
    "sla.lateness_seconds": Metric(
        "gauge", _PROMISE, "How late the newest occurrence was done; negative is early", every=False
    ),
    "sla.budget_remaining_ratio": Metric(
        "gauge", _PROMISE, "What is left of the error budget: 1 all, 0 none, negative overdrawn", every=False
    ),
    "sla.burn_rate": Metric(
        "gauge",
        (*_PROMISE, "window"),
        "Misses of the last 3, 10, 30 against what the budget allows",
        every=False,
    ),
    "sla.detection_lag_seconds": Metric(
        "gauge",
        (),
        "The longest time from being tellable to being seen, of the last minutes' incidents",
        every=False,
    ),
    "incident.open": Metric("gauge", ("severity",), "Incidents that are not over", every=False),
    "incident.unacknowledged": Metric(
        "gauge", ("severity",), "Those that nobody has acknowledged and no other one caused", every=False
    ),
    "incident.time_to_ack": Metric("timer", ("severity",), "From opening to acknowledgement", every=False),
    "incident.time_to_recover": Metric("timer", ("severity",), "From opening to the end", every=False),
    "notify.sent": Metric("counter", ("channel",), "Calls of channels that went well"),
    "notify.failed": Metric("counter", ("channel",), "Calls of channels that failed"),
    "notify.given_up": Metric("counter", (), "Messages given up after all their tries"),
    "notify.suppressed": Metric("counter", ("reason",), "Messages that were not worth telling any more"),
    "notify.digested": Metric("counter", (), "Messages told as part of a digest"),
    "notify.escalated": Metric("counter", (), "Messages of later steps, because nobody had reacted"),
    "notify.outbox_depth": Metric("gauge", (), "Messages that wait to be sent", every=False),
    "notify.oldest_seconds": Metric("gauge", (), "Age of the oldest of them", every=False),
}


def incr(name: str, count: int = 1, **tags: str) -> None:
    """Add to a counter of the catalogue."""
    if count:
        _stats().incr(PREFIX + _checked(name, "counter", tags), count, tags=tags)


def gauge(name: str, value: float, **tags: str) -> None:
    """Set a gauge of the catalogue."""
    _stats().gauge(PREFIX + _checked(name, "gauge", tags), value, tags=tags)


def timing(name: str, value: timedelta, **tags: str) -> None:
    """Send one value of a timer of the catalogue."""
    _stats().timing(PREFIX + _checked(name, "timer", tags), value, tags=tags)


def count_sent(report: SendReport) -> None:
    """Send what one round of the sender did."""
    for (result, channel), count in report.channels.items():
        incr(f"notify.{result}", count, channel=channel)
    for reason, count in report.suppressed.items():
        incr("notify.suppressed", count, reason=reason)
    incr("notify.given_up", report.given_up)
    incr("notify.digested", report.digested)
    incr("notify.escalated", report.escalated)


def _checked(name: str, kind: str, tags: Mapping[str, str]) -> str:
    metric = CATALOGUE[name]
    assert (metric.kind, set(metric.tags)) == (kind, set(tags)), name  # noqa: S101  so that the catalogue is true
    return name


def _stats() -> Any:
    from airflow.sdk.observability import stats

    return stats
