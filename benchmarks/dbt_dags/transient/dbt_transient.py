"""A group whose build may be tried twice."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from airflow_ext.operators.dbt import DbtProject, DbtTaskGroup

project = Path(os.environ["AIRFLOW_EXT_BENCH_WORK"]) / "projects" / "transient"

with DAG("transient", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(seconds=2)}):
    DbtTaskGroup("shop", project=DbtProject(project_dir=project, profiles_dir=project, target="group"))
