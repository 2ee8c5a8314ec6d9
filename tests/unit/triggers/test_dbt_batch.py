"""Who builds what of nodes that were cleared without their build."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_ext.triggers import _dbt_batch
from airflow_ext.triggers._dbt_batch import (
    SETTLE_TIME,
    ClearedReading,
    ClearedView,
    Decision,
    Try,
    UnitTask,
    decide,
)

TASKS = {
    "g.a": UnitTask("a", frozenset()),
    "g.b": UnitTask("b", frozenset({"g.a"})),
    "g.c": UnitTask("c", frozenset({"g.b"})),
    "g.x": UnitTask("x", frozenset()),
}
MINE = Try(2, 100.0, run=90.0)
GOOD, BAD = {"state": "success"}, {"state": "failed"}


def view(batches: Any = None, **states: str) -> ClearedView:
    return ClearedView(
        {name: states.get(task.label, "success") for name, task in TASKS.items()},
        batches or {},
        lambda *_: True,
    )


def decision(me: str, seen: ClearedView, *, waited: float = 1.0, mine: Try = MINE) -> Decision:
    return decide(f"g.{me}", TASKS, seen, mine=mine, waited=waited)


def batch(*, at: float = 105.0, ended: bool = True, **units: Any) -> dict[str, Any]:
    return {"started": at, "ended": ended, "asked": ["a", "b", "c"], "units": units}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        pytest.param({"b": "deferred"}, {"b": ("b",)}, id="alone"),
        pytest.param(
            {"a": "deferred", "b": "deferred", "x": "deferred"},
            {"a": ("a", "b", "x")},
            id="the-first-builds-all",
        ),
        pytest.param({"a": "deferred", "b": "none"}, {}, id="waits-for-those-not-deferred-yet"),
        pytest.param({"a": "scheduled", "b": "deferred"}, {}, id="waits-for-those-on-their-way"),
        pytest.param({"b": "deferred", "x": "running"}, {}, id="waits-for-another-batch"),
        pytest.param(
            {"a": "failed", "b": "deferred", "x": "deferred"}, {"x": ("x",)}, id="not-below-a-failed-one"
        ),
        pytest.param(
            {"a": "failed", "b": "deferred", "c": "deferred", "x": "deferred"},
            {"x": ("x",)},
            id="nor-far-below",
        ),
    ],
)
def test_one_builds_for_all(states: dict[str, str], expected: dict[str, tuple[str, ...]]) -> None:
    waiting = [label for label, state in states.items() if state == "deferred"]
    decisions = {label: decision(label, view(**states)) for label in waiting}
    assert {label: one.units for label, one in decisions.items() if one.action == "build"} == expected


def test_what_is_not_deferred_for_long_is_left_out_and_builds_later() -> None:
    seen = view(a="deferred", b="none", c="deferred", x="deferred")
    assert decision("a", seen).action == "wait"
    assert decision("a", seen, waited=SETTLE_TIME) == Decision("build", units=("a", "x"))
    assert decision("c", seen, waited=SETTLE_TIME).action == "wait", "below one that is yet to be built"
    later = view({"g.a": batch(a=GOOD) | {"asked": ["a", "x"]}}, b="deferred", c="deferred")
    assert decision("b", later) == Decision("build", units=("b", "c"))


def test_below_a_failed_node_is_skipped() -> None:
    assert decision("b", view(a="failed", b="deferred")) == Decision("skip", by="g.a")


@pytest.mark.parametrize(
    ("state", "told", "expected"),
    [
        pytest.param("running", batch(ended=False), "wait", id="not-yet"),
        pytest.param("running", batch(ended=False, b=GOOD), "wait", id="good-waits-for-the-events"),
        pytest.param("running", batch(ended=False, b=BAD), "settle", id="bad"),
        pytest.param("success", batch(a=GOOD, b=GOOD), "settle", id="good"),
        pytest.param("failed", batch(a=BAD, b=GOOD, c=GOOD), "emit", id="the-first-good-one-emits"),
        pytest.param("failed", batch(ended=False, a=GOOD), "build", id="killed-before-it"),
        pytest.param("failed", batch(ended=False, a=GOOD, b=GOOD), "settle", id="killed-after-it"),
        pytest.param("deferred", batch(ended=False, a=GOOD, b=GOOD), "settle", id="began-anew-after-it"),
        pytest.param("success", batch(b=GOOD) | {"tries": {"b": 1}}, "build", id="of-an-earlier-try"),
        pytest.param("success", batch(at=50.0, b=GOOD) | {"tries": {"b": 2}}, "settle", id="clock-behind"),
        pytest.param("success", batch(at=91.0, b=GOOD), "settle", id="clock-a-little-behind"),
        pytest.param("success", batch(b=GOOD) | {"run": 80.0}, "build", id="before-the-run-was-cleared"),
        pytest.param("success", batch(at=50.0, b=GOOD), "build", id="of-an-earlier-clear"),
    ],
)
def test_who_was_built_for_ends_with_the_one_that_built(
    state: str, told: dict[str, Any], expected: str
) -> None:
    # Not by its parent: below a failed parent nothing is built.
    assert decision("b", view({"g.x": told}, x=state, b="deferred")).action == expected


def test_only_one_of_the_good_ones_emits_for_a_failed_builder() -> None:
    seen = view({"g.a": batch(a=BAD, b=GOOD, c=GOOD)}, a="failed", b="deferred", c="deferred")
    assert decision("c", seen).action == "settle"


@pytest.mark.parametrize(
    ("told", "emitter"),
    [
        pytest.param(batch(ended=False, a=GOOD, b=GOOD, c=GOOD), "b", id="killed"),
        pytest.param(batch(a=GOOD, b=GOOD, c=GOOD), "b", id="a-hook-failed"),
    ],
)
def test_a_builder_that_did_not_end_well_does_not_emit_and_one_other_does(
    told: dict[str, Any], emitter: str | None
) -> None:
    seen = view({"g.a": told}, a="failed", b="deferred", c="deferred")
    found = {label: decision(label, seen) for label in "bc"}
    assert [label for label, one in found.items() if one.action == "emit"] == ([emitter] if emitter else [])
    assert found["b"].by == "g.a"


def test_two_that_start_at_once_after_a_builder_began_anew_do_not_wait_for_each_other() -> None:
    # The builder was cleared while it ran and is not the first of those that wait.
    seen = view({"g.x": batch(ended=False)}, a="deferred", x="deferred")
    assert decision("a", seen) == Decision("build", units=("a", "x"))
    assert decision("x", seen).action == "wait"


def test_two_deciding_at_once_do_not_both_build() -> None:
    reading = ClearedReading("dag", "run", TASKS)
    states = {"g.a": "deferred", "g.b": "deferred"}
    assert [reading.choose(name, states) for name in ("g.b", "g.a", "g.b")] == [True, False, True]
    assert reading.choose("g.a", states | {"g.b": "running"})


def test_a_triggerer_that_takes_over_reads_who_built_before(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"g.a": "success", "g.b": "deferred", "g.c": "running", "g.x": "skipped"}
    asked: list[str] = []

    async def read_states(dag_id: str, run_id: str, names: list[str]) -> dict[str, str]:
        return dict(states)

    async def read_nodes(dag_id: str, run_id: str, name: str) -> dict[str, Any]:
        asked.append(name)
        return batch() if name == "g.a" else {}

    monkeypatch.setattr(_dbt_batch, "read_states", read_states)
    monkeypatch.setattr(_dbt_batch, "read_nodes", read_nodes)
    reading = ClearedReading("dag", "run", TASKS)
    assert set(asyncio.run(reading()).batches) == {"g.a"}
    assert set(asked) == {"g.a", "g.c"}
    asked.clear()
    states["g.c"] = "success"
    assert set(asyncio.run(reading()).batches) == {"g.a"}
    assert asked == ["g.c"], "once more after its end"


def test_who_built_while_airflow_could_not_be_read_is_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    told = batch(a=GOOD, b=GOOD)
    answers: list[Any] = [
        {"g.a": "queued", "g.b": "deferred"},
        ConnectionError("away"),
        {"g.a": "success", "g.b": "deferred"},
        {"g.a": "success", "g.b": "deferred"},
    ]
    nodes: list[Any] = [ConnectionError("away again"), told]

    async def read_states(*_: Any) -> Any:
        return _answer(answers)

    async def read_nodes(dag_id: str, run_id: str, name: str) -> Any:
        assert name == "g.a"
        return _answer(nodes)

    monkeypatch.setattr(_dbt_batch, "read_states", read_states)
    monkeypatch.setattr(_dbt_batch, "read_nodes", read_nodes)
    reading = ClearedReading("dag", "run", TASKS)
    assert decision("b", asyncio.run(reading())).action == "wait"
    for _ in range(2):
        with pytest.raises(ConnectionError):
            asyncio.run(reading())
    assert decision("b", asyncio.run(reading())) == Decision("settle", outcome=GOOD, by="g.a")
    assert answers == nodes == []


def _answer(answers: list[Any]) -> Any:
    answer = answers.pop(0)
    if isinstance(answer, Exception):
        raise answer
    return answer
