"""``airflow-ext dbt index`` with real dbt."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from airflow_ext.cli.dbt import index, register
from airflow_ext.exceptions import InvalidProjectError


def test_a_project_without_profiles_is_indexed_for_an_adapter(shop: Path, tmp_path: Path) -> None:
    (shop / "profiles.yml").unlink()
    made = index(shop, adapter="duckdb", out=tmp_path / "out" / "manifest.json")
    assert (made.project, made.adapter, len(made.nodes)) == ("shop", "duckdb", 10)
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_a_project_that_does_not_parse_leaves_the_old_manifest(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (shop / "target" / "manifest.json").read_bytes()
    (shop / "models" / "broken.sql").write_text("select * from {{ ref('nobody') }}")
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    args = parser.parse_args(["dbt", "index", str(shop)])
    assert args.func(args) == 1
    assert "nobody" in capsys.readouterr().err
    assert (shop / "target" / "manifest.json").read_bytes() == before


def test_what_is_no_project_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidProjectError, match=r"no dbt_project\.yml"):
        index(tmp_path)
