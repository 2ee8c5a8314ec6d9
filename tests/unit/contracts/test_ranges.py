"""Version ranges."""

from __future__ import annotations

import pytest

from airflow_ext.contracts import ContractRange


@pytest.mark.parametrize(
    ("text", "majors"),
    [
        pytest.param("daily_delays>=1,<2", (1,), id="one-major"),
        pytest.param("daily_delays>=1.4,<3", (1, 2), id="two-majors"),
        pytest.param("daily_delays >= 1, < 2", (1,), id="blanks"),
        pytest.param("daily_delays<2", (0, 1), id="no-lower-end"),
        pytest.param("daily_delays==2.*", (2,), id="wildcard"),
        pytest.param("daily_delays==2.1.0", (2,), id="exact"),
        pytest.param("daily_delays~=2.1", (2,), id="compatible"),
        pytest.param("daily_delays^2.1", (2,), id="caret"),
        pytest.param("daily_delays~2.1", (2,), id="tilde"),
        pytest.param("daily_delays>1.9,<=2.0", (1, 2), id="up-to-the-first"),
        pytest.param("urn:shop:orders>=1,<2", (1,), id="urn"),
    ],
)
def test_majors_of_a_range(text: str, majors: tuple[int, ...]) -> None:
    wanted = ContractRange.parse(text)
    assert wanted.majors == majors
    assert wanted.assets == tuple(f"contract/{wanted.id}/v{major}" for major in majors)


@pytest.mark.parametrize(
    ("version", "inside"),
    [("1.4.0", True), ("1.3.9", False), ("1.99.0", True), ("2.0.0", False), ("nonsense", False)],
)
def test_versions_in_a_range(version: str, inside: bool) -> None:
    assert (version in ContractRange.parse("orders>=1.4,<2")) is inside


def test_an_open_range_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"no upper end.*Write 'orders>=2,<3'"):
        ContractRange.parse("orders>=2")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("orders", "expected a contract id and a version range", id="no-range"),
        pytest.param(">=1,<2", "expected a contract id", id="no-id"),
        pytest.param("or/ders>=1,<2", "expected a contract id", id="slash"),
        pytest.param("orders>=one,<2", "is not a version range", id="words"),
        pytest.param("orders>=3,<2", "no version can satisfy", id="empty"),
        pytest.param("orders>=1.5,<1.4", "no version can satisfy", id="empty-within-a-major"),
        pytest.param("orders>=1,<500", "more than 20 major versions", id="wide"),
    ],
)
def test_a_range_that_cannot_be_used_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ContractRange.parse(text)
