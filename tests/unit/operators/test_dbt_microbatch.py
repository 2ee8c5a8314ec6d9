"""A microbatch model that went well in part: a retry of the build repeats only the batches that failed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from airflow_ext.cli.dbt import index
from airflow_ext.exceptions import DbtFailedError
from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject
from tests.unit.operators.conftest import SHOP, Store, context, query, run

EVENTS = "{{ config(event_time='day') }} select day from range(timestamp '2026-01-01', timestamp '2026-01-04', interval 1 day) r(day)"
DAILY = """{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='day', batch_size='day',
  begin='2026-01-01') }}
select day, txid_current() as write, case when day = timestamp '2026-01-02' and '{{ var("bad", "") }}' <> '' then error('bad day') end as x
from {{ ref('events') }}
"""


@pytest.fixture
def batched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DbtProject:
    project = tmp_path / "shop"
    shutil.copytree(SHOP, project)
    (project / "models" / "events.sql").write_text(EVENTS)
    (project / "models" / "daily.sql").write_text(DAILY)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.setenv("SHOP_DUCKDB", str(tmp_path / "shop.duckdb"))
    index(project)
    return DbtProject(project_dir=project)


def test_a_retry_runs_only_the_failed_batches(batched: DbtProject, tmp_path: Path) -> None:
    store = Store()
    times = {"event_time_start": "2026-01-01", "event_time_end": "2026-01-04"}
    with pytest.raises(DbtFailedError, match="bad day"):
        run(
            DbtBuildOperator,
            context(store, retries=1),
            project=batched,
            vars={"bad": "yes"},
            threads=1,
            **times,
        )
    before = dict(query(tmp_path, "select day, write from daily"))
    assert len(before) == 2, "the batches before and after the bad one are there"

    run(DbtBuildOperator, context(store, attempt=2, retries=1), project=batched, threads=1, **times)
    after = dict(query(tmp_path, "select day, write from daily"))
    assert len(after) == 3
    assert {day: after[day] for day in before} == before, "what went well was not written again"
