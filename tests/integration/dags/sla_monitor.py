"""DAGs of others, as the monitor sees them: their promises stand in a YAML file of the test."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG, task

SCRATCH = Path(os.environ["AIRFLOW_EXT_TEST_WORK"])


@task.sensor(poke_interval=0.5, timeout=300)
def wait_for_file(name: str) -> bool:
    """Wait until the test lets the run end."""
    return (SCRATCH / name).exists()


@task
def fail() -> None:
    """End badly."""
    raise RuntimeError("as told")


with DAG("slam_late", schedule=None):
    wait_for_file("slam_late")

with DAG("slam_failed", schedule=None):
    fail()

for name in ("slam_never", "slam_paused", "slam_dead", "slam_dst"):
    with DAG(name, schedule=None):
        wait_for_file(name)
