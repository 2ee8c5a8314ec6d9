"""``airflow-ext dbt`` with real dbt."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_ext.cli.dbt import index
from airflow_ext.cli.main import main
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
    assert main(["dbt", "index", str(shop)]) == 1
    assert "nobody" in capsys.readouterr().err
    assert (shop / "target" / "manifest.json").read_bytes() == before


def test_what_is_no_project_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidProjectError, match=r"no dbt_project\.yml"):
        index(tmp_path)


def test_the_command_tells_what_was_made(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dbt", "index", str(shop), "--select", "orders", "nobody", "--exclude", "test_type:singular"]
    assert main([*words, "--vars", '{"fail": "x"}']) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("shop: 10 nodes with 7 tests, indexed (dbt 1.")
    assert second == "  --select 'orders nobody' --exclude test_type:singular: 1 node with 3 tests"
    assert third == "  dbt: The selection criterion 'nobody' does not match any enabled nodes"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--vars", "{"], "is not JSON", id="torn"),
        pytest.param(["--vars", "[1]"], "give a JSON object", id="list"),
        pytest.param(["--select", "a", "--selector", "b"], "dbt ignores the latter two", id="two-selections"),
        pytest.param(["--schema", "x"], "only with an adapter", id="schema-without-adapter"),
        pytest.param(["--out", "ftp://me:secret@host/m.json"], "must not hold a password", id="password"),
    ],
)
def test_wrong_words_are_told(
    shop: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dbt", "index", str(shop), *words]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert "me:secret" not in told


def test_without_a_verb_the_verbs_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["dbt"])
    assert "required: index|show" in capsys.readouterr().err


def test_the_tasks_of_a_project_are_shown(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dbt", "show", str(shop), "--group-by", "folder"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "shop: 10 nodes with 7 tests: 10 tasks by node (10 units are within the 300 of auto)"
    assert "  models/" in lines
    assert "    orders             model; 3 tests; after stg_orders, stg_payments" in lines
    assert main(["dbt", "show", str(shop), "--granularity", "folder"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  seeds      3 nodes",
        "  models     6 nodes; 7 tests; after seeds",
        "  snapshots  1 node; after models",
    ]


def test_an_option_that_is_unknown_is_told_with_those_that_are_known(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dbt", "show", str(shop), "--granularity", "model"]) == 1
    assert "granularity='model': give 'auto', 'node', 'folder', 'project'" in capsys.readouterr().err


def test_a_selection_is_shown_once_it_is_resolved(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dbt", "show", str(shop), "--select", "orders+", "--tests", "none"]
    assert main(words) == 1
    assert "dbt index" in capsys.readouterr().err
    assert main(["dbt", "index", str(shop), "--select", "orders+"]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "orders",
        "customers",
        "top_customer",
    ]
