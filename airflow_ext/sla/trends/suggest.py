"""A deadline for a DAG that has none yet, from when its last good runs were done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_ext.sla.monitor.tables import DAG_RUN as R
from airflow_ext.sla.policy import Policy

LEAST = 10
KEPT = 90
SHARE = 0.95
_STEP = timedelta(minutes=5)
_DAY = timedelta(days=1)
_BY_ITSELF = ("scheduled", "asset_triggered", "operator_triggered")


def written(policy: Policy, shift: timedelta | None) -> str:
    """Return how a policy would be written whose deadline moved; empty if that is not known or it stays.

    :param shift: As :func:`airflow_ext.sla.trends.history.suggest` gives it.
    """
    if not shift:
        return ""
    if policy.by is not None:
        moved = datetime.combine(datetime(2000, 1, 2, tzinfo=UTC), time.fromisoformat(policy.by)) + shift
        return f'by="{moved:%H:%M}"'
    period: timedelta = getattr(policy, policy.kind)
    if policy.kind == "every" or period + shift < _STEP:
        return ""
    return f"{policy.kind}={_code(period + shift)}"


def from_runs(session: Session, dag_id: str, *, zone: ZoneInfo) -> dict[str, Any]:
    """Return what the last 90 runs that started by themselves would have kept in 95 % of cases, rounded up to 5 minutes.

    ``by`` is given if there is at most one run for each local date and it ends before the next, ``within`` always;
    both are empty with fewer than ten good runs.
    """
    query = (
        select(R.c.state, R.c.run_after, R.c.queued_at, R.c.start_date, R.c.end_date)
        .where(R.c.dag_id == dag_id, R.c.run_type.in_(_BY_ITSELF), R.c.state.in_(("success", "failed")))
        .where(R.c.end_date.is_not(None), R.c.start_date.is_not(None))
        .order_by(R.c.run_after.desc())
        .limit(KEPT)
    )
    rows = session.execute(query).all()
    good = [row for row in rows if row.state == "success"]
    found: dict[str, Any] = {
        "dag_id": dag_id,
        "runs": len(rows),
        "failed": len(rows) - len(good),
        "zone": zone.key,
        "by": "",
        "within": "",
    }
    if len(good) < LEAST:
        return found
    found["within"] = (
        f"within={_code(_most([row.end_date - (row.queued_at or row.start_date) for row in good]))}"
    )
    days = Counter(row.run_after.astimezone(zone).date() for row in good)
    ends = [_into_the_day(row, zone) for row in good]
    if max(days.values()) == 1 and (latest := _most(ends)) < _DAY:
        clock = datetime(2000, 1, 1, tzinfo=UTC) + latest
        found["by"] = f'by="{clock:%H:%M}", tz="{zone.key}"'
    return found


def _into_the_day(row: Any, zone: ZoneInfo) -> timedelta:
    """Return what a clock showed at the end, as the time since the midnight before the run was due to start."""
    begin: date = row.run_after.astimezone(zone).date()
    end: datetime = row.end_date.astimezone(zone)
    return (end.date() - begin) + timedelta(hours=end.hour, minutes=end.minute, seconds=end.second)


def _most(values: Sequence[timedelta]) -> timedelta:
    ordered = sorted(values)
    return math.ceil(ordered[math.ceil(SHARE * len(ordered)) - 1] / _STEP) * _STEP


def _code(value: timedelta) -> str:
    minutes = round(value / timedelta(minutes=1))
    return f"timedelta(hours={minutes // 60})" if minutes % 60 == 0 else f"timedelta(minutes={minutes})"
