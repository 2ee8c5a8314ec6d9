from __future__ import annotations

from pathlib import Path

import pytest

from airflow_ext.dbt import DbtProject


def test_a_project_reads_nothing_when_made() -> None:
    project = DbtProject(project_dir="/nowhere")
    assert project.manifest == Path("/nowhere/target/manifest.json")
    assert project.profiles_dir == Path("/nowhere")


def test_a_profile_has_one_origin() -> None:
    with pytest.raises(ValueError, match="profile_conn_id='wh' and profiles_dir='/x'"):
        DbtProject(project_dir="p", profile_conn_id="wh", profiles_dir="/x")


def test_a_schema_needs_a_connection() -> None:
    with pytest.raises(ValueError, match="schema='marts'"):
        DbtProject(project_dir="p", schema="marts")


def test_the_remedy_repeats_what_the_project_was_given() -> None:
    project = DbtProject(project_dir="/p", profiles_dir="/q", target="prod", manifest="/m.json")
    assert project.remedy == "airflow-ext dbt index /p --profiles-dir /q --target prod --out /m.json"


def test_the_remedy_asks_for_an_adapter_only_where_there_is_no_profile(tmp_path: Path) -> None:
    project = DbtProject(project_dir=tmp_path, profile_conn_id="wh")
    assert project.remedy == f"airflow-ext dbt index {tmp_path} --adapter ADAPTER"
    (tmp_path / "profiles.yml").touch()
    assert project.remedy == f"airflow-ext dbt index {tmp_path}"
