from __future__ import annotations

import random
from graphlib import TopologicalSorter
from typing import Any

import msgspec
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup

from airflow_ext.dbt.index import DbtIndex
from airflow_ext.dbt.labels import RESERVED
from airflow_ext.dbt.units import NODE_LIMIT, DbtUnit, plan_units, units_of
from airflow_ext.exceptions import InvalidProjectError
from tests.unit.dbt.manifests import model, read, resource, source


def edges(units: list[DbtUnit]) -> dict[str, set[str]]:
    return {unit.label: set(unit.parents) for unit in units}


@pytest.fixture
def shop() -> DbtIndex:
    return read(
        source("orders"),
        source("rates"),
        resource("test", "raw_ok", "source.p.raw.orders", attached_node="source.p.raw.orders"),
        resource("seed", "bands"),
        resource("model", "stg", "source.p.raw.orders", "source.p.raw.rates", fqn=["p", "staging", "stg"]),
        model("eph", "stg", config={"materialized": "ephemeral"}, folder="staging"),
        resource("test", "eph_ok", "model.p.eph", attached_node="model.p.eph"),
        resource(
            "model", "mart", "model.p.eph", "seed.p.bands", fqn=["p", "marts", "core", "mart"], tags=["daily"]
        ),
        resource("test", "mart_ok", "model.p.mart", "model.p.stg", attached_node="model.p.mart"),
        resource("test", "lonely"),
        resource("exposure", "board", "model.p.mart"),
    )


def test_each_node_is_a_unit_with_its_tests(shop: DbtIndex) -> None:
    units = units_of(shop)
    assert edges(units) == {
        "source__raw__orders": set(),
        "bands": set(),
        "stg": {"source__raw__orders"},
        "eph": {"stg"},
        "mart": {"eph", "bands"},
    }
    assert {unit.label: unit.tests for unit in units if unit.tests} == {
        "source__raw__orders": ("test.p.raw_ok",),
        "eph": ("test.p.eph_ok",),
        "mart": ("test.p.mart_ok",),
    }
    assert {unit.label: unit.ids for unit in units}["eph"] == ("test.p.eph_ok",)
    assert {unit.label for unit in units if unit.assets} == {"bands", "stg", "mart"}


def test_tests_as_tasks_are_below_their_nodes(shop: DbtIndex) -> None:
    units = units_of(shop, tests="tasks")
    assert edges(units) == {
        "source__raw__orders": set(),
        "bands": set(),
        "stg": {"source__raw__orders"},
        "mart": {"stg", "bands"},
        "raw_ok": {"source__raw__orders"},
        "eph_ok": {"stg"},
        "mart_ok": {"mart", "stg"},
        "lonely": set(),
    }
    assert {unit.label for unit in units if unit.tests} == {"raw_ok", "eph_ok", "mart_ok", "lonely"}


def test_without_tests_nothing_is_shown_that_only_has_tests(shop: DbtIndex) -> None:
    units = units_of(shop, tests="none")
    assert edges(units) == {"bands": set(), "stg": set(), "mart": {"stg", "bands"}}
    assert not any(unit.tests for unit in units)


@pytest.mark.parametrize(
    ("sources", "shown"),
    [
        pytest.param("tested", {"source__raw__orders"}, id="tested"),
        pytest.param("all", {"source__raw__orders", "source__raw__rates"}, id="all"),
        pytest.param("none", set(), id="none"),
    ],
)
def test_sources_are_shown_as_asked(shop: DbtIndex, sources: Any, shown: set[str]) -> None:
    units = units_of(shop, sources=sources)
    assert {unit.label for unit in units if unit.nodes[0].kind == "source"} == shown
    assert edges(units)["stg"] == shown


def test_exposures_are_shown_below_their_models_and_run_nothing(shop: DbtIndex) -> None:
    (unit,) = [one for one in units_of(shop, exposures=True) if one.nodes[0].kind == "exposure"]
    assert (unit.label, unit.parents, unit.ids, unit.assets) == ("exposure__board", ("mart",), (), ())


def test_folders_carry_their_nodes_and_tests(shop: DbtIndex) -> None:
    units = units_of(shop, granularity="folder")
    assert edges(units) == {
        "sources": set(),
        "seeds": set(),
        "staging": {"sources"},
        "marts.core": {"staging", "seeds"},
    }
    found = {unit.label: unit.tests for unit in units}
    assert found["staging"] == ("test.p.eph_ok",)
    assert [unit.kind for unit in units] == ["folder"] * 4


def test_a_project_is_one_unit_with_every_test(shop: DbtIndex) -> None:
    (unit,) = units_of(shop, granularity="project")
    assert (unit.label, unit.kind) == ("p", "project")
    assert set(unit.ids) == set(shop.executed())


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_what_has_the_name_of_a_task_of_the_group_gets_another(shop: DbtIndex, name: str) -> None:
    (unit,) = units_of(msgspec.structs.replace(shop, project=name), granularity="project")
    assert unit.label == f"project__{name}"
    # As an index has it that was kept from before the name was one of the group's.
    nodes = [msgspec.structs.replace(one, task_id=name) if one.name == "mart" else one for one in shop.nodes]
    labels = [unit.label for unit in units_of(msgspec.structs.replace(shop, nodes=nodes), granularity="node")]
    assert len(labels) == len({*labels}) == len(shop.nodes)
    assert RESERVED.isdisjoint(labels)


def test_folders_that_read_each_other_keep_the_edges_of_their_first_order() -> None:
    index = read(
        model("a", folder="staging"),
        model("b", "a", folder="marts"),
        model("c", "b", folder="staging"),
        model("d", "c", folder="marts"),
    )
    assert edges(units_of(index, granularity="folder")) == {"staging": set(), "marts": {"staging"}}


def many(count: int, *, folders: int = 1, levels: int = 1) -> DbtIndex:
    def folder(n: int) -> str:
        return "/".join(f"l{level}_{n % folders if level else n % 7}" for level in range(levels))

    parents = {n: [f"m{n // 2:04}"] if n else [] for n in range(count)}
    return read(*(model(f"m{n:04}", *parents[n], folder=folder(n)) for n in range(count)))


@pytest.mark.parametrize(
    ("count", "folders", "levels", "granularity", "units", "reason"),
    [
        pytest.param(NODE_LIMIT, 1, 1, "node", NODE_LIMIT, "within the 300", id="at-the-limit"),
        pytest.param(NODE_LIMIT + 1, 20, 2, "folder", 140, "more than the 300", id="over-it"),
        pytest.param(5_000, 400, 2, "folder", 7, "cut to 1 of 2 levels", id="too-many-folders"),
    ],
)
def test_auto_takes_the_finest_that_fits(
    count: int, folders: int, levels: int, granularity: str, units: int, reason: str
) -> None:
    plan = plan_units(many(count, folders=folders, levels=levels))
    assert (plan.granularity, len(plan.units)) == (granularity, units)
    assert reason in plan.reason
    assert sum(len(unit.nodes) for unit in plan.units) == count


def test_auto_takes_the_project_when_even_its_top_folders_are_too_many() -> None:
    index = read(*(model(f"m{n}", folder=f"f{n}") for n in range(NODE_LIMIT + 1)))
    plan = plan_units(index)
    assert (plan.granularity, [unit.label for unit in plan.units]) == ("project", ["p"])


def test_tests_with_tasks_count_for_auto() -> None:
    tests = [resource("test", f"t{n}", "model.p.m", attached_node="model.p.m") for n in range(NODE_LIMIT)]
    index = read(model("m", folder="marts"), *tests)
    assert [unit.label for unit in units_of(index)] == ["m"]
    (unit,) = units_of(index, tests="tasks")
    assert (unit.label, unit.kind, unit.tests) == ("marts", "folder", ())


def test_nodes_are_grouped_by_folder_or_first_tag(shop: DbtIndex) -> None:
    folders = {unit.label: unit.group for unit in units_of(shop, group_by="folder", tests="tasks")}
    assert folders["mart"] == folders["mart_ok"] == ("marts", "core")
    assert folders["bands"] == ("seeds",)
    tags = {unit.label: unit.group for unit in units_of(shop, group_by="tag")}
    assert (tags["mart"], tags["stg"]) == (("daily",), ())


def test_no_id_is_taken_twice_or_by_a_group() -> None:
    index = read(
        model("staging", tags=[]),
        model("x.y", tags=[]),
        model("y", tags=["x"]),
        model("a", tags=["staging"]),
        model("b", tags=["build"]),
    )
    units = units_of(index, group_by="tag")
    groups = {".".join(unit.group) for unit in units if unit.group}
    ids = [".".join((*unit.group, unit.label)) for unit in units]
    assert groups == {"x", "staging", "tag__build"}
    assert len({*ids, *groups}) == len(ids) + len(groups)


def test_long_folders_leave_room_for_the_label() -> None:
    index = read(
        model("m" * 190, folder="/".join(["f" * 60] * 3)), model("short", folder="/".join(["f" * 60] * 3))
    )
    units = units_of(index, group_by="folder")
    assert all(len(".".join((*unit.group, unit.label))) <= 200 for unit in units)
    assert {unit.label for unit in units} >= {"short"}


def test_labels_of_folders_are_ids_of_their_own() -> None:
    index = read(model("a", folder="build"), model("b", folder="x/y"), model("c", folder="x.y"))
    labels = [unit.label for unit in units_of(index, granularity="folder")]
    assert "folder__build" in labels
    assert "x.y" in labels
    assert len(set(labels)) == 3


def test_adding_a_node_leaves_the_other_labels_alone(shop: DbtIndex) -> None:
    before = {unit.label for unit in units_of(many(50), tests="tasks")}
    after = {unit.label for unit in units_of(many(51), tests="tasks")}
    assert after - before == {"m0050"}


@pytest.mark.parametrize("options", [{}, {"tests": "tasks"}, {"granularity": "folder"}, {"exposures": True}])
def test_parents_come_first(shop: DbtIndex, options: dict[str, Any]) -> None:
    units = units_of(shop, **options)
    seen: set[str] = set()
    for unit in units:
        assert set(unit.parents) <= seen
        seen.add(unit.label)
    assert list(TopologicalSorter(edges(units)).static_order())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"granularity": "model"}, "granularity='model': give 'auto'", id="granularity"),
        pytest.param({"tests": True}, "tests=True: give 'with_node'", id="tests"),
        pytest.param({"group_by": "owner"}, "group_by='owner': give 'folder', 'tag' or None", id="group-by"),
        pytest.param({"sources": None}, "sources=None: give 'tested'", id="sources"),
        pytest.param(
            {"granularity": "folder", "tests": "tasks"}, "only where nodes are shown", id="tests-of-folders"
        ),
        pytest.param(
            {"granularity": "project", "group_by": "tag"}, "only where nodes are shown", id="groups"
        ),
    ],
)
def test_wrong_options_are_told(shop: DbtIndex, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProjectError, match=message):
        units_of(shop, **options)


def test_an_empty_project_has_no_units() -> None:
    assert units_of(read()) == []


@pytest.mark.parametrize("group_by", [None, "folder", "tag"])
def test_airflow_takes_every_id(group_by: Any) -> None:
    index = read(
        model("staging", folder="staging"),
        model("größe.v1", folder="staging/größe", tags=["staging"]),
        model("v1", folder="a.b", tags=["größe"]),
        model("done", folder="build"),
        model("x" * 240, folder="build/done", tags=["done"]),
    )
    with DAG("d", schedule=None) as dag, TaskGroup("shop"):
        EmptyOperator(task_id="build")
        EmptyOperator(task_id="done")
        groups: dict[tuple[str, ...], TaskGroup | None] = {(): None}
        for unit in units_of(index, group_by=group_by):
            for depth in range(1, len(unit.group) + 1):
                path = unit.group[:depth]
                if path not in groups:
                    groups[path] = TaskGroup(path[-1], parent_group=groups[path[:-1]])
            EmptyOperator(task_id=unit.label, task_group=groups[unit.group])
    assert len(dag.tasks) == 7


@pytest.mark.parametrize("seed", range(5))
def test_units_of_any_graph_have_no_cycle_and_lose_nothing(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # the same graphs every time
    names = [f"m{n}" for n in range(60)]
    index = read(
        *(
            model(
                name,
                *chance.sample(names[:at], min(at, chance.randrange(3))),
                folder=chance.choice(["a", "a/b", "c", "c/d", ""]),
                config={"materialized": chance.choice(["table", "ephemeral"])},
            )
            for at, name in enumerate(names)
        ),
        *(resource("test", f"t{n}", f"model.p.{chance.choice(names)}") for n in range(30)),
    )
    for options in (
        {"tests": "tasks"},
        {"granularity": "folder"},
        {"granularity": "node"},
        {"granularity": "project"},
    ):
        units = units_of(index, **options)  # type: ignore[arg-type]  # literals in a loop
        assert list(TopologicalSorter(edges(units)).static_order())
        assert sorted(one for unit in units for one in unit.ids) == sorted(index.executed())
