"""Extra links from the tasks of a dbt group to their page.

They are made in the api-server when somebody looks at a task, so they cost no XCom. Airflow matches an
operator by the name and the module of its class, so classes that only bear these names spare every process
the import of the operators.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink

from airflow_ext.web.mount import dbt_path


def _named(module: str, name: str) -> Any:
    return type(name, (), {"__module__": f"airflow_ext.operators.{module}"})


NODE = _named("_dbt_nodes", "DbtNodeOperator")
DONE = _named("_dbt_nodes", "DbtDoneOperator")
BUILD = _named("_dbt_group", "DbtGroupBuildOperator")


class _DbtLink(BaseOperatorLink):
    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002  # Airflow's signature
        """Return the address of the task's page, below ``[api] base_url``."""
        from airflow.configuration import conf

        base = conf.get("api", "base_url", fallback="").rstrip("/")
        return base + dbt_path(ti_key.dag_id, ti_key.run_id, ti_key.task_id)


class DbtNodeLink(_DbtLink):
    """On the task of a node: its page."""

    name = "dbt node"
    operators = [NODE]  # noqa: RUF012  # the base class declares it so


class DbtRunLink(_DbtLink):
    """On the build task and the last task of a group: the page of the whole run."""

    name = "dbt run"
    operators = [BUILD, DONE]  # noqa: RUF012  # the base class declares it so
