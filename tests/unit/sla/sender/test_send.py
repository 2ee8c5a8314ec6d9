"""The sender on a ledger that the monitor has written, with channels of a local fake that can fail, ask to wait or vanish."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update
from sqlalchemy.orm import Session

from airflow_ext.sla import Channel, Step, sla
from airflow_ext.sla.ledger.models import IncidentRow, OutboxRow
from airflow_ext.sla.monitor import tables
from airflow_ext.sla.sender.model import Call, Outcome, SendReport, Settings
from airflow_ext.sla.sender.send import send_due
from airflow_ext.sla.sender.storm import Breaker
from tests.unit.sla.world import MINUTE, World, at

MAIL = Channel("tests.nowhere.Mail", to="ops@example.com")
BOSS = Channel("tests.nowhere.Mail", to="boss@example.com")
PAGER = Channel("tests.nowhere.Pager")
DUE = "2026-03-02 05:00"


class Wire:
    """Stands for all channels: keeps the calls, and answers as it is told."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: dict[Channel | str, dict[str, Any]] = {}
        self.dies = False

    def __call__(self, calls: Sequence[Call]) -> Iterator[Outcome]:
        for call in calls:
            self.calls.append(call)
            if self.dies:
                raise KeyboardInterrupt
            answer = self.answers.get(call.target, {})
            yield Outcome(call.id, keyed=call.target == PAGER, **answer)

    def told(self) -> list[tuple[str, str]]:
        """Return who was told what, and forget it."""
        found = [
            (str(getattr(call.target, "arguments", {}).get("to", call.label)), call.event.subject)
            for call in self.calls
        ]
        self.calls.clear()
        return found


class Desk:
    """A world, a wire and a sender."""

    def __init__(self, engine: Engine) -> None:
        self.world, self.wire, self.breaker = World(engine), Wire(), Breaker()
        self.settings = Settings()

    def send_at(self, text: str, *, holder: str = "one") -> SendReport:
        """Let the monitor look and the sender send at a time."""
        self.look_at(text)
        return self.send(holder=holder)

    def look_at(self, text: str) -> None:
        """Let the monitor look at a time, and before that at what is to be expected."""
        self.world.tick_at(self.world.now)
        self.world.tick_at(text)

    def send(self, *, holder: str = "one") -> SendReport:
        """Send what is due now."""
        with Session(self.world.engine, expire_on_commit=False) as session:
            return send_due(
                session,
                self.world.now,
                self.wire,
                holder=holder,
                breaker=self.breaker,
                base_url="https://airflow.example.com",
                settings=self.settings,
                dice=random.Random(1),  # noqa: S311  the same waits in each run
            )

    def promise(self, dag_id: str, **more: Any) -> None:
        """Add a DAG that promises to be done by 05:00 UTC, told to MAIL unless said otherwise."""
        more = {"channels": [MAIL], "on_failure": "wait", **more}
        self.world.add_dag(dag_id, [sla(by="05:00", tz="UTC", **more)])

    def rows(self) -> list[OutboxRow]:
        found: list[OutboxRow] = self.world.rows(OutboxRow)
        return found

    def states(self) -> list[tuple[str, int, str]]:
        """Return kind, step and state of all messages."""
        return [(row.kind, row.step, row.state) for row in self.rows()]

    def incident(self, **values: Any) -> None:
        """Change the incidents."""
        with self.world.engine.begin() as connection:
            connection.execute(update(IncidentRow).values(values))


@pytest.fixture
def desk(database: Engine) -> Desk:
    return Desk(database)


def test_a_miss_is_told_once_and_its_end_too(desk: Desk) -> None:
    desk.promise("marts")
    assert desk.send_at("2026-03-02 04:59").taken == 0
    assert desk.send_at("2026-03-02 05:01").sent == 1
    assert desk.wire.told() == [
        ("ops@example.com", "[ticket] SLA missed: marts has not started, was due 05:00:00 UTC")
    ]
    desk.world.run("marts", "2026-03-02 00:00", ended="2026-03-02 05:40")
    desk.send_at("2026-03-02 05:41")
    assert desk.wire.told() == [
        ("ops@example.com", "[ticket] SLA over: marts finished 40 min late, was due 05:00:00 UTC")
    ]
    assert desk.send_at("2026-03-02 05:50").taken == 0
    assert desk.states() == [("open", 0, "sent"), ("resolve", 0, "sent")]


def test_a_failing_channel_is_tried_again_later_and_later_and_at_last_given_up(desk: Desk) -> None:
    desk.promise("marts")
    desk.settings = Settings(tries=4)
    desk.wire.answers[MAIL] = {"error": "ConnectionError: gone"}
    report = desk.send_at("2026-03-02 05:01")
    waits = []
    while not report.given_up:
        (row,) = desk.rows()
        waits.append((row.not_before - desk.world.now).total_seconds())
        assert desk.send().taken == 0, "not before its time"
        desk.world.now = row.not_before
        report = desk.send()
    assert all(
        0.8 * factor <= wait / 5 <= 1.2 * factor for wait, factor in zip(waits, (1, 2, 4), strict=True)
    )
    assert len(set(waits)) == 3
    assert all(wait % 5 for wait in waits), "with jitter"
    (row,) = desk.rows()
    assert (row.state, row.attempts, row.last_error) == ("failed", 4, "ConnectionError: gone")
    assert report.channels[("failed", "Mail")] == 1


def test_a_channel_that_asks_to_wait_is_left_alone_for_so_long_but_not_for_ever(desk: Desk) -> None:
    desk.promise("marts")
    for asked, waited in ((120.0, timedelta(minutes=2)), (10e9, timedelta(hours=6))):
        desk.wire.answers[MAIL] = {"error": "TooManyRequests", "retry_after": asked}
        desk.send_at("2026-03-02 05:01") if not desk.rows() else desk.send()
        (row,) = desk.rows()
        assert row.not_before - desk.world.now == waited
        desk.world.now = row.not_before


def test_one_failing_channel_does_not_hold_up_another(desk: Desk) -> None:
    desk.promise("marts", channels=[MAIL, BOSS])
    desk.wire.answers[MAIL] = {"error": "x"}
    report = desk.send_at("2026-03-02 05:01")
    assert (report.failed, report.sent) == (1, 1)


def test_what_a_dead_sender_had_taken_is_sent_by_another_with_the_same_key(desk: Desk) -> None:
    desk.promise("marts")
    desk.wire.dies = True
    with pytest.raises(KeyboardInterrupt):
        desk.send_at("2026-03-02 05:01")
    desk.wire.dies = False
    assert desk.send(holder="two").taken == 0, "it is still claimed"
    desk.world.now += desk.settings.claim + MINUTE
    assert desk.send(holder="two").sent == 1
    assert len({call.event.key for call in desk.wire.calls}) == 1
    assert len({call.event.deadline_id for call in desk.wire.calls}) == 1


def test_the_same_channel_twice_in_a_step_is_told_once(desk: Desk) -> None:
    desk.promise("marts", channels=[MAIL, MAIL])
    report = desk.send_at("2026-03-02 05:01")
    assert (report.sent, dict(report.suppressed)) == (1, {"duplicate": 1})


def test_children_are_not_told(desk: Desk) -> None:
    desk.promise("marts")
    desk.look_at("2026-03-02 05:01")
    desk.incident(parent_id=99)
    assert desk.send().suppressed == {"child": 1}
    assert desk.wire.calls == []


def test_what_was_over_before_it_was_told_is_told_only_if_it_was_late(desk: Desk) -> None:
    desk.promise("late")
    desk.promise("excused")
    desk.look_at("2026-03-02 05:01")
    desk.world.run("late", "2026-03-02 00:00", ended="2026-03-02 05:03")
    desk.look_at("2026-03-02 05:05")
    with desk.world.engine.begin() as connection:
        open_ones = IncidentRow.resolved_at.is_(None)
        connection.execute(
            update(IncidentRow).where(open_ones).values(resolved_at=desk.world.now, resolution="excused")
        )
    desk.send()
    assert [subject for _, subject in desk.wire.told()] == [
        "[ticket] SLA missed: late finished 3 min late, was due 05:00:00 UTC"
    ]
    desk.world.now += MINUTE
    desk.send()
    assert desk.wire.told() == [], "the end was told with it"


STEPS = [Step(after=30 * MINUTE, channels=[BOSS], owner="boss"), Step(after=60 * MINUTE, channels=[PAGER])]


def test_steps_come_one_after_the_other_and_the_end_is_told_to_all(desk: Desk) -> None:
    desk.promise("marts", escalate=STEPS)
    desk.send_at("2026-03-02 05:01")
    assert desk.send_at("2026-03-02 05:30").escalated == 0
    assert desk.send_at("2026-03-02 05:31").escalated == 1
    assert desk.wire.calls[-1].event.owner == "boss"
    assert "nobody has acknowledged it" in desk.wire.calls[-1].event.text
    desk.send_at("2026-03-02 06:01")
    assert [who for who, _ in desk.wire.told()] == ["ops@example.com", "boss@example.com", "Pager"]
    desk.world.run("marts", "2026-03-02 00:00", ended="2026-03-02 06:10")
    desk.send_at("2026-03-02 06:12")
    told = desk.wire.told()
    assert sorted(who for who, _ in told) == ["Pager", "boss@example.com", "ops@example.com"]
    assert all("SLA over" in subject for _, subject in told)


def test_an_acknowledgement_ends_the_steps_a_snooze_holds_them_up(desk: Desk) -> None:
    desk.promise("marts", escalate=STEPS)
    desk.send_at("2026-03-02 05:01")
    desk.incident(snoozed_until=at("2026-03-02 05:45"))
    assert desk.send_at("2026-03-02 05:40").escalated == 0
    assert desk.send_at("2026-03-02 05:46").escalated == 1
    desk.incident(acknowledged_at=desk.world.now)
    assert desk.send_at("2026-03-02 09:00").escalated == 0


def test_a_step_that_is_being_tried_again_stops_when_somebody_reacts(desk: Desk) -> None:
    desk.promise("marts", escalate=STEPS)
    desk.send_at("2026-03-02 05:01")
    desk.wire.answers[BOSS] = {"error": "x"}
    assert desk.send_at("2026-03-02 05:31").failed == 1
    desk.incident(acknowledged_at=desk.world.now)
    assert desk.send_at("2026-03-02 05:33").suppressed == {"acknowledged": 1}


def test_a_storm_becomes_few_calls_and_nothing_is_lost(desk: Desk) -> None:
    for number in range(300):
        desk.promise(f"dag_{number:03}", owner=f"team-{number % 3}", channels=[MAIL, PAGER])
    desk.promise("worst", owner="team-0", severity="page", channels=[MAIL, PAGER])
    report = desk.send_at("2026-03-02 05:01")
    assert (report.sent, report.calls) == (602, 6)
    assert desk.wire.calls[0].event.dag_id == "worst"
    assert "101 SLAs of team-0 are missed or at risk, worst among them" in desk.wire.calls[0].event.subject
    assert len({call.event.key for call in desk.wire.calls}) == 6
    digests = {call.event.key for call in desk.wire.calls if call.target == PAGER}
    desk.wire.calls.clear()
    for number in range(299):
        desk.world.run(f"dag_{number:03}", "2026-03-02 00:00", ended="2026-03-02 06:00")
    report = desk.send_at("2026-03-02 06:01")
    assert (report.calls, report.suppressed["digest_goes_on"]) == (2, 398)
    for name in ("dag_299", "worst"):
        desk.world.run(name, "2026-03-02 00:00", ended="2026-03-02 06:05")
    desk.send_at("2026-03-02 06:10")
    over = [call for call in desk.wire.calls if call.target == PAGER]
    assert {call.event.key for call in over} == digests, "each alert of the storm is closed, and only once"
    assert len(over) == len(digests)
    assert all(call.event.kind == "resolved" for call in over)
    assert {state for _, _, state in desk.states()} == {"sent", "suppressed"}


def test_a_trickle_is_bounded_too(desk: Desk) -> None:
    for number in range(40):
        desk.promise(f"dag_{number:02}", owner="team", within=None, grace=number * timedelta(seconds=2))
    for second in range(0, 120, 2):
        desk.send_at(f"2026-03-02 05:{second // 60:02}:{second % 60:02}")
    assert 0 < len(desk.wire.calls) <= 12
    while {state for _, _, state in desk.states()} != {"sent"}:
        desk.world.now += 10 * timedelta(seconds=1)
        desk.send()
    assert len(desk.wire.calls) <= 15, "five a minute"
    assert sum(len(call.event.others) + 1 for call in desk.wire.calls) == 40


def test_many_owners_on_one_channel_become_one_digest(desk: Desk) -> None:
    for number in range(50):
        desk.promise(f"dag_{number:02}", owner=f"team-{number}")
    report = desk.send_at("2026-03-02 05:01")
    assert (report.calls, report.sent) == (1, 50)


def test_a_digest_that_failed_keeps_its_key(desk: Desk) -> None:
    for number in range(9):
        desk.promise(f"dag_{number}", owner="team", channels=[PAGER])
    desk.wire.answers[PAGER] = {"error": "x"}
    desk.send_at("2026-03-02 05:01")
    desk.wire.answers.clear()
    desk.send_at("2026-03-02 05:02")
    first, again = desk.wire.calls
    assert (again.event.key, len(again.event.others)) == (first.event.key, 8)


def test_what_may_have_been_told_alone_is_told_again_alone(desk: Desk) -> None:
    """The channel has its key; in a digest, which has another one, it would be a second alert."""
    desk.promise("first", owner="team", channels=[PAGER])
    for number in range(9):
        desk.promise(f"dag_{number}", owner="team", channels=[PAGER], grace=timedelta(seconds=90))
    desk.wire.answers[PAGER] = {"error": "the connection broke"}
    desk.send_at("2026-03-02 05:00:05")
    (alone,) = desk.wire.calls
    desk.wire.calls.clear()
    desk.wire.answers.clear()
    desk.send_at("2026-03-02 05:01:31")
    again, digest = sorted(desk.wire.calls, key=lambda call: len(call.event.others))
    assert (again.event.key, again.event.others) == (alone.event.key, ())
    assert len(digest.event.others) == 8
    assert {state for _, _, state in desk.states()} == {"sent"}


def test_an_answer_waits_for_what_it_answers(desk: Desk) -> None:
    desk.promise("marts", channels=[PAGER])
    desk.wire.answers[PAGER] = {"error": "x", "retry_after": 600.0}
    desk.send_at("2026-03-02 05:01")
    desk.world.run("marts", "2026-03-02 00:00", ended="2026-03-02 05:03")
    assert desk.send_at("2026-03-02 05:04").postponed == 1
    desk.wire.answers.clear()
    desk.wire.calls.clear()
    desk.send_at("2026-03-02 05:12")
    desk.send_at("2026-03-02 05:13")
    assert [call.event.kind for call in desk.wire.calls] == ["missed", "resolved"], "a keyed alert is closed"


def test_threads_are_kept(desk: Desk) -> None:
    desk.promise("marts")
    desk.wire.answers[MAIL] = {"thread": "1772.01"}
    desk.send_at("2026-03-02 05:01")
    desk.world.run("marts", "2026-03-02 00:00", ended="2026-03-02 05:40")
    desk.send_at("2026-03-02 05:41")
    first, second = desk.wire.calls
    assert (first.thread, second.thread) == ("", "1772.01")
    assert second.event.thread == first.event.deadline_id, "for mail programs"


def test_the_message_says_what_changed_since_it_last_went_well(desk: Desk) -> None:
    desk.promise("marts")
    desk.world.run("marts", "2026-03-02 00:00", ended="2026-03-02 04:00")
    desk.look_at("2026-03-02 05:01")
    with desk.world.engine.begin() as connection:
        for number, day in enumerate(("2026-03-01 00:00", "2026-03-02 12:00"), start=7):
            version = {"id": __import__("uuid").uuid4(), "version_number": number, "dag_id": "marts"}
            connection.execute(
                insert(tables.DAG_VERSION).values(bundle_version="abcdef" * 5, created_at=at(day), **version)
            )
            connection.execute(
                insert(tables.ASSET_EVENT).values(
                    asset_id=1, timestamp=at(day), extra={"version": f"1.{number}.0"}
                )
            )
        connection.execute(insert(tables.ASSET).values(id=1, name="contract/orders/v1"))
        connection.execute(insert(tables.FEEDS).values(asset_id=1, dag_id="marts"))
    desk.send_at("2026-03-03 05:01")
    text = desk.wire.calls[-1].event.text
    assert "Last good  Mon 02 Mar 2026 04:00:00 UTC" in text
    assert (
        "Changed    the DAG, from version 7 to version 8 (bundle abcdefabcdef); contract orders, from 1.7.0 to 1.8.0"
        in text
    )
    assert "https://airflow.example.com/dags/marts" in text
    assert "airflow ext sla ack" in text
