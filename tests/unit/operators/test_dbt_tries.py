"""Tries of a build that break after dbt has ended, and stores that do not answer: nothing is built for nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.dbt.artifacts import latest_of
from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject, DbtTaskGroup
from tests.unit.operators.conftest import Store, context, made, query, results, run


def test_a_try_that_dies_after_dbt_has_ended_builds_nothing_again(
    project: DbtProject, tmp_path: Path
) -> None:
    store = Store()
    first = made(DbtBuildOperator, project=project)

    def dies(*_: Any) -> None:
        raise ConnectionError("the worker is gone")

    first._report = dies
    with pytest.raises(ConnectionError):
        first.execute(context(store, retries=1))
    before = results(tmp_path)
    run(DbtBuildOperator, context(store, attempt=2, retries=1), project=project)
    assert results(tmp_path) == before, "dbt has not run again"

    run(DbtBuildOperator, context(store, attempt=3, retries=3), project=project)
    assert results(tmp_path) != before, "a build that is cleared is built anew"


def test_a_place_for_artifacts_in_trouble_does_not_cost_the_build(
    built: Path, tmp_path: Path, dbt_home: None
) -> None:
    (tmp_path / "file").write_text("in the way")
    project = DbtProject(project_dir=built / "shop", artifacts=tmp_path / "file" / "kept")
    run(DbtBuildOperator, project=project)
    assert query(tmp_path, "select count(*) from main.orders") == [(4,)]


def test_only_a_whole_build_is_what_others_defer_to(project: DbtProject, tmp_path: Path) -> None:
    latest = Path(latest_of(str(tmp_path / "kept"), project="shop", target=None))
    run(DbtBuildOperator, project=project, empty=True)
    assert not latest.exists()
    store = Store()
    with pytest.raises(Exception, match="told to fail"):
        run(DbtBuildOperator, context(store, retries=1), project=project, vars={"fail": "orders"})
    run(DbtBuildOperator, context(store, attempt=2, retries=1), project=project)
    content = json.loads((latest / "run_results.json").read_text())
    assert len(content["results"]) == len(results(tmp_path)) > 10, "those of all tries"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        pytest.param({"retries": 2}, TypeError, "retries.*default_args", id="task-argument"),
        pytest.param({"granularty": "node"}, TypeError, "did you mean granularity for", id="misspelt"),
        pytest.param(
            {"project": None, "project_config": 1}, TypeError, "no project_config.*Cosmos", id="of-cosmos"
        ),
        pytest.param({"project": None}, TypeError, r"give DbtProject\(project_dir", id="no-project"),
        pytest.param({"on_warning": "tell"}, TypeError, "on_warning='tell': give a func", id="no-function"),
        pytest.param({"project": "/path"}, TypeError, r"give DbtProject\(project_dir", id="project-as-text"),
        pytest.param({"vars": "{a: 1}"}, TypeError, "vars=.*give a mapping", id="vars-as-text"),
        pytest.param({"select": "state:modified+"}, ValueError, "depends on a run", id="state"),
        pytest.param({"select": ["a", "1+result:error"]}, ValueError, "depends on a run", id="result"),
    ],
)
def test_wrong_arguments_of_a_group_are_named(
    empty: DbtProject, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    from airflow.sdk import DAG

    with DAG("dag", schedule=None), pytest.raises(error, match=text):
        DbtTaskGroup("g", **({"project": empty} | arguments))


def test_a_group_in_a_mapped_group_is_refused(empty: DbtProject) -> None:
    from airflow.sdk import DAG, task_group

    with DAG("dag", schedule=None):

        @task_group
        def mapped(number: int) -> None:
            DbtTaskGroup("g", project=empty)

        with pytest.raises(ValueError, match=r"mapped task group.*use DbtBuildOperator there"):
            mapped.expand(number=[1, 2])
