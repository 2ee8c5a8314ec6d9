from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast
from unittest.mock import call, patch

import pytest
from airflow.sdk import DAG, Asset, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, AirflowSkipException

from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.operators._dbt_nodes import DbtDoneOperator, DbtNodeOperator
from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject
from tests.unit.operators.conftest import Store
from tests.unit.operators.dbt_group import Instance, context, group, hooked, project

__all__ = ["hooked", "project"]


def test_a_group_draws_the_lineage_between_build_and_done(project: DbtProject) -> None:
    dag = group(project).dag
    assert dag.task_dict["g.orders"].upstream_task_ids == {"g.stg_orders", "g.stg_payments"}
    assert dag.task_dict["g.raw_orders"].upstream_task_ids == {"g.build"}
    assert dag.task_dict["g.announce"].upstream_task_ids == {"g.top_customer", "g.customers_history"}
    assert dag.task_dict["g.done"].upstream_task_ids == {"g.announce"}
    # Airflow fails on a worker what has an inlet of which a newer version of the DAG knows nothing.
    inlets = {
        name: [asset.name for asset in task.inlets] for name, task in dag.task_dict.items() if task.inlets
    }
    assert inlets == {"g.done": ["dbt/turns/dag/g.build"]}
    assert len(dag.tasks) == 13


def test_default_args_reach_the_build_but_node_tasks_never_retry_or_wait(project: DbtProject) -> None:
    made = group(project, default_args={"pool": "group"})
    node: Any = made.dag.task_dict["g.orders"]
    assert (made.build.retries, made.build.pool) == (3, "group")
    assert (node.retries, node.pool, node.depends_on_past, node.trigger_rule) == (0, "group", False, "always")
    assert node.start_from_trigger
    assert node.start_trigger_args.trigger_kwargs == {
        "build_task_id": "g.build",
        "unit": "orders",
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
    assert (final["ended"], final["last"], len(final["units"])) == (True, True, 10)
    assert {outcome["state"] for outcome in final["units"].values()} == {"success"}
    names = {outlet.name for outlet in build.outlets}
    assert names == {f"dbt/shop/{name}" for name in _names(final)} | {"dbt/dag.g.build"}
    event = told["outlet_events"][Asset(name="dbt/shop/raw_orders")]
    assert (event.keys, event.extra["rows"]) == (["2013-01-01"], 4)


def test_a_last_try_of_a_group_ends_green_and_emits_only_what_is_good(project: DbtProject) -> None:
    build = group(project, vars={"fail": "orders"}).build
    build.execute(context(instance := Instance()))
    states = {name: one["state"] for name, one in instance.pushed[-1]["units"].items()}
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
    assert first.pushed[-1]["units"]["orders"]["state"] == "failed"

    second = Instance(attempt=2, max_tries=1)
    build = group(project).build
    build.execute(context(second, store))
    assert {one["state"] for one in second.pushed[0]["units"].values()} == {"success"}, (
        "old failures are told"
    )
    nodes, before = second.pushed[-1]["units"], first.pushed[-1]["units"]
    assert {one["state"] for one in nodes.values()} == {"success"}
    assert nodes["stg_orders"]["nodes"] == before["stg_orders"]["nodes"]
    assert len(build.outlets) == 11, "events cover what was built over all tries"

    third = Instance(attempt=3, max_tries=2)
    group(project).build.execute(context(third, store))
    again = third.pushed[-1]["units"]["stg_orders"]["nodes"]
    assert again != nodes["stg_orders"]["nodes"], "a finished build that is cleared is built anew"


def test_a_failed_hook_is_named_and_runs_again_though_every_node_is_done(
    hooked: DbtProject, tmp_path: Path
) -> None:
    import duckdb

    store, hook = Store(), "operation.shop.shop-on-run-end-0"
    with pytest.raises(DbtFailedError, match=f"(?s)1 failed: {hook}\n.*audit does not exist") as caught:
        group(hooked).build.execute(context(first := Instance(max_tries=2), store))
    assert caught.value.failed == (hook,)
    assert {one["state"] for one in first.pushed[-1]["units"].values()} == {"success"}
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
        node.execute_complete(told, {"status": "build", "units": ["raw_orders"]})


def test_a_build_alone_fails_with_nodes_and_messages_and_has_the_sql_in_its_log(
    project: DbtProject, capsys: pytest.CaptureFixture[str]
) -> None:
    build = DbtBuildOperator(task_id="build", project=project, vars={"fail": "orders"})
    with pytest.raises(DbtFailedError, match=r"(?s)1 failed: model\.shop\.orders\n.*told to fail"):
        build.execute(context(instance := Instance()))
    assert instance.pushed == []
    assert "Compiled SQL of model.shop.orders:\nwith __dbt__cte__paid as (" in capsys.readouterr().out


def test_a_cleared_node_is_built_alone_with_its_tests(project: DbtProject) -> None:
    made = group(project)
    made.build.execute(told := context(Instance(), partition="2013-01-01"))
    assert told["outlet_events"][Asset(name="dbt/shop/orders")].keys == ["2013-01-01"]
    told = context(Instance(attempt=2), partition="2013-01-02") | {"dag": made.dag}
    node: Any = made.dag.task_dict["g.orders"]
    node.execute_complete(told, {"status": "build", "units": ["orders"]})
    assert {outlet.name for outlet in node.outlets} == {"dbt/shop/orders", "dbt/dag.g.build"}
    assert told["outlet_events"][Asset(name="dbt/shop/orders")].keys == ["2013-01-02"]


@pytest.mark.parametrize("event", [None, {}, {"status": "?"}], ids=["none", "empty", "unknown"])
def test_an_unknown_event_is_a_failure(event: Any) -> None:
    node = DbtNodeOperator(task_id="m", build_task_id="b", unit="m")
    with DAG("dag", schedule=None) as dag:
        BaseOperator(task_id="b")
    with pytest.raises(AirflowFailException, match="unexpected event"):
        node.execute_complete(context(Instance()) | {"dag": dag}, event)


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
    node: BaseOperator = DbtNodeOperator(task_id="m", build_task_id=f"g.{outcome}", unit="m")
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


def test_nodes_cleared_together_are_built_by_one_for_all(project: DbtProject) -> None:
    made = group(project, partition="2013-01-01")
    made.build.execute(context(Instance()))
    told = context(instance := Instance(attempt=2)) | {"dag": made.dag}
    node: Any = made.dag.task_dict["g.customers"]
    node.execute_complete(told, {"status": "build", "units": ["customers", "orders"], "tries": {"orders": 3}})
    final = instance.pushed[-1]
    assert (final["asked"], final["tries"], final["ended"]) == (["customers", "orders"], {"orders": 3}, True)
    assert {name: one["state"] for name, one in final["units"].items()} == {
        "orders": "success",
        "customers": "success",
    }
    names = {outlet.name for outlet in node.outlets}
    assert names == {"dbt/shop/orders", "dbt/shop/customers", "dbt/dag.g.build"}


def test_a_group_without_assets_declares_and_emits_none(project: DbtProject) -> None:
    made = group(project, assets=False)
    assert not any(task.outlets for task in made.dag.tasks)
    made.build.execute(context(Instance()))
    assert made.build.outlets == []


def test_a_selection_draws_and_builds_only_that(project: DbtProject) -> None:
    made = group(project, select="+orders", tests="none", granularity="folder")
    assert set(made.dag.task_dict) == {"g.build", "g.announce", "g.done", "g.models", "g.seeds"}
    made.build.execute(context(instance := Instance()))
    units = instance.pushed[-1]["units"]
    assert {name: one["state"] for name, one in units.items()} == {"models": "success", "seeds": "success"}
    assert [line[0].split(".")[-1] for line in units["models"]["nodes"]] == [
        "stg_orders",
        "stg_payments",
        "orders",
    ]
    assert all(line[5] is None for line in units["models"]["nodes"]), "tests were not run"


def test_a_group_can_show_tests_and_groups_of_tasks(project: DbtProject) -> None:
    made = group(project, tests="tasks", group_by="folder")
    assert "g.models.orders" in made.dag.task_dict
    tests = [task for name, task in made.dag.task_dict.items() if "unique" in name]
    assert tests
    assert all(task.upstream_task_ids for task in tests)
    assert set(made.children) == {"g.build", "g.announce", "g.done", "g.models", "g.seeds", "g.snapshots"}


@pytest.mark.parametrize("name", ["select", "exclude", "selector"])
def test_what_draws_a_group_cannot_be_a_template(project: DbtProject, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}='{{{{ x }}}}'.*use DbtBuildOperator"):
        group(project, **{name: "{{ x }}"})


def test_a_flag_that_the_command_does_not_take_is_refused(project: DbtProject) -> None:
    with pytest.raises(ValueError, match="defer=True needs state="):
        DbtBuildOperator(task_id="build", project=project, defer=True)


def test_failed_tests_need_not_be_retried(project: DbtProject) -> None:
    store, first = Store(), Instance(max_tries=1)
    build = group(project, vars={"fail_test": "yes"}, test_retries=False).build
    build.execute(context(first, store))
    assert first.pushed[-1]["ended"], "there is nothing to retry"
    states = {name: one["state"] for name, one in first.pushed[-1]["units"].items()}
    assert (states["customers"], states["top_customer"], states["orders"]) == ("failed", "skipped", "success")
    with pytest.raises(DbtFailedError):
        group(project, vars={"fail_test": "yes"}).build.execute(context(Instance(max_tries=1), Store()))
    alone = DbtBuildOperator(task_id="build", project=project, vars={"fail_test": "yes"}, test_retries=False)
    with pytest.raises(AirflowFailException, match="assert_amounts_add_up"):
        alone.execute(context(Instance(max_tries=1), Store()))


def test_on_running_is_checked(project: DbtProject) -> None:
    with pytest.raises(ValueError, match="on_running='maybe'"):
        DbtBuildOperator(task_id="build", project=project, on_running=cast("Any", "maybe"))


def test_by_default_a_second_run_waits(project: DbtProject) -> None:
    assert group(project).build.max_active_tis_per_dag == 1
    assert group(project, on_running="allow").build.max_active_tis_per_dag is None


def test_the_data_interval_becomes_event_times(project: DbtProject) -> None:
    day = datetime(2013, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    build = DbtBuildOperator(task_id="build", project=project, use_data_interval=True)
    told = {"data_interval_start": day, "data_interval_end": day + timedelta(days=1)}
    flags = build.run_flags(cast("Any", told))
    assert (flags.event_time_start, flags.event_time_end) == ("2013-01-01T00:00:00", "2013-01-02T00:00:00")
    with pytest.raises(
        AirflowFailException, match=r"(?s)this run's data interval is.*CronDataIntervalTimetable"
    ):
        build.run_flags(cast("Any", told | {"data_interval_end": day}))
    with pytest.raises(ValueError, match="leave these out"):
        DbtBuildOperator(
            task_id="build", project=project, use_data_interval=True, event_time_start="2013-01-01"
        )


@pytest.mark.parametrize(("text", "expected"), [("True", True), ("false", False), ("", False)])
def test_full_refresh_may_be_a_template(project: DbtProject, text: str, expected: bool) -> None:
    build = DbtBuildOperator(task_id="build", project=project, full_refresh="{{ params.full }}")
    build.full_refresh = text
    assert build.run_flags(cast("Any", {})).full_refresh is expected
    build.full_refresh = "perhaps"
    with pytest.raises(ValueError, match="full_refresh='perhaps'"):
        build.run_flags(cast("Any", {}))


def test_warnings_are_counted_and_go_to_a_callback_whose_errors_change_nothing(project: DbtProject) -> None:
    heard: list[list[str]] = []

    def on_warning(_: Any, warnings: list[str]) -> None:
        heard.append(warnings)
        raise RuntimeError("of the callback")

    build = DbtBuildOperator(
        task_id="build", project=project, select="nothing_of_that_name", on_warning=on_warning
    )
    with patch("airflow.sdk.observability.stats.incr") as incr:
        build.execute(context(Instance()))
    assert any("nothing_of_that_name" in warning for warning in heard[0])
    assert call("airflow_ext.dbt.warnings", len(heard[0])) in incr.mock_calls


def test_artifacts_of_all_tries_are_one(project: DbtProject, tmp_path: Path) -> None:
    kept = DbtProject(
        project_dir=project.project_dir, profiles_dir=project.profiles_dir, artifacts=tmp_path / "kept"
    )
    store = Store()
    with pytest.raises(DbtFailedError):
        group(kept, vars={"fail": "orders"}).build.execute(context(Instance(max_tries=1), store))
    group(kept).build.execute(context(Instance(attempt=2, max_tries=1), store))
    results = json.loads(next((tmp_path / "kept").glob("runs/**/run_results.json")).read_text())
    statuses = {result["unique_id"]: result["status"] for result in results["results"]}
    assert statuses["model.shop.orders"] == "success"
    assert statuses["model.shop.stg_orders"] == "success", "of the first try"
    assert list((tmp_path / "kept").glob("latest/**/manifest.json"))


def _names(payload: dict[str, Any]) -> set[str]:
    return set(payload["units"])
