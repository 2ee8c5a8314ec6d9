"""When waiting ends, by a clock of the test's own."""

from __future__ import annotations

from airflow_ext.sync.model import RunStatus, SyncStatus
from airflow_ext.sync.watch import Limits, Outcome, Watch

RUNNING = RunStatus(status=SyncStatus.RUNNING)
LONG = 3600.0


def test_time_that_the_vendor_asks_to_wait_is_no_outage_and_a_storm_still_ends() -> None:
    watch = Watch(Limits(outage=600), manual=False)
    watch.see(RUNNING, 0)
    assert watch.fail(Outcome.UNAVAILABLE, "429", 10, retry_after=LONG).outcome is None
    assert watch.tick(10 + LONG + 599).outcome is None
    assert watch.pause(10 + LONG + 599, most=LONG) == 1
    assert watch.tick(10 + LONG + 600).outcome is Outcome.UNAVAILABLE
    watch.see(RUNNING, 5000)  # it answered, so the next failure counts anew
    for second in range(600):
        assert watch.fail(Outcome.UNAVAILABLE, "429", 5000 + second, retry_after=1).outcome is None
    assert watch.fail(Outcome.UNAVAILABLE, "429", 5601, retry_after=1).outcome is Outcome.UNAVAILABLE


def test_a_refused_key_has_a_minute_and_a_deadline_counts_before_all() -> None:
    watch = Watch(Limits(deadline=1000), manual=False)
    watch.see(RUNNING, 0)
    watch.fail(Outcome.UNAVAILABLE, "down", 900)
    assert watch.fail(Outcome.DENIED, "401", 910).outcome is None
    assert watch.tick(970).outcome is Outcome.DENIED
    assert watch.fail(Outcome.UNAVAILABLE, "429", 1000, retry_after=LONG).outcome is Outcome.TIMED_OUT


def test_a_run_that_had_begun_and_waits_again_was_stopped_by_somebody() -> None:
    pending = RunStatus(status=SyncStatus.PENDING)
    watch = Watch(Limits(start_by=50), manual=False)
    watch.see(RUNNING, 10)
    assert watch.see(pending, 20).outcome is None
    assert watch.see(pending, 80).outcome is Outcome.CANCELLED
    late = Watch(Limits(start_by=50), manual=False)
    late.see(pending, 10)
    assert late.see(pending, 50).outcome is Outcome.NOT_STARTED


def test_each_time_of_the_vendor_counts_once_and_is_waited_for() -> None:
    def put_off(until: str) -> RunStatus:
        return RunStatus(status=SyncStatus.RESCHEDULED, rescheduled_for=f"1970-01-01T00:{until}+00:00")

    watch = Watch(Limits(max_reschedules=2), manual=True, grace=5)
    for second in (0, 30, 60):
        assert not watch.see(put_off("01:00"), second).go_on
    assert watch.pause(61) == 4
    assert watch.see(put_off("01:00"), 65).go_on
    assert not watch.see(put_off("01:00"), 66).go_on, "once"
    assert watch.see(put_off("02:00"), 70).outcome is None
    assert watch.see(put_off("03:00"), 130).outcome is Outcome.TOO_OFTEN
