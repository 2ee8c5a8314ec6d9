"""One occurrence for each local date, in every zone and on every day clocks change."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import available_timezones

import pytest

from airflow_ext.sla import sla
from airflow_ext.sla.expected import occurrences
from airflow_ext.sla.policy import Policy

WHOLE = os.environ.get("AIRFLOW_EXT_ALL_ZONES") == "1"
ZONES = sorted(available_timezones() - {"localtime", "Factory"})
SOME = [
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Pacific/Apia",
    "Africa/Cairo",
    "Asia/Kathmandu",
]
FIRST, LAST = date(2020, 1, 1), date(2035, 12, 31)


def policy_of(**arguments: object) -> Policy:
    return Policy.from_flat(sla(callback="a.b", **arguments).callback.kwargs)  # type: ignore[arg-type]  # the test's


@pytest.mark.parametrize("zone", ZONES if WHOLE else SOME)
@pytest.mark.parametrize("clock", ["00:00", "02:30"])
def test_there_is_one_for_each_local_date(zone: str, clock: str) -> None:
    """From 2020 to 2035, whatever the clocks do; ``AIRFLOW_EXT_ALL_ZONES=1`` takes all zones."""
    start, end = datetime(2019, 12, 31, tzinfo=UTC), datetime(2036, 1, 2, tzinfo=UTC)
    found = occurrences(policy_of(by=clock, tz=zone), start=start, end=end, ticks=None)
    days = [item.local_date for item in found if FIRST <= item.local_date <= LAST]
    assert days == [FIRST + timedelta(days=step) for step in range((LAST - FIRST).days + 1)]
    assert all(one.due_at < two.due_at for one, two in pairwise(found))
    assert all(one.window_end == two.window_start for one, two in pairwise(found))


def test_pieces_of_time_give_what_the_whole_gives() -> None:
    """The horizon moves on; nothing is left out or written twice where it was."""
    policy = policy_of(by="02:30", tz="America/New_York")
    start = datetime(2026, 3, 1, tzinfo=UTC)
    whole = occurrences(policy, start=start, end=start + timedelta(days=30), ticks=None)
    pieces = [
        item
        for step in range(30 * 3)
        for item in occurrences(
            policy,
            start=start + timedelta(hours=8 * step),
            end=start + timedelta(hours=8 * step + 8),
            ticks=None,
        )
    ]
    assert pieces == whole


@pytest.mark.parametrize(("day", "count"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
def test_windows_of_an_hour_fill_the_days_on_which_clocks_change(day: date, count: int) -> None:
    policy = policy_of(every=timedelta(hours=1), tz="Europe/Berlin")
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    found = occurrences(policy, start=noon - timedelta(days=1), end=noon + timedelta(days=1), ticks=None)
    assert len({item.slot for item in found if item.local_date == day}) == count
