"""The recipe for slim CI of docs/dbt-commands.md, with real dbt on a real DuckDB file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_ext.dbt.artifacts import latest_of
from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject

SHOP = Path(__file__).parents[2] / "integration" / "dags" / "dbt_shop"


def build(project: DbtProject, **arguments: Any) -> None:
    with DAG("dag", schedule=None):
        operator = DbtBuildOperator(task_id="build", project=project, **arguments)
    told: Any = {
        "ti": SimpleNamespace(dag_id="dag", task_id="task", try_number=1, max_tries=0),
        "dag_run": SimpleNamespace(run_id="run"),
        "task_state_store": SimpleNamespace(set=lambda *_: None),
    }
    operator.execute(told)


def tables(database: Path, schema: str) -> set[str]:
    import duckdb

    with duckdb.connect(str(database)) as connection:
        found = connection.execute(
            "select table_name from information_schema.tables where table_schema = ?", [schema]
        )
        return {name for (name,) in found.fetchall()}


def rows(database: Path, sql: str) -> list[Any]:
    import duckdb

    with duckdb.connect(str(database)) as connection:
        return connection.execute(sql).fetchall()


def test_ci_builds_what_changed_and_defers_to_production(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "shop.duckdb"
    connection = {"conn_type": "duckdb", "host": str(database)}
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    shutil.copytree(SHOP, tmp_path / "shop")
    production = DbtProject(
        project_dir=tmp_path / "shop",
        profile_conn_id="warehouse",
        artifacts=tmp_path / "artifacts",
    )
    build(production)

    shutil.copytree(tmp_path / "shop", tmp_path / "checkout" / "shop")
    model = tmp_path / "checkout" / "shop" / "models" / "customers.sql"
    model.write_text(f"select *, true as checked from ({model.read_text()})")
    state = latest_of(str(tmp_path / "artifacts"), project="shop", target=None)
    changed = DbtProject(
        project_dir=tmp_path / "checkout" / "shop", profile_conn_id="warehouse", schema="ci_42"
    )
    build(changed, select="state:modified+", defer=True, state=state)

    assert tables(database, "ci_42") == {"customers", "top_customer"}
    assert rows(database, "select * exclude (checked) from ci_42.customers order by id") == rows(
        database, "select * from main.customers order by id"
    )
    assert "checked" not in {name for (name, *_) in rows(database, "describe main.customers")}

    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "profiles.yml").write_text(
        json.dumps(
            {
                "shop": {
                    "target": "ci",
                    "outputs": {"ci": {"type": "duckdb", "path": str(database), "schema": "ci_43"}},
                }
            }
        )
    )
    words = ["build", "--select", "state:modified+", "--defer", "--state", state]
    words += ["--target-path", str(tmp_path / "target"), "--log-path", str(tmp_path / "logs")]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dbt")), *words, "--profiles-dir", str(tmp_path / "profiles")],
        cwd=changed.project_dir,
        env={**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert tables(database, "ci_43") == {"customers", "top_customer"}
