from __future__ import annotations

from typing import Any

import pytest

from airflow_ext.dbt.index import DbtIndex
from airflow_ext.dbt.selection import (
    Answers,
    Resolved,
    Selection,
    decode_answers,
    encode_answers,
    find_selected,
    select_ids,
)
from airflow_ext.exceptions import InvalidProjectError
from tests.unit.dbt.manifests import model, read, resource, source


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({"select": "a  b"}, {"select": ["b", "a"]}, id="string-and-list"),
        pytest.param({"select": " +tag:x,config.y:z\n"}, {"select": ["+tag:x,config.y:z"]}, id="blanks"),
        pytest.param({"select": ["a b", "a"]}, {"select": ("a", "b")}, id="twice"),
        pytest.param({"exclude": "a"}, {"exclude": ["a"]}, id="exclude"),
        pytest.param({"selector": " nightly "}, {"selector": "nightly"}, id="selector"),
    ],
)
def test_the_same_selection_is_known_in_every_form(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert Selection.of(**first).key == Selection.of(**second).key


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({"select": "a b"}, {"select": "a,b"}, id="or-is-not-and"),
        pytest.param({"select": "a"}, {"exclude": "a"}, id="exclude"),
        pytest.param({"select": "a"}, {"select": "a", "indirect": "empty"}, id="indirect"),
        pytest.param({"select": "nightly"}, {"selector": "nightly"}, id="selector"),
    ],
)
def test_different_selections_are_not_confused(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert Selection.of(**first).key != Selection.of(**second).key


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"select": ""}, "select='' names nothing", id="empty"),
        pytest.param({"exclude": [" "]}, "names nothing", id="blank"),
        pytest.param({"select": "a", "selector": "n"}, "dbt ignores the latter two", id="both"),
        pytest.param({"selector": " "}, "selector=' '", id="blank-selector"),
        pytest.param({"select": "a", "indirect": "all"}, "eager, cautious, buildable, empty", id="mode"),
    ],
)
def test_a_wrong_selection_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProjectError, match=message):
        Selection.of(**given)


@pytest.mark.parametrize(
    "value", [pytest.param(["a", 1], id="number"), pytest.param({"a": None, 2: 3}, id="dict")]
)
def test_terms_are_strings(value: Any) -> None:
    with pytest.raises(TypeError, match="select="):
        Selection.of(value)


def test_a_selection_is_handed_to_dbt_in_its_own_words() -> None:
    selection = Selection.of(["+a", "tag:b"], "c", indirect="cautious")
    words = ["--select", "+a tag:b", "--exclude", "c", "--indirect-selection", "cautious"]
    assert selection.arguments() == words
    assert str(selection) == "--select '+a tag:b' --exclude c --indirect-selection cautious"
    assert Selection.of(selector="n").arguments() == ["--selector", "n"]
    assert Selection.of().arguments() == []


@pytest.fixture
def graph() -> DbtIndex:
    return read(
        source("s"),
        resource("test", "s_ok", "source.p.raw.s", attached_node="source.p.raw.s"),
        resource("model", "a", "source.p.raw.s"),
        model("b", "a"),
        model("c", "b"),
        resource("test", "a_ok", "model.p.a", attached_node="model.p.a"),
        resource("test", "c_like_a", "model.p.c", "model.p.a", attached_node="model.p.c"),
        resource("test", "lonely"),
        resource("exposure", "board", "model.p.c"),
    )


def shown(index: DbtIndex) -> dict[str, tuple[bool, tuple[str, ...], tuple[str, ...]]]:
    return {
        node.unique_id.removeprefix("model.p."): (node.runs, node.parents, node.tests)
        for node in (*index.nodes, *index.extras)
    }


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        pytest.param(
            ["model.p.a", "model.p.c"],
            {"a": (True, (), ()), "c": (True, ("model.p.a",), ())},
            id="edges-through-what-is-left-out",
        ),
        pytest.param(
            ["model.p.a", "test.p.c_like_a"],
            {"a": (True, (), ("test.p.c_like_a",))},
            id="a-test-moves-to-a-selected-node",
        ),
        pytest.param(
            ["test.p.c_like_a"],
            {"c": (False, (), ("test.p.c_like_a",))},
            id="a-test-alone-is-shown-at-its-node",
        ),
        pytest.param(
            ["source.p.raw.s", "test.p.s_ok"],
            {"source.p.raw.s": (False, (), ("test.p.s_ok",))},
            id="a-source-for-its-tests",
        ),
        pytest.param(
            ["source.p.raw.s", "model.p.b"],
            {"b": (True, (), ()), "source.p.raw.s": (False, (), ())},
            id="a-source-without-them-is-an-extra",
        ),
        pytest.param(
            ["model.p.b", "exposure.p.board"],
            {"b": (True, (), ()), "exposure.p.board": (False, ("model.p.b",), ())},
            id="an-exposure",
        ),
    ],
)
def test_a_selection_is_a_graph_of_its_own(
    graph: DbtIndex, ids: list[str], expected: dict[str, tuple[bool, tuple[str, ...], tuple[str, ...]]]
) -> None:
    assert shown(select_ids(graph, ids)) == expected


def test_what_is_selected_is_what_a_build_runs(graph: DbtIndex) -> None:
    everything = [node.unique_id for node in (*graph.nodes, *graph.extras)]
    tests = [test.unique_id for test in graph.tests]
    assert shown(select_ids(graph, everything + tests)) == shown(graph)
    ids = ["model.p.a", "model.p.c", "test.p.c_like_a", "test.p.lonely"]
    part = select_ids(graph, ids)
    assert sorted(part.executed()) == ids
    assert part.orphan_tests == ("test.p.lonely",)
    assert {test.task_id for test in part.tests} == {"c_like_a", "lonely"}


def test_a_node_that_only_shows_a_test_is_no_asset(graph: DbtIndex) -> None:
    (node,) = select_ids(graph, ["test.p.a_ok"]).nodes
    assert (node.runs, node.asset) == (False, "")


def test_each_selection_has_a_key_of_its_own(graph: DbtIndex) -> None:
    keys = {graph.key, select_ids(graph, ["model.p.a"]).key, select_ids(graph, ["model.p.b"]).key}
    assert len(keys) == 3


def find(graph: DbtIndex, *answers: Answers, select: str = "a") -> DbtIndex:
    return find_selected(graph, Selection.of(select), answers, source="m.json", remedy="do this")


def test_the_answer_for_the_manifest_in_place_is_taken(graph: DbtIndex) -> None:
    new = Answers("new", (Resolved(Selection.of("a"), ("model.p.b",)),))
    old = Answers("k", (Resolved(Selection.of("a"), ("model.p.a",)),))
    assert [node.name for node in find(graph, new, old).nodes] == ["a"]


def test_a_selection_that_was_never_resolved_names_the_command(graph: DbtIndex) -> None:
    with pytest.raises(InvalidProjectError, match=r"--select a is not resolved yet for m\.json; .* do this"):
        find(graph, Answers("k"))


def test_a_selection_that_only_a_run_can_resolve_is_not_sent_to_the_command(graph: DbtIndex) -> None:
    with pytest.raises(
        InvalidProjectError, match=r"^--select state:modified\+: .* depends on a run"
    ) as caught:
        find(graph, Answers("k"), select="state:modified+")
    assert "do this" not in str(caught.value)


def test_a_selection_of_another_manifest_names_the_command(graph: DbtIndex) -> None:
    other = Answers("other", (Resolved(Selection.of("a"), ("model.p.a",)),))
    with pytest.raises(
        InvalidProjectError, match=r"was resolved for another manifest than m\.json; .* do this"
    ):
        find(graph, other)


@pytest.mark.parametrize(
    "ids", [pytest.param((), id="none"), pytest.param(("metric.p.m",), id="nothing-built")]
)
def test_an_empty_selection_names_what_selects_nothing(graph: DbtIndex, ids: tuple[str, ...]) -> None:
    selection = Selection.of("a", "b")
    with pytest.raises(InvalidProjectError, match="selected by select='a' and exclude='b'"):
        find_selected(graph, selection, [Answers("k", (Resolved(selection, ids),))], source="m", remedy="-")


def test_answers_survive_their_file() -> None:
    answers = Answers("k", (Resolved(Selection.of(["a", "b"], indirect="empty"), ("model.p.a",)),))
    assert decode_answers(encode_answers([answers])) == (answers,)


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 99, "answers": []}', b"[1]", b"\xff"])
def test_a_file_of_something_else_has_no_answers(content: bytes) -> None:
    assert decode_answers(content) == ()
