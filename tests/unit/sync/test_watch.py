"""When waiting ends, by a clock of the test's own."""

from __future__ import annotations

from airflow_ext.exceptions import SyncDeniedError, SyncUnavailableError
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
    watch.went_on(65)
    assert not watch.see(put_off("01:00"), 66).go_on, "once"
    assert watch.see(put_off("02:00"), 70).outcome is None
    assert watch.see(put_off("03:00"), 130).outcome is Outcome.TOO_OFTEN


def test_a_vendor_that_does_not_take_it_is_told_again_and_not_for_ever() -> None:
    put_off = RunStatus(status=SyncStatus.RESCHEDULED, rescheduled_for="1970-01-01T00:01:00+00:00")
    watch = Watch(Limits(outage=600), manual=True, grace=5)
    assert watch.see(put_off, 65).go_on
    watch.went_not_on(SyncUnavailableError("503"), 65)
    assert watch.pause(65) == 5
    assert not watch.see(put_off, 69).go_on
    assert watch.see(put_off, 70).go_on
    watch.went_not_on(SyncUnavailableError("429", retry_after=120), 70)
    assert not watch.see(put_off, 189).go_on, "not before the vendor wants to be asked"
    assert watch.see(put_off, 190).go_on
    watch.went_on(190)
    assert not watch.see(put_off, 400).go_on
    assert watch.see(put_off, 500).go_on, "it had said yes and done nothing"
    watch.went_not_on(SyncUnavailableError("503"), 500)
    told = watch.see(put_off, 1100)
    assert (told.outcome, told.detail) == (Outcome.UNAVAILABLE, "it could not be told to go on: 503")
    refused = Watch(Limits(), manual=True, grace=5)
    assert refused.see(put_off, 65).go_on
    refused.went_not_on(SyncDeniedError("403"), 65)
    assert refused.see(put_off, 125).outcome is Outcome.DENIED
