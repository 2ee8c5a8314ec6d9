"""A dbt group with what its tasks need to run, for the tests of its tasks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_ext.operators.dbt import DbtProject, DbtTaskGroup
from airflow_ext.triggers.dbt import NODES_KEY
from tests.unit.operators.conftest import Store


class Instance:
    """The parts of a running task instance that the operators use."""

    dag_id = "dag"
    task_id = "task"

    def __init__(self, *, attempt: int = 1, max_tries: int = 0, build: str | None = "success") -> None:
        self.try_number, self.max_tries = attempt, max_tries
        self.pushed: list[Any] = []
        self.build = build

    def xcom_push(self, *, key: str, value: Any) -> None:
        assert key == NODES_KEY
        self.pushed.append(json.loads(json.dumps(value)))

    def xcom_pull(self, *, task_ids: str, key: str) -> Any:
        if key != NODES_KEY:
            return None
        return self.pushed[-1] if self.pushed else {"units": {"m": {"state": task_ids.removeprefix("g.")}}}

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
