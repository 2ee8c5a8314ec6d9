"""``@task.contract_publish``."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_ext.contracts import Status
from airflow_ext.decorators.contract import contract_publish_task
from airflow_ext.hooks.verdict_store import verdict_store
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.contracts.samples import contract

ASSET = "contract/orders/v1"


def load(day: str, rows: int, *, dag_run: Any = None) -> dict[str, Any]:
    """Write some rows and say who did."""
    import duckdb

    with duckdb.connect(os.environ["SHOP"]) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS shop")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS shop.orders (day DATE, id INTEGER, country VARCHAR, amount DOUBLE)"
        )
        connection.execute(
            "INSERT INTO shop.orders SELECT ?::DATE, range, 'DE', 1.5 FROM range(?)", [day, rows]
        )
    return {"loaded": rows, "run": dag_run.run_type}


def context(pushed: dict[str, Any]) -> Any:
    ti = SimpleNamespace(
        dag_id="shop",
        run_id="manual__1",
        task_id="load",
        map_index=None,
        try_number=1,
        xcom_push=pushed.__setitem__,
    )
    return {
        "ti": ti,
        "dag_run": SimpleNamespace(partition_key=None, run_type="manual"),
        "data_interval_start": datetime(2013, 1, 5, tzinfo=UTC),
        "outlet_events": OutletEventAccessors(),
    }


@pytest.mark.parametrize(("rows", "status"), [(3, "PASS"), (0, "BREACHED")])
def test_what_a_function_loads_is_published(tmp_path: Path, rows: int, status: str) -> None:
    os.environ["SHOP"] = str(tmp_path / "warehouse.duckdb")
    os.environ["AIRFLOW_CONN_SHOP_DB"] = json.dumps({"conn_type": "duckdb", "host": os.environ["SHOP"]})
    pushed: dict[str, Any] = {}
    with DAG("shop", schedule=None):
        decorate = contract_publish_task(contract=contract(), task_id="publish")
        made: Any = decorate(load)("2013-01-05", rows)
    operator = made.operator
    assert operator.task_id == "publish"
    assert [outlet.name for outlet in operator.outlets] == [ASSET, f"{ASSET}/unkeyed"]
    run = context(pushed)
    with AssetStateServer().serving():
        if status == "PASS":
            assert operator.execute(run) == {"loaded": rows, "run": "manual"}
            assert pushed["verdict"]["rows"] == rows
            assert run["outlet_events"][operator.contract.asset].partition_keys == {"2013-01-05"}
        else:
            with pytest.raises(AirflowFailException, match="is BREACHED"):
                operator.execute(run)
        assert verdict_store().head(ASSET).entries["2013-01-05"].status is Status(status)


def test_airflow_knows_the_decorator() -> None:
    assert callable(task.contract_publish)
