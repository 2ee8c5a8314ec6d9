"""DAGs of the dbt integration test: one small project in a DuckDB file per DAG."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject, DbtRunOperator, DbtTaskGroup

home = Path(os.environ["AIRFLOW_EXT_TEST_WORK"])


def project(name: str) -> DbtProject:
    return DbtProject(
        project_dir=home / "shop",
        profile_conn_id=f"shop_{name}",
        manifest=home / "shop" / "target" / "manifest.json",
    )


with DAG("dbt_green", schedule=None):
    group = DbtTaskGroup("shop", project=project("green"), partition="{{ dag_run.conf.get('day', 'none') }}")
    BashOperator(task_id="before", bash_command="true") >> group
    group >> BashOperator(task_id="after", bash_command="true")

with DAG("dbt_red", schedule=None):
    DbtTaskGroup("shop", project=project("red"), vars={"fail": "{{ dag_run.conf['fail'] }}"})

with DAG("dbt_retry", schedule=None):
    DbtTaskGroup(
        "shop",
        project=project("retry"),
        vars={"gate": "{{ dag_run.conf['gate'] }}"},
        default_args={"retries": 1, "retry_delay": timedelta(seconds=2)},
    )

with DAG("dbt_alone", schedule=None):
    DbtBuildOperator(
        task_id="build", project=project("alone"), vars={"fail": "{{ dag_run.conf.get('fail', '') }}"}
    )

with DAG("dbt_cleared", schedule=None):
    DbtTaskGroup(
        "shop",
        project=project("cleared"),
        vars={"gate": "{{ dag_run.conf.get('gate', '') }}", "fail": "{{ dag_run.conf.get('fail', '') }}"},
    )

with DAG("dbt_folders", schedule=None):
    DbtTaskGroup(
        "shop",
        project=project("folders"),
        granularity="folder",
        vars={"fail": "{{ dag_run.conf.get('fail', '') }}"},
    )

with DAG("dbt_grouped", schedule=None):
    DbtTaskGroup(
        "shop",
        project=project("grouped"),
        select="+orders",
        indirect_selection="cautious",
        tests="tasks",
        group_by="folder",
    )

with DAG("dbt_killed", schedule=None):
    DbtTaskGroup(
        "shop",
        project=project("killed"),
        vars={"slow": "{{ dag_run.conf['slow'] }}"},
        default_args={"retries": 2, "retry_delay": timedelta(seconds=2)},
    )

with DAG("dbt_slow", schedule=None):
    DbtTaskGroup(
        "shop",
        project=project("slow"),
        vars={"slow": "{{ dag_run.conf.get('slow', '') }}"},
        running_scope="target",
    )

with DAG("dbt_other", schedule=None):
    DbtRunOperator(task_id="run", project=project("slow"), select="stg_orders", running_scope="target")
