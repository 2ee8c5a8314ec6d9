"""A group whose processes are killed while it runs."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from airflow_ext.operators.dbt import DbtProject, DbtTaskGroup

project = Path(os.environ["AIRFLOW_EXT_BENCH_WORK"]) / "projects" / "kill"

with DAG("kill", schedule=None, default_args={"retries": 2, "retry_delay": timedelta(seconds=1)}):
    DbtTaskGroup("shop", project=DbtProject(project_dir=project, profiles_dir=project, target="group"))
