"""The same build as Cosmos' watcher does it, all else at its defaults."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG
from cosmos import (  # type: ignore[import-not-found]  # it is in the peer's environment only
    DbtTaskGroup,
    ExecutionConfig,
    ExecutionMode,
    LoadMode,
    ProfileConfig,
    ProjectConfig,
    RenderConfig,
)

project = Path(os.environ["AIRFLOW_EXT_BENCH_WORK"]) / "projects" / "run"

with DAG("cosmos", schedule=None):
    DbtTaskGroup(
        group_id="shop",
        project_config=ProjectConfig(
            dbt_project_path=project, manifest_path=project / "target" / "manifest.json"
        ),
        profile_config=ProfileConfig(
            profile_name="bench", target_name="cosmos", profiles_yml_filepath=project / "profiles.yml"
        ),
        execution_config=ExecutionConfig(execution_mode=ExecutionMode.WATCHER),
        render_config=RenderConfig(load_method=LoadMode.DBT_MANIFEST),
    )
