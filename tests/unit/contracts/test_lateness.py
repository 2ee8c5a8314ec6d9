"""What is late by a contract's own promise, and who of many tells it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.availability import Availability
from airflow_ext.contracts.claims import KEPT, LEASE_SECONDS, Claim
from airflow_ext.contracts.head import Entry, Head, Promise
from airflow_ext.contracts.lateness import due_last, overdue
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.recipients import MAX_RECIPIENTS, Recipient
from airflow_ext.contracts.store import AssetVerdictStore
from airflow_ext.contracts.terms import LATEST, Terms, Wanted
from airflow_ext.contracts.waiting import Known
from tests.unit.contracts.samples import contract

V1 = "contract/orders/v1"
DUE = datetime(2013, 1, 6, 6, 30, tzinfo=UTC).timestamp()
"""When 2013-01-05 is late: at 06:00, with half an hour of grace."""
PROMISE = Promise(
    Availability("06:00", grace=1800), owner="shop", tell=(Recipient("email", "shop@example.com"),)
)
BEFORE = {"2013-01-04": Entry(Status.WARN, 7, "1.2.0")}


def known(entries: dict[str, Entry] | None = None, **changes: Any) -> Known:
    head = Head(BEFORE if entries is None else entries, PartitionRule(), replace(PROMISE, **changes))
    return Known({V1: head})


def want(*partitions: str, timezone: str | None = None, **terms: Any) -> Wanted:
    keys = partitions or ("2013-01-05",)
    return Wanted("orders>=1,<2", keys, len(keys) > 1, timezone, terms=Terms.of(**terms))


def test_a_partition_is_late_once_its_time_and_grace_are_over() -> None:
    assert overdue(want(), known(), DUE) == ([], DUE + 1)
    (late,), following = overdue(want(), known(), DUE + 1)
    assert following is None
    assert (late.key, late.version, late.due) == ((V1, "2013-01-05"), "1.2.0", "2013-01-06T06:30:00+00:00")
    assert (late.last, late.owner, late.recipients) == ("2013-01-04 (WARN)", "shop", PROMISE.tell)


def test_of_an_interval_each_partition_has_its_time() -> None:
    late, following = overdue(want("2013-01-04", "2013-01-05", "2013-01-06"), known(), DUE + 1)
    assert [each.partition for each in late] == ["2013-01-05"], "what is published is not late"
    assert following == DUE + 86_400 + 1


@pytest.mark.parametrize(
    ("wanted", "seen", "moment"),
    [
        pytest.param(want(), known(), DUE + 86_401, id="nobody-missed-it-then"),
        pytest.param(want(), known({"2013-01-05": BEFORE["2013-01-04"]}), DUE + 1, id="published"),
        pytest.param(want(), known(available=None), DUE + 1, id="no-promise"),
        pytest.param(want(), known(status="retired"), DUE + 1, id="withdrawn"),
        pytest.param(want(), Known({V1: Head()}), DUE + 1, id="never-published-anything"),
        pytest.param(want(LATEST), known(), DUE + 1, id="whatever-is-newest"),
        pytest.param(want("2013-01"), known(), DUE + 1, id="another-format"),
        pytest.param(want(timezone="Europe/Berlin"), known(), DUE + 1, id="another-zone"),
        pytest.param(want(available_by="02:00"), known(), DUE - 3600, id="only-by-the-waiter's-own-time"),
    ],
)
def test_what_is_not_late(wanted: Wanted, seen: Known, moment: float) -> None:
    assert overdue(wanted, seen, moment)[0] == []


def test_a_waiter_with_more_patience_learns_of_the_contracts_own_time() -> None:
    assert len(overdue(want(available_by="12:00"), known(), DUE + 1)[0]) == 1


def test_the_head_says_whom_to_tell() -> None:
    people = [
        {"channel": "shop@example.com", "tool": "Email"},
        {"channel": "chat", "tool": "slack", "scope": "interactive"},
    ]
    consumers = [{"name": f"team {n}", "contact": f"#t{n}", "uses": ["id"]} for n in range(30)]
    levels = [{"property": "timeOfAvailability", "value": "06:00"}]
    own = [{"property": "airflow.consumers", "value": consumers}]
    made = Promise.of(contract(support=people, slaProperties=levels, customProperties=own))
    assert made.tell[:2] == (Recipient("email", "shop@example.com"), Recipient("slack", "#t0", who="team 0"))
    assert len(made.tell) == MAX_RECIPIENTS
    assert Promise.from_dict(made.to_dict()) == made
    assert Promise.from_dict({"tell": [["email"], 3, ["a", "b", "c", "d"]]}).tell == (
        Recipient("a", "b", "c", "d"),
    )
    assert Promise.of(contract(support=people)).tell == (), "nothing can be late without a time"


@pytest.mark.parametrize(
    ("form", "key"),
    [
        ("%Y", "2012"),
        ("%Y-%m", "2012-12"),
        ("%Y-%m-%d", "2013-01-05"),
        ("%Y-%m-%dT%H", "2013-01-06T05"),
        ("%Y-%m-%dT%H:%M", "2013-01-06T05:59"),
        ("%Y-%m-%dT%H:%M:%S", None),
    ],
)
def test_the_partition_that_was_due_last(form: str, key: str | None) -> None:
    found = due_last(Head({}, PartitionRule(form), PROMISE), DUE + 1)
    assert (found[0] if found else None) == key
    assert due_last(Head(), DUE) is None


class States:
    """The state of assets, to which a barrier lets several writers at once."""

    def __init__(self, writers: int) -> None:
        self.values: dict[str, Any] = {}
        self.barrier = threading.Barrier(writers)

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.get(key, default)


class Racing(States):
    """All find that nobody has claimed, before one writes."""

    def get(self, key: str, default: Any = None) -> Any:
        found = super().get(key, default)
        if key.startswith("late/") and found is None:
            self.barrier.wait(10)
        return found


def store_of(states: States, *, settle: Any = lambda _: None) -> AssetVerdictStore:
    return AssetVerdictStore(lambda _: states, settle=settle)


KEY = (V1, "2013-01-05")


def test_of_many_who_claim_at_once_one_tells() -> None:
    writers = 8
    states, written = Racing(writers), threading.Barrier(writers)
    store = store_of(states, settle=lambda _: written.wait(10) and None)

    def ask(number: int) -> Claim:
        return store.claim_late([KEY], token=str(number), now=DUE)[KEY]

    with ThreadPoolExecutor(writers) as pool:
        claims = list(pool.map(ask, range(writers)))
    assert sorted(claims) == [Claim.MINE] + [Claim.OTHERS] * (writers - 1)


def test_a_claim_lasts_until_it_is_told_or_its_owner_is_dead() -> None:
    states = States(1)
    store = store_of(states)

    def ask(token: str, now: float) -> Claim:
        return store.claim_late([KEY], token=token, now=now)[KEY]

    assert not store.late_claimed(*KEY)
    assert ask("a", DUE) is Claim.MINE
    assert store.late_claimed(*KEY)
    assert ask("b", DUE + LEASE_SECONDS - 1) is Claim.OTHERS
    assert ask("b", DUE + LEASE_SECONDS + 1) is Claim.MINE, "a died before it told"
    store.note_late_told(*KEY, token="b", now=DUE)
    assert ask("c", DUE + 9 * LEASE_SECONDS) is Claim.TOLD


def test_one_whose_writing_took_too_long_withdraws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_ext.contracts.claims.SETTLE_SECONDS", -1.0)
    assert store_of(States(1)).claim_late([KEY], token="a", now=DUE) == {KEY: Claim.OTHERS}


def test_claims_of_long_ago_are_forgotten() -> None:
    states = States(1)
    store = store_of(states)
    for number in range(KEPT + 3):
        store.claim_late([(V1, str(number))], token="a", now=DUE)
        store.note_late_told(V1, str(number), token="a", now=DUE)
    assert len([key for key in states.values if key.startswith("late/")]) == KEPT


def test_a_verdict_is_no_claim() -> None:
    states = States(1)
    store_of(states).publish(Verdict("orders", "1.2.0", "2013-01-05", Status.PASS), rule=PartitionRule())
    assert not store_of(states).late_claimed(*KEY)
