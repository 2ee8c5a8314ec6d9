from __future__ import annotations

import msgspec
import pytest

from airflow_ext.dbt.manifest import read_index
from airflow_ext.exceptions import InvalidProjectError
from tests.unit.dbt.manifests import model, read, resource, source


def test_ephemeral_models_have_no_task_and_edges_go_through_them() -> None:
    index = read(model("a"), model("b", "a", config={"materialized": "ephemeral"}), model("c", "b"))
    assert [(node.name, node.parents) for node in index.nodes] == [("a", ()), ("c", ("model.p.a",))]


def test_a_test_is_shown_where_it_is_written_else_at_its_last_parent() -> None:
    index = read(
        model("a"),
        model("b", "a"),
        resource("test", "singular", "model.p.a", "model.p.b"),
        resource("test", "generic", "model.p.a", "model.p.b", attached_node="model.p.a"),
    )
    assert {node.name: node.tests for node in index.nodes} == {
        "a": ("test.p.generic",),
        "b": ("test.p.singular",),
    }
    assert {test.task_id: test.parents for test in index.tests} == {
        "singular": ("model.p.a", "model.p.b"),
        "generic": ("model.p.a", "model.p.b"),
    }


def test_a_source_is_a_node_for_its_tests_else_an_extra() -> None:
    test = resource("test", "t", "source.p.raw.tested")
    made = resource("model", "m", "source.p.raw.tested", "source.p.raw.plain")
    index = read(test, made, source("tested"), source("plain"))
    found = {node.task_id: (node.runs, node.parents, node.sources) for node in index.nodes}
    assert found == {
        "source__raw__tested": (False, (), ()),
        "m": (True, ("source.p.raw.tested",), ("source.p.raw.plain",)),
    }
    assert [node.task_id for node in index.extras] == ["source__raw__plain"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(None, False, id="none"),
        pytest.param({"warn_after": {"count": None}, "error_after": {"count": None}}, False, id="empty"),
        pytest.param({"warn_after": {"count": 6, "period": "hour"}, "error_after": None}, True, id="warns"),
        pytest.param({"warn_after": None, "error_after": {"count": 1, "period": "day"}}, True, id="fails"),
    ],
)
def test_a_source_tells_whether_its_freshness_is_asked(rule: object, expected: bool) -> None:
    (node,) = read(source("s", freshness=rule)).extras
    assert node.freshness is expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(("model", "x"), ("seed", "x"), {"model__p__x", "seed__p__x"}, id="same-name"),
        pytest.param(("model", "build"), ("model", "y"), {"model__p__build", "y"}, id="reserved-name"),
        pytest.param(("model", "größe"), ("model", "a.b c"), {"größe", "a.b_c"}, id="unicode-dot-blank"),
        pytest.param(("model", "x"), ("test", "x"), {"x"}, id="test-named-like-a-model"),
    ],
)
def test_task_ids_are_names_unless_they_would_clash(
    first: tuple[str, str], second: tuple[str, str], expected: set[str]
) -> None:
    index = read(resource(*first), resource(*second))
    assert {node.task_id for node in index.nodes} == expected


def test_a_node_of_a_package_does_not_rename_the_projects_own() -> None:
    own, foreign = model("x"), model("x", package_name="lib")
    labels = {node.unique_id: node.task_id for node in read(foreign, own).nodes}
    assert labels == {"model.p.x": "x", "model.lib.x": "model__lib__x"}
    assert {node.task_id for node in read(foreign).nodes} == {"x"}


def test_names_that_become_the_same_are_told_apart_and_stay_the_same() -> None:
    def labels(*more: str) -> dict[str, str]:
        return {node.name: node.task_id for node in read(*map(model, ("a b", "a_b", *more))).nodes}

    assert len(set(labels().values())) == 2
    assert labels("c").items() > labels().items()


def test_a_long_name_is_cut_and_still_unique() -> None:
    names = ["m" * 300 + end for end in "xy"]
    labels = [node.task_id for node in read(*map(model, names)).nodes]
    assert len(set(labels)) == 2
    assert {len(label) for label in labels} == {200}


def test_versions_of_a_model_have_tasks_of_their_own() -> None:
    versions = [
        resource("model", "m", version=n, fqn=["p", "marts", "m", f"v{n}"]) | {"unique_id": f"model.p.m.v{n}"}
        for n in (1, 2)
    ]
    found = {(node.task_id, node.asset, node.folder) for node in read(*versions).nodes}
    assert found == {("m_v1", "dbt/p/m_v1", "marts"), ("m_v2", "dbt/p/m_v2", "marts")}


def test_an_asset_is_named_by_its_node_alone() -> None:
    foreign = model("m", package_name="lib")
    name = {node.unique_id: node.asset for node in read(foreign, model("m")).nodes}
    assert name == {"model.lib.m": "dbt/p/lib/m", "model.p.m": "dbt/p/m"}
    assert [node.asset for node in read(foreign).nodes] == ["dbt/p/lib/m"]
    assert [node.asset for node in read(resource("seed", "build")).nodes] == ["dbt/p/build"]


def test_what_dbt_does_not_build_is_no_asset() -> None:
    ephemeral = model("m", config={"materialized": "ephemeral"})
    index = read(ephemeral, resource("test", "t", "model.p.m"))
    assert [(node.task_id, node.asset) for node in index.nodes] == [("m", "")]


def test_a_function_is_built_but_is_no_dataset() -> None:
    index = read(resource("function", "f"), resource("model", "m", "function.p.f"))
    assert [(node.name, node.runs, node.asset) for node in index.nodes] == [
        ("f", True, ""),
        ("m", True, "dbt/p/m"),
    ]


@pytest.mark.parametrize(
    ("one", "folder"),
    [
        pytest.param(model("m", folder="marts/core"), "marts/core", id="model"),
        pytest.param(model("m"), "models", id="model-at-the-root"),
        pytest.param(model("m", folder="base", package_name="lib"), "lib/base", id="model-of-a-package"),
        pytest.param(resource("seed", "s", fqn=["p", "geo", "s"]), "seeds", id="seed"),
        pytest.param(resource("snapshot", "s", fqn=["p", "s", "s"]), "snapshots", id="snapshot"),
        pytest.param(resource("function", "f", fqn=["p", "f"]), "functions", id="function"),
        pytest.param(source("s", fqn=["p", "staging", "raw", "s"]), "sources", id="source"),
        pytest.param(resource("exposure", "e", fqn=["p", "e"]), "exposures", id="exposure"),
    ],
)
def test_a_node_knows_its_folder(one: dict[str, object], folder: str) -> None:
    index = read(one)
    assert [node.folder for node in (*index.nodes, *index.extras)] == [folder]


def test_a_node_knows_its_tags_and_its_place_in_the_warehouse() -> None:
    (node,) = read(model("m", tags=["daily", "pii"], database="wh", schema="marts", alias="m2")).nodes
    assert (node.tags, node.relation) == (("daily", "pii"), ("wh", "marts", "m2"))
    (table,) = read(source("s", database=None, schema="raw", identifier="S_1")).extras
    assert table.relation == ("", "raw", "S_1")


def test_an_exposure_is_an_extra_below_what_its_metrics_are_made_from() -> None:
    exposure = resource("exposure", "board", "metric.p.sales", "model.p.b", url="https://bi.example/1")
    metric = {"depends_on": {"nodes": ["semantic_model.p.orders"]}}
    orders = {"depends_on": {"nodes": ["model.p.a"]}}
    index = read(
        model("a"),
        model("b"),
        exposure,
        metrics={"metric.p.sales": metric},
        semantic_models={"semantic_model.p.orders": orders},
    )
    (found,) = index.extras
    assert (found.task_id, found.kind, found.url) == ("exposure__board", "exposure", "https://bi.example/1")
    assert set(found.parents) == {"model.p.a", "model.p.b"}


def test_a_unit_test_belongs_to_its_model() -> None:
    unit = {
        "unique_id": "unit_test.p.m.u",
        "name": "u",
        "package_name": "p",
        "model": "m",
        "depends_on": {"nodes": ["model.p.m"]},
    }
    index = read(model("m"), unit_tests={"unit_test.p.m.u": unit})
    assert index.nodes[0].tests == ("unit_test.p.m.u",)
    assert index.tests[0].task_id == "m__u"


def test_the_default_selector_is_known() -> None:
    selectors = {"all": {"name": "all", "definition": {}}, "nightly": {"name": "nightly", "default": True}}
    assert read(selectors=selectors).default_selector == "nightly"
    assert read().default_selector == ""


def test_a_model_with_three_hundred_tests_is_one_node() -> None:
    tests = [resource("test", f"t{n}", "model.p.m", attached_node="model.p.m") for n in range(300)]
    index = read(model("m"), *tests)
    assert [len(node.tests) for node in index.nodes] == [300]
    assert len(index.executed()) == 301


def test_an_index_survives_its_file() -> None:
    index = read(model("m", tags=["a"], folder="x"), source("s"), resource("test", "t", "model.p.m"))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(index), type=type(index)) == index


def test_a_foreign_schema_is_refused_with_what_is_understood() -> None:
    with pytest.raises(InvalidProjectError, match="v12 to v20"):
        read(schema="https://schemas.getdbt.com/dbt/manifest/v7.json")


def test_a_cycle_is_refused() -> None:
    with pytest.raises(InvalidProjectError, match="cycle"):
        read(model("a", "b"), model("b", "a"))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"metadata": {', id="torn"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(b'{"nodes": {}}', id="json-of-something-else"),
        pytest.param(b"\xff\xfe", id="no-text"),
    ],
)
def test_what_is_not_a_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidProjectError, match="not a whole dbt manifest"):
        read_index(content, key="k", source="m")
