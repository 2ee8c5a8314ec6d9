"""What the lineage tests stand on: a real build, a real task's context, a server that takes events."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from airflow.sdk import DAG
from airflow.sdk.api.datamodels._generated import DagRun, DagRunState, DagRunType, TIRunContext
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from airflow_ext.dbt.project import DbtProject
from airflow_ext.dbt.results import NodeRecord
from airflow_ext.operators.dbt import DbtBuildOperator

NAMESPACE = "duckdb:///data/shop.duckdb"


@dataclass
class Built:
    """What a real run of dbt left."""

    folder: Path
    records: dict[str, NodeRecord]

    @property
    def manifest(self) -> Path:
        return self.folder / "target" / "manifest.json"

    def project(self, namespace: str | None = NAMESPACE) -> DbtProject:
        return DbtProject(project_dir=self.folder, namespace=namespace)


def task_context(built: Built, *, attempt: int = 1, conf: Mapping[str, Any] | None = None) -> Any:
    """Return what Airflow's task runner hands to ``execute``."""
    with DAG("shop", schedule=None):
        task = DbtBuildOperator(task_id="build", project=built.project())
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    dag_run = DagRun(
        dag_id="shop",
        run_id="manual",
        logical_date=None,
        data_interval_start=None,
        data_interval_end=None,
        run_after=moment,
        start_date=moment,
        end_date=None,
        run_type=DagRunType.MANUAL,
        state=DagRunState.RUNNING,
        consumed_asset_events=[],
        partition_key=None,
        conf=dict(conf or {}),
    )
    return RuntimeTaskInstance.model_construct(
        id=uuid4(),
        dag_id="shop",
        task_id="build",
        run_id="manual",
        try_number=attempt,
        map_index=-1,
        max_tries=0,
        start_date=moment,
        task=task,
        _ti_context_from_server=TIRunContext(dag_run=dag_run, max_tries=0),
    ).get_template_context()


@dataclass
class Backend:
    """A lineage server: what it was sent, and what it answers."""

    url: str
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    status: int = 201
    hold: threading.Event | None = None

    @property
    def events(self) -> list[Any]:
        return [json.loads(body) for body in self.bodies]

    def ends(self, job: str) -> tuple[Any, Any]:
        """Return the two events of a job, in the order of their arrival."""
        start, end = [event for event in self.events if event["job"]["name"] == job]
        return start, end


def use(monkeypatch: pytest.MonkeyPatch, transport: Mapping[str, Any]) -> None:
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", json.dumps(transport))
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__NAMESPACE", "prod")
