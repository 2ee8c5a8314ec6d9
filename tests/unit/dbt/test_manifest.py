from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_ext.dbt.index import DbtIndex
from airflow_ext.dbt.manifest import read_index
from airflow_ext.exceptions import InvalidProjectError

V12 = "https://schemas.getdbt.com/dbt/manifest/v12.json"


def resource(kind: str, name: str, *parents: str, **more: Any) -> dict[str, Any]:
    return {
        "unique_id": f"{kind}.p.{name}",
        "name": name,
        "package_name": "p",
        "resource_type": kind,
        "depends_on": {"nodes": list(parents)},
        **more,
    }


def read(*resources: dict[str, Any], schema: str = V12, **more: Any) -> DbtIndex:
    manifest = {
        "metadata": {"dbt_schema_version": schema, "project_name": "p"},
        "nodes": {one["unique_id"]: one for one in resources},
        **more,
    }
    return read_index(json.dumps(manifest).encode(), key="k", source="manifest.json")


def test_ephemeral_models_have_no_task_and_edges_go_through_them() -> None:
    index = read(
        resource("model", "a"),
        resource("model", "b", "model.p.a", config={"materialized": "ephemeral"}),
        resource("model", "c", "model.p.b"),
    )
    assert [(node.name, node.parents) for node in index.nodes] == [("a", ()), ("c", ("model.p.a",))]


def test_a_test_is_shown_where_it_is_written_else_at_its_last_parent() -> None:
    index = read(
        resource("model", "a"),
        resource("model", "b", "model.p.a"),
        resource("test", "singular", "model.p.a", "model.p.b"),
        resource("test", "generic", "model.p.a", "model.p.b", attached_node="model.p.a"),
    )
    assert {node.name: node.tests for node in index.nodes} == {
        "a": ("test.p.generic",),
        "b": ("test.p.singular",),
    }


def test_a_source_has_a_task_only_for_its_tests() -> None:
    sources = {
        name: resource("source", name, source_name="raw") | {"unique_id": f"source.p.raw.{name}"}
        for name in ("tested", "plain")
    }
    test = resource("test", "t", "source.p.raw.tested")
    model = resource("model", "m", "source.p.raw.tested", "source.p.raw.plain")
    index = read(test, model, sources={one["unique_id"]: one for one in sources.values()})
    found = {node.task_id: (node.runs, node.parents) for node in index.nodes}
    assert found == {"source__raw__tested": (False, ()), "m": (True, ("source.p.raw.tested",))}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(("model", "x"), ("seed", "x"), {"model__p__x", "seed__p__x"}, id="same-name"),
        pytest.param(("model", "build"), ("model", "y"), {"model__p__build", "y"}, id="reserved-name"),
        pytest.param(("model", "größe"), ("model", "a.b c"), {"größe", "a.b_c"}, id="unicode-dot-blank"),
    ],
)
def test_task_ids_are_names_unless_they_would_clash(
    first: tuple[str, str], second: tuple[str, str], expected: set[str]
) -> None:
    index = read(resource(*first), resource(*second))
    assert {node.task_id for node in index.nodes} == expected


def test_versions_of_a_model_have_tasks_of_their_own() -> None:
    versions = [resource("model", "m", version=n) | {"unique_id": f"model.p.m.v{n}"} for n in (1, 2)]
    found = {(node.task_id, node.asset) for node in read(*versions).nodes}
    assert found == {("m_v1", "dbt/p/m_v1"), ("m_v2", "dbt/p/m_v2")}


def test_an_asset_is_named_by_its_node_alone() -> None:
    foreign = resource("model", "m", package_name="lib") | {"unique_id": "model.lib.m"}
    name = {node.unique_id: node.asset for node in read(foreign, resource("model", "m")).nodes}
    assert name == {"model.lib.m": "dbt/p/lib/m", "model.p.m": "dbt/p/m"}
    assert [node.asset for node in read(foreign).nodes] == ["dbt/p/lib/m"]
    assert [node.asset for node in read(resource("seed", "build")).nodes] == ["dbt/p/build"]


def test_what_dbt_does_not_build_is_no_asset() -> None:
    model = resource("model", "m", config={"materialized": "ephemeral"})
    index = read(model, resource("test", "t", "model.p.m"))
    assert [(node.task_id, node.asset) for node in index.nodes] == [("m", "")]


def test_a_unit_test_belongs_to_its_model() -> None:
    unit = {
        "unique_id": "unit_test.p.m.u",
        "name": "u",
        "package_name": "p",
        "depends_on": {"nodes": ["model.p.m"]},
    }
    assert read(resource("model", "m"), unit_tests={"unit_test.p.m.u": unit}).nodes[0].tests


def test_a_foreign_schema_is_refused_with_what_is_understood() -> None:
    with pytest.raises(InvalidProjectError, match="v12 to v20"):
        read(schema="https://schemas.getdbt.com/dbt/manifest/v7.json")


def test_a_cycle_is_refused() -> None:
    with pytest.raises(InvalidProjectError, match="cycle"):
        read(resource("model", "a", "model.p.b"), resource("model", "b", "model.p.a"))


@pytest.mark.parametrize("content", [b"", b'{"metadata": {', b"[]", b'{"nodes": {}}'])
def test_what_is_not_a_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidProjectError, match="not a whole dbt manifest"):
        read_index(content, key="k", source="m")
