"""The same build as one shell command and as a group of tasks."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from airflow_ext.operators.dbt import DbtProject, DbtTaskGroup

work = Path(os.environ["AIRFLOW_EXT_BENCH_WORK"])
project = work / "projects" / "run"
written = work / "bash"

with DAG("bash", schedule=None):
    BashOperator(
        task_id="build",
        bash_command=(
            f"dbt build --target bash --project-dir {project} --profiles-dir {project}"
            f" --target-path {written}/target --log-path {written}/logs"
        ),
    )

with DAG("group", schedule=None):
    DbtTaskGroup("shop", project=DbtProject(project_dir=project, profiles_dir=project, target="group"))
