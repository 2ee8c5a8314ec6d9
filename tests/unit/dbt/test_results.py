from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_ext.dbt.index import DbtIndex, DbtNode
from airflow_ext.dbt.results import NodeBoard, NodeRecord, describe

MODEL = DbtNode("model.p.m", "m", "model", True, "m", (), ("test.p.a", "test.p.b"), "dbt/p/m")
SOURCE = DbtNode("source.p.s", "s", "source", False, "s", (), ("test.p.c",), "")
INDEX = DbtIndex(1, "k", "p", "1.11", "duckdb", (MODEL, SOURCE), ("test.p.lonely",))


def board(**statuses: str) -> NodeBoard:
    made = NodeBoard(INDEX)
    for name, status in statuses.items():
        kind = "model" if name == "m" else "test"
        made.add({"id": f"{kind}.p.{name}", "status": status, "message": f"{name} said {status}"})
    return made


@pytest.mark.parametrize(
    ("statuses", "over", "expected"),
    [
        pytest.param({}, False, None, id="not-yet"),
        pytest.param({"m": "success"}, False, None, id="waits-for-tests"),
        pytest.param({"m": "success", "a": "pass"}, False, None, id="waits-for-every-test"),
        pytest.param({"m": "success", "a": "pass", "b": "warn"}, False, "success", id="warnings-are-good"),
        pytest.param({"m": "success", "a": "pass", "b": "fail"}, False, "failed", id="test-failed"),
        pytest.param({"m": "error"}, False, "failed", id="failed-does-not-wait-for-tests"),
        pytest.param({"m": "success", "a": "pass"}, True, "success", id="test-that-never-ran"),
        pytest.param({"m": "skipped", "a": "skipped", "b": "skipped"}, False, "skipped", id="skipped"),
        pytest.param({"m": "skipped", "a": "fail", "b": "skipped"}, False, "failed", id="unit-test-failed"),
        pytest.param({"m": "success", "a": "pass", "b": "skipped"}, False, "success", id="test-skipped"),
    ],
)
def test_a_node_is_as_bad_as_the_worst_of_it(
    statuses: dict[str, str], over: bool, expected: str | None
) -> None:
    outcome = board(**statuses).outcomes(over=over).get("model.p.m")
    assert (outcome or {}).get("state") == expected


@pytest.mark.parametrize(
    ("status", "expected"), [("pass", "success"), ("fail", "failed"), ("skipped", "skipped")]
)
def test_a_source_is_what_its_tests_are(status: str, expected: str) -> None:
    assert board(c=status).outcomes(over=False)["source.p.s"]["state"] == expected


def test_a_failed_node_has_dbts_messages() -> None:
    outcome = board(m="success", a="fail", b="fail").outcomes(over=False)["model.p.m"]
    assert outcome["message"] == "test.p.a: a said fail\ntest.p.b: b said fail"


def test_a_next_try_runs_all_that_did_not_go_well() -> None:
    assert board(m="success", a="fail", b="pass").remaining() == ["test.p.a", "test.p.c", "test.p.lonely"]


def test_failures_that_no_node_shows_are_told_apart() -> None:
    made = board(m="error")
    made.add({"id": "test.p.lonely", "status": "fail"})
    assert made.uncovered_failures() == ["test.p.lonely"]
    assert made.failed() == ["model.p.m", "test.p.lonely"]


def test_only_nodes_that_ran_count_as_built() -> None:
    assert board(m="success", c="pass").built() == [MODEL]
    assert board(m="error", c="pass").built() == []


def test_stored_records_survive_json_and_lose_only_messages() -> None:
    made = board(m="success", a="pass")
    made.add({"id": "model.p.m", "status": "success", "rows": 3, "seconds": 0.1, "message": "OK"})
    stored: dict[str, NodeRecord] = json.loads(json.dumps(made.stored()))
    assert stored == {
        "model.p.m": {"status": "success", "rows": 3, "seconds": 0.1},
        "test.p.a": {"status": "pass"},
    }
    assert NodeBoard(INDEX, stored).remaining() == ["test.p.b", "test.p.c", "test.p.lonely"]


def test_failures_of_an_earlier_try_are_forgotten() -> None:
    made = NodeBoard(INDEX, {"model.p.m": {"status": "success"}, "test.p.a": {"status": "fail"}})
    assert made.failed() == []
    assert "model.p.m" not in made.outcomes(over=False)


def test_without_an_index_only_failures_are_known() -> None:
    made = NodeBoard(None)
    made.add({"id": "model.p.m", "status": "error"})
    assert (made.failed(), made.remaining(), made.built(), made.outcomes(over=True)) == (
        ["model.p.m"],
        [],
        [],
        {},
    )


def test_a_description_has_the_facts_on_one_line() -> None:
    outcome: Any = {
        "state": "failed",
        "started": "t",
        "seconds": 1.5,
        "rows": 3,
        "tests": {"pass": 2},
        "message": "why",
    }
    assert describe("model.p.m", outcome) == (
        "model.p.m: failed; started t, took 1.50 s; 3 rows; tests: 2 pass\nwhy"
    )
