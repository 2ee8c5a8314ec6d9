"""Who emits the events of what a task built that failed."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.exceptions import AirflowFailException

from airflow_ext.exceptions import DbtFailedError
from airflow_ext.operators._dbt_events import good_in
from airflow_ext.operators._dbt_nodes import _is_left_to_announce
from airflow_ext.operators.dbt import DbtProject
from airflow_ext.triggers.dbt import NODES_KEY
from tests.unit.operators.conftest import Store
from tests.unit.operators.dbt_group import Instance, context, group, hooked, project

__all__ = ["hooked", "project"]


class Told(Instance):
    """An instance that finds the XComs of several tasks."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(attempt=2)
        self.told = told

    def xcom_pull(self, *, task_ids: str, key: str) -> Any:
        return self.told.get(task_ids) if key == NODES_KEY else None


@pytest.mark.parametrize("tests", ["with_node", "tasks", "none"])
@pytest.mark.parametrize("granularity", ["node", "folder"])
def test_what_is_told_of_a_build_that_broke_says_what_is_good(
    project: DbtProject, tests: Any, granularity: Any
) -> None:
    if tests == "tasks" and granularity == "folder":
        tests = "with_node"
    build = group(project, tests=tests, granularity=granularity).build
    board = build.new_board(index=(index := build.index()))
    for number, unique_id in enumerate(index.executed()[:-6]):
        if tests != "none" or not unique_id.startswith("test."):
            board.add({"id": unique_id, "status": "fail" if number == 9 else "success", "seconds": 1.0})
    # A try that could be followed by another is the last one if a user marks it failed.
    build._publish(context(instance := Instance()), board, last=False, ended=False)
    told = instance.pushed[-1]
    good = board.good()
    assert 2 < len(good) < len(index.nodes)
    assert {name: facts.get("seconds") for name, facts in good_in(build, told).items()} == dict.fromkeys(
        good, 1.0
    )


def test_another_emits_for_a_builder_that_failed_itself(project: DbtProject) -> None:
    made = group(project, partition="{{ run_id }}")
    made.build.execute(context(Instance()))
    made = group(project, vars={"fail": "orders"}, partition="2013-01-01")
    told = context(instance := Instance(attempt=2)) | {"dag": made.dag}
    leader: Any = made.dag.task_dict["g.orders"]
    with pytest.raises(AirflowFailException, match=r"(?s)told to fail: orders.*Compiled SQL"):
        leader.execute_complete(told, {"status": "build", "units": ["orders", "stg_orders"]})
    other: Any = made.dag.task_dict["g.stg_orders"]
    told = context(instance) | {"dag": made.dag}
    other.execute_complete(told, {"status": "emit", "leader": "g.orders"})
    assert {outlet.name for outlet in other.outlets} == {"dbt/shop/stg_orders", "dbt/dag.g.build"}
    assert told["outlet_events"][Asset(name="dbt/shop/stg_orders")].keys == ["2013-01-01"]


def test_a_hook_that_fails_does_not_cost_the_nodes_their_events(hooked: DbtProject) -> None:
    made, instance = group(hooked, partition="2013-01-01"), Instance()
    with pytest.raises(DbtFailedError, match="audit does not exist"):
        made.build.execute(context(instance))
    store = Store()
    announce: Any = made.dag.task_dict["g.announce"]
    told = context(instance, store) | {"dag": made.dag}
    announce.execute_complete(told, {"unannounced": ["g.build"]})
    assert len(announce.outlets) == 11
    assert told["outlet_events"][Asset(name="dbt/shop/orders")].keys == ["2013-01-01"]
    assert told["outlet_events"][Asset(name="dbt/shop/orders")].extra["seconds"] > 0
    told = context(instance, store) | {"dag": made.dag}
    announce.execute_complete(told, {"unannounced": ["g.build"]})
    assert [type(outlet) for outlet in announce.outlets] == [AssetAlias], "announced once"


def test_a_folder_in_which_a_node_fails_again_announces_the_others(project: DbtProject) -> None:
    made = group(project, granularity="folder", vars={"fail": "customers"})
    told = context(instance := Instance(attempt=2)) | {"dag": made.dag}
    leader: Any = made.dag.task_dict["g.models"]
    made.build.execute(context(Instance()))
    with pytest.raises(AirflowFailException, match="told to fail: customers"):
        leader.execute_complete(told, {"status": "build", "units": ["models"]})
    announce: Any = made.dag.task_dict["g.announce"]
    announce.execute_complete(context(instance) | {"dag": made.dag}, {"unannounced": ["g.models"]})
    assert {outlet.name for outlet in announce.outlets} == {
        "dbt/shop/stg_orders",
        "dbt/shop/stg_payments",
        "dbt/shop/stg_customers",
        "dbt/shop/orders",
        "dbt/dag.g.build",
    }


@pytest.mark.parametrize(
    ("names", "seeds"),
    [
        pytest.param(["g.models"], set(), id="built-again-by-itself"),
        pytest.param(["g.models", "g.seeds"], {"dbt/shop/raw_orders", "dbt/shop/raw_payments"}, id="red-as-well"),
    ],
)  # fmt: skip
def test_what_was_cleared_with_a_builder_that_is_killed_is_announced_unless_it_was_built_again(
    project: DbtProject, monkeypatch: pytest.MonkeyPatch, names: list[str], seeds: set[str]
) -> None:
    made = group(project, granularity="folder")
    told = context(instance := Instance(attempt=2)) | {"dag": made.dag}

    def killed(*_: Any, only: list[str], on_node: Any, on_tick: Any, **__: Any) -> None:
        for unique_id in only:
            if "customers" not in unique_id:
                on_node({"id": unique_id, "status": "success"})
        while len(instance.pushed) == 1:
            on_tick()
        raise DbtFailedError("dbt was stopped: its task was killed")

    monkeypatch.setattr("airflow_ext.operators._dbt_build.FLUSH_INTERVAL", 0.0)
    monkeypatch.setattr(made.build, "run_dbt", killed)
    leader: Any = made.dag.task_dict["g.models"]
    with pytest.raises(DbtFailedError, match="was killed"):
        leader.execute_complete(told, {"status": "build", "units": ["models", "seeds"]})
    announce: Any = made.dag.task_dict["g.announce"]
    found = Told({"g.models": instance.pushed[-1]})
    announce.execute_complete(context(found) | {"dag": made.dag}, {"unannounced": names})
    assert {outlet.name for outlet in announce.outlets} == seeds | {
        "dbt/shop/stg_orders",
        "dbt/shop/stg_payments",
        "dbt/shop/top_customer",
        "dbt/dag.g.build",
    }


@pytest.mark.parametrize(
    ("build", "names", "announced"),
    [
        pytest.param({"ended": False}, ["g.build"], True, id="broke"),
        pytest.param({"at": 120.0}, ["g.build"], False, id="emitted-itself-and-failed-before-it-began-anew"),
        pytest.param({"at": 160.0}, ["g.build"], True, id="marked-failed-at-its-end"),
        pytest.param({"ended": True, "started": 90.0}, ["g.models"], True, id="node-failed-again"),
        pytest.param({"ended": True, "started": 110.0}, ["g.models"], False, id="built-anew-since"),
        pytest.param(None, ["g.models"], True, id="build-told-nothing"),
    ],
)  # fmt: skip
def test_what_a_later_build_or_a_good_end_has_emitted_is_not_announced(
    project: DbtProject, build: dict[str, Any] | None, names: list[str], announced: bool
) -> None:
    made = group(project, granularity="folder")
    board = made.build.new_board(index=(index := made.build.index()))
    for unique_id in index.executed():
        board.add({"id": unique_id, "status": "fail" if "customers" in unique_id else "success"})
    payload = {
        "started": 100.0,
        "at": 120.0,
        "ended": True,
        "units": board.outcomes(made.build.units, over=True),
    }
    told: dict[str, Any] = {"g.models": {**payload, "asked": ["models"], "green": False}}
    if build is not None:
        told["g.build"] = {**payload, **build}
    announce: Any = made.dag.task_dict["g.announce"]
    announce.execute_complete(context(Told(told)) | {"dag": made.dag}, {"unannounced": names, "since": 150.0})
    assert (len(announce.outlets) > 1) is announced


@pytest.mark.parametrize(
    ("payload", "left"),
    [
        pytest.param({"green": True}, False, id="announced-itself"),
        pytest.param({"green": False}, True, id="failed-itself"),
        pytest.param({"green": False, "units": {"m": {"state": "failed"}, "n": {"state": "success"}}}, False, id="mate"),
        pytest.param({"green": False, "units": {"m": {"state": "success"}, "n": {"state": "failed"}}}, True, id="killed"),
        pytest.param({"asked": None}, False, id="no-batch"),
    ],
)  # fmt: skip
def test_what_somebody_else_announces_is_not_announced_again(payload: dict[str, Any], left: bool) -> None:
    told = {"asked": ["m", "n"], "units": {}, **payload}
    if told["asked"] is None:
        del told["asked"]
    assert _is_left_to_announce(told, "m") is left
