"""The sign by which Airflow's own callbacks know that the monitor is at work, so that nothing is told twice."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

VARIABLE_KEY = "airflow_ext_sla_heartbeat"
"""Airflow Variable with the time of the monitor's last tick and the seconds between two."""
TICKS = 2
"""So many ticks old, the heartbeat is that of a monitor that has stopped."""


def is_fresh(value: str | None, *, now: datetime) -> bool:
    """Say whether a heartbeat is younger than two ticks; one that cannot be read is not.

    A heartbeat of the future is as old as it is early: a clock is wrong, and telling twice is better than never.
    """
    try:
        data = json.loads(value or "")
        age = abs(now - datetime.fromisoformat(data["at"]))
        return age <= TICKS * timedelta(seconds=float(data["tick"]))
    except (ValueError, TypeError, KeyError, OverflowError):
        return False
