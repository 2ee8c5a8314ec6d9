"""Runs of the real dbt on real DuckDB files."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_ext.dbt.artifacts import keep_run
from airflow_ext.dbt.flags import DbtFlags
from airflow_ext.dbt.profiles import profile_from_connection
from airflow_ext.dbt.runner import DbtRun, RunSettings
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from tests.unit.dbt.runs import EXTRA, Done, query, run, tree

DBT = Path(sys.executable).with_name("dbt")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, indexed_shop: Path) -> Path:
    """A project that was built into the file ``built.duckdb`` beside it, its artifacts in ``kept`` beside it."""
    folder = tmp_path_factory.mktemp("built")
    project = folder / "shop"
    shutil.copytree(indexed_shop, project)
    (project / "models" / "extra.yml").write_text(EXTRA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(folder / "airflow"))
        patch.setenv("SHOP_DUCKDB", str(folder / "built.duckdb"))
        with DbtRun(RunSettings(project, project), flags=DbtFlags(exclude="nobody")) as dbt:
            assert dbt.run(on_log=lambda _: None, on_node=lambda _: None, on_tick=lambda: None).success
            keep_run(dbt.target, str(folder / "kept"))
    return folder


@pytest.fixture
def again(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The built project, with its database and kept parse."""
    monkeypatch.setenv("AIRFLOW_HOME", str(built / "airflow"))
    monkeypatch.setenv("SHOP_DUCKDB", str(built / "built.duckdb"))
    return built / "shop"


def test_what_a_failed_build_left_is_all_that_a_retry_builds(shop: Path) -> None:
    before = tree(shop)
    done = run(shop, flags=DbtFlags(vars={"fail": "orders"}))
    assert not done.end.success
    assert "told to fail: orders" in done.log
    assert {"run_results.json", "manifest.json", "compiled"} <= done.files
    found = done.states()
    assert found["orders"] == "error"
    left = [node["id"] for node in done.nodes if node["status"] in ("error", "skipped")]
    assert {name for name, state in found.items() if state == "skipped"} >= {"customers", "top_customer"}
    failed = done.by_name["orders"]
    assert "told to fail: orders" in failed["message"]
    assert failed["compiled"].startswith("with __dbt__cte__paid as (")
    assert failed["relation"] == '"shop"."main"."orders"'
    assert failed["started"] < failed["ended"]
    assert failed["started"].endswith("Z")
    assert done.by_name["raw_orders"]["rows"] == 4

    again = run(shop, only=left)
    assert again.end.success
    assert {node["id"] for node in again.nodes} == set(left)
    assert len(again.nodes) == len(left), "a node was told twice"
    assert tree(shop) == before, "the project was written to"


def test_a_failing_test_tells_its_rows_where_they_are_and_its_sql(again: Path) -> None:
    flags = DbtFlags(select=["nobody", "unique_stg_orders_customer_id", "unique_orders_id"])
    done = run(again, "test", flags=flags)
    assert not done.end.success
    failed = done.by_name["nobody"]
    assert (failed["status"], failed["failures"]) == ("fail", 1)
    assert failed["message"] == "Got 1 result, configured to fail if != 0"
    assert failed["relation"] == '"built"."main_dbt_test__audit"."nobody"'
    assert "where value_field not in" in failed["compiled"]
    assert "compiled code at" not in done.log  # it would be in a folder that is gone
    warned = done.by_name["unique_stg_orders_customer_id"]
    assert (warned["status"], warned["failures"]) == ("warn", 1)
    assert "relation" not in warned
    assert done.by_name["unique_orders_id"].keys() == {"id", "status", "seconds", "started", "ended"}
    assert done.end.warnings == (f"{warned['id']}: Got 1 result, configured to warn if != 0",)


def test_failures_of_all_tests_are_stored_on_request_though_the_parse_is_kept(again: Path) -> None:
    done = run(again, "test", flags=DbtFlags(select="unique_stg_orders_customer_id", store_failures=True))
    relation = done.by_name["unique_stg_orders_customer_id"]["relation"]
    assert relation == '"built"."main_dbt_test__audit"."unique_stg_orders_customer_id"'
    assert query(f"select * from {relation}") == [(2, 2)]


def test_hooks_have_records_with_dbts_messages(shop: Path) -> None:
    with (shop / "dbt_project.yml").open("a") as file:
        file.write('on-run-end: ["select 1", "select no_such_column", "select 2"]\n')
    done = run(shop, only=["seed.shop.raw_orders"])
    assert not done.end.success
    hooks = {node["id"]: node for node in done.nodes if node["id"].startswith("operation.")}
    assert [hooks[f"operation.shop.shop-on-run-end-{n}"]["status"] for n in range(3)] == [
        "success",
        "error",
        "skipped",
    ]
    failed = hooks["operation.shop.shop-on-run-end-1"]
    assert "no_such_column" in failed["message"]
    assert failed["compiled"] == "select no_such_column"


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """A project whose model says what flags dbt has."""
    folder = tmp_path / "probe"
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text("name: probe\nversion: '1.0'\nprofile: probe\n")
    path = "{{ env_var('SHOP_DUCKDB') }}"
    outputs = {
        name: {"type": "duckdb", "path": path, "schema": name, "threads": 1} for name in ("dev", "prod")
    }
    (folder / "profiles.yml").write_text(json.dumps({"probe": {"target": "dev", "outputs": outputs}}))
    names = "FULL_REFRESH EMPTY SAMPLE EVENT_TIME_START EVENT_TIME_END FAIL_FAST INDIRECT_SELECTION DEFER FAVOR_STATE"
    names += " STORE_FAILURES POPULATE_CACHE PRINTER_WIDTH WARN_ERROR"
    (folder / "models" / "flags.sql").write_text(
        "{% if execute %}{% for name in '" + names + "'.split() %}"
        "{% do print(name ~ '=' ~ invocation_args_dict[name.lower()]) %}{% endfor %}"
        "{% do print('vars=' ~ var('day', '-') ~ (var('none', '-') is none) ~ ' threads=' ~ invocation_args_dict.threads ~ ' on ' ~ target.name) %}"
        "{% endif %} select 1 as id from {{ ref('up') }}"
    )
    (folder / "models" / "up.sql").write_text("select 1 as id")
    return folder


def test_ids_are_built_with_all_the_flags_of_their_command(probe: Path, tmp_path: Path) -> None:
    up = run(probe, target="prod", flags=DbtFlags(select="up"))
    assert up.by_name["up"]["relation"] == '"shop"."prod"."up"'
    state = tmp_path / "state"
    with DbtRun(RunSettings(probe, probe, target="prod"), "parse") as dbt:
        dbt.run(on_log=lambda _: None, on_node=lambda _: None, on_tick=lambda: None)
        keep_run(dbt.target, str(state))
    flags = DbtFlags(
        select="flags",
        vars={"day": 'it\'s "x": {1}', "none": None},
        full_refresh=True,
        threads=2,
        indirect_selection="cautious",
        fail_fast=True,
        defer=True,
        favor_state=True,
        state=str(state),
        empty=True,
        event_time_start="2026-01-01",
        event_time_end="2026-01-02 12:00:00",
        resource_types=["model", "seed"],
        store_failures=True,
        warn_error=True,
        args=["--no-populate-cache", "--printer-width", "121"],
    )
    told = [
        [line for line in done.log.splitlines() if "=" in line and " " not in line.partition("=")[0]]
        for done in (
            run(probe, flags=flags, target="dev"),
            run(probe, flags=flags, target="dev", only=["model.probe.flags"]),
        )
    ]
    assert told[0] == told[1]
    assert {
        "FULL_REFRESH=True",
        "EMPTY=True",
        "DEFER=True",
        "POPULATE_CACHE=False",
        "WARN_ERROR=True",
    } <= set(told[0])
    assert 'vars=it\'s "x": {1}True threads=2 on dev' in told[0]
    [(view,)] = query("select sql from duckdb_views() where view_name = 'flags'")
    assert "FROM prod.up WHERE false LIMIT 0" in view


def test_a_sample_holds_for_ids_too(probe: Path) -> None:
    for only in (None, ["model.probe.flags"]):
        done = run(probe, "run", flags=DbtFlags(sample="3 days"), only=only)
        line = next(line for line in done.log.splitlines() if line.startswith("SAMPLE="))
        assert line.startswith("SAMPLE=SampleWindow(")


def test_a_microbatch_is_told_once_and_only_its_failed_batches_run_again(probe: Path) -> None:
    model = probe / "models" / "daily.sql"
    bad = "case when day = '2026-01-02' then error('bad day') end as x"
    (probe / "models" / "events.sql").write_text(
        "{{ config(event_time='day') }} select day from range(timestamp '2026-01-01', timestamp '2026-01-04', interval 1 day) r(day)"
    )
    config = (
        "{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='day', batch_size='day',"
        " begin='2026-01-01') }} "
    )
    model.write_text(f"{config} select day, {bad} from {{{{ ref('events') }}}}")
    flags = DbtFlags(event_time_start="2026-01-01", event_time_end="2026-01-04", select="events daily")
    done = run(probe, flags=flags)
    told = [node for node in done.nodes if node["id"] == "model.probe.daily"]
    assert [node["status"] for node in told] == ["partial success"] * 2, (
        "live, and with its batches at the end"
    )
    assert "PARTIAL SUCCESS (2/3)" in told[0]["message"]
    assert "bad day" in told[0]["message"]
    assert "error('bad day')" in told[0]["compiled"]
    assert {key: len(value) for key, value in told[1]["batches"].items()} == {"successful": 2, "failed": 1}
    assert "failed batches: 2026-01-02" in told[1]["message"]
    assert "'2026-01-02 00:00:00" in told[1]["compiled"], "the query is that of the batch which failed"

    model.write_text(f"{config} select day, null as x from {{{{ ref('events') }}}}")
    again = run(
        probe, flags=flags, only=["model.probe.daily"], batches={"model.probe.daily": told[1]["batches"]}
    )
    assert again.end.success
    assert "batch 2026-01-02 of" in again.log
    assert "batch 2026-01-01 of" not in again.log


@pytest.mark.parametrize("kind", ["this environment", "an executable"])
def test_freshness_tells_what_sources_json_has(again: Path, kind: str) -> None:
    done = run(again, "source freshness", executable=DBT if kind == "an executable" else None)
    assert not done.end.success
    assert len(done.nodes) == 3
    found = {node["id"].rpartition(".")[2]: node for node in done.nodes}
    assert {name: node["status"] for name, node in found.items()} == {
        "raw_orders": "error",
        "raw_payments": "pass",
        "nowhere": "runtime error",
    }
    old = found["raw_orders"]
    assert old["max_loaded_at"] == "2026-01-01T00:00:00+00:00"
    assert old["age"] > 86_400
    assert old["criteria"]["error_after"] == {"count": 1, "period": "day"}
    assert "nowhere does not exist" in found["nowhere"]["message"]


@pytest.mark.parametrize(
    ("command", "options", "names", "result"),
    [
        pytest.param(
            "ls",
            {"flags": DbtFlags(select="stg_orders+1", resource_types=["model"], args=["--output", "name"])},
            set(),
            ["orders", "stg_orders"],
            id="ls",
        ),
        pytest.param(
            "show",
            {"flags": DbtFlags(select="stg_orders", exclude="test_type:generic", args=["--output", "json"])},
            {"stg_orders"},
            {"id": 10, "customer_id": 1, "status": "paid"},
            id="show",
        ),
        pytest.param("compile", {"flags": DbtFlags(select="orders")}, {"orders"}, None, id="compile"),
        pytest.param("seed", {"flags": DbtFlags(full_refresh=True)}, {"raw_orders"}, None, id="seed"),
        pytest.param("snapshot", {}, {"customers_history"}, None, id="snapshot"),
        pytest.param("docs generate", {"flags": DbtFlags(select="orders")}, {"orders"}, None, id="docs"),
        pytest.param("parse", {}, set(), None, id="parse"),
        pytest.param(
            "run-operation",
            {"words": ["maybe_fail"], "flags": DbtFlags(args=["--args", "{name: x}"])},
            {"maybe_fail"},
            None,
            id="run-operation",
        ),
    ],
)
def test_other_commands_run_and_leave_their_artifacts(
    again: Path, command: str, options: dict[str, Any], names: set[str], result: Any
) -> None:
    before = tree(again)
    done = run(again, command, **options)
    assert done.end.success
    assert names <= set(done.by_name)
    if isinstance(result, dict):
        assert result in json.loads(done.end.result[0])
    else:
        assert done.end.result == result
    assert "manifest.json" in done.files or command == "ls"
    if command == "docs generate":
        assert {"catalog.json", "index.html"} <= done.files
    assert tree(again) == before


def test_a_clone_is_made_from_a_state(again: Path, built: Path, tmp_path: Path) -> None:
    connection = Connection(conn_id="d", conn_type="duckdb", host=os.environ["SHOP_DUCKDB"])
    profile = profile_from_connection(connection, name="shop", schema="copy")
    flags = DbtFlags(state=str(built / "kept"), select="orders", resource_types=["model"])
    for only in (None, ["model.shop.orders"]):
        done = run(again, "clone", flags=flags, profile=profile, only=only)
        assert done.states() == {"orders": "success"}
    assert query("select count(*) from copy.orders") == [(4,)]


def test_retry_goes_on_from_what_another_run_kept(again: Path, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept")
    flags = DbtFlags(vars={"fail": "orders"}, select="orders+1", indirect_selection="empty")
    with DbtRun(RunSettings(again, again), flags=flags) as dbt:
        assert not dbt.run(on_log=lambda _: None, on_node=lambda _: None, on_tick=lambda: None).success
        keep_run(dbt.target, kept)
    done = run(again, "retry", flags=DbtFlags(state=kept, vars={"fail": ""}))
    assert done.end.success
    assert done.states().items() >= {"orders": "success", "customers": "success"}.items()
    assert not {"stg_orders", "top_customer"} & set(done.states())


def test_an_error_that_ends_dbt_shows_no_secret(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = f'pw"{secrets.token_hex(8)}'
    monkeypatch.setenv("DBT_ENV_SECRET_PW", secret)
    attach = "[{path: \"/nowhere/{{ env_var('DBT_ENV_SECRET_PW') }}/x.duckdb\", type: duckdb}]"
    text = (shop / "profiles.yml").read_text()
    (shop / "profiles.yml").write_text(
        text.replace("type: duckdb", f"type: duckdb\n      attach: {attach}", 1)
    )
    lines: list[str] = []
    with DbtRun(RunSettings(shop, shop)) as dbt, pytest.raises(DbtFailedError) as failed:
        dbt.run(on_log=lines.append, on_node=lambda _: None, on_tick=lambda: None)
    assert "/nowhere/*****/x.duckdb" in str(failed.value)
    assert secret not in str(failed.value) + "\n".join(lines)


def test_dbt_gets_the_projects_own_variables(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_DUCKDB")
    path = tmp_path / "other.duckdb"
    assert run(shop, "seed", env={"SHOP_DUCKDB": str(path)}).end.success
    assert path.exists()


def test_what_killed_runs_left_is_swept_and_others_are_not(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old = time.time() - 90_000
    for name in (
        "airflow-ext-dbt-4194999-a",
        f"airflow-ext-dbt-{os.getpid()}-b",
        "airflow-ext-dbt-4194999-c",
        "other-1-d",
    ):
        (tmp_path / name).mkdir()
        if not name.endswith("c"):
            os.utime(tmp_path / name, (old, old))
    with DbtRun(RunSettings(shop, shop), "parse"):
        left = {path.name[-1] for path in tmp_path.glob("*-?")}
    assert left == {"b", "c", "d"}


def test_dependencies_are_asked_for_and_installed(shop: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "macros").mkdir(parents=True)
    (package / "dbt_project.yml").write_text("name: helpful\nversion: '1.0'\n")
    (shop / "packages.yml").write_text(f"packages: [{{local: {package}}}]\n")
    with pytest.raises(DbtFailedError, match='Run "dbt deps" to install'):
        run(shop, "parse")
    assert run(shop, "deps").end.success
    assert (shop / "dbt_packages" / "helpful").exists()
    assert run(shop, "parse").end.success


def test_a_selection_of_nothing_ends_well_with_a_warning(again: Path) -> None:
    done = run(again, flags=DbtFlags(select="nobody_knows"))
    assert done.end.success
    assert not done.nodes
    assert any("'nobody_knows' does not match" in warning for warning in done.end.warnings)
    assert any("Nothing to do" in warning for warning in done.end.warnings)


def test_a_project_that_does_not_parse_is_told_in_dbts_words(shop: Path) -> None:
    (shop / "models" / "broken.sql").write_text("select * from {{ ref('nobody') }}")
    with pytest.raises(DbtFailedError, match=r"(?s)did not come to an end.*nobody"):
        run(shop)


@pytest.mark.parametrize("executable", [None, DBT], ids=["this environment", "executable"])
def test_a_missing_adapter_is_told_with_its_package(shop: Path, executable: Path | None) -> None:
    (shop / "profiles.yml").write_text(
        "shop: {target: t, outputs: {t: {type: snowflake, account: a, user: u}}}"
    )
    with pytest.raises(DbtFailedError, match=r"type 'snowflake'.*pip install \"dbt-snowflake\""):
        run(shop, "parse", executable=executable)


def test_an_id_that_the_project_no_longer_has_is_told_with_the_way_out(again: Path) -> None:
    way_out = r"(?s)test\.shop\.gone\.1.*make the manifest anew with airflow-ext dbt index"
    with pytest.raises(DbtFailedError, match=way_out):
        run(again, only=["model.shop.orders", "test.shop.gone.1"])


def test_a_target_that_does_not_exist_is_told_with_those_that_do(shop: Path) -> None:
    with pytest.raises(DbtFailedError, match="does not have a target named 'live'"):
        run(shop, "parse", target="live")


def test_a_connection_reaches_dbt_without_a_profiles_file(shop: Path, tmp_path: Path) -> None:
    (shop / "profiles.yml").unlink()
    connection = Connection(conn_id="d", conn_type="duckdb", host=str(tmp_path / "other.duckdb"))
    assert run(shop, profile=profile_from_connection(connection, name="shop")).end.success
    assert (tmp_path / "other.duckdb").exists()


def test_two_runs_of_one_project_do_not_disturb_each_other(shop: Path, tmp_path: Path) -> None:
    before = tree(shop)

    def build(name: str) -> Done:
        connection = Connection(conn_id="d", conn_type="duckdb", host=str(tmp_path / f"{name}.duckdb"))
        return run(shop, profile=profile_from_connection(connection, name="shop"))

    with ThreadPoolExecutor() as pool:
        both = list(pool.map(build, ["one", "two"]))
    assert [done.end.success for done in both] == [True, True]
    assert both[0].states() == both[1].states()
    assert tree(shop) == before


def test_a_missing_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidProjectError, match=r"^project_dir='.*gone': there is no such folder"):
        run(tmp_path / "gone")


def test_a_missing_state_is_named_before_dbt_starts(shop: Path) -> None:
    with pytest.raises(InvalidProjectError, match=r"^state='/no/state' has no manifest\.json"):
        run(shop, flags=DbtFlags(state="/no/state", select="state:modified"))


@pytest.mark.parametrize(
    ("command", "values", "said"),
    [
        pytest.param("run-operation", {}, "takes the name of one macro", id="no macro"),
        pytest.param("run-operation", {"words": ["a", "b"]}, "takes the name of one macro", id="two macros"),
        pytest.param(
            "run-operation", {"words": ["--debug"]}, "takes the name of one macro", id="option as macro"
        ),
        pytest.param("build", {"words": ["x"]}, "dbt build takes none", id="words"),
        pytest.param("ls", {"only": ["model.a.b"]}, "only= with dbt ls", id="ids"),
        pytest.param("debug", {}, "command='debug'", id="command"),
    ],
)
def test_what_a_command_cannot_be_told_is_refused(
    tmp_path: Path, command: str, values: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        DbtRun(RunSettings(tmp_path, tmp_path), command, **values)


def test_a_run_needs_its_with_statement(tmp_path: Path) -> None:
    dbt = DbtRun(RunSettings(tmp_path, tmp_path))
    with pytest.raises(RuntimeError, match="with statement"):
        dbt.run(on_log=lambda _: None, on_node=lambda _: None, on_tick=lambda: None)


def test_stopping_ends_dbt_and_removes_its_folder(shop: Path) -> None:
    dbt = DbtRun(RunSettings(shop, shop))
    timer: list[threading.Timer] = []
    folders: list[Path] = []

    def on_log(line: str) -> None:
        if not timer:
            timer.append(threading.Timer(0, dbt.stop))
            timer[0].start()

    def run_in_folder() -> None:
        with dbt:
            folders.append(dbt.target.parent)
            dbt.run(on_log=on_log, on_node=lambda _: None, on_tick=lambda: None)

    with pytest.raises(DbtFailedError, match="stopped"):
        run_in_folder()
    timer[0].join()
    assert not folders[0].exists()
    assert dbt._process is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(dbt._process.pid, 0)


def test_a_child_that_dies_is_a_failure_with_its_last_words(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = secrets.token_hex(4)
    (shop / "shadow" / "dbt").mkdir(parents=True)
    (shop / "shadow" / "dbt" / "__init__.py").write_text(f"raise SystemExit('gone {word}')")
    monkeypatch.setenv("PYTHONPATH", str(shop / "shadow"))
    with pytest.raises(DbtFailedError, match=f"(?s)status 1 without a result.*gone {word}"):
        run(shop)
