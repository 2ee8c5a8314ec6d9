"""A task that is renamed or moved goes on where it was, or says that it would begin anew."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_ext.operators.sync import SyncFiles, SyncOperator


@pytest.fixture
def landing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files, and the connections that load them."""
    (tmp_path / "landing").mkdir()
    for name in ("1", "2"):
        (tmp_path / "landing" / f"{name}.csv").write_text("id\n1\n")
    both = {"source_conn_id": "landing", "destination_conn_id": "warehouse"}
    for name, document in (
        ("landing", {"conn_type": "fs", "extra": {"path": str(tmp_path / "landing")}}),
        ("warehouse", {"conn_type": "duckdb", "host": str(tmp_path / "w.duckdb")}),
        ("ext_dlt_default", {"conn_type": "ext-dlt", "extra": both}),
    ):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(document))
    return tmp_path / "landing"


def load(landing: Path, task_id: str, map_index: int = -1, **arguments: Any) -> int:
    with DAG("ingest", schedule=None):
        task = SyncOperator(
            task_id=task_id,
            tables=[SyncFiles("t", path="*.csv")],
            pipelines_folder=landing.parent / "state",
            **arguments,
        )
    ti = SimpleNamespace(dag_id="ingest", task_id=task_id, map_index=map_index, run_id="one")
    run = SimpleNamespace(partition_key=None, run_type="scheduled")
    result = task.execute({"ti": ti, "dag_run": run, "outlet_events": OutletEventAccessors()})  # type: ignore[typeddict-item]  # what it reads
    rows: int = result["tables"]["t"]["rows"]
    return rows


def test_a_task_that_moved_into_a_group_is_told_what_it_was_and_goes_on_from_there(landing: Path) -> None:
    assert load(landing, "load") == 2
    with pytest.raises(
        AirflowFailException, match=r"sync 'ingest/load' .*give the task state_key='ingest/load'"
    ):
        load(landing, "group.load")
    (landing / "3.csv").write_text("id\n1\n")
    assert load(landing, "group.load", state_key="ingest/load") == 1
    assert load(landing, "load") == 0, "both names are the same sync"


def test_the_copies_of_a_mapped_task_have_a_state_each(landing: Path) -> None:
    assert load(landing, "load", 0) == 2
    with pytest.raises(AirflowFailException, match="copies of a mapped task have changed their order"):
        load(landing, "load", 1)
    assert load(landing, "group.load", 0, state_key="ingest/load") == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"state_key": " "}, "give a text that stays the same", id="blank"),
        pytest.param({"state_key": "{{ ds }}"}, "it is not templated", id="template"),
        pytest.param({"state_key": "a", "sync": "shop", "tables": []}, "is the vendor's", id="vendor"),
    ],
)
def test_a_wrong_key_fails_when_the_dag_is_parsed(arguments: dict[str, Any], told: str) -> None:
    with DAG("ingest", schedule=None), pytest.raises(ValueError, match=told):
        SyncOperator(task_id="load", **({"tables": [SyncFiles("t", path="*.csv")]} | arguments))
