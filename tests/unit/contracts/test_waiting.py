"""What a waiting consumer sees, and how it is told."""

from __future__ import annotations

import pytest

from airflow_ext.contracts import ContractRange, Reason, RunReference, Status, Verdict, report
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.waiting import Seen, look

DAY = "2013-01-05"


def verdict(version: str, status: Status = Status.PASS) -> Verdict:
    return Verdict("orders", version, DAY, status)


@pytest.mark.parametrize(
    ("wanted", "published", "status", "version"),
    [
        pytest.param("orders>=1,<2", [], Status.NOT_PUBLISHED, None, id="nothing"),
        pytest.param("orders>=1,<2", [verdict("1.0.0")], Status.PASS, "1.0.0", id="pass"),
        pytest.param("orders>=1,<2", [verdict("1.0.0", Status.WARN)], Status.WARN, "1.0.0", id="warn"),
        pytest.param(
            "orders>=1,<2", [verdict("1.0.0", Status.BREACHED)], Status.BREACHED, "1.0.0", id="breach"
        ),
        pytest.param("orders>=1.5,<2", [verdict("1.4.0")], Status.VERSION_MISMATCH, "1.4.0", id="too-old"),
        pytest.param(
            "orders>=1,<3",
            [verdict("1.0.0"), verdict("2.0.0")],
            Status.PASS,
            "2.0.0",
            id="highest-that-holds",
        ),
        pytest.param(
            "orders>=1,<3",
            [verdict("1.0.0"), verdict("2.0.0", Status.BREACHED)],
            Status.PASS,
            "1.0.0",
            id="the-other-holds",
        ),
        pytest.param(
            "orders>=1.5,<3", [verdict("1.4.0"), verdict("2.0.0")], Status.PASS, "2.0.0", id="one-is-too-old"
        ),
    ],
)
def test_what_is_seen(wanted: str, published: list[Verdict], status: Status, version: str | None) -> None:
    verdicts = {f"contract/orders/v{v.major}": v for v in published}
    seen = look(ContractRange.parse(wanted), DAY, verdicts, {})
    assert (seen.status, seen.verdict.version if seen.verdict else None) == (status, version)
    assert Seen.from_dict(seen.to_dict()) == seen


def test_a_partition_the_publisher_never_writes_is_seen() -> None:
    wanted = ContractRange.parse("orders>=1,<2")
    seen = look(wanted, DAY, {}, {wanted.assets[0]: PartitionRule("%Y-%m-%dT%H", "Europe/Berlin")})
    assert seen.status is Status.PARTITION_MISMATCH
    assert "'%Y-%m-%dT%H' in Europe/Berlin" in str(report.not_met(wanted, DAY, seen))


def test_a_key_derived_in_another_zone_than_the_publishers_is_no_key_of_his() -> None:
    wanted = ContractRange.parse("orders>=1,<3")
    v1, v2 = wanted.assets
    verdicts = {v1: verdict("1.0.0"), v2: verdict("2.0.0")}
    berlin, utc = PartitionRule(timezone="Europe/Berlin"), PartitionRule()
    seen = look(wanted, DAY, verdicts, {v1: berlin, v2: berlin}, "UTC")
    assert seen.status is Status.PARTITION_MISMATCH
    assert "give the sensor timezone='Europe/Berlin'" in seen.detail
    for rules, zone, version in (
        ({v1: berlin, v2: berlin}, None, "2.0.0"),
        ({v1: berlin, v2: berlin}, "Europe/Berlin", "2.0.0"),
        ({v1: berlin, v2: utc}, "Europe/Berlin", "1.0.0"),
        ({}, "UTC", "2.0.0"),
    ):
        found = look(wanted, DAY, verdicts, rules, zone).verdict
        assert found is not None
        assert found.version == version


@pytest.mark.parametrize(
    ("status", "on_breach", "ends"),
    [
        (Status.PASS, "fail", True),
        (Status.WARN, "wait", True),
        (Status.BREACHED, "fail", True),
        (Status.BREACHED, "skip", True),
        (Status.BREACHED, "wait", False),
        (Status.NOT_PUBLISHED, "fail", False),
        (Status.STORE_UNAVAILABLE, "fail", False),
        (Status.VERSION_MISMATCH, "wait", True),
        (Status.PARTITION_MISMATCH, "wait", True),
    ],
)
def test_what_ends_waiting(status: Status, on_breach: str, ends: bool) -> None:
    assert Seen(status).ends(on_breach) is ends


def breached() -> Verdict:
    return Verdict.of(
        reasons=[
            Reason("enough carriers", "rows >= 10", "4"),
            Reason("schema.extra(x)", "no such column", "INTEGER", "warning"),
        ],
        skipped=[],
        judged=7,
        rows=4,
        contract="daily_delays",
        version="1.0.0",
        partition=DAY,
        owner="analytics",
        support="slack #analytics-data",
        at="2013-01-06T01:00:00+00:00",
        run=RunReference("flights_marts", "manual__1", "publish", -1, 1, "http://airflow/log"),
    ).numbered(3)


def test_the_message_of_a_breach_says_all_a_consumer_needs() -> None:
    wanted = ContractRange.parse("daily_delays>=1,<2")
    error = report.not_met(wanted, DAY, Seen(Status.BREACHED, breached()))
    assert str(error) == (
        "Contract daily_delays 1.0.0 does not hold for partition 2013-01-05: BREACHED "
        "(asked for daily_delays>=1,<2)\n"
        "  owner: analytics; support: slack #analytics-data\n"
        "  published by: DAG flights_marts, run manual__1, task publish, try 1 at 2013-01-06T01:00:00+00:00 "
        "(verdict 3) http://airflow/log\n"
        "  failed rules:\n"
        "    enough carriers: expected rows >= 10, actual 4"
    )
    assert (error.status, error.version, error.partition) == ("BREACHED", "1.0.0", DAY)
    assert error.reasons == ("enough carriers: expected rows >= 10, actual 4",)


def test_the_table_of_reasons_is_readable() -> None:
    assert report.table(breached()) == (
        "Contract daily_delays 1.0.0, partition 2013-01-05: BREACHED (4 rows; 7 checks, 1 failed, 1 warned, "
        "0 not judged)\n"
        "  severity  rule             expected        actual\n"
        "  --------  ---------------  --------------  -------\n"
        "  error     enough carriers  rows >= 10      4\n"
        "  warning   schema.extra(x)  no such column  INTEGER"
    )
