"""The smallest DAG: shows that the fixture's Airflow runs."""

from __future__ import annotations

from airflow.sdk import DAG, task

with DAG("hello", schedule=None):

    @task
    def say() -> str:
        """Return a word."""
        return "hello"

    say()
