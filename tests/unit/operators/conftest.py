"""A dbt project, built once, for the tests of dbt's operators."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_ext.cli.dbt import index
from airflow_ext.dbt.artifacts import place_of
from airflow_ext.dbt.selection import Selection
from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject
from tests.unit.contracts.asset_state import AssetStateServer

SHOP = Path(__file__).parents[2] / "integration" / "dags" / "dbt_shop"
SOURCES = """
sources:
  - name: raw
    schema: main
    config: {loaded_at_field: loaded_at}
    tables:
      - name: quick
        config: {freshness: {warn_after: {count: 1, period: hour}, error_after: {count: 1, period: day}}}
      - name: slow
        config: {freshness: {error_after: {count: 90, period: minute}}}
"""
MACROS = """
{% macro note(name, times=1) %}
  {% do run_query("create table main.noted as select '" ~ name ~ "' as name, " ~ times ~ " as times") %}
{% endmacro %}
{% macro refuse() %}{{ exceptions.raise_compiler_error("not today") }}{% endmacro %}
{% macro wait(begun) %}
  {% do run_query("copy (select 1 as n) to '" ~ begun ~ "' (format csv)") %}
  {% do run_query("select count(*) from range(1000000000000) where range % 7 = 3") %}
{% endmacro %}
"""


class Store:
    """A task state store that demands what the real one does."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any) -> None:
        assert value is not None
        self.values[key] = json.dumps(value)


def context(store: Store | None = None, *, attempt: int = 1, retries: int = 0) -> Any:
    return {
        "ti": SimpleNamespace(dag_id="dag", task_id="task", try_number=attempt, max_tries=retries),
        "dag_run": SimpleNamespace(run_id="run"),
        "task_state_store": store or Store(),
    }


def made(cls: type[Any], **arguments: Any) -> Any:
    with DAG("dag", schedule=None):
        return cls(task_id="task", **arguments)


def run(cls: type[Any], told: Any = None, **arguments: Any) -> Any:
    return made(cls, **arguments).execute(told or context())


@pytest.fixture(autouse=True)
def _registers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Answer who builds with dbt, where only that is asked."""
    if not request.module.__name__.rpartition(".")[2].startswith("test_dbt"):
        yield
        return
    with AssetStateServer().serving():
        yield


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a project and its manifest; not to be changed."""
    folder = tmp_path_factory.mktemp("operators") / "shop"
    shutil.copytree(SHOP, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(folder.parent / "airflow"))
        index(folder, selections=[Selection.of("+orders")])
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a project, its manifest and the file that it was built into; not to be changed."""
    folder = tmp_path_factory.mktemp("commands")
    project = folder / "shop"
    shutil.copytree(SHOP, project)
    (project / "models" / "sources.yml").write_text(SOURCES)
    (project / "macros" / "operations.sql").write_text(MACROS)
    with (project / "models" / "top_customer.sql").open("a") as file:
        file.write("{{ refuse() if var('broken', '') and execute }}\n")
    (project / "assets").mkdir()
    (project / "assets" / "plan.svg").write_text("<svg/>")
    with (project / "dbt_project.yml").open("a") as file:
        file.write("asset-paths: [assets]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(folder / "airflow"))
        patch.setenv("SHOP_DUCKDB", str(folder / "shop.duckdb"))
        index(project)
        with AssetStateServer().serving():
            run(DbtBuildOperator, project=DbtProject(project_dir=project, artifacts=folder / "kept"))
    return folder


@pytest.fixture
def dbt_home(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Share dbt's parse, and see to it that nothing is left in the folder for temporary files."""
    monkeypatch.setenv("AIRFLOW_HOME", str(built / "airflow"))
    monkeypatch.setenv("SHOP_DUCKDB", str(tmp_path / "shop.duckdb"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.fixture
def empty(built: Path, dbt_home: None) -> DbtProject:
    """Return the project, to be built into an empty file."""
    return DbtProject(project_dir=built / "shop")


@pytest.fixture
def project(built: Path, tmp_path: Path, dbt_home: None) -> DbtProject:
    """Return the project, built into a file of this test's own, with a place for artifacts."""
    shutil.copyfile(built / "shop.duckdb", tmp_path / "shop.duckdb")
    return DbtProject(project_dir=built / "shop", artifacts=tmp_path / "kept")


def query(tmp_path: Path, sql: str) -> list[Any]:
    import duckdb

    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        return connection.execute(sql).fetchall()


def results(tmp_path: Path) -> dict[str, Any]:
    place = place_of(str(tmp_path / "kept"), dag_id="dag", run_id="run", task_id="task")
    content = json.loads((Path(place) / "run_results.json").read_text())
    return {result["unique_id"]: result for result in content["results"]}
