"""Real dbt on real DuckDB files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.operators.dbt import (
    DbtDocsGenerateOperator,
    DbtLsOperator,
    DbtProject,
    DbtSourceFreshnessOperator,
)
from tests.unit.operators.conftest import context, made, query, run


def test_freshness_is_summed_up(project: DbtProject, tmp_path: Path) -> None:
    _load(tmp_path, quick="3 hours", slow="1 minute")
    warned: list[str] = []
    found = run(
        DbtSourceFreshnessOperator,
        project=project,
        on_warning=lambda _, texts: warned.extend(texts),
    )
    assert (found["checked"], found["counts"]) == (2, {"warn": 1, "pass": 1})
    quick = found["sources"]["source.shop.raw.quick"]
    assert quick["status"] == "warn"
    assert 10_800 <= quick["age"] < 10_900
    assert quick["max_loaded_at"].startswith("20")
    assert any("raw.quick" in text for text in warned)


def test_a_source_that_is_too_old_or_missing_fails_the_task(project: DbtProject, tmp_path: Path) -> None:
    _load(tmp_path, slow="3 hours")
    with pytest.raises(DbtFailedError) as caught:
        run(DbtSourceFreshnessOperator, project=project)
    assert caught.value.failed == ("source.shop.raw.quick", "source.shop.raw.slow")
    assert "Table with name quick does not exist" in str(caught.value)
    assert (
        "source.shop.raw.slow: error, newest data 3 h old; error after 90 minutes"
        in str(caught.value).splitlines()
    )


def test_freshness_of_nothing_is_no_success(project: DbtProject) -> None:
    with pytest.raises(InvalidProjectError, match="select='source:typo': no source with a freshness rule"):
        run(DbtSourceFreshnessOperator, project=project, select="source:typo")


def _load(tmp_path: Path, **ages: str) -> None:
    for table, age in ages.items():
        query(
            tmp_path,
            f"create or replace table main.{table} as "
            f"select (now() at time zone 'UTC') - interval '{age}' as loaded_at",
        )


def test_a_password_in_the_place_of_a_site_is_refused_and_not_repeated(empty: DbtProject) -> None:
    with pytest.raises(ValueError, match="must not hold a password") as caught:
        made(DbtDocsGenerateOperator, project=empty, upload="s3://me:hunter2@bucket/docs")
    assert "hunter2" not in str(caught.value)


def test_a_site_is_put_in_a_folder(project: DbtProject, tmp_path: Path) -> None:
    place = run(DbtDocsGenerateOperator, project=project, upload=tmp_path / "site", static=True)
    assert place == str(tmp_path / "site")
    files = {path.relative_to(place).as_posix() for path in Path(place).rglob("*") if path.is_file()}
    assert files == {"index.html", "manifest.json", "catalog.json", "static_index.html", "assets/plan.svg"}
    catalog = json.loads((tmp_path / "site" / "catalog.json").read_text())
    assert "model.shop.orders" in catalog["nodes"]
    static = (tmp_path / "site" / "static_index.html").read_text()
    assert "model.shop.orders" in static

    before = (tmp_path / "site" / "index.html").stat().st_mtime_ns
    (tmp_path / "shop.duckdb").unlink()
    (tmp_path / "shop.duckdb").write_text("no database")
    with pytest.raises(DbtFailedError):
        run(DbtDocsGenerateOperator, project=project, upload=tmp_path / "site")
    assert (tmp_path / "site" / "index.html").stat().st_mtime_ns == before


def test_a_site_is_put_in_an_object_store(project: DbtProject) -> None:
    from airflow.sdk.io import attach
    from airflow.sdk.io.store import _STORE_CACHE
    from fsspec.implementations.memory import MemoryFileSystem

    store = MemoryFileSystem()
    attach("memory", fs=store)
    site = made(DbtDocsGenerateOperator, project=project, upload="memory://{{ params.bucket }}/docs/")
    site.render_template_fields({"params": {"bucket": "sites"}})
    try:
        assert site.execute(context()) == "memory://sites/docs"
        names = {Path(name).name for name in store.find("sites")}
        assert names == {"index.html", "manifest.json", "catalog.json", "plan.svg"}
    finally:
        _STORE_CACHE.pop("memory")
        store.store.clear()
        store.pseudo_dirs[:] = [""]


def test_a_list_has_what_it_is_asked_for(empty: DbtProject) -> None:
    assert run(DbtLsOperator, project=empty, select="stg_orders stg_payments", resource_types=["model"]) == [
        "shop.stg_orders",
        "shop.stg_payments",
    ]
    listed = run(
        DbtLsOperator,
        project=empty,
        select="orders",
        exclude_resource_types=["test"],
        output_format="json",
        output_keys=["unique_id", "original_file_path"],
    )
    assert listed == [{"unique_id": "model.shop.orders", "original_file_path": "models/orders.sql"}]


def test_a_list_of_nothing_is_empty_and_warned_of(empty: DbtProject) -> None:
    warned: list[str] = []
    found = run(
        DbtLsOperator, project=empty, select="nobody", on_warning=lambda _, texts: warned.extend(texts)
    )
    assert found == []
    assert any("'nobody' does not match" in text for text in warned)


def test_a_list_too_long_for_an_xcom_is_an_error_with_the_way_out(empty: DbtProject) -> None:
    with pytest.raises(ValueError, match=r"dbt ls gave \d+ lines, limit=2: narrow select="):
        run(DbtLsOperator, project=empty, output_format="name", limit=2)
