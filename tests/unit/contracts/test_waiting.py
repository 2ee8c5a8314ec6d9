"""What a waiting consumer sees, and how it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_ext.contracts import ContractRange, Reason, RunReference, Status, Verdict, report
from airflow_ext.contracts.availability import Availability
from airflow_ext.contracts.head import Entry, Head, Promise
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.recipients import Recipient
from airflow_ext.contracts.terms import LATEST, Terms, Wanted
from airflow_ext.contracts.verdict import Quarantine
from airflow_ext.contracts.waiting import Decision, Known, Seen, decide, newest_good
from tests.unit.contracts.samples import contract

DAY = "2013-01-05"
NOON = datetime(2013, 1, 6, 12, tzinfo=UTC).timestamp()
V1, V2 = "contract/orders/v1", "contract/orders/v2"
UTC_DAYS = PartitionRule()


def verdict(
    version: str = "1.0.0", status: Status = Status.PASS, partition: str = DAY, **more: Any
) -> Verdict:
    return Verdict("orders", version, partition, status, **more)


def head(
    *entries: tuple[str, Status], version: str = "1.0.0", rule: PartitionRule = UTC_DAYS, **said: Any
) -> Head:
    found = {key: Entry(status, n + 1, version) for n, (key, status) in enumerate(entries)}
    return Head(found, rule, Promise(**said))


def want(
    *partitions: str, contract: str = "orders>=1,<2", timezone: str | None = None, **terms: Any
) -> Wanted:
    keys = partitions or (DAY,)
    return Wanted(contract, keys, len(keys) > 1, timezone, since=NOON, terms=Terms.of(**terms))


def known(*verdicts: Verdict, heads: dict[str, Head] | None = None) -> Known:
    return Known(heads or {}, {(f"contract/orders/v{v.major}", v.partition): v for v in verdicts})


def see(wanted: Wanted, known: Known, now: float = NOON) -> tuple[str, Status]:
    decision = decide(wanted, known, now)
    assert Seen.from_dict(json.loads(json.dumps(decision.seen.to_dict()))) == decision.seen
    return decision.action, decision.seen.status


@pytest.mark.parametrize(
    ("contract", "published", "status", "version"),
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
def test_what_is_seen(contract: str, published: list[Verdict], status: Status, version: str | None) -> None:
    seen = decide(want(contract=contract), known(*published), NOON).seen
    assert (seen.status, seen.verdict.version if seen.verdict else None) == (status, version)


def test_a_partition_the_publisher_never_writes_is_seen() -> None:
    heads = {V1: Head(rule=PartitionRule("%Y-%m-%dT%H", "Europe/Berlin"))}
    seen = decide(want(), known(heads=heads), NOON).seen
    assert seen.status is Status.PARTITION_MISMATCH
    assert "'%Y-%m-%dT%H' in Europe/Berlin" in str(report.not_met(want().range, DAY, seen))


def test_a_key_derived_in_another_zone_than_the_publishers_is_no_key_of_his() -> None:
    both = [verdict("1.0.0"), verdict("2.0.0")]
    berlin, utc = Head(rule=PartitionRule(timezone="Europe/Berlin")), Head(rule=UTC_DAYS)
    wanted = want(contract="orders>=1,<3", timezone="UTC")
    seen = decide(wanted, known(*both, heads={V1: berlin, V2: berlin}), NOON).seen
    assert seen.status is Status.PARTITION_MISMATCH
    assert "give the sensor timezone='Europe/Berlin'" in seen.detail
    for heads, zone, version in (
        ({V1: berlin, V2: berlin}, None, "2.0.0"),
        ({V1: berlin, V2: berlin}, "Europe/Berlin", "2.0.0"),
        ({V1: berlin, V2: utc}, "Europe/Berlin", "1.0.0"),
        ({}, "UTC", "2.0.0"),
    ):
        found = decide(replace(wanted, timezone=zone), known(*both, heads=heads), NOON).seen.verdict
        assert found is not None
        assert found.version == version


ACTIONS: dict[str, Any] = {
    "on_breach": "wait",
    "on_quarantine": "proceed",
    "on_late": "skip",
    "on_unknown": "use_last_good",
}


def test_each_state_has_its_action() -> None:
    terms, default = Terms.of(**ACTIONS), Terms()
    expected = {
        Status.PASS: "proceed",
        Status.WARN: "proceed",
        Status.DEPRECATED: "proceed",
        Status.BREACHED: "wait",
        Status.QUARANTINED: "proceed",
        Status.LATE: "skip",
        Status.UNKNOWN_CONTRACT: "use_last_good",
        Status.NOT_PUBLISHED: "wait",
        Status.STORE_UNAVAILABLE: "wait",
        Status.VERSION_MISMATCH: "fail",
        Status.PARTITION_MISMATCH: "fail",
        Status.WITHDRAWN: "fail",
    }
    assert {status: terms.action(status) for status in Status} == expected
    assert terms.action(Status.QUARANTINED, whole=True) == "wait"  # no good rows remain: that is a breach
    assert [default.action(s) for s in (Status.BREACHED, Status.QUARANTINED, Status.LATE)] == [
        "fail",
        "fail",
        "wait",
    ]
    softer = Terms.of(use_last_good=True, on_breach="fail", on_late="wait")
    assert (softer.on_breach, softer.on_late, softer.falls_back) == ("use_last_good", "wait", True)


def test_what_is_waited_for_survives_json() -> None:
    wanted = Wanted(
        "orders>=1,<2",
        (DAY, "2013-01-06"),
        True,
        "Europe/Berlin",
        since=1.5,
        rule=PartitionRule(timezone="Europe/Berlin"),
        terms=Terms.of(uses=["id"], available_by="06:00", grace=60, at_least=1, max_staleness=5, **ACTIONS),
    )
    assert Wanted.from_dict(json.loads(json.dumps(wanted.to_dict()))) == wanted
    with pytest.raises(ValueError, match="not what a consumer waits for"):
        Wanted.from_dict({"contract": "orders>=1,<2"})


OF_ORDERS = ("country", "orders.country", "amount", "orders.amount", "address.city", "orders.address.city")


def broken(*columns: str, **more: Any) -> Verdict:
    reasons = tuple(Reason(f"valid({name})", "0", "3", columns=(name,)) for name in columns)
    return verdict(status=Status.BREACHED, reasons=reasons, **more)


@pytest.mark.parametrize(
    ("made", "uses", "status"),
    [
        pytest.param(broken("country"), ["id", "amount"], Status.WARN, id="others"),
        pytest.param(broken("country"), [], Status.BREACHED, id="all-are-used"),
        pytest.param(broken("country", "Amount"), ["amount"], Status.BREACHED, id="mine"),
        pytest.param(broken("address.city"), ["address"], Status.BREACHED, id="part-of-mine"),
        pytest.param(
            verdict(status=Status.BREACHED, reasons=(Reason("rows", ">= 1", "0"),)),
            ["id"],
            Status.BREACHED,
            id="whole-table",
        ),
        pytest.param(
            broken("country", counts={"failed": 2}), ["id"], Status.BREACHED, id="not-all-are-listed"
        ),
        pytest.param(verdict(status=Status.BREACHED), ["id"], Status.BREACHED, id="no-reason-is-known"),
        pytest.param(broken("country", columns=OF_ORDERS), ["Amount"], Status.WARN, id="known"),
        pytest.param(broken("country", columns=OF_ORDERS), ["orders.amount"], Status.WARN, id="of-its-table"),
        pytest.param(broken("country", columns=OF_ORDERS), ["address"], Status.WARN, id="known-by-a-part"),
        pytest.param(broken("country", columns=OF_ORDERS), ["amuont"], Status.BREACHED, id="misspelt"),
    ],
)
def test_a_breach_of_columns_that_are_not_read_is_a_warning(
    made: Verdict, uses: list[str], status: Status
) -> None:
    seen = decide(want(uses=uses), known(made), NOON).seen
    assert seen.status is status
    assert seen.verdict is not None
    if status is Status.WARN:
        assert {reason.severity for reason in seen.verdict.reasons} == {"warning"}
    assert ("not among them: 'amuont'" in str(seen.verdict.reasons[-1:])) == (uses == ["amuont"])


def test_a_breach_whose_bad_rows_were_set_aside() -> None:
    rows = broken("id").set_aside(Quarantine("rows", "shop.orders__quarantine", 3))
    whole = broken("id").set_aside(Quarantine("partition"))
    assert see(want(), known(rows)) == ("fail", Status.QUARANTINED)
    assert see(want(on_quarantine="proceed"), known(rows)) == ("proceed", Status.QUARANTINED)
    assert see(want(on_quarantine="proceed"), known(whole)) == ("fail", Status.QUARANTINED)
    text = str(report.not_met(want().range, DAY, decide(want(), known(rows), NOON).seen))
    assert "set aside: 3 rows in shop.orders__quarantine" in text
    assert "valid(id): expected 0, actual 3" in text


def test_what_is_due_and_not_there_is_late() -> None:
    """In Berlin the day ends at 23:00 UTC, so 09:00 of the next day is 08:00 UTC, with grace 10:00."""
    rule = PartitionRule(timezone="Europe/Berlin")
    said = head(rule=rule, available=Availability("09:00", grace=7200), owner="shop", support="#shop")
    due = datetime(2013, 1, 6, 10, tzinfo=UTC).timestamp()
    early = decide(want(on_late="fail"), known(heads={V1: said}), due)
    assert (early.action, early.seen.status, early.recheck) == ("wait", Status.NOT_PUBLISHED, due + 1)
    late = decide(want(on_late="fail"), known(heads={V1: said}), due + 1)
    assert (late.action, late.seen.status) == ("fail", Status.LATE)
    text = str(report.not_met(want().range, DAY, late.seen))
    assert "LATE: due 2013-01-06T11:00:00+01:00, grace included\n  owner: shop; support: #shop" in text
    assert see(want(), known(heads={V1: said}), due + 1) == ("wait", Status.LATE)
    assert see(want(on_late="fail"), known(verdict(), heads={V1: said}), due + 1)[1] is Status.PASS


def test_a_publisher_says_what_its_contract_says() -> None:
    made = contract(
        status="deprecated",
        slaProperties=[
            {"property": "timeOfAvailability", "value": "09:00"},
            {"property": "endOfSupport", "value": "2027-01-31"},
            {"property": "endOfLife", "value": "2027-06-30T12:00:00Z"},
        ],
        customProperties=[
            {"property": "airflow.grace", "value": "2 h"},
            {"property": "airflow.timezone", "value": "Europe/Berlin"},
        ],
    )
    said = Promise.of(made)
    assert said == Promise(
        Availability("09:00:00", grace=7200),
        status="deprecated",
        end_of_support="2027-01-31T23:00:00+00:00",
        end_of_life="2027-06-30T12:00:00+00:00",
        owner="shop team",
        support="slack #shop",
        tell=(Recipient("slack", "#shop"),),
    )
    assert Promise.from_dict(json.loads(json.dumps(said.to_dict()))) == said
    late = made.late_after(DAY)
    assert said.available is not None
    assert said.available.deadline(made.partition, DAY) == late


def test_a_consumer_may_say_when_something_is_due() -> None:
    wanted = want(available_by=timedelta(hours=1), grace=60, on_late="fail")
    due = datetime(2013, 1, 6, 1, 1, tzinfo=UTC).timestamp()
    assert see(wanted, known(heads={V1: Head()}), due) == ("wait", Status.NOT_PUBLISHED)
    assert see(wanted, known(heads={V1: Head()}), due + 1) == ("fail", Status.LATE)


def test_a_contract_that_never_spoke_becomes_unknown_in_the_end() -> None:
    wanted, silent = want(unknown_after=60, on_unknown="skip"), known(heads={V1: Head()})
    decision = decide(wanted, silent, NOON)
    assert (decision.action, decision.recheck) == ("wait", NOON + 60)
    assert see(wanted, silent, NOON + 60) == ("skip", Status.NOT_PUBLISHED)
    assert see(wanted, known(), NOON + 60)[0] == "wait"  # not read: nothing is known
    spoke = known(heads={V1: head(("2013-01-01", Status.PASS))})
    assert see(wanted, spoke, NOON + 60)[0] == "wait"


@pytest.mark.parametrize(
    ("said", "with_verdict", "without"),
    [
        ({"status": "active"}, Status.PASS, Status.NOT_PUBLISHED),
        ({"status": "deprecated"}, Status.DEPRECATED, Status.NOT_PUBLISHED),
        ({"end_of_support": "2013-01-05"}, Status.DEPRECATED, Status.NOT_PUBLISHED),
        ({"end_of_support": "2013-01-06"}, Status.PASS, Status.NOT_PUBLISHED),
        ({"status": "retired"}, Status.DEPRECATED, Status.WITHDRAWN),
        ({"end_of_life": "2013-01-06T11:59:00Z"}, Status.DEPRECATED, Status.WITHDRAWN),
        ({"end_of_life": "whenever"}, Status.PASS, Status.NOT_PUBLISHED),
    ],
    ids=str,
)
def test_contracts_come_to_an_end(said: dict[str, Any], with_verdict: Status, without: Status) -> None:
    heads = {V1: head(**said)}
    assert see(want(), known(verdict(), heads=heads)) == ("proceed", with_verdict)
    assert see(want(), known(heads=heads))[1] is without


HOURS = tuple(f"2013-01-05T{hour:02}" for hour in range(4))


@pytest.mark.parametrize(
    ("statuses", "terms", "action", "status"),
    [
        pytest.param("PPPP", {}, "proceed", Status.PASS, id="all"),
        pytest.param("PWPP", {}, "proceed", Status.WARN, id="all-one-warns"),
        pytest.param("PPP-", {}, "wait", Status.NOT_PUBLISHED, id="one-is-missing"),
        pytest.param("PPP-", {"at_least": 3}, "proceed", Status.PASS, id="enough"),
        pytest.param("PB--", {}, "fail", Status.BREACHED, id="never-all"),
        pytest.param("PB--", {"at_least": 3}, "wait", Status.NOT_PUBLISHED, id="can-still-be-enough"),
        pytest.param("BB--", {"at_least": 3}, "fail", Status.BREACHED, id="can-never-be-enough"),
        pytest.param("PB--", {"on_breach": "wait"}, "wait", Status.BREACHED, id="a-repair-may-come"),
        pytest.param("PPPB", {"on_breach": "proceed"}, "proceed", Status.BREACHED, id="bad-ones-are-taken"),
    ],
)
def test_all_partitions_of_an_interval(
    statuses: str, terms: dict[str, Any], action: str, status: Status
) -> None:
    letters = {"P": Status.PASS, "W": Status.WARN, "B": Status.BREACHED}
    found = [
        verdict(partition=key, status=letters[letter])
        for key, letter in zip(HOURS, statuses, strict=True)
        if letter in letters
    ]
    wanted = want(*HOURS, **terms)
    assert see(wanted, known(*found)) == (action, status)
    if action == "proceed":
        answer = decide(wanted, known(*found), NOON).seen.answer(wanted)
        assert len(answer["partitions"]) + len(answer["missing"]) == 4
    elif action == "wait":
        assert "partitions hold" in decide(wanted, known(*found), NOON).seen.detail


def test_the_newest_partition_that_holds() -> None:
    heads = {
        V1: head(("2013-01-03", Status.PASS), ("2013-01-05", Status.BREACHED)),
        V2: head(("2013-01-04", Status.WARN), ("2013-01-02", Status.PASS), version="2.0.0"),
    }
    wanted = want(LATEST, contract="orders>=1,<3", max_staleness=timedelta(hours=40))
    made = verdict("2.0.0", Status.WARN, "2013-01-04")
    decision = decide(wanted, known(made, heads=heads), NOON)  # it ended 36 hours ago
    assert (decision.action, decision.seen.verdict) == ("proceed", made)
    stale = replace(wanted, terms=Terms.of(max_staleness=timedelta(hours=30)))
    assert see(stale, known(made, heads=heads)) == ("wait", Status.NOT_PUBLISHED)
    assert see(wanted, known(heads={V1: Head()})) == ("wait", Status.NOT_PUBLISHED)


def test_the_newest_partition_of_a_stale_head_is_not_taken_for_good() -> None:
    """The verdict is written before the head, and a head may be written back: the verdict counts."""
    heads = {V1: head(("2013-01-03", Status.PASS), (DAY, Status.PASS))}
    broken = verdict(status=Status.BREACHED)
    decision = decide(want(LATEST), known(broken, verdict(partition="2013-01-03"), heads=heads), NOON)
    assert (decision.action, decision.seen.good) == ("proceed", ("2013-01-03",))
    only = {V1: head((DAY, Status.PASS))}
    assert see(want(LATEST), known(broken, heads=only)) == ("wait", Status.NOT_PUBLISHED)


def test_the_last_good_partition_before_a_bad_one() -> None:
    heads = {
        V1: head(
            ("2013-01-03", Status.PASS),
            ("2013-01-04", Status.BREACHED),
            (DAY, Status.PASS),
            ("2013-01-07", Status.PASS),
        )
    }

    def found(**terms: Any) -> str | None:
        good = newest_good(want(**terms), heads, until=DAY)
        return good[1] if good else None

    assert found() == "2013-01-03"
    assert found(max_staleness=timedelta(days=2)) == "2013-01-03"
    assert found(max_staleness=timedelta(days=1)) is None
    assert newest_good(want(contract="orders>=1.1,<2"), heads, until=DAY) is None


def test_an_unknown_event_or_sight_is_an_error() -> None:
    with pytest.raises(ValueError, match="not what a waiter sees"):
        Seen.from_dict({"status": "PASS"})
    assert Decision("wait", Seen.from_dict({"status": "PASS", "verdict": None, "detail": ""})).recheck is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_late": "ignore"}, "on_late='ignore': use one of fail, skip, wait, proceed, use_last_good"),
        ({"uses": "id"}, "expected a list of column names"),
        ({"at_least": 0}, "expected a number of partitions"),
        ({"grace": 60}, "grace=60 needs available_by"),
        ({"available_by": "6 o'clock"}, "expected a time of day"),
        ({"max_staleness": -1}, "max_staleness=-1: expected a timedelta or a number of seconds"),
        ({"unknown_after": "1h"}, "unknown_after='1h'"),
    ],
    ids=str,
)
def test_wrong_terms_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Terms.of(**changes)


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
