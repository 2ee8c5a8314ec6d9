from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, AirflowSkipException

from airflow_ext.cli.dbt import index
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.operators._dbt_nodes import DbtDoneOperator, DbtNodeOperator
from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject, DbtTaskGroup
from airflow_ext.triggers.dbt import NODES_KEY

SHOP = Path(__file__).parents[2] / "integration" / "dags" / "dbt_shop"


class Store:
    """A task state store that demands what the real one does."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any) -> None:
        assert value is not None
        self.values[key] = json.dumps(value)


class Instance:
    """The parts of a running task instance that the operators use."""

    dag_id = "dag"

    def __init__(self, *, attempt: int = 1, max_tries: int = 0, build: str | None = "success") -> None:
        self.try_number, self.max_tries = attempt, max_tries
        self.pushed: list[Any] = []
        self.build = build

    def xcom_push(self, *, key: str, value: Any) -> None:
        assert key == NODES_KEY
        self.pushed.append(json.loads(json.dumps(value)))

    def xcom_pull(self, *, task_ids: str, key: str) -> Any:
        return {"nodes": {"m": {"state": task_ids.removeprefix("g.")}}} if key == NODES_KEY else None

    def get_task_states(self, *, dag_id: str, task_ids: list[str], run_ids: list[str]) -> Any:
        assert dag_id == self.dag_id
        return {run_ids[0]: dict.fromkeys(task_ids, self.build)}


class Events(dict[Any, Any]):
    """Outlet events that remember what was recorded."""

    def __missing__(self, key: Any) -> Any:
        event = SimpleNamespace(extra={}, keys=[], added=[])
        event.add_partitions = event.keys.append
        event.add = lambda asset, **_: event.added.append(asset.name)
        self[key] = event
        return event


def context(instance: Instance, store: Store | None = None, *, partition: str | None = None) -> Any:
    run = SimpleNamespace(run_id="run", partition_key=partition, run_type="manual")
    return {
        "ti": instance,
        "dag_run": run,
        "task_state_store": store or Store(),
        "outlet_events": Events(),
    }


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operators") / "shop"
    shutil.copytree(SHOP, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(folder.parent / "airflow"))
        index(folder)
    return folder


@pytest.fixture
def hooked(project: DbtProject, tmp_path: Path) -> DbtProject:
    """Return a project whose hook fails until there is a table named audit; its manifest stays as it is."""
    folder = tmp_path / "hooked"
    shutil.copytree(project.project_dir, folder)
    with (folder / "dbt_project.yml").open("a") as file:
        file.write('on-run-end: "insert into main.audit values (1)"\n')
    return DbtProject(project_dir=folder)


@pytest.fixture
def project(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DbtProject:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.setenv("SHOP_DUCKDB", str(tmp_path / "shop.duckdb"))
    return DbtProject(project_dir=indexed)


def group(project: DbtProject, **more: Any) -> DbtTaskGroup:
    with DAG("dag", schedule=None, default_args={"retries": 3, "pool": "wh", "depends_on_past": True}):
        return DbtTaskGroup("g", project=project, **more)


def test_a_group_draws_the_lineage_between_build_and_done(project: DbtProject) -> None:
    dag = group(project).dag
    assert dag.task_dict["g.orders"].upstream_task_ids == {"g.stg_orders", "g.stg_payments"}
    assert dag.task_dict["g.raw_orders"].upstream_task_ids == {"g.build"}
    assert dag.task_dict["g.done"].upstream_task_ids == {"g.top_customer", "g.customers_history"}
    assert len(dag.tasks) == 12


def test_default_args_reach_the_build_but_node_tasks_never_retry_or_wait(project: DbtProject) -> None:
    made = group(project, default_args={"pool": "group"})
    node: Any = made.dag.task_dict["g.orders"]
    assert (made.build.retries, made.build.pool) == (3, "group")
    assert (node.retries, node.pool, node.depends_on_past, node.trigger_rule) == (0, "group", False, "always")
    assert node.start_from_trigger
    assert node.start_trigger_args.trigger_kwargs == {
        "build_task_id": "g.build",
        "unique_id": "model.shop.orders",
    }


def test_nodes_declare_their_assets_and_the_build_none(project: DbtProject) -> None:
    made = group(project)
    assert made.dag.task_dict["g.orders"].outlets == [Asset(name="dbt/shop/orders")]
    assert not any(isinstance(outlet, Asset) for outlet in made.build.outlets)


def test_a_group_survives_serialization(project: DbtProject) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = DagSerialization.from_dict(
        json.loads(json.dumps(DagSerialization.to_dict(group(project, vars={"day": "{{ ds }}"}).dag)))
    )
    node: Any = dag.get_task("g.orders")
    assert node.start_from_trigger
    assert node.start_trigger_args.timeout.days == 7


def test_a_project_without_manifest_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidProjectError, match="airflow-ext dbt index"):
        group(DbtProject(project_dir=tmp_path))


def test_threads_are_checked(project: DbtProject) -> None:
    with pytest.raises(ValueError, match="threads=0"):
        DbtBuildOperator(task_id="build", project=project, threads=0)


def test_a_build_tells_its_nodes_and_emits_what_was_built(project: DbtProject) -> None:
    build = group(project, partition="2013-01-01").build
    told = context(instance := Instance())
    build.execute(told)
    final = instance.pushed[-1]
    assert (final["ended"], final["last"], len(final["nodes"])) == (True, True, 10)
    assert {outcome["state"] for outcome in final["nodes"].values()} == {"success"}
    names = {outlet.name for outlet in build.outlets}
    assert names == {f"dbt/shop/{name}" for name in _names(final)} | {"dbt/dag.g.build"}
    event = told["outlet_events"][Asset(name="dbt/shop/raw_orders")]
    assert (event.keys, event.extra["rows"]) == (["2013-01-01"], 4)


def test_a_last_try_of_a_group_ends_green_and_emits_only_what_is_good(project: DbtProject) -> None:
    build = group(project, vars={"fail": "orders"}).build
    build.execute(context(instance := Instance()))
    states = {name.split(".")[-1]: one["state"] for name, one in instance.pushed[-1]["nodes"].items()}
    assert states["orders"] == "failed"
    assert states["customers"] == "skipped"
    names = {outlet.name for outlet in build.outlets}
    assert "dbt/shop/stg_orders" in names
    assert not {"dbt/shop/orders", "dbt/shop/customers"} & names


def test_a_retry_goes_on_where_the_first_try_ended(project: DbtProject) -> None:
    store, first = Store(), Instance(max_tries=1)
    with pytest.raises(DbtFailedError, match="told to fail: orders") as caught:
        group(project, vars={"fail": "orders"}).build.execute(context(first, store))
    assert caught.value.failed == ("model.shop.orders",)
    assert first.pushed[-1]["last"] is False
    assert first.pushed[-1]["nodes"]["model.shop.orders"]["state"] == "failed"

    second = Instance(attempt=2, max_tries=1)
    build = group(project).build
    build.execute(context(second, store))
    assert {one["state"] for one in second.pushed[0]["nodes"].values()} == {"success"}, (
        "old failures are told"
    )
    nodes, before = second.pushed[-1]["nodes"], first.pushed[-1]["nodes"]
    assert {one["state"] for one in nodes.values()} == {"success"}
    assert nodes["model.shop.stg_orders"]["started"] == before["model.shop.stg_orders"]["started"]
    assert len(build.outlets) == 11, "events cover what was built over all tries"

    third = Instance(attempt=3, max_tries=2)
    group(project).build.execute(context(third, store))
    started = third.pushed[-1]["nodes"]["model.shop.stg_orders"]["started"]
    assert started != nodes["model.shop.stg_orders"]["started"], (
        "a finished build that is cleared is built anew"
    )


def test_a_failed_hook_is_named_and_runs_again_though_every_node_is_done(
    hooked: DbtProject, tmp_path: Path
) -> None:
    import duckdb

    store, hook = Store(), "operation.shop.shop-on-run-end-0"
    with pytest.raises(DbtFailedError, match=f"(?s)1 failed: {hook}\n.*audit does not exist") as caught:
        group(hooked).build.execute(context(first := Instance(max_tries=2), store))
    assert caught.value.failed == (hook,)
    assert {one["state"] for one in first.pushed[-1]["nodes"].values()} == {"success"}
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute("create table main.audit (n integer)")

    build = group(hooked).build
    build.execute(context(Instance(attempt=2, max_tries=2), store))
    assert len(build.outlets) == 11
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        assert connection.execute("select count(*) from main.audit").fetchone() == (1,)
        connection.execute("drop table main.audit")

    node: Any = (made := group(hooked)).dag.task_dict["g.raw_orders"]
    told = context(Instance(attempt=2)) | {"dag": made.dag}
    with pytest.raises(AirflowFailException, match=f"(?s){hook}.*audit does not exist"):
        node.execute_complete(told, {"status": "build", "unique_id": "seed.shop.raw_orders"})


def test_a_build_alone_fails_with_nodes_and_messages(project: DbtProject) -> None:
    build = DbtBuildOperator(task_id="build", project=project, vars={"fail": "orders"})
    with pytest.raises(DbtFailedError, match=r"(?s)1 failed: model\.shop\.orders\n.*told to fail"):
        build.execute(context(instance := Instance()))
    assert instance.pushed == []


def test_a_cleared_node_is_built_alone_with_its_tests(project: DbtProject) -> None:
    made = group(project)
    made.build.execute(told := context(Instance(), partition="2013-01-01"))
    assert told["outlet_events"][Asset(name="dbt/shop/orders")].keys == ["2013-01-01"]
    told = context(Instance(attempt=2), partition="2013-01-02") | {"dag": made.dag}
    node: Any = made.dag.task_dict["g.orders"]
    node.execute_complete(told, {"status": "build", "unique_id": "model.shop.orders"})
    assert {outlet.name for outlet in node.outlets} == {"dbt/shop/orders", "dbt/dag.g.build"}
    assert told["outlet_events"][Asset(name="dbt/shop/orders")].keys == ["2013-01-02"]


@pytest.mark.parametrize("event", [None, {}, {"status": "?"}], ids=["none", "empty", "unknown"])
def test_an_unknown_event_is_a_failure(event: Any) -> None:
    node = DbtNodeOperator(task_id="m", build_task_id="b", unique_id="m")
    with pytest.raises(AirflowFailException, match="unexpected event"):
        node.execute_complete(context(Instance()), event)


@pytest.mark.parametrize(
    ("outcome", "build", "expected"),
    [
        pytest.param("success", "success", None, id="good"),
        pytest.param("failed", "success", AirflowFailException, id="bad"),
        pytest.param("skipped", "success", AirflowSkipException, id="skipped"),
        pytest.param("success", "running", AirflowRescheduleException, id="not-yet"),
        pytest.param("success", "skipped", AirflowSkipException, id="build-skipped"),
    ],
)
def test_a_node_settles_in_a_dag_test(outcome: str, build: str, expected: type[BaseException] | None) -> None:
    # The stand-in answers with the state named by the build task's id.
    node: BaseOperator = DbtNodeOperator(task_id="m", build_task_id=f"g.{outcome}", unique_id="m")
    told = context(Instance(build=build))
    if expected is None:
        node.execute(told)
    else:
        with pytest.raises(expected):
            node.execute(told)


def test_the_end_of_a_dag_test_is_red_if_the_build_failed_though_all_nodes_are_good() -> None:
    done = DbtDoneOperator(task_id="done", build_task_id="g.success")
    done.execute(context(Instance()))
    with pytest.raises(AirflowFailException, match=r"failed: g\.success"):
        done.execute(context(Instance(build="failed")))


def _names(payload: dict[str, Any]) -> set[str]:
    return {name.split(".")[-1] for name in payload["nodes"]}
