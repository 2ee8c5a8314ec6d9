from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from pathlib import Path

import msgspec
import pytest

from airflow_ext.dbt.index import KEPT_DAYS, DbtIndex, DbtNode, load_index, write_atomically
from airflow_ext.dbt.manifest import read_index
from airflow_ext.dbt.project import DbtProject
from airflow_ext.exceptions import InvalidProjectError
from tests.unit.dbt.manifests import manifest, model


def refuse(content: bytes, *, key: str, source: str) -> DbtIndex:
    raise AssertionError("the index should have come from the cache")


def test_the_index_of_a_known_content_is_not_computed_again(shop: Path) -> None:
    project = DbtProject(project_dir=shop)
    first = project.index()
    assert load_index(shop / "target" / "manifest.json", read=refuse, remedy="-") == first


def test_a_copy_with_the_same_content_is_known(shop: Path, tmp_path: Path) -> None:
    first = DbtProject(project_dir=shop).index()
    copy = tmp_path / "copy.json"
    copy.write_bytes((shop / "target" / "manifest.json").read_bytes())
    assert load_index(copy, read=refuse, remedy="-") == first


def test_a_changed_manifest_gives_a_changed_index(shop: Path) -> None:
    project, path = DbtProject(project_dir=shop), shop / "target" / "manifest.json"
    before = {node.name for node in project.index().nodes}
    content = json.loads(path.read_bytes())
    del content["nodes"]["model.shop.top_customer"]
    write_atomically(path, json.dumps(content).encode())
    assert {node.name for node in project.index().nodes} == before - {"top_customer"}


def test_a_torn_manifest_is_answered_with_the_last_good_index(
    shop: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project, path = DbtProject(project_dir=shop), shop / "target" / "manifest.json"
    good = project.index()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        assert project.index() == good
    assert "last good" in caplog.text


def test_a_torn_manifest_that_was_never_good_names_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"metadata"')
    project = DbtProject(project_dir=tmp_path, manifest=path)
    with pytest.raises(InvalidProjectError, match=r"airflow-ext dbt index .* --out .*manifest\.json"):
        project.index()


def test_a_missing_manifest_names_the_remedy(tmp_path: Path) -> None:
    project = DbtProject(project_dir=tmp_path, profile_conn_id="wh")
    with pytest.raises(InvalidProjectError, match=f"airflow-ext dbt index {tmp_path} --adapter ADAPTER"):
        project.index()


def test_a_cache_that_cannot_be_written_costs_only_time(
    shop: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "file"))
    assert DbtProject(project_dir=shop).index().project == "shop"


def test_many_processes_may_build_the_index_at_once(shop: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        made = pool.map(DbtProject.index, [DbtProject(project_dir=shop)] * 16)
    assert [len(index.nodes) for index in made] == [10] * 16


def test_an_index_of_another_layout_is_computed_anew(shop: Path, airflow_home: Path) -> None:
    project = DbtProject(project_dir=shop)
    made = project.index()
    (cached,) = airflow_home.rglob("*.idx")
    cached.write_bytes(msgspec.msgpack.encode(msgspec.structs.replace(made, version=1)))
    assert project.index() == made


def test_a_whole_build_runs_nodes_their_tests_and_tests_of_nothing() -> None:
    node = DbtNode("model.p.m", "m", "model", True, "m", (), ("test.p.t",), "dbt/p/m")
    index = DbtIndex(1, "k", "p", "1.11", "duckdb", (node,), ("test.p.lonely",))
    assert index.executed() == ["model.p.m", "test.p.t", "test.p.lonely"]


def test_a_manifest_that_is_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidProjectError, match="is a folder: give manifest= the path"):
        DbtProject(project_dir=tmp_path, manifest=tmp_path).index()


def test_an_index_that_nobody_read_for_long_is_removed_and_one_in_use_is_kept(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name in ("used", "unused", "new"):
        if name == "new":
            for made in cache.iterdir():
                os.utime(made, (0, time.time() - (KEPT_DAYS + 1) * 86_400))
            load_index(tmp_path / "used.json", read=refuse, remedy="-", cache=cache)
        path = tmp_path / f"{name}.json"
        path.write_bytes(manifest(model(name)))
        load_index(path, read=read_index, remedy="-", cache=cache)
    kept = {
        load_index(tmp_path / f"{name}.json", read=refuse, remedy="-", cache=cache).key
        for name in ("used", "new")
    }
    assert {path.stem for path in cache.glob("*.idx")} == kept


def test_five_thousand_nodes_are_read_from_the_cache_in_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(manifest(*(model(f"m{n}", *([f"m{n // 2}"] if n else [])) for n in range(5_000))))
    project = DbtProject(project_dir=tmp_path, manifest=path)
    assert len(project.index().nodes) == 5_000
    before = time.process_time()
    assert len(project.index().nodes) == 5_000
    assert time.process_time() - before < 0.5
