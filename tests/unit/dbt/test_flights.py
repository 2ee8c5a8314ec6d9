"""The demo's project on a little real data, with real dbt."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from airflow_ext.dbt.flags import DbtFlags
from airflow_ext.dbt.project import DbtProject
from airflow_ext.dbt.results import NodeBoard
from airflow_ext.dbt.runner import DbtRun, RunSettings
from airflow_ext.dbt.units import units_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def flights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import duckdb

    folder = tmp_path / "flights"
    shutil.copytree(
        ROOT / "dags" / "dbt" / "flights", folder, ignore=shutil.ignore_patterns("target", "logs")
    )
    monkeypatch.setenv("FLIGHTS_DUCKDB", str(tmp_path / "w.duckdb"))
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        connection.execute("create schema raw")
        connection.execute(
            "create table raw.flights as select date '2013-01-01' + cast(i % 2 as integer) as flight_date,"
            " 'UA' as carrier, i as flight, 'N1' as tailnum, 'EWR' as origin, 'ORD' as dest,"
            " case when i > 0 then 600 end as dep_time, case when i > 0 then i end as dep_delay,"
            " case when i > 0 then 2 * i end as arr_delay, 700 as distance, now() as time_hour"
            " from range(20) r(i)"
        )
        connection.execute("create table raw.airlines as select 'UA' as carrier, 'United' as name")
        connection.execute(
            "create table raw.airports as select 'ORD' as faa, 'Chicago' as name, 1.0 as lat, 2.0 as lon"
        )
        connection.execute("create table raw.planes as select 'N1' as tailnum")
        connection.execute(
            "create table raw.weather as select 'EWR' as origin, 2013 as year, 1 as month, 1 as day,"
            " 10.0 as wind_speed, 0.0 as precip, 10.0 as visib"
        )
    return folder


def build(folder: Path, board: NodeBoard, **variables: str) -> bool:
    with DbtRun(RunSettings(folder, folder), flags=DbtFlags(vars=variables)) as one:
        return one.run(on_log=lambda _: None, on_node=board.add, on_tick=lambda: None).success


def worst_delay(path: Path) -> tuple[str, object]:
    import duckdb

    with duckdb.connect(str(path), read_only=True) as connection:
        found = connection.execute(
            "select typeof(worst_arr_delay), worst_arr_delay from marts.daily_delays"
            " where flight_date = date '2013-01-01'"
        ).fetchone()
    assert found is not None
    return found[0], found[1]


@pytest.mark.usefixtures("flights_index")
def test_a_release_changes_the_type_of_a_built_column_and_back(flights: Path, tmp_path: Path) -> None:
    index = DbtProject(project_dir=ROOT / "dags" / "dbt" / "flights").index()
    board = NodeBoard(index)
    assert build(flights, board)
    assert {outcome["state"] for outcome in board.outcomes(units_of(index), over=True).values()} == {
        "success"
    }
    assert worst_delay(tmp_path / "w.duckdb") == ("DOUBLE", 36.0)
    assert build(flights, board, delay_format="text", day="2013-01-02")
    assert worst_delay(tmp_path / "w.duckdb") == ("VARCHAR", "36 min")


def test_bands_of_delay_meet_without_gap() -> None:
    with (ROOT / "dags" / "dbt" / "flights" / "seeds" / "delay_bands.csv").open() as file:
        bands = list(csv.DictReader(file))
    assert [band["to_minutes"] for band in bands[:-1]] == [band["from_minutes"] for band in bands[1:]]
