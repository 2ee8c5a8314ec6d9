"""What the page makes of what tasks have told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from airflow_ext.web.dbt_nodes import Nodes, collect, read, slowest_first


def told(units: Any, *, started: float = 100.0, **more: Any) -> Any:
    payload = read(
        {"try": 1, "last": True, "ended": True, "started": started, "at": started + 5, "units": units, **more}
    )
    assert payload is not None
    return payload


def unit(
    name: str = "a", *, state: str = "success", status: str | None = "success", **more: Any
) -> dict[str, Any]:
    line = [
        f"model.p.{name}",
        status,
        more.pop("at", None),
        more.pop("seconds", None),
        None,
        more.pop("tests", None),
    ]
    return {"state": state, "nodes": [line], **more}


def nodes(units: Any, **others: Any) -> Nodes:
    return collect(told(units), others, build_task="g.build")


@pytest.mark.parametrize(
    ("status", "tests", "state"),
    [
        pytest.param("success", None, "success", id="built"),
        pytest.param("success", {"pass": 3}, "success", id="tested"),
        pytest.param("success", {"pass": 3, "warn": 1}, "warned", id="a-test-warns"),
        pytest.param("success", {"pass": 3, "warn": 1, "fail": 1}, "failed", id="a-test-fails"),
        pytest.param("success", {"error": 1}, "failed", id="a-test-breaks"),
        pytest.param("error", None, "failed", id="broken"),
        pytest.param("runtime error", None, "failed", id="stale-source"),
        pytest.param("warn", None, "warned", id="source-warns"),
        pytest.param("skipped", None, "skipped", id="skipped"),
        pytest.param("skipped", {"fail": 1}, "failed", id="unit-test-fails"),
        pytest.param("reused", None, "success", id="reused"),
    ],
)
def test_a_node_is_as_bad_as_its_worst_test(status: str, tests: dict[str, int] | None, state: str) -> None:
    (row,) = nodes({"a": unit(status=status, tests=tests)}).rows
    assert (row.state, row.status) == (state, status)


@pytest.mark.parametrize("state", ["success", "skipped", "failed"])
def test_a_node_that_does_not_run_has_its_units_state(state: str) -> None:
    (row,) = nodes(
        {"report": {"state": state, "nodes": [["exposure.p.report", None, None, None, None, None]]}}
    ).rows
    assert (row.state, row.started, row.left) == (state, None, None)


@pytest.mark.parametrize(
    ("unique_id", "kind", "name"),
    [
        pytest.param("model.shop.orders", "model", "orders", id="model"),
        pytest.param("model.shop.orders.v2", "model", "orders.v2", id="version"),
        pytest.param("source.shop.raw.orders", "source", "raw.orders", id="source"),
        pytest.param("test.shop.unique_orders_id.5f2a", "test", "unique_orders_id", id="test"),
        pytest.param("unit_test.shop.orders.adds_up", "unit_test", "orders.adds_up", id="unit-test"),
        pytest.param("odd", "odd", "odd", id="no-dots"),
        pytest.param("a.b", "a", "b", id="one-dot"),
        pytest.param("", "", "", id="empty"),
    ],
)
def test_an_id_is_shown_as_kind_and_name(unique_id: str, kind: str, name: str) -> None:
    (row,) = nodes({"x": {"state": "success", "nodes": [[unique_id]]}}).rows
    assert (row.kind, row.name) == (kind, name)


def test_rows_are_in_the_order_in_which_dbt_began_them() -> None:
    found = nodes(
        {
            "late": unit("late", at="2026-01-01T00:00:09Z", seconds=1),
            "never": unit("never", status="skipped", state="skipped"),
            "early": unit("early", at="2026-01-01T00:00:01.5Z", seconds=2),
        }
    )
    assert [row.name for row in found.rows] == ["early", "late", "never"]
    assert [row.name for row in slowest_first(found.rows)] == ["early", "late", "never"]
    assert found.counts() == {"skipped": 1, "success": 2}
    assert found.rows[0].left == 0
    assert found.rows[1].left == pytest.approx(100 - found.rows[1].width)


def test_what_was_skipped_has_no_time() -> None:
    (row,) = nodes(
        {"a": unit(state="skipped", status="skipped", at="2026-01-01T00:00:00Z", seconds=0.0)}
    ).rows
    assert (row.started, row.seconds, row.left) == (None, None, None)


def test_what_was_built_again_replaces_what_the_build_told() -> None:
    again = told({"a": unit(tests={"pass": 1})}, started=200.0, asked=["a"])
    found = nodes({"a": unit(state="failed", status="error"), "b": unit("b")}, **{"g.a": again})
    assert found.by == {"a": "g.a", "b": "g.build"}
    assert found.states == {"a": "success", "b": "success"}
    assert not found.failures


def test_what_was_built_again_before_this_build_is_forgotten() -> None:
    old = told({"a": unit(state="failed", status="error")}, started=50.0, asked=["a"])
    assert nodes({"a": unit()}, **{"g.a": old}).by == {"a": "g.build"}


def test_of_two_that_built_again_the_later_counts() -> None:
    first = told({"a": unit(state="failed", status="error")}, started=200.0, asked=["a"])
    second = told({"a": unit()}, started=300.0, asked=["a"])
    assert nodes({}, **{"g.b": second, "g.a": first}).by == {"a": "g.b"}


def test_one_units_page_has_only_its_nodes_on_the_axis_of_all() -> None:
    units = {
        "a": unit("a", at="2026-01-01T00:00:01Z", seconds=1),
        "b": unit("b", at="2026-01-01T00:10:00Z", seconds=4, failures=[{"id": "model.p.b"}]),
    }
    found = collect(told(units), {}, build_task="g.build", only="b")
    (row,) = found.rows
    assert row.name == "b"
    assert (row.left, row.width) == pytest.approx((100 * 599 / 603, 100 * 4 / 603))
    assert [failure.name for failure in found.failures] == ["b"]


def test_failures_that_are_only_counted_are_said_to_be_more() -> None:
    failures = [{"id": f"test.p.t{number}.0", "status": "fail", "rows": 3} for number in range(20)]
    found = nodes({"a": unit(state="failed", tests={"fail": 25}, failures=failures)})
    assert (len(found.failures), found.untold) == (20, 5)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="nothing"),
        pytest.param("s3://bucket/xcom.json", id="reference-of-a-backend"),
        pytest.param([1, 2], id="list"),
        pytest.param({}, id="empty"),
        pytest.param({"started": 1, "at": 2, "ended": True, "units": []}, id="units-as-list"),
        pytest.param(
            {"started": 1, "at": 2, "ended": True, "units": {"a": {"state": 5}}}, id="state-as-number"
        ),
        pytest.param(
            {"started": 1, "at": 2, "ended": True, "units": {"a": {"state": "success", "nodes": [7]}}},
            id="odd-node",
        ),
        pytest.param({"started": "soon", "at": 2, "ended": True, "units": {}}, id="odd-time"),
        pytest.param({"started": 1e30, "at": 2, "ended": True, "units": {}}, id="far-time"),
        pytest.param({"started": math.nan, "at": 2, "ended": True, "units": {}}, id="no-time"),
    ],
)
def test_what_is_not_ours_is_not_read(value: object) -> None:
    assert read(value) is None


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        pytest.param("yesterday", 1.0, id="no-date"),
        pytest.param("9999-12-31T23:59:59Z", 10.0, id="end-of-time"),
        pytest.param("0001-01-01T00:00:00+14:00", 10.0, id="begin-of-time"),
        pytest.param("2026-01-01T00:00:00Z", math.inf, id="endless"),
        pytest.param("2026-01-01T00:00:00Z", math.nan, id="no-number"),
        pytest.param("2026-01-01T00:00:00Z", -5.0, id="negative"),
    ],
)
def test_an_impossible_time_is_left_out_and_the_rest_is_shown(at: str, seconds: float) -> None:
    found = nodes({"a": unit(at=at, seconds=seconds), "b": unit("b", at="2026-01-01T00:00:00", seconds=2)})
    rows = {row.name: row for row in found.rows}
    assert rows["a"].left is None
    assert (rows["b"].left, rows["b"].width) == (0.0, 100.0)


def test_thousands_of_nodes_are_collected_quickly() -> None:
    import time

    units = {
        f"n{number}": unit(
            f"n{number}", at=f"2026-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}Z", seconds=3
        )
        for number in range(5_000)
    }
    payload = told(units)
    begun = time.process_time()
    assert len(collect(payload, {}, build_task="g.build").rows) == 5_000
    assert time.process_time() - begun < 2
