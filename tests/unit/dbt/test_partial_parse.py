"""dbt's parse, kept between runs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.dbt.flags import DbtFlags
from airflow_ext.dbt.index import cache_dir
from airflow_ext.dbt.partial_parse import KEPT, PartialParse
from airflow_ext.dbt.runner import DbtRun, RunSettings

NAME = "partial_parse.msgpack"


def parse(project: Path) -> list[str]:
    lines: list[str] = []
    with DbtRun(RunSettings(project, project), "parse") as dbt:
        dbt.run(on_log=lines.append, on_node=lambda _: None, on_tick=lambda: None)
    return lines


def test_a_second_run_goes_on_from_the_parse_of_the_first(shop: Path) -> None:
    said = "Unable to do partial parsing because saved manifest not found"
    assert any(said in line for line in parse(shop))
    (kept,) = cache_dir().glob("*.partial_parse")
    os.utime(kept, (1, 1))
    inode = kept.stat().st_ino
    assert not any("Unable to do partial parsing" in line for line in parse(shop))
    assert kept.stat().st_ino == inode, "written anew although nothing had changed"
    assert kept.stat().st_mtime > 1, "not marked as used"


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        pytest.param({"project_dir": Path("/b")}, {}, id="project"),
        pytest.param({"profiles_dir": Path("/b")}, {}, id="profiles"),
        pytest.param({"target": "prod"}, {}, id="target"),
        pytest.param({"executable": "/opt/dbt"}, {}, id="executable"),
        pytest.param({}, {"vars": {"a": 1}}, id="vars"),
        pytest.param({}, {"vars": {"a": {1: "x", "b": 2}, 2: 3}}, id="vars named by numbers"),
        pytest.param({}, {"store_failures": True}, id="store failures"),
    ],
)
def test_what_dbt_would_parse_anew_for_has_a_file_of_its_own(settings: Any, flags: Any) -> None:
    plain: dict[str, Any] = {"project_dir": Path("/a"), "profiles_dir": Path("/a")}
    usual = PartialParse(RunSettings(**plain), DbtFlags(select="x"))
    assert PartialParse(RunSettings(**plain), DbtFlags(full_refresh=True)).path == usual.path
    assert PartialParse(RunSettings(**{**plain, **settings}), DbtFlags(**flags)).path != usual.path


def test_many_writers_leave_a_whole_file_and_readers_see_none_in_between(tmp_path: Path) -> None:
    parse = [PartialParse(RunSettings(tmp_path, tmp_path), DbtFlags()) for _ in range(8)]
    sizes = set()

    def work(number: int) -> None:
        target = tmp_path / f"target{number}"
        target.mkdir()
        for turn in range(20):
            (target / NAME).write_bytes(bytes([number]) * (100_000 + turn))
            parse[number].keep(target)
            parse[number].lend(target)
            content = (target / NAME).read_bytes()
            assert len(set(content)) == 1
            sizes.add(len(content))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert sizes <= set(range(100_000, 100_020))
    assert [path.name for path in cache_dir().iterdir()] == [parse[0].path.name]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    for number in range(KEPT + 5):
        one = PartialParse(RunSettings(tmp_path, tmp_path), DbtFlags(vars={"n": number}))
        (target / NAME).write_bytes(b"%d" % number)
        one.keep(target)
        os.utime(one.path, (number, number))
    kept = {int(path.read_bytes()) for path in cache_dir().glob("*.partial_parse")}
    assert kept == set(range(5, KEPT + 5))


def test_a_cache_that_cannot_be_written_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "file"))
    one = PartialParse(RunSettings(tmp_path, tmp_path), DbtFlags())
    (tmp_path / NAME).write_bytes(b"x")
    one.keep(tmp_path)
    (tmp_path / NAME).unlink()
    one.lend(tmp_path)
    assert not (tmp_path / NAME).exists()
