"""Manifests and selections made by real dbt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_ext.dbt.parse import ParseSettings, make_manifest
from airflow_ext.dbt.process import QUIET
from airflow_ext.dbt.project import DbtProject
from airflow_ext.dbt.selection import Selection
from airflow_ext.dbt.units import units_of
from airflow_ext.exceptions import InvalidProjectError, MissingExtraError
from tests.unit.dbt.conftest import Shelf

DBT = Path(sys.executable).with_name("dbt")

SELECTORS = """
selectors:
  - name: nightly
    default: "{{ target.name == 'dev' }}"
    definition: {method: path, value: models/marts}
"""
MORE = """
version: 2
sources:
  - name: shop
    tables:
      - name: carts
        freshness: {warn_after: {count: 1, period: day}}
        loaded_at_field: at
exposures:
  - name: board
    type: dashboard
    url: https://bi.example/board
    owner: {name: Somebody}
    depends_on: [ref('daily_delays')]
unit_tests:
  - name: shares
    model: daily_delays
    given:
      - {input: ref('stg_flights'), rows: []}
      - {input: ref('stg_airlines'), rows: []}
    expect: {rows: []}
"""


@pytest.fixture(params=[pytest.param(None, id="in-one-process"), pytest.param(DBT, id="executable")])
def executable(request: pytest.FixtureRequest) -> Path | None:
    found: Path | None = request.param
    return found


def test_dbt_resolves_what_is_selected_and_remembers_it(
    flights: Path, tmp_path: Path, executable: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_LOG_FORMAT", "json")
    (flights / "models" / "more.yml").write_text(MORE, encoding="utf-8")
    (flights / "selectors.yml").write_text(SELECTORS, encoding="utf-8")
    files = sorted(path.relative_to(flights) for path in flights.rglob("*"))
    project = DbtProject(project_dir=flights, manifest=tmp_path / "m.json", executable=executable)

    first = make_manifest(project, selections=[Selection.of("stg_flights+", "daily_delay_bands")])
    assert (first.dropped, first.remarks) == ((), ())
    graph = project.index(select=["stg_flights+"], exclude="daily_delay_bands")
    assert {node.name for node in graph.nodes} == {"stg_flights", "daily_delays", "daily_route_delays"}
    assert {node.name for node in graph.extras} == {"board"}
    assert "unit_test.flights.daily_delays.shares" in graph.executed()
    (carts,) = [node for node in project.whole_index().extras if node.name == "carts"]
    assert carts.freshness
    default = {"daily_delay_bands", "daily_delays", "daily_route_delays"}
    assert {node.name for node in project.index().nodes} == default

    if executable is not None:
        # Once is enough: each question to an executable is a start of dbt.
        return
    second = make_manifest(
        project, selections=[Selection.of(["path:models/staging,config.materialized:view", "x"])]
    )
    assert second.index.key != first.index.key
    assert [str(one.selection) for one in second.answers.selections] == [
        "--select stg_flights+ --exclude daily_delay_bands",
        "--select 'path:models/staging,config.materialized:view x'",
        "everything",
    ]
    assert "'x' does not match any" in second.remarks[0]
    # The older manifest's answers are still there for who reads the older manifest.
    assert [one.manifest for one in project.answers()] == [second.index.key, first.index.key]
    assert project.index("stg_flights+", "daily_delay_bands").executed() == graph.executed()
    assert sorted(path.relative_to(flights) for path in flights.rglob("*")) == files


def test_a_selection_is_what_a_build_of_it_runs(shop: Path, tmp_path: Path) -> None:
    selection = Selection.of(
        ["+orders", "test_type:singular", "resource_type:snapshot"], "stg_payments", None, "cautious"
    )
    project = DbtProject(project_dir=shop)
    make_manifest(project, selections=[selection])
    graph = project.index(selection.select, selection.exclude, indirect_selection="cautious")
    command = [str(DBT), "build", "--project-dir", str(shop), "--profiles-dir", str(shop)]
    command += [
        "--target-path",
        str(tmp_path / "t"),
        "--log-path",
        str(tmp_path / "l"),
        *selection.arguments(),
    ]
    subprocess.run(command, env={**os.environ, **QUIET}, stdout=subprocess.DEVNULL, check=False)
    results = json.loads((tmp_path / "t" / "run_results.json").read_bytes())["results"]
    assert {result["unique_id"] for result in results} == set(graph.executed())


def test_a_remembered_selection_that_dbt_no_longer_knows_is_dropped(flights: Path) -> None:
    selectors = flights / "selectors.yml"
    selectors.write_text(SELECTORS.replace("default:", "# default:"), encoding="utf-8")
    project = DbtProject(project_dir=flights)
    make_manifest(project, selections=[Selection.of(selector="nightly"), Selection.of("daily_delays")])
    selectors.unlink()
    (flights / "models" / "marts" / "daily_delays.sql").rename(flights / "models" / "marts" / "renamed.sql")
    (flights / "models" / "marts" / "marts.yml").unlink()
    (flights / "tests" / "carriers_and_routes_count_the_same_flights.sql").unlink()
    made = make_manifest(project)
    ((dropped, problem),) = made.dropped
    assert (dropped.selector, "Could not find selector named nightly" in problem) == ("nightly", True)
    with pytest.raises(InvalidProjectError, match="selected by select='daily_delays'"):
        project.index("daily_delays")
    with pytest.raises(InvalidProjectError, match="was resolved for another manifest"):
        project.index(selector="nightly")


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        pytest.param(
            Selection.of("nothing_here"), "selected by select='nothing_here'; .* does not match", id="empty"
        ),
        pytest.param(Selection.of(selector="nope"), "Could not find selector named nope", id="selector"),
    ],
)
def test_a_selection_that_cannot_be_resolved_changes_nothing(
    shop: Path, selection: Selection, message: str
) -> None:
    path = shop / "target" / "manifest.json"
    before = path.read_bytes()
    with pytest.raises(InvalidProjectError, match=message):
        make_manifest(DbtProject(project_dir=shop), selections=[selection])
    assert path.read_bytes() == before
    assert not (shop / "target" / "manifest.selections.json").exists()


def test_dbt_says_what_is_wrong_with_a_project(shop: Path, executable: Path | None) -> None:
    (shop / "models" / "broken.sql").write_text("select {{ ref('x') }", encoding="utf-8")
    with pytest.raises(InvalidProjectError) as caught:
        make_manifest(DbtProject(project_dir=shop, executable=executable))
    assert str(caught.value).splitlines() == [
        f"dbt could not parse {shop}:",
        "Compilation Error in model broken (models/broken.sql)",
        "  unexpected '}'",
        "    line 1",
        "      select {{ ref('x') }",
    ]


def test_two_models_of_one_name_are_told(shop: Path) -> None:
    (shop / "models" / "sub").mkdir()
    (shop / "models" / "sub" / "orders.sql").write_text("select 1 as id", encoding="utf-8")
    with pytest.raises(InvalidProjectError, match='found two models with the name "orders"'):
        make_manifest(DbtProject(project_dir=shop))


def test_a_target_that_does_not_exist_is_told_with_those_that_do(shop: Path) -> None:
    with pytest.raises(InvalidProjectError, match=r"does not have a target named 'prod'(?s:.*)- test"):
        make_manifest(DbtProject(project_dir=shop, target="prod"))


def test_a_missing_adapter_names_its_package(shop: Path) -> None:
    project = DbtProject(project_dir=shop)
    with pytest.raises(InvalidProjectError, match=r"install it.*: pip install 'dbt-snowflake'$"):
        make_manifest(project, settings=ParseSettings(adapter="snowflake"))


def test_an_unknown_adapter_is_told_with_those_that_are_known(shop: Path) -> None:
    with pytest.raises(InvalidProjectError, match=r"adapter='oracle': known are .*postgres"):
        make_manifest(DbtProject(project_dir=shop), settings=ParseSettings(adapter="oracle"))


def test_dbt_that_is_not_installed_is_told(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dbt.cli", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'airflow-ext\[dbt\]'"):
        make_manifest(DbtProject(project_dir=shop))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param(None, "there is no executable", id="missing"),
        pytest.param("not a program", "cannot be run", id="no-program"),
        pytest.param(
            "#!/bin/sh\necho '\x1b[31mall is lost\x1b[0m'; exit 3\n", r":\nall is lost$", id="fails"
        ),
        pytest.param("#!/bin/sh\n", "ended well but wrote no manifest", id="no-dbt"),
    ],
)
def test_an_executable_that_is_no_dbt_is_told(
    shop: Path, tmp_path: Path, script: str | None, message: str
) -> None:
    path = tmp_path / "other-dbt"
    if script is not None:
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
    with pytest.raises(InvalidProjectError, match=message):
        make_manifest(DbtProject(project_dir=shop, executable=path))


def test_a_place_that_cannot_be_written_is_told_and_another_one_works(shop: Path, tmp_path: Path) -> None:
    target = shop / "target"
    for file in target.iterdir():
        file.unlink()
    target.rmdir()
    target.touch()
    with pytest.raises(
        InvalidProjectError, match=r"cannot be written .*--out, and name it as manifest= of DbtProject"
    ):
        make_manifest(DbtProject(project_dir=shop))
    elsewhere = DbtProject(project_dir=shop, manifest=tmp_path / "out" / "shop.json")
    made = make_manifest(elsewhere, selections=[Selection.of("orders")])
    assert len(made.index.nodes) == 10
    assert (tmp_path / "out" / "shop.selections.json").is_file()
    assert [node.name for node in elsewhere.index("orders").nodes if node.runs] == ["orders"]


def test_manifest_and_selections_go_to_an_object_store(shop: Path, shelf: Shelf) -> None:
    project = DbtProject(project_dir=shop, manifest="memory://bucket/shop/manifest.json")
    make_manifest(project, selections=[Selection.of("orders")])
    assert sorted(shelf.find("/bucket")) == [
        "/bucket/shop/manifest.json",
        "/bucket/shop/manifest.selections.json",
    ]
    assert [node.name for node in project.index("orders").nodes if node.runs] == ["orders"]


def test_a_placeholder_profile_can_have_the_warehouses_names_and_selections_be_forgotten(
    flights: Path,
) -> None:
    (flights / "profiles.yml").unlink()
    project = DbtProject(
        project_dir=flights, profile_conn_id="wh", schema="main", namespace="postgres://wh:5432"
    )
    named = ParseSettings(adapter="postgres", database="dwh", schema="main")
    made = make_manifest(project, selections=[Selection.of("daily_delays")], settings=named)
    assert len(made.answers.selections) == 1
    uris = {node.name: project.asset(node)[1] for node in project.index().nodes if node.runs}
    assert uris["daily_delays"] == "postgres://wh:5432/dwh/marts/daily_delays"
    made = make_manifest(project, settings=ParseSettings(adapter="postgres"), forget=True)
    assert made.answers.selections == ()
    assert {project.asset(node)[1] for node in project.index().nodes if node.runs} == {None}


def test_names_of_the_warehouse_need_a_placeholder_profile() -> None:
    with pytest.raises(InvalidProjectError, match="database='x', schema=None: only with an adapter"):
        ParseSettings(database="x")


def test_variables_names_of_any_script_and_settings_of_the_shell(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may be odd about a project, in one run of dbt."""
    monkeypatch.setenv("DBT_WRITE_JSON", "false")
    monkeypatch.setenv("DBT_TARGET_PATH", os.devnull)
    settings = shop / "dbt_project.yml"
    enabled = "      +enabled: \"{{ var('top', true) }}\""
    settings.write_text(
        f"{settings.read_text(encoding='utf-8')}    top_customer:\n{enabled}\n", encoding="utf-8"
    )
    (shop / "models" / "größe.v1.sql").write_text("select 1 as id", encoding="utf-8")
    project = DbtProject(project_dir=shop)
    made = make_manifest(
        project, selections=[Selection.of("größe.v1")], settings=ParseSettings(vars={"top": False})
    )
    assert {"top_customer", "größe.v1"} & {node.name for node in made.index.nodes} == {"größe.v1"}
    assert [unit.label for unit in units_of(project.index("größe.v1"))] == ["größe.v1"]
