"""Real dbt on a real DuckDB file."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_ext.dbt.profiles import profile_from_connection
from airflow_ext.dbt.project import DbtProject
from airflow_ext.dbt.results import NodeBoard
from airflow_ext.dbt.runner import BuildSettings, DbtBuild
from airflow_ext.exceptions import DbtFailedError


def run(settings: BuildSettings, board: NodeBoard, only: Sequence[str] | None = None) -> tuple[bool, str]:
    lines: list[str] = []
    with DbtBuild(settings, only=only) as build:
        good = build.run(on_log=lines.append, on_node=board.add, on_tick=lambda: None)
    return good, "\n".join(lines)


def states(board: NodeBoard) -> dict[str, str]:
    return {name.split(".")[-1]: outcome["state"] for name, outcome in board.outcomes(over=True).items()}


def test_what_a_failed_build_left_is_all_that_a_retry_builds(shop: Path) -> None:
    before = sorted(path.relative_to(shop) for path in shop.rglob("*"))
    board = NodeBoard(DbtProject(project_dir=shop).index())
    good, log = run(BuildSettings(shop, shop, vars={"fail": "orders"}), board)
    assert not good
    assert "told to fail: orders" in log
    found = states(board)
    assert {name for name, state in found.items() if state != "success"} == {
        "orders",
        "customers",
        "top_customer",
    }
    assert found["orders"] == "failed"

    good, log = run(BuildSettings(shop, shop), board, only=board.remaining())
    assert good
    assert set(states(board).values()) == {"success"}
    assert "of 8 START sql table model main.orders" in log
    assert "stg_orders" not in log
    assert sorted(path.relative_to(shop) for path in shop.rglob("*")) == before, "the project was written to"


def test_a_failed_test_fails_its_node_with_dbts_message(shop: Path) -> None:
    board = NodeBoard(DbtProject(project_dir=shop).index())
    good, _ = run(BuildSettings(shop, shop, vars={"fail_test": "yes"}, threads=1), board)
    assert not good
    outcome = board.outcomes(over=True)["model.shop.customers"]
    assert outcome["state"] == "failed"
    assert "Got 1 result" in outcome["message"]
    assert outcome["tests"] == {"fail": 1, "pass": 1}
    assert states(board)["top_customer"] == "skipped"


def test_hooks_have_records_with_dbts_messages(shop: Path) -> None:
    with (shop / "dbt_project.yml").open("a") as file:
        file.write('on-run-end: ["select 1", "select no_such_column", "select 2"]\n')
    board = NodeBoard(DbtProject(project_dir=shop).index())
    good, _ = run(BuildSettings(shop, shop), board, only=["seed.shop.raw_orders"])
    assert not good
    hooks = [f"operation.shop.shop-on-run-end-{n}" for n in range(3)]
    assert [board.records[hook]["status"] for hook in hooks] == ["success", "error", "skipped"]
    assert board.failed() == board.uncovered_failures() == [hooks[1]]
    assert "no_such_column" in board.explain([hooks[1]])


def test_a_project_that_does_not_parse_is_told_in_dbts_words(shop: Path) -> None:
    (shop / "models" / "broken.sql").write_text("select * from {{ ref('nobody') }}")
    with pytest.raises(DbtFailedError, match="nobody"):
        run(BuildSettings(shop, shop), NodeBoard(None))


def test_a_connection_reaches_dbt_without_a_profiles_file(shop: Path, tmp_path: Path) -> None:
    (shop / "profiles.yml").unlink()
    connection = Connection(conn_id="d", conn_type="duckdb", host=str(tmp_path / "other.duckdb"))
    profile = profile_from_connection(connection, name="shop")
    good, _ = run(BuildSettings(shop, shop, profile=profile), NodeBoard(None))
    assert good
    assert (tmp_path / "other.duckdb").exists()


def test_stopping_ends_dbt_and_removes_its_folder(shop: Path) -> None:
    settings = BuildSettings(shop, shop)
    build = DbtBuild(settings)
    lines: list[str] = []
    timer: list[threading.Timer] = []

    def on_log(line: str) -> None:
        lines.append(line)
        if not timer:
            timer.append(threading.Timer(0, build.stop))
            timer[0].start()

    def run_in_folder() -> None:
        with build:
            folders.append(build._folder)
            build.run(on_log=on_log, on_node=lambda _: None, on_tick=lambda: None)

    folders: list[Any] = []
    with pytest.raises(DbtFailedError, match="stopped"):
        run_in_folder()
    timer[0].join()
    assert not folders[0].exists()
    assert build._process is not None
    pid = build._process._process.pid
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


def test_a_child_that_dies_is_a_failure_with_its_last_words(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = secrets.token_hex(4)
    (shop / "shadow" / "dbt").mkdir(parents=True)
    (shop / "shadow" / "dbt" / "__init__.py").write_text(f"raise SystemExit('gone {word}')")
    monkeypatch.setenv("PYTHONPATH", str(shop / "shadow"))
    with pytest.raises(DbtFailedError, match=f"(?s)status 1 without a result.*gone {word}"):
        run(BuildSettings(shop, shop), NodeBoard(None))
