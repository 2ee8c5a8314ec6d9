"""The plugin: what Airflow has to know of this package in every process.

It is imported by every component and each task, so it stays light, and it ships no listeners: they would
turn DAGs whose tasks end from a trigger into import errors.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk.plugins_manager import AirflowPlugin

from airflow_ext.sla.reference import SlaDeadline
from airflow_ext.web.links import DbtNodeLink, DbtRunLink
from airflow_ext.web.mount import PREFIX, LazyApp


class AirflowExtPlugin(AirflowPlugin):
    """Registers the deadline reference of :func:`airflow_ext.sla.sla` and the page of a dbt run."""

    name = "airflow_ext"
    deadline_references: list[Any] = [SlaDeadline]  # noqa: RUF012 - the base class declares it so
    fastapi_apps: list[Any] = [{"app": LazyApp(), "url_prefix": PREFIX, "name": "airflow-ext"}]  # noqa: RUF012
    operator_extra_links: list[Any] = [DbtNodeLink(), DbtRunLink()]  # noqa: RUF012
