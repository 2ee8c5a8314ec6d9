"""A DAG whose file stops loading when the benchmark says so."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG, task

if (Path(os.environ["AIRFLOW_EXT_BENCH_WORK"]) / "broken").exists():
    raise RuntimeError("this file does not load any more")

with DAG("case_import", schedule=None):

    @task
    def nothing() -> None:
        """Do nothing."""

    nothing()
