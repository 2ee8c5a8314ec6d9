"""DAGs of the founding cases; their promises stand in a YAML file of the benchmark."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG, task

WORK = Path(os.environ["AIRFLOW_EXT_BENCH_WORK"])


@task.sensor(poke_interval=0.5, timeout=600)
def wait_for_file(name: str) -> bool:
    """Wait until the benchmark lets the run end."""
    return (WORK / name).exists()


@task
def fail() -> None:
    """End badly."""
    raise RuntimeError("as told")


with DAG("case_failed", schedule=None):
    fail()

for case in ("late", "never", "paused", "dead", "dst"):
    with DAG(f"case_{case}", schedule=None):
        wait_for_file(case)
