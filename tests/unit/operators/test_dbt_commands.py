"""Real dbt on real DuckDB files."""

from __future__ import annotations

import inspect
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_ext.dbt.artifacts import place_of
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.operators import dbt
from airflow_ext.operators.dbt import (
    DbtCloneOperator,
    DbtCompileOperator,
    DbtProject,
    DbtRetryOperator,
    DbtRunOperationOperator,
    DbtRunOperator,
    DbtSeedOperator,
    DbtSnapshotOperator,
    DbtTestOperator,
)
from tests.paths import ROOT
from tests.unit.operators.conftest import Store, context, made, query, results, run


def test_seed_run_snapshot_and_test_do_what_build_does(empty: DbtProject, tmp_path: Path) -> None:
    run(DbtSeedOperator, project=empty)
    assert query(tmp_path, "select table_name from information_schema.tables order by 1") == [
        ("raw_customers",),
        ("raw_orders",),
        ("raw_payments",),
    ]
    run(DbtRunOperator, project=empty, threads=1)
    assert query(tmp_path, "select count(*) from main.orders") == [(4,)]
    run(DbtSnapshotOperator, project=empty)
    assert query(tmp_path, "select count(*) from main.customers_history") == [(3,)]
    run(DbtTestOperator, project=empty, select="orders")
    query(tmp_path, "insert into main.orders select * from main.orders limit 1")
    with pytest.raises(DbtFailedError, match=r"(?s)1 failed: test\.shop\.unique_orders_id.*Got 1 result"):
        run(DbtTestOperator, project=empty, select="orders")


def test_a_retry_runs_only_the_models_that_are_left(project: DbtProject, tmp_path: Path) -> None:
    store = Store()
    with pytest.raises(DbtFailedError, match="told to fail: orders") as caught:
        run(DbtRunOperator, context(store, retries=1), project=project, vars={"fail": "orders"})
    assert caught.value.failed == ("model.shop.orders",)
    before = results(tmp_path)
    run(DbtRunOperator, context(store, attempt=2, retries=1), project=project)
    after = results(tmp_path)
    assert {unique_id for unique_id in after if after[unique_id] != before[unique_id]} == {
        "model.shop.orders",
        "model.shop.customers",
        "model.shop.top_customer",
    }
    assert {result["status"] for result in after.values()} == {"success"}


def test_failed_tests_may_be_final(project: DbtProject, tmp_path: Path) -> None:
    query(tmp_path, "insert into main.orders select * from main.orders limit 1")
    with pytest.raises(AirflowFailException, match="unique_orders_id"):
        run(DbtTestOperator, context(retries=3), project=project, select="orders", test_retries=False)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("DbtRunOperator", {"store_failures": True}, "store_failures=True: dbt run has no use for it"),
        ("DbtRunOperator", {"test_retries": False}, "test_retries=False: dbt run runs no tests"),
        ("DbtSeedOperator", {"test_retries": True}, "test_retries=True: dbt seed runs no tests"),
        ("DbtTestOperator", {"full_refresh": True}, "full_refresh=True: dbt test has no use for it"),
        ("DbtSeedOperator", {"sample": "3 days"}, "sample='3 days': dbt seed has no use for it"),
        ("DbtSnapshotOperator", {"full_refresh": True}, "full_refresh=True: dbt snapshot has no use"),
        ("DbtCompileOperator", {"store_failures": True}, "dbt compile has no use for it"),
        ("DbtSourceFreshnessOperator", {"defer": True, "state": "s"}, "defer=True: dbt source freshness"),
        ("DbtCloneOperator", {"state": "s", "empty": True}, "empty=True: dbt clone has no use for it"),
        (
            "DbtCloneOperator",
            {"state": "s", "resource_types": "model"},
            "resource_types='model': give a list",
        ),
        ("DbtRetryOperator", {"state": "s", "select": "a"}, "select='a': dbt retry has no use for it"),
        (
            "DbtRunOperationOperator",
            {"macro": "m", "select": "a"},
            "select='a': dbt run-operation has no use",
        ),
        ("DbtRunOperationOperator", {"macro": " "}, "macro=' ': give the name"),
        ("DbtRunOperationOperator", {"macro": "m", "args": ["--args", "{}"]}, "give it as macro_args="),
        (
            "DbtDocsGenerateOperator",
            {"upload": "u", "empty": True},
            "empty=True: dbt docs generate has no use",
        ),
        ("DbtDocsGenerateOperator", {"upload": "u", "args": ["--static"]}, "give it as static="),
        ("DbtDocsGenerateOperator", {"upload": " "}, "upload=' ': give a folder"),
        ("DbtLsOperator", {"threads": 2}, "threads=2: dbt ls has no use for it"),
        ("DbtLsOperator", {"args": ["--output=name"]}, "give it as output_format="),
        ("DbtLsOperator", {"output_format": "xml"}, "output_format='xml': give one of"),
        ("DbtLsOperator", {"output_format": "json"}, "'json' needs keys"),
        ("DbtLsOperator", {"output_keys": ["name"]}, "others take none"),
        ("DbtLsOperator", {"limit": 0}, "limit=0: give a number from 1"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("Dbt") else "",
)
def test_what_a_command_has_no_use_for_is_refused(
    empty: DbtProject, name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        made(getattr(dbt, name), project=empty, **arguments)


@pytest.mark.parametrize("name", ["DbtCloneOperator", "DbtRetryOperator"])
def test_a_command_that_goes_on_from_a_state_needs_one(empty: DbtProject, name: str) -> None:
    with pytest.raises(TypeError, match="state"):
        made(getattr(dbt, name), project=empty)


def test_only_what_a_command_takes_is_templated(empty: DbtProject) -> None:
    assert made(DbtRunOperationOperator, project=empty, macro="m").template_fields == (
        "vars",
        "args",
        "macro",
        "macro_args",
    )
    assert "full_refresh" not in DbtTestOperator.template_fields
    assert "full_refresh" in DbtRunOperator.template_fields


@pytest.mark.parametrize("name", [name for name in dbt.__all__ if name.endswith("Operator")])
def test_each_operator_is_documented_and_templates_its_own_arguments(name: str) -> None:
    cls = getattr(dbt, name)
    assert f"`{name}`" in (ROOT / "docs" / "dbt-commands.md").read_text()
    assert cls.__doc__
    arguments = {
        argument
        for parent in cls.__mro__
        if "__init__" in vars(parent)
        for argument in inspect.signature(vars(parent)["__init__"]).parameters
    }
    assert set(cls.template_fields) <= arguments


def test_operators_survive_serialization(empty: DbtProject) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    more: dict[str, dict[str, Any]] = {
        "DbtCloneOperator": {"state": "{{ params.state }}"},
        "DbtRetryOperator": {"state": "{{ params.state }}"},
        "DbtRunOperationOperator": {"macro": "m", "macro_args": {"day": "{{ ds }}"}},
        "DbtDocsGenerateOperator": {"upload": "{{ var.value.docs }}"},
    }
    names = [name for name in dbt.__all__ if name.endswith("Operator")]
    with DAG("dag", schedule=None) as dag:
        for name in names:
            getattr(dbt, name)(task_id=name, project=empty, **more.get(name, {}))
    read = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert sorted(read.task_dict) == sorted(names)


def test_compiled_sql_is_kept_and_counted(project: DbtProject, tmp_path: Path) -> None:
    assert run(DbtCompileOperator, project=project, select="orders", indirect_selection="empty") == 1
    assert "stg_orders" in results(tmp_path)["model.shop.orders"]["compiled_code"]


def test_what_does_not_compile_is_told_in_dbts_words(project: DbtProject) -> None:
    with pytest.raises(DbtFailedError, match=r"(?s)model top_customer .*not today"):
        run(DbtCompileOperator, project=project, vars={"broken": "yes"})


@pytest.fixture
def copy_in(project: DbtProject, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DbtProject:
    """Return the project, to be built into another schema of the same file."""
    monkeypatch.setenv(
        "AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "duckdb", "host": str(tmp_path / "shop.duckdb")})
    )
    return DbtProject(project_dir=built / "shop", profile_conn_id="shop", schema="copy")


def test_a_clone_shows_what_was_built_elsewhere(copy_in: DbtProject, built: Path, tmp_path: Path) -> None:
    latest = str(built / "kept" / "latest" / "shop" / "default")
    run(DbtCloneOperator, project=copy_in, state=latest, select="orders", resource_types=["model"])
    assert query(tmp_path, "select count(*) from copy.orders") == [(4,)]
    assert query(
        tmp_path, "select table_name, table_type from information_schema.tables where table_schema='copy'"
    ) == [("orders", "VIEW")]


def test_a_clone_of_what_is_gone_is_told_in_dbts_words(
    copy_in: DbtProject, built: Path, tmp_path: Path
) -> None:
    query(tmp_path, "drop table main.orders")
    with pytest.raises(
        DbtFailedError, match=r"(?s)dbt clone: 1 failed: model\.shop\.orders\n.*does not exist"
    ):
        run(
            DbtCloneOperator,
            project=copy_in,
            state=str(built / "kept" / "latest" / "shop" / "default"),
            select="orders",
        )


def test_an_earlier_run_is_gone_on_with_until_nothing_is_left(project: DbtProject, tmp_path: Path) -> None:
    with pytest.raises(DbtFailedError):
        run(DbtRunOperator, project=project, vars={"fail": "orders"})
    place = place_of(str(tmp_path / "kept"), dag_id="dag", run_id="run", task_id="task")
    assert len(results(tmp_path)) == 6
    with pytest.raises(DbtFailedError, match=r"(?s)1 failed: model\.shop\.orders\n.*told to fail") as caught:
        run(DbtRetryOperator, project=project, state=place)
    assert caught.value.failed == ("model.shop.orders",)
    left = ["model.shop.customers", "model.shop.orders", "model.shop.top_customer"]
    assert sorted(results(tmp_path)) == left
    run(DbtRetryOperator, project=project, state=place, vars={"fail": ""})
    assert sorted(results(tmp_path)) == left
    run(DbtRetryOperator, project=project, state=place)
    assert results(tmp_path) == {}


def test_a_state_without_results_is_named(empty: DbtProject, tmp_path: Path) -> None:
    with pytest.raises(InvalidProjectError, match=r"has no run_results\.json"):
        run(DbtRetryOperator, project=empty, state=str(tmp_path / "nothing"))


def test_a_macro_gets_its_rendered_arguments_once_though_nothing_can_be_kept_of_it(
    empty: DbtProject, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    operation = made(
        DbtRunOperationOperator,
        project=DbtProject(project_dir=empty.project_dir, artifacts=tmp_path / "file" / "kept"),
        macro="{{ params.macro }}",
        macro_args={"name": 'day {{ params.day }}\'s "end"', "times": 3},
    )
    operation.render_template_fields({"params": {"macro": "note", "day": "2013-01-01"}})
    # A quote in SQL is doubled, which is the macro's business.
    operation.macro_args["name"] = operation.macro_args["name"].replace("'", "''")
    operation.execute(context())
    assert query(tmp_path, "select * from main.noted") == [('day 2013-01-01\'s "end"', 3)]


@pytest.mark.parametrize(
    ("macro", "arguments", "message"),
    [
        pytest.param("refuse", None, r"(?s)macro refuse failed: .*not today", id="raises"),
        pytest.param("note", {"nam": "x"}, "(?s)macro note failed: .*nam", id="wrong-argument"),
        pytest.param("nobody", None, "could not find a macro with the name 'nobody'", id="unknown"),
    ],
)
def test_a_macro_that_fails_is_told_in_dbts_words(
    empty: DbtProject, macro: str, arguments: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(DbtFailedError, match=message):
        run(DbtRunOperationOperator, project=empty, macro=macro, macro_args=arguments)


def test_macro_arguments_must_be_json(empty: DbtProject) -> None:
    with pytest.raises(ValueError, match="macro_args hold a value that is not JSON: Object of type set"):
        run(DbtRunOperationOperator, project=empty, macro="note", macro_args={"name": {1}})


def test_a_killed_task_leaves_no_dbt(empty: DbtProject, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    operation = made(DbtRunOperationOperator, project=empty, macro="wait", macro_args={"begun": str(begun)})
    killed = []

    def kill() -> None:
        last = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < last:
            time.sleep(0.05)
        killed.append(begun.exists())
        operation.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(DbtFailedError, match="stopped"):
        operation.execute(context())
    killer.join()
    assert killed == [True]
    assert _gone(operation._run._process.pid)


def _gone(group: int) -> bool:
    """Tell whether a process group has no process any more; the last may be dying."""
    last = time.monotonic() + 20
    while time.monotonic() < last:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
