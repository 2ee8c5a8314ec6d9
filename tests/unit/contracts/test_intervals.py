"""Which partitions a consumer asks for, and when they are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_ext.contracts.availability import Availability
from airflow_ext.contracts.intervals import Asked, asked
from airflow_ext.contracts.partition import PartitionRule

HOURS = PartitionRule("%Y-%m-%dT%H", "Europe/Berlin")
DAYS = PartitionRule(timezone="Europe/Berlin")


def ask(
    rule: PartitionRule = HOURS, *, partition: str | None = None, interval: str | None = None, **context: Any
) -> Asked:
    return asked(rule, context, contract="orders", partition=partition, interval=interval)


@pytest.mark.parametrize(
    ("day", "hours", "missing"),
    [
        pytest.param("2026-03-28", 24, None, id="ordinary"),
        pytest.param("2026-03-29", 23, "2026-03-29T02", id="clocks-go-forward"),
        pytest.param("2026-10-25", 24, None, id="clocks-go-back"),
    ],
)
def test_the_hours_of_a_day_on_a_wall_clock(day: str, hours: int, missing: str | None) -> None:
    """The hour that comes twice has one key, the hour that is left out none."""
    found = ask(interval=day)
    assert len(found.partitions) == len(set(found.partitions)) == hours
    assert (found.partitions[0], found.partitions[-1]) == (f"{day}T00", f"{day}T23")
    assert missing not in found.partitions
    assert (found.several, found.derived) == (True, False)


def test_the_partitions_of_a_run() -> None:
    start, end = datetime(2026, 1, 4, 23, tzinfo=UTC), datetime(2026, 1, 5, 23, tzinfo=UTC)
    found = ask(interval="run", data_interval_start=start, data_interval_end=end)
    assert (len(found.partitions), found.partitions[0], found.derived) == (24, "2026-01-05T00", True)
    of_key = ask(interval="run", partition_key="2026-01-05")
    assert (of_key.partitions, of_key.derived) == (found.partitions, False)
    spelled = ask(interval=f"{start.isoformat()}/{end.isoformat()}")
    assert spelled == found
    assert len(ask(interval="2026-02").partitions) == 28 * 24
    assert len(ask(DAYS, interval="2026").partitions) == 365


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ("run", "neither a data interval nor a partition key"),
        ("yesterday", "expected 'run', a span"),
        ("2026-13", "expected 'run', a span"),
        ("2026-01-01/soon", "expected 'run', a span"),
        ("2026", "more than 1000 partitions of one hour"),
        ("2026-01-01T00:10/2026-01-01T00:50", "no partitions of one hour"),
        ("2026-01-02/2026-01-01", "no partitions of one hour"),
    ],
)
def test_intervals_that_give_nothing(interval: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(interval=interval)


def event(partition: str, contract: str = "orders") -> Any:
    return SimpleNamespace(extra={"contract": contract, "partition": partition}, partition_key=None)


def test_a_run_started_by_events_asks_for_what_they_are_about() -> None:
    one = ask(DAYS, triggering_asset_events={"a": [event("2026-01-05"), event("2026-01-05")]})
    assert one == Asked(("2026-01-05",))
    two = ask(DAYS, triggering_asset_events={"a": [event("2026-01-05"), event("2026-01-06")]})
    assert two == Asked(("2026-01-05", "2026-01-06"), several=True)
    others = {"a": [event("2026-01-05", "customers")]}
    assert ask(DAYS, triggering_asset_events=others) == Asked(("2026-01-05",))
    others["b"] = [event("2026-01-06", "stock")]
    with pytest.raises(ValueError, match="about several: 2026-01-05, 2026-01-06"):
        ask(DAYS, triggering_asset_events=others)
    assert ask(DAYS, partition="latest", triggering_asset_events=others) == Asked(("latest",))


@pytest.mark.parametrize(
    ("rule", "partition", "available", "due"),
    [
        pytest.param(DAYS, "2026-01-05", Availability("09:00"), "2026-01-06T08:00", id="winter"),
        pytest.param(DAYS, "2026-07-05", Availability("09:00"), "2026-07-06T07:00", id="summer"),
        pytest.param(DAYS, "2026-03-28", Availability("02:30"), "2026-03-29T01:30", id="in-the-gap"),
        pytest.param(DAYS, "2026-10-24", Availability("02:30"), "2026-10-25T00:30", id="comes-twice"),
        pytest.param(DAYS, "2026-01-05", Availability("00:00"), "2026-01-05T23:00", id="midnight"),
        pytest.param(HOURS, "2026-01-05T08", Availability("06:00"), "2026-01-06T05:00", id="next-morning"),
        pytest.param(
            HOURS, "2026-01-05T08", Availability(after=600, grace=60), "2026-01-05T08:11", id="after"
        ),
        pytest.param(
            PartitionRule("%Y-%m"), "2026-01", Availability("06:00:30"), "2026-02-01T06:00:30", id="month"
        ),
    ],
)
def test_when_a_partition_is_due(
    rule: PartitionRule, partition: str, available: Availability, due: str
) -> None:
    assert available.deadline(rule, partition) == datetime.fromisoformat(due).replace(tzinfo=UTC)
    assert Availability.from_dict(available.to_dict()) == available


def test_what_an_author_writes_about_a_time() -> None:
    assert Availability.of("06:00", timedelta(hours=2)) == Availability("06:00", grace=7200)
    assert Availability.of(timedelta(minutes=5)) == Availability(after=300)
    with pytest.raises(ValueError, match="available_by='6:00'"):
        Availability.of("6:00")
