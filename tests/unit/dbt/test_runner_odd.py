"""Runs of projects and on workers that are odd: nothing is lost by it, and no secret shown."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.dbt.artifacts import keep_run
from airflow_ext.dbt.flags import DbtFlags
from airflow_ext.dbt.runner import DbtRun, RunSettings
from tests.unit.dbt.runs import run


def test_no_result_shows_a_secret_and_one_that_is_a_name_spoils_no_id(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets.token_hex(8)
    monkeypatch.setenv("DBT_ENV_SECRET_PW", secret)
    monkeypatch.setenv("DBT_ENV_SECRET_OF_A_LAZY_PERSON", "shop")
    with (shop / "dbt_project.yml").open("a") as file:
        file.write(f"on-run-end: [\"select error('bad login {secret}')\"]\n")
    nodes: list[Any] = []
    with DbtRun(RunSettings(shop, shop), flags=DbtFlags(select="raw_orders+1 stg_payments")) as dbt:
        end = dbt.run(
            on_log=lambda _: None, on_node=lambda node: nodes.append(dict(node)), on_tick=lambda: None
        )
        keep_run(end.target, str(tmp_path / "kept"))
    told = {node["id"]: node for node in nodes}
    assert {"seed.shop.raw_orders", "model.shop.stg_orders", "model.shop.stg_payments"} <= set(told)
    hook = told["operation.shop.shop-on-run-end-0"]
    assert "bad login *****" in hook["message"]
    kept = (tmp_path / "kept" / "run_results.json").read_text()
    assert '"unique_id":"model.shop.stg_orders"' in kept
    assert "bad login *****" in kept
    assert secret not in kept + json.dumps(nodes)


def test_flags_of_the_project_and_settings_of_the_worker_cost_no_results(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_QUIET", "1")
    monkeypatch.setenv("DBT_ENGINE_WRITE_JSON", "false")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    with (shop / "dbt_project.yml").open("a") as file:
        file.write("flags: {write_json: false, log_format: json}\n")
    (shop / "macros").mkdir(exist_ok=True)
    (shop / "macros" / "said.sql").write_text(
        "{% macro said() %}{{ log('gr\u00fcn', info=True) }}{% endmacro %}"
    )
    done = run(shop, "run-operation", words=["said"])
    assert {"manifest.json", "run_results.json"} <= done.files
    assert "gr\u00fcn" in done.log.splitlines()


def test_a_list_has_nothing_of_what_macros_print(shop: Path) -> None:
    with (shop / "models" / "orders.sql").open("a") as file:
        file.write("{{ print({'a': 1}) }}\n")
    listed = run(shop, "ls", flags=DbtFlags(select="orders", indirect_selection="empty"))
    assert listed.end.result == ["shop.orders"]
