"""Partition keys."""

# ruff: noqa: DTZ001  bounds are wall times

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_ext.contracts.partition import PartitionRule


def context(**values: Any) -> dict[str, Any]:
    return {"dag_run": SimpleNamespace(partition_key=None), **values}


@pytest.mark.parametrize(
    ("rule", "values", "given", "key"),
    [
        pytest.param({}, {"partition_key": "2013-01-02"}, "2013-01-05", "2013-01-05", id="given-wins"),
        pytest.param({}, {"partition_key": "2013-01-02"}, None, "2013-01-02", id="partition-key"),
        pytest.param({}, {"partition_key": "2013-01-02T00:00:00"}, None, "2013-01-02", id="local-datetime"),
        pytest.param(
            {"timezone": "America/New_York"},
            {"partition_key": "2013-01-02T03:00:00+00:00"},
            None,
            "2013-01-01",
            id="datetime-with-zone",
        ),
        pytest.param(
            {},
            {"dag_run": SimpleNamespace(partition_key="2013-01-03")},
            None,
            "2013-01-03",
            id="key-of-the-run",
        ),
        pytest.param(
            {"timezone": "Europe/Berlin"},
            {"data_interval_start": datetime(2013, 1, 1, 23, tzinfo=UTC)},
            None,
            "2013-01-02",
            id="interval-in-the-zone",
        ),
        pytest.param(
            {"format": "%Y%m"},
            {"data_interval_start": datetime(2013, 7, 4, tzinfo=UTC)},
            None,
            "201307",
            id="month",
        ),
        pytest.param(
            {"format": "%Y-%m-%dT%H", "timezone": "Europe/Berlin"},
            {"data_interval_start": datetime(2013, 3, 31, 1, tzinfo=UTC)},
            None,
            "2013-03-31T03",
            id="hour-that-was-skipped",
        ),
    ],
)
def test_the_partition_of_a_run(
    rule: dict[str, str], values: dict[str, Any], given: str | None, key: str
) -> None:
    assert PartitionRule(**rule).key_for(context(**values), given) == key


@pytest.mark.parametrize(
    ("values", "given"),
    [
        pytest.param({}, "2013-1-5", id="not-padded"),
        pytest.param({}, "2013-02-30", id="no-such-day"),
        pytest.param({}, "", id="empty"),
        pytest.param({}, "None", id="template-without-value"),
        pytest.param({}, "2013-01-05' OR 1=1 --", id="injection"),
        pytest.param({}, "x" * 300, id="long"),
        pytest.param({"partition_key": "eu-west"}, None, id="another-kind-of-key"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(values: dict[str, Any], given: str | None) -> None:
    with pytest.raises(ValueError, match=r"does not fit the partition format '%Y-%m-%d'.*'2013-01-31'"):
        PartitionRule().key_for(context(**values), given)


def test_a_run_without_a_date_says_what_to_pass() -> None:
    with pytest.raises(ValueError, match=r"neither a partition key nor a data interval.*partition="):
        PartitionRule().key_for(context())


@pytest.mark.parametrize(
    ("format_", "key", "start", "end"),
    [
        pytest.param("%Y", "2013", datetime(2013, 1, 1), datetime(2014, 1, 1), id="year"),
        pytest.param("%Y-%m", "2013-12", datetime(2013, 12, 1), datetime(2014, 1, 1), id="december"),
        pytest.param("%Y-%m", "2013-02", datetime(2013, 2, 1), datetime(2013, 3, 1), id="february"),
        pytest.param("%Y-%m-%d", "2013-02-28", datetime(2013, 2, 28), datetime(2013, 3, 1), id="day"),
        pytest.param(
            "%Y-%m-%dT%H", "2013-01-01T23", datetime(2013, 1, 1, 23), datetime(2013, 1, 2), id="hour"
        ),
    ],
)
def test_bounds(format_: str, key: str, start: datetime, end: datetime) -> None:
    assert PartitionRule(format_).bounds(key) == (start, end)


@pytest.mark.parametrize("format_", ["", "day", "%d", "%Y-%d", "%Y-%m-%m", "%Y-%W", "%s"])
def test_a_format_that_is_no_span_of_time_is_refused(format_: str) -> None:
    with pytest.raises(ValueError, match="partition format"):
        PartitionRule(format_)
