"""Groups of many nodes."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG

from airflow_ext.dbt.units import Granularity
from airflow_ext.operators.dbt import DbtProject, DbtTaskGroup

projects = Path(os.environ["AIRFLOW_EXT_BENCH_WORK"]) / "projects"

granularities: dict[str, Granularity] = {"scale_300": "node", "scale_5000": "auto"}
for name, granularity in granularities.items():
    folder = projects / name
    with DAG(name, schedule=None):
        DbtTaskGroup(
            "shop",
            project=DbtProject(project_dir=folder, profiles_dir=folder, target="group"),
            granularity=granularity,
        )
