"""Figures of verdicts as metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_ext.contracts.verdict import Verdict


def record(verdict: Verdict) -> None:
    """Send what a verdict counts: one counter of verdicts, gauges of rules and rows.

    Names begin with ``airflow_ext.contracts.``; tags are the contract and, for the counter, the status.

    :param verdict: As it was published.
    """
    from airflow.sdk.observability import stats

    tags = {"contract": verdict.contract}
    stats.incr("airflow_ext.contracts.verdicts", tags={**tags, "status": str(verdict.status)})
    for name in ("rules", "failed", "warnings", "skipped"):
        stats.gauge(f"airflow_ext.contracts.{name}", verdict.counts.get(name, 0), tags=tags)
    if verdict.rows is not None:
        stats.gauge("airflow_ext.contracts.rows", verdict.rows, tags=tags)
