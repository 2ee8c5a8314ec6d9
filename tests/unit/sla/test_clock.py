"""Wall-clock times on all days, in all zones."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.clock import due_on, first_due_after, format_days, parse_clock, parse_days, parse_zone

ZONES = sorted(available_timezones())
zones = st.sampled_from(ZONES).map(ZoneInfo)
days = st.dates(date(2020, 1, 1), date(2035, 12, 31))
START = datetime(2020, 1, 1, tzinfo=UTC)
moments = st.timedeltas(timedelta(0), timedelta(days=5842)).map(lambda span: START + span)
clocks = st.times().map(lambda value: value.replace(microsecond=0))


@given(zones, days, clocks)
@settings(max_examples=600, deadline=None)
def test_the_instant_shows_the_time_or_the_clocks_jumped_over_it(zone: ZoneInfo, day: date, at: time) -> None:
    wanted = datetime.combine(day, at)
    shown = due_on(day, at=at, zone=zone).astimezone(zone)
    moved = shown.replace(tzinfo=None, fold=0) - wanted
    if moved:
        before, after = (wanted.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
        assert before is not None
        assert after is not None
        # For a time in a gap PEP 495 makes fold=0 the offset before the jump and fold=1 the one after.
        assert moved == after - before
        assert timedelta(0) < moved <= timedelta(hours=3)
    else:
        assert shown.fold == 0


@given(zones, days, clocks)
@settings(max_examples=300, deadline=None)
def test_each_local_date_has_one_instant_and_they_come_in_order(zone: ZoneInfo, day: date, at: time) -> None:
    instants = [due_on(day + timedelta(days=n), at=at, zone=zone) for n in range(5)]
    assert all(later > earlier for earlier, later in pairwise(instants))


@given(zones, moments, clocks)
@settings(max_examples=600, deadline=None)
def test_first_due_after_is_the_first(zone: ZoneInfo, moment: datetime, at: time) -> None:
    found = first_due_after(moment, at=at, zone=zone)
    assert found.at > moment
    assert found.at == due_on(found.day, at=at, zone=zone)
    assert due_on(found.day - timedelta(days=1), at=at, zone=zone) <= moment


@pytest.mark.parametrize("year", range(2020, 2036))
@pytest.mark.parametrize(
    ("zone", "at"),
    [
        pytest.param("Europe/Berlin", "02:30", id="berlin-in-the-gap"),
        pytest.param("Australia/Lord_Howe", "02:15", id="lord-howe-half-hour-gap"),
        pytest.param("America/New_York", "01:30", id="new-york-twice"),
        pytest.param("Africa/Casablanca", "02:30", id="casablanca-ramadan"),
        pytest.param("Asia/Gaza", "00:15", id="gaza-at-midnight"),
        pytest.param("America/Nuuk", "23:30", id="nuuk-before-midnight"),
        pytest.param("Antarctica/Troll", "02:00", id="troll-two-hours"),
    ],
)
def test_walking_a_year_finds_each_date_once(zone: str, at: str, year: int) -> None:
    clock, tz = parse_clock(at), parse_zone(zone)
    found: list[date] = []
    moment = datetime(year, 1, 1, 12, tzinfo=UTC)
    while len(found) < 364:
        due = first_due_after(moment, at=clock, zone=tz)
        found.append(due.day)
        moment = due.at
    assert found == [found[0] + timedelta(days=n) for n in range(364)]


@pytest.mark.parametrize(
    ("day", "at", "zone", "expected"),
    [
        pytest.param("2026-03-28", "06:00", "Europe/Berlin", "2026-03-28T05:00", id="winter"),
        pytest.param("2026-03-29", "06:00", "Europe/Berlin", "2026-03-29T04:00", id="day-of-23-hours"),
        pytest.param("2026-10-25", "06:00", "Europe/Berlin", "2026-10-25T05:00", id="day-of-25-hours"),
        pytest.param("2026-03-29", "02:30", "Europe/Berlin", "2026-03-29T01:30", id="gap-moves-forward"),
        pytest.param("2026-10-25", "02:30", "Europe/Berlin", "2026-10-25T00:30", id="fold-takes-the-first"),
        pytest.param(
            "2026-10-04", "02:15", "Australia/Lord_Howe", "2026-10-03T15:45", id="gap-of-30-minutes"
        ),
        pytest.param(
            "2026-04-05", "01:45", "Australia/Lord_Howe", "2026-04-04T14:45", id="fold-of-30-minutes"
        ),
        pytest.param("2026-06-01", "06:00", "Asia/Kathmandu", "2026-06-01T00:15", id="quarter-hour-zone"),
    ],
)
def test_known_instants(day: str, at: str, zone: str, expected: str) -> None:
    found = due_on(date.fromisoformat(day), at=parse_clock(at), zone=parse_zone(zone))
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["6:00", "24:00", "06:60", "06", "", "06:00 Uhr", "06:00:61", "0\u0666:00"])
def test_no_time_of_day(text: str) -> None:
    with pytest.raises(InvalidError, match="24-hour clock"):
        parse_clock(text)


def test_a_time_is_a_string() -> None:
    with pytest.raises(TypeError, match="must be a string"):
        parse_clock(time(6))  # type: ignore[arg-type]  # what a user may try


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("Europe/Berln", "did you mean Europe/Berlin", id="typo"),
        pytest.param("europe/berlin2", "Europe/Berlin", id="case"),
        pytest.param("", "IANA name", id="empty"),
        pytest.param("../etc/passwd", "IANA name", id="path"),
        pytest.param("Europe", "not a time zone", id="folder"),
    ],
)
def test_no_zone(name: str, hint: str) -> None:
    with pytest.raises(InvalidError, match=hint):
        parse_zone(name)


@pytest.mark.parametrize(
    ("given", "expected", "shown"),
    [
        pytest.param(None, (0, 1, 2, 3, 4, 5, 6), "every day", id="none"),
        pytest.param("mon-fri", (0, 1, 2, 3, 4), "mon-fri", id="range"),
        pytest.param("Mon, WED", (0, 2), "mon, wed", id="list-in-a-string"),
        pytest.param(["monday", "sun"], (0, 6), "mon, sun", id="list"),
        pytest.param("sat-mon", (0, 5, 6), "mon, sat, sun", id="over-the-weekend"),
        pytest.param("mon-wed,fri", (0, 1, 2, 4), "mon, tue, wed, fri", id="mixed"),
    ],
)
def test_days(given: str | list[str] | None, expected: tuple[int, ...], shown: str) -> None:
    assert parse_days(given) == expected
    assert format_days(expected) == shown


@pytest.mark.parametrize(
    "given", [pytest.param("mo-fr", id="german"), pytest.param("", id="empty"), pytest.param([], id="none")]
)
def test_no_days(given: str | list[str]) -> None:
    with pytest.raises(InvalidError, match="days="):
        parse_days(given)
