"""The extra links, as the api-server finds them on a stored DAG."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session

from airflow_ext.operators._dbt_group import DbtGroupBuildOperator
from airflow_ext.operators._dbt_nodes import DbtDoneOperator, DbtNodeOperator
from airflow_ext.web.links import BUILD, DONE, NODE
from airflow_ext.web.mount import dbt_path
from tests.unit.web.conftest import RUN, Run, Site

TASKS = [
    pytest.param("marts.a", {"dbt node"}, id="node"),
    pytest.param("more.base", {"dbt node"}, id="folder"),
    pytest.param("marts.build", {"dbt run"}, id="build"),
    pytest.param("marts.done", {"dbt run"}, id="done"),
    pytest.param("alone", set(), id="build-without-group"),
    pytest.param("other", set(), id="not-of-dbt"),
]


@pytest.mark.parametrize(
    ("named", "operator"),
    [(NODE, DbtNodeOperator), (DONE, DbtDoneOperator), (BUILD, DbtGroupBuildOperator)],
    ids=lambda each: each.__name__,
)
def test_the_names_are_those_of_the_operators(named: type, operator: type) -> None:
    assert (named.__name__, named.__module__) == (operator.__name__, operator.__module__)


@pytest.mark.parametrize("base", ["https://airflow.example.org/team-a", "https://airflow.example.org/", ""])
@pytest.mark.parametrize(("task_id", "names"), TASKS)
@pytest.mark.usefixtures("metadata")
def test_tasks_of_a_group_are_linked_to_their_page(
    task_id: str, names: set[str], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    with create_session() as session:
        dag = SerializedDagModel.get_dag("shop", session=session)
    assert dag is not None
    task: Any = dag.get_task(task_id)
    assert set(task.extra_links) == names

    instance = SimpleNamespace(key=SimpleNamespace(dag_id="shop", run_id=RUN, task_id=task_id))
    links = {task.get_extra_links(instance, name) for name in names}
    assert links == ({base.rstrip("/") + dbt_path("shop", RUN, task_id)} if names else set())


@pytest.mark.parametrize(("task_id", "names"), TASKS)
def test_the_api_tells_the_link_and_it_leads_to_the_page(
    site: Site, run: Run, task_id: str, names: set[str]
) -> None:
    answer = site.get(f"/api/v2/dags/shop/dagRuns/{RUN}/taskInstances/{task_id}/links")
    links = json.loads(answer.source)["extra_links"]
    assert set(links) == names
    for link in links.values():
        assert site.get(link[link.index("/airflow-ext") :]).status == 200
