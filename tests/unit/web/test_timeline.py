"""The axis: in proportion where something ran, cut where nothing did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_ext.web.timeline import Timeline

times = st.lists(
    st.tuples(st.floats(0, 1e6), st.floats(0, 1e4)).map(lambda one: (one[0], one[0] + one[1])),
    min_size=1,
    max_size=20,
)


def test_what_runs_together_is_in_proportion() -> None:
    line = Timeline([(10.0, 20.0), (15.0, 30.0)])
    assert line.place(10.0, 20.0) == pytest.approx((0.0, 50.0))
    assert line.place(15.0, 30.0) == pytest.approx((25.0, 75.0))
    assert (line.begin, line.end, line.breaks) == (10.0, 30.0, [])


def test_a_short_idle_time_stays() -> None:
    line = Timeline([(0.0, 10.0), (11.0, 20.0)], [10.5])
    assert line.place(11.0, 20.0) == pytest.approx((55.0, 45.0))
    assert not line.breaks


def test_a_retry_after_an_hour_is_beside_the_first_try() -> None:
    line = Timeline([(0.0, 50.0), (3650.0, 3700.0)], [3640.0])
    (cut,) = line.breaks
    assert (cut.seconds, cut.at) == pytest.approx((3600.0, 50.0))
    left, width = line.place(3650.0, 3700.0)
    assert 51 < left < 52
    assert left + width == pytest.approx(100.0)


@pytest.mark.parametrize(
    "intervals", [pytest.param([], id="nothing"), pytest.param([(5.0, 5.0)], id="no-duration")]
)
def test_there_is_no_axis_without_time(intervals: list[tuple[float, float]]) -> None:
    assert not Timeline(intervals)


def test_an_idle_time_within_a_run_stays_for_tests_ran_then() -> None:
    line = Timeline([(0.0, 1.0), (60.0, 61.0)], [-5.0, 62.0])
    assert not line.breaks
    assert line.place(60.0, 61.0) == pytest.approx((6000 / 61, 100 / 61))


@given(times, st.lists(st.floats(0, 1e6), max_size=4))
def test_everything_lies_on_the_axis_and_in_order(
    intervals: list[tuple[float, float]], seams: list[float]
) -> None:
    line = Timeline(intervals, seams)
    if not line:
        return
    places = [(begin, end, *line.place(begin, end)) for begin, end in sorted(intervals)]
    assert all(left >= -1e-6 and left + width <= 100 + 1e-6 and width >= 0 for _, _, left, width in places)
    assert [left for *_, left, _ in places] == sorted(left for *_, left, _ in places)
    assert all(0 < cut.at < 100 and cut.seconds > 0 for cut in line.breaks)
