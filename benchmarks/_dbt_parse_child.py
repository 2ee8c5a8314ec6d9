"""Build one DAG of a dbt project in a process of its own and print what it took. A script, for any environment.

``python -P _dbt_parse_child.py WHAT PROJECT_DIR``; WHAT is ``ours``, ``ours-without-assets``, ``index`` or ``cosmos``.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def _ours(project_dir: Path, **more: Any) -> Any:
    from airflow.sdk import DAG

    from airflow_ext.operators.dbt import DbtProject, DbtTaskGroup

    with DAG("project", schedule=None) as dag:
        DbtTaskGroup(
            "shop",
            project=DbtProject(project_dir=project_dir, profiles_dir=project_dir),
            granularity="node",
            **more,
        )
    return dag


def _cosmos(project_dir: Path) -> Any:
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

    mode = ExecutionMode.WATCHER if os.environ.get("BENCH_COSMOS_MODE") == "watcher" else ExecutionMode.LOCAL
    with DAG("project", schedule=None) as dag:
        DbtTaskGroup(
            group_id="shop",
            project_config=ProjectConfig(
                dbt_project_path=project_dir, manifest_path=project_dir / "target" / "manifest.json"
            ),
            profile_config=ProfileConfig(
                profile_name="bench", target_name="cosmos", profiles_yml_filepath=project_dir / "profiles.yml"
            ),
            execution_config=ExecutionConfig(execution_mode=mode),
            render_config=RenderConfig(load_method=LoadMode.DBT_MANIFEST),
        )
    return dag


def _memory() -> float:
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def _index(project_dir: Path) -> dict[str, Any]:
    from airflow_ext.operators.dbt import DbtProject

    start, cpu = time.perf_counter(), time.process_time()
    nodes = len(DbtProject(project_dir=project_dir).index().nodes)
    return {"nodes": nodes, "seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def main() -> None:
    what, project_dir = sys.argv[1], Path(sys.argv[2])
    if what == "index":
        print(json.dumps(_index(project_dir)))
        return
    # All modules that any DAG file of this kind has loaded anyway.
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    if what == "cosmos":
        for name in ("converter", "operators.local", "operators.watcher"):
            importlib.import_module(f"cosmos.{name}")
    else:
        import airflow_ext.operators.dbt  # noqa: F401

    with DAG("empty", schedule=None) as empty:
        pass
    DagSerialization.to_dict(empty)
    before = _memory()
    cpu = time.process_time()
    if what == "cosmos":
        dag = _cosmos(project_dir)
    else:
        dag = _ours(project_dir, **({"assets": False} if what == "ours-without-assets" else {}))
    built = time.process_time() - cpu
    memory = _memory() - before
    cpu = time.process_time()
    text = json.dumps(DagSerialization.to_dict(dag))
    figures = {
        "tasks": len(dag.tasks),
        "cpu": built,
        "memory_mb": memory,
        "serialize_cpu": time.process_time() - cpu,
        "serialized_kb": len(text.encode()) / 1024,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
