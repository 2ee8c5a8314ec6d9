"""Real dbt on a real DuckDB file."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, timezone
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
)

from airflow_ext.dbt.project import DbtProject
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.sensors.dbt import DbtSourceFreshnessSensor

PROJECT = """
name: feeds
profile: feeds
"""
PROFILES = """
feeds:
  target: test
  outputs:
    test: {type: duckdb, path: "{{ env_var('FEEDS_DUCKDB') }}", threads: 2}
"""
SOURCES = """
sources:
  - name: raw
    schema: main
    config: {loaded_at_field: loaded_at}
    tables:
      - name: quick
        config: {freshness: {warn_after: {count: 1, period: hour}, error_after: {count: 1, period: day}}}
      - name: slow
        config: {freshness: {error_after: {count: 90, period: minute}}}
      - name: unruled
      - name: endless
        config:
          enabled: "{{ var('endless', false) }}"
          loaded_at_query: "select now() from read_csv('{{ var('pipe', '') }}')"
          freshness: {error_after: {count: 90, period: minute}}
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sensors") / "feeds"
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(PROJECT)
    (folder / "profiles.yml").write_text(PROFILES)
    (folder / "models" / "sources.yml").write_text(SOURCES)
    (folder / "models" / "reader.sql").write_text("select * from {{ source('raw', 'quick') }}")
    return folder


@pytest.fixture
def project(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DbtProject]:
    """Return a project with a database of this test's own; nothing may stay in the folder for temporary files."""
    monkeypatch.setenv("AIRFLOW_HOME", str(folder.parent / "airflow"))
    monkeypatch.setenv("FEEDS_DUCKDB", str(tmp_path / "feeds.duckdb"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield DbtProject(project_dir=folder)
    assert list((tmp_path / "temporary").iterdir()) == []


def load(tmp_path: Path, **ages: str) -> None:
    import duckdb

    with duckdb.connect(str(tmp_path / "feeds.duckdb")) as connection:
        for table, age in ages.items():
            connection.execute(
                f"create or replace table main.{table} as "
                f"select (now() at time zone 'UTC') - interval '{age}' as loaded_at"
            )


def context(*, looked: int = 0) -> Any:
    instance = SimpleNamespace(get_first_reschedule_date=lambda _: timezone.utcnow() if looked else None)
    return {"ti": instance, "task_reschedule_count": looked}


def sensor(project: DbtProject, **arguments: Any) -> DbtSourceFreshnessSensor:
    with DAG("dag", schedule=None):
        return DbtSourceFreshnessSensor(task_id="fresh", project=project, **arguments)


def test_fresh_sources_end_the_wait_and_are_summed_up(project: DbtProject, tmp_path: Path) -> None:
    load(tmp_path, quick="3 hours", slow="1 minute")
    found = sensor(project).execute(context())
    assert (found["checked"], found["counts"]) == (2, {"warn": 1, "pass": 1})
    assert found["sources"]["source.feeds.raw.quick"]["status"] == "warn"


def test_a_warning_can_be_stale(
    project: DbtProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path, quick="3 hours", slow="1 minute")
    with pytest.raises(AirflowRescheduleException):
        sensor(project, warn_is_stale=True).execute(context())
    log = capsys.readouterr().out
    assert "1 of 2 sources are not fresh" in log
    assert "source.feeds.raw.quick: warn, newest data 3 h old; warn after 1 hour, error after 1 day" in log, (
        "waiting says what for"
    )


def test_a_timeout_names_the_stale_sources(project: DbtProject, tmp_path: Path) -> None:
    load(tmp_path, slow="4 hours", quick="1 minute")
    message = (
        r"(?s)Gave up after 0 s\. 1 of 2 sources are not fresh\n"
        r"source\.feeds\.raw\.slow: error, newest data 4 h old; error after 90 minutes"
    )
    with pytest.raises(AirflowSensorTimeout, match=message):
        sensor(project, timeout=0).execute(context())


@pytest.mark.parametrize(
    ("on_stale", "error"), [("fail", AirflowFailException), ("skip", AirflowSkipException)]
)
def test_a_stale_source_may_end_the_wait(
    project: DbtProject, tmp_path: Path, on_stale: Any, error: type[Exception]
) -> None:
    load(tmp_path, slow="4 hours")
    with pytest.raises(error, match=r"source\.feeds\.raw\.slow: error, newest data 4 h old"):
        sensor(project, select="source:raw.slow", on_stale=on_stale).execute(context(looked=1))


def test_a_missing_table_fails_at_once_in_dbts_words_unless_ignored(
    project: DbtProject, tmp_path: Path
) -> None:
    load(tmp_path, slow="1 minute")
    with pytest.raises(DbtFailedError, match="Table with name quick does not exist") as caught:
        sensor(project).execute(context())
    assert caught.value.failed == ("source.feeds.raw.quick",)
    assert not sensor(project, ignore_errors=True).poke(context())


def test_an_empty_table_is_stale(project: DbtProject, tmp_path: Path) -> None:
    import duckdb

    with duckdb.connect(str(tmp_path / "feeds.duckdb")) as connection:
        connection.execute("create table main.slow (loaded_at timestamp)")
    with pytest.raises(AirflowFailException, match=r"raw\.slow: error, has no rows; error after 90 minutes"):
        sensor(project, select="source:raw.slow", on_stale="fail").execute(context(looked=1))


def test_a_chosen_source_without_a_rule_is_an_error_that_names_it(
    project: DbtProject, tmp_path: Path
) -> None:
    load(tmp_path, quick="1 minute")
    chosen = {"select": "source:raw", "exclude": ["source:raw.slow"]}
    with pytest.raises(InvalidProjectError, match=r"how fresh source\.feeds\.raw\.unruled are: give them"):
        sensor(project, **chosen).poke(context())
    # dbt is asked with the first look only.
    assert sensor(project, **chosen).poke(context(looked=1))


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("source:raw.unruled", r"how fresh source\.feeds\.raw\.unruled are"),
        ("source:raw.nobody", "select='source:raw.nobody': there is no such source in feeds"),
    ],
    ids=["no-rule", "nothing"],
)
def test_nothing_to_look_at_is_an_error_at_any_look(project: DbtProject, select: str, message: str) -> None:
    with pytest.raises(InvalidProjectError, match=message):
        sensor(project, select=select).poke(context(looked=5))


def test_a_project_that_does_not_parse_is_told_in_dbts_words(project: DbtProject, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "profiles.yml").write_text("other: {}")
    broken = DbtProject(project_dir=project.project_dir, profiles_dir=profiles)
    with pytest.raises(DbtFailedError, match="feeds"):
        sensor(broken).poke(context())


def test_a_killed_sensor_leaves_no_dbt(project: DbtProject, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    waiting = sensor(project, select="source:raw.endless", vars={"endless": True, "pipe": str(pipe)})

    def kill() -> None:
        # This waits for a reader, so it goes on when the query runs, which then waits for rows.
        with pipe.open("w"):
            waiting.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(DbtFailedError, match="stopped"):
        waiting.poke(context())
    killer.join()
    assert waiting._run is not None
    assert waiting._run._process is not None
    last = time.monotonic() + 20
    while _alive(waiting._run._process.pid) and time.monotonic() < last:
        time.sleep(0.05)
    assert not _alive(waiting._run._process.pid)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_stale": "ignore"}, "on_stale='ignore': give one of wait, fail, skip"),
        ({"poke_interval": 5}, "poke_interval=5: in mode='reschedule' at least 10 seconds"),
        ({"threads": 0}, "threads=0"),
        ({"select": ""}, "select='' is empty"),
        ({"select": "a", "selector": "b"}, "selector='b' with select="),
    ],
    ids=["on_stale", "poke_interval", "threads", "select", "selector"],
)
def test_arguments_are_checked(project: DbtProject, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sensor(project, **arguments)


def test_what_is_waited_for_may_be_templated_and_is_serialized(project: DbtProject) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    made = sensor(project, select="{{ params.source }}", poke_interval=10)
    assert (made.mode, made.poke_interval, made.reschedule) == ("reschedule", 10, True)
    made.render_template_fields({"params": {"source": "source:raw.slow"}})
    assert made.select == "source:raw.slow"
    read = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(made.dag))))
    assert read.task_dict["fresh"].template_fields == ["select", "exclude", "selector", "vars"]
