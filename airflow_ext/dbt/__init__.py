"""dbt projects: index, graph and runs; plain Python, no Airflow needed."""

from __future__ import annotations

from airflow_ext.dbt.project import DbtProject

__all__ = ["DbtProject"]
