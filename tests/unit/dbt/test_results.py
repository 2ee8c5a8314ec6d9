from __future__ import annotations

from typing import Any

import pytest

from airflow_ext.dbt.index import DbtIndex, DbtNode
from airflow_ext.dbt.results import FAILURE_LIMIT, SQL_LIMIT, NodeBoard, unpacked
from airflow_ext.dbt.telling import describe
from airflow_ext.dbt.units import DbtUnit

MODEL = DbtNode("model.p.m", "m", "model", True, "m", (), ("test.p.a", "test.p.b"), "dbt/p/m")
SOURCE = DbtNode("source.p.s", "s", "source", False, "s", (), ("test.p.c",), "")
CHILD = DbtNode("model.p.n", "n", "model", True, "n", ("model.p.m",), (), "dbt/p/n")
EXPOSURE = DbtNode("exposure.p.e", "e", "exposure", False, "e", ("model.p.n",), (), "")
INDEX = DbtIndex(
    1, "k", "p", "1.11", "duckdb", (MODEL, SOURCE, CHILD), ("test.p.lonely",), extras=(EXPOSURE,)
)


def unit(label: str, *nodes: DbtNode, parents: tuple[str, ...] = ()) -> DbtUnit:
    tests = tuple(test for node in nodes for test in node.tests)
    return DbtUnit(label, "node" if len(nodes) == 1 else "folder", nodes, tests, parents)


M, S, N = unit("m", MODEL), unit("s", SOURCE), unit("n", CHILD, parents=("m",))
E = unit("e", EXPOSURE, parents=("n",))


def board(**statuses: str) -> NodeBoard:
    made = NodeBoard(INDEX)
    tell(made, **statuses)
    return made


def tell(made: NodeBoard, **statuses: str) -> None:
    for name, status in statuses.items():
        kind = {"m": "model", "n": "model", "s": "source"}.get(name, "test")
        made.add({"id": f"{kind}.p.{name}", "status": status, "message": f"{name} said {status}"})


def state(made: NodeBoard, one: DbtUnit, *, over: bool = False) -> str | None:
    return made.outcomes([one], over=over).get(one.label, {}).get("state")


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
    assert state(board(**statuses), M, over=over) == expected


@pytest.mark.parametrize(
    ("statuses", "over", "expected"),
    [
        pytest.param({"m": "success", "a": "pass", "b": "pass"}, False, None, id="waits-for-all-nodes"),
        pytest.param(
            {"m": "success", "a": "pass", "b": "pass", "n": "success"}, False, "success", id="all-good"
        ),
        pytest.param({"m": "error"}, False, None, id="a-failure-waits-for-the-rest"),
        pytest.param({"m": "error", "n": "skipped"}, False, "failed", id="failed-and-skipped"),
        pytest.param(
            {"m": "success", "a": "pass", "b": "pass", "n": "skipped"}, False, "skipped", id="part-skipped"
        ),
        pytest.param({"n": "success"}, True, "success", id="over-counts-what-there-is"),
        pytest.param({}, True, None, id="nothing-was-reached"),
    ],
)
def test_a_folder_is_as_bad_as_the_worst_of_its_nodes(
    statuses: dict[str, str], over: bool, expected: str | None
) -> None:
    assert state(board(**statuses), unit("f", MODEL, CHILD), over=over) == expected


@pytest.mark.parametrize(
    ("status", "expected"), [("pass", "success"), ("fail", "failed"), ("skipped", "skipped")]
)
def test_a_source_is_what_its_tests_are(status: str, expected: str) -> None:
    assert state(board(c=status), S) == expected


def test_a_stale_source_is_failed() -> None:
    assert state(board(s="error", c="pass"), S) == "failed"


@pytest.mark.parametrize(
    ("status", "expected"), [("pass", "success"), ("fail", "failed"), ("skipped", "skipped")]
)
def test_a_test_may_be_a_unit_of_its_own(status: str, expected: str) -> None:
    alone = DbtUnit("a", "test", (), ("test.p.a",), ("m",))
    assert state(board(), alone) is None
    assert state(board(a=status), alone) == expected


@pytest.mark.parametrize(("status", "expected"), [("success", "success"), ("skipped", "skipped")])
def test_an_exposure_is_what_it_stands_on(status: str, expected: str) -> None:
    made = board(n=status)
    assert "e" not in made.outcomes([N, E], over=False)
    assert made.outcomes([N, E], over=True)["e"]["state"] == expected


def test_a_source_that_has_nothing_to_run_does_not_wait_for_the_build() -> None:
    bare = DbtUnit("s", "node", (SOURCE,), (), ())
    assert board().outcomes([bare, E], over=False).keys() == {"s"}
    made = board()
    made.awaited = frozenset({SOURCE.unique_id})
    assert made.outcomes([bare], over=False) == {}


def test_failures_have_dbts_messages_rows_and_sql() -> None:
    made = board(m="success", b="pass")
    made.add(
        {
            "id": "test.p.a",
            "status": "fail",
            "message": "Got 3 results",
            "failures": 3,
            "compiled": "s" * 9_000,
        }
    )
    failures = made.outcomes([M], over=False)["m"]["failures"]
    assert failures == [
        {
            "id": "test.p.a",
            "status": "fail",
            "message": "Got 3 results",
            "rows": 3,
            "compiled": "s" * SQL_LIMIT,
        }
    ]


def test_what_no_database_takes_is_not_told_on() -> None:
    made = board()
    made.add(
        {"id": "model.p.m", "status": "error", "message": "a\0b \ud83d \U0001f511", "compiled": "select '\0'"}
    )
    [failure] = made.outcomes([M], over=True)["m"]["failures"]
    assert failure["message"] == "a\ufffdb ? \U0001f511"
    assert failure["compiled"] == "select '\ufffd'"


def test_a_warning_is_told_by_name_though_all_is_well() -> None:
    made = board(m="success", a="pass")
    made.add({"id": "test.p.b", "status": "warn", "message": "Got 2 results", "failures": 2})
    outcome = made.outcomes([M], over=False)["m"]
    assert outcome["state"] == "success"
    assert "failures" not in outcome
    assert outcome["warnings"] == [
        {"id": "test.p.b", "status": "warn", "message": "Got 2 results", "rows": 2}
    ]
    assert describe("m", outcome).splitlines() == [
        "model.p.m: success; tests: 1 pass, 1 warn",
        "Warning: test.p.b (2 failing rows): Got 2 results",
    ]


def test_a_task_of_a_test_says_that_it_warns() -> None:
    alone = DbtUnit("b", "test", (), ("test.p.b",), ())
    outcome = board(b="warn").outcomes([alone], over=False)["b"]
    assert describe("b", outcome).splitlines() == ["test.p.b: warn", "Warning: test.p.b: b said warn"]


def test_a_node_with_hundreds_of_failed_tests_tells_some() -> None:
    names = [f"test.p.t{number}" for number in range(300)]
    node = DbtNode("model.p.w", "w", "model", True, "w", (), tuple(names), "")
    made = NodeBoard(DbtIndex(1, "k", "p", "1.11", "duckdb", (node,), ()))
    for name in ("model.p.w", *names):
        made.add({"id": name, "status": "success" if name == "model.p.w" else "fail"})
    outcome = made.outcomes([unit("w", node)], over=False)["w"]
    assert len(outcome["failures"]) == FAILURE_LIMIT
    assert outcome["nodes"][0][5] == {"fail": 300}


def test_a_next_try_runs_all_that_did_not_go_well() -> None:
    made = board(m="success", a="fail", b="pass", n="skipped")
    assert made.remaining() == ["model.p.n", "test.p.a", "test.p.c", "test.p.lonely"]


@pytest.mark.parametrize(
    ("command", "without", "expected"),
    [
        ("run", (), ["model.p.m", "model.p.n"]),
        ("test", (), ["test.p.a", "test.p.b", "test.p.c", "test.p.lonely"]),
        ("build", ("test", "unit_test"), ["model.p.m", "model.p.n"]),
        ("seed", (), []),
    ],
)
def test_each_command_has_its_work(command: str, without: tuple[str, ...], expected: list[str]) -> None:
    assert NodeBoard(INDEX, command=command, without=without).work() == expected


def test_failed_tests_that_are_not_retried_stand_with_what_is_below_them() -> None:
    first = NodeBoard(INDEX, keep_failed_tests=True)
    tell(first, m="success", a="fail", b="pass", n="skipped", c="error", lonely="pass")
    assert not first.worth_retrying()
    second = NodeBoard(INDEX, unpacked(first.packed()), keep_failed_tests=True)
    assert second.remaining() == []
    assert state(second, M) == "failed"
    tell(first, m="error", a="skipped", b="skipped")
    assert first.worth_retrying()
    assert NodeBoard(INDEX, unpacked(first.packed()), keep_failed_tests=True).remaining() == [
        "model.p.m",
        "model.p.n",
        "test.p.a",
        "test.p.b",
    ]


@pytest.mark.parametrize(
    ("bad", "expected"), [({}, True), ({"operation.p.hook": "error"}, True), ({"test.p.a": "fail"}, False)]
)
def test_a_retry_is_worth_it_if_it_would_run_something(bad: dict[str, str], expected: bool) -> None:
    made = NodeBoard(INDEX, keep_failed_tests=True)
    tell(made, m="success", n="success", a="pass", b="pass", c="pass", lonely="pass")
    for name, status in bad.items():
        made.add({"id": name, "status": status})
    assert made.worth_retrying() is expected


def test_failures_that_no_node_shows_are_told_apart() -> None:
    made = board(m="error")
    made.add({"id": "test.p.lonely", "status": "fail"})
    assert made.uncovered_failures() == ["test.p.lonely"]
    assert made.failed() == ["model.p.m", "test.p.lonely"]


def test_what_was_built_but_is_not_in_the_manifest_is_told_apart() -> None:
    made = board(m="success", a="pass")
    made.add({"id": "model.p.new", "status": "success"})
    made.add({"id": "operation.p.hook", "status": "success"})
    assert made.unknown() == ["model.p.new"]
    assert NodeBoard(None, {"model.p.new": {"status": "success"}}).unknown() == []


def test_a_source_waits_for_its_freshness_in_each_try() -> None:
    made = NodeBoard(INDEX, {"test.p.c": {"status": "pass"}})
    made.awaited = frozenset({"source.p.s"})
    assert state(made, S) is None, "the test of an earlier try says nothing of how fresh it is now"
    assert state(made, S, over=True) == "success"
    tell(made, s="error")
    assert state(made, S) == "failed"


def test_a_build_that_ended_well_keeps_what_was_bad_beside_it() -> None:
    made = NodeBoard(INDEX, {"source.p.s": {"status": "error"}}, ended=True)
    assert state(made, S, over=True) == "failed"


def test_a_node_whose_tests_were_skipped_has_no_event() -> None:
    assert board(m="success", a="pass", b="skipped").good() == {}
    assert board(m="success", a="pass").good() == {}, "dbt stopped before its other test"
    untested = NodeBoard(INDEX, without=("test",))
    tell(untested, m="success")
    assert untested.good() == {"model.p.m": {}}


def test_only_nodes_that_ran_and_whose_tests_are_good_are_good() -> None:
    assert board(m="success", a="pass", b="warn").good() == {"model.p.m": {"tests": {"pass": 1, "warn": 1}}}
    assert board(m="success", a="fail").good() == {}
    assert board(m="error", c="pass").good() == {}
    reused = board(m="reused", a="pass", b="pass")
    assert (reused.good(), state(reused, M)) == ({}, "success"), "dbt 2 has not built it"


def test_packed_records_lose_only_what_people_read() -> None:
    made = board(m="success", a="pass")
    made.add({"id": "model.p.m", "status": "success", "rows": 3, "seconds": 0.1, "message": "OK"})
    stored = unpacked(made.packed())
    assert stored == {
        "model.p.m": {"status": "success", "rows": 3, "seconds": 0.1},
        "test.p.a": {"status": "pass"},
    }
    assert NodeBoard(INDEX, stored).remaining() == ["model.p.n", "test.p.b", "test.p.c", "test.p.lonely"]


def test_batches_that_went_well_are_kept_until_their_model_is_good() -> None:
    made, batches = (
        board(),
        {"successful": [["2026-01-01", "2026-01-02"]], "failed": [["2026-01-02", "2026-01-03"]]},
    )
    made.add({"id": "model.p.m", "status": "partial success", "batches": batches})
    second = NodeBoard(INDEX, unpacked(made.packed()))
    assert second.batches == {"model.p.m": batches}
    # A try that was killed before it came to the model knows them still.
    third = NodeBoard(INDEX, unpacked(second.packed()))
    assert third.batches == {"model.p.m": batches}
    assert "model.p.m" in third.remaining()
    third.add({"id": "model.p.m", "status": "success"})
    assert third.batches == {}


def test_packed_records_of_five_thousand_nodes_fit_the_state_store() -> None:
    made = NodeBoard(None)
    for number in range(5_000):
        started = f"2026-11-21T05:{number % 60:02d}:11.{number:06d}Z"
        made.add(
            {
                "id": f"model.shop.m{number}",
                "status": "success",
                "rows": number * 7,
                "seconds": number % 97 / 100,
                "started": started,
            }
        )
    assert len(made.packed()) < 65_000


def test_failures_of_an_earlier_try_are_forgotten() -> None:
    made = NodeBoard(INDEX, {"model.p.m": {"status": "success"}, "test.p.a": {"status": "fail"}})
    assert made.failed() == []
    assert made.outcomes([M], over=False) == {}


def test_without_an_index_only_failures_are_known() -> None:
    made = NodeBoard(None)
    made.add({"id": "model.p.m", "status": "error"})
    assert (made.failed(), made.remaining(), made.good()) == (["model.p.m"], [], {})


def test_a_description_has_the_facts_on_one_line_then_message_and_sql() -> None:
    outcome: Any = {
        "state": "failed",
        "nodes": [["model.p.m", "success", "t", 1.5, 3, {"pass": 2, "fail": 1}]],
        "failures": [
            {"id": "test.p.a", "status": "fail", "message": "why", "rows": 4, "compiled": "\nselect 1\n"}
        ],
    }
    assert describe("m", outcome).splitlines() == [
        "model.p.m: failed; started t, took 1.50 s; 3 rows; tests: 2 pass, 1 fail",
        "test.p.a (4 failing rows): why",
        "Compiled SQL of test.p.a:",
        "select 1",
    ]


def test_a_description_of_a_folder_names_its_nodes() -> None:
    outcome: Any = {
        "state": "skipped",
        "nodes": [
            ["model.p.m", "success", "t", 1.5, None, None],
            ["model.p.n", "skipped", None, None, None, None],
        ],
    }
    assert describe("marts", outcome).splitlines() == [
        "marts: skipped, 2 nodes",
        "model.p.m: success; started t, took 1.50 s",
        "model.p.n: skipped",
    ]
