"""Budget, burn, streaks and suggestions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_ext.sla.trends.history import Past, budget_of, burn_rates, remark, suggest

DUE = datetime(2026, 3, 2, 5, 0, tzinfo=UTC)


def past(pattern: str) -> list[Past]:
    """Return a history, the newest first: ``.`` kept, ``x`` missed for good, digits late by so many times ten minutes."""
    return [
        Past(
            DUE - timedelta(days=number),
            letter == ".",
            None if letter == "x" else timedelta(minutes=-20 if letter == "." else 10 * int(letter)),
        )
        for number, letter in enumerate(pattern)
    ]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        pytest.param("", "no history yet", id="nothing"),
        pytest.param("x" + "." * 143, "first failure after 143 good runs", id="long-streak"),
        pytest.param("x.x.x", "missed 3 of the last 5", id="often"),
        pytest.param(".1.x" + "." * 6, "missed 2 of the last 5", id="late-counts"),
        pytest.param("x...", "missed the last one, 1 of 4 in all", id="short"),
        pytest.param("....x", "kept 4 times in a row", id="good"),
        pytest.param(".", "kept the last one", id="one"),
    ],
)
def test_a_history_is_put_into_words(pattern: str, words: str) -> None:
    assert remark(past(pattern)) == words


def test_a_budget_counts_the_occurrences_it_is_about() -> None:
    budget = budget_of("3 in 30", past("xx" + "." * 28 + "x" * 50))
    assert budget is not None
    assert (budget.used, round(budget.remaining, 3), budget.text) == (2, 0.333, "2 of 3 in 30 used")
    none = budget_of("0 in 10", past("x" * 2))
    assert none is not None
    assert none.remaining == -2
    assert budget_of("", past("x")) is None


def test_burn_needs_enough_to_say_anything() -> None:
    assert burn_rates("3 in 30", past("xx")) == {3: None, 10: None, 30: None}
    assert burn_rates("3 in 30", past("xx...")) == {3: pytest.approx(20 / 3), 10: pytest.approx(4), 30: None}
    assert burn_rates("3 in 30", past("xxx" + "." * 27)) == {
        3: pytest.approx(10),
        10: pytest.approx(3),
        30: pytest.approx(1),
    }
    assert set(burn_rates("0 in 10", past("x" * 30)).values()) == {None}


def test_a_deadline_is_suggested_that_most_of_the_history_would_have_kept() -> None:
    assert suggest(past("." * 9)) is None
    assert suggest(past("." * 40)) == timedelta(minutes=-20)
    assert suggest(past("4321" + "." * 36)) == timedelta(minutes=20)
    assert suggest(past("xxx" + "." * 37)) is None, "more than 5 % were never done"
