"""``airflow-ext contracts lint`` and ``diff``, as CI runs them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from airflow_ext.cli.main import main
from benchmarks._contracts_pairs import BASE, documents

ANSI = "\033["


def write(path: Path, document: dict[str, Any] | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False)
    path.write_text(text)
    return path


def pair(folder: Path, name: str, version: str | None = None) -> tuple[str, str]:
    old, new = documents(name)
    new["version"] = version or new["version"]
    return str(write(folder / "old.odcs.yaml", old)), str(write(folder / "new.odcs.yaml", new))


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write(tmp_path / "repo" / "contracts" / "orders.odcs.yaml", BASE)
    write(tmp_path / "repo" / "contracts" / "clicks.odcs.yaml", {**BASE, "id": "clicks"})
    folder = tmp_path / "repo"
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "contracts")
    return folder


def test_a_sound_contract_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contracts", "lint", str(write(tmp_path / "orders.odcs.yaml", BASE))]) == 0
    assert main(["contracts", "lint", "--strict", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 contract: 0 errors, 1 warning" in out
    assert ANSI not in out


def test_lint_names_line_and_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {**BASE, "customProperties": [{"property": "airflow.conection", "value": "x"}]}
    path = write(tmp_path / "orders.odcs.yaml", broken)
    assert main(["contracts", "lint", str(path), "--format", "json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["rule"] == "contract"
    assert "airflow.conection" in path.read_text().splitlines()[finding["line"] - 1]


@pytest.mark.parametrize(
    ("level", "text"),
    [
        pytest.param({"property": "frequency", "value": "often"}, "frequency", id="no-number"),
        pytest.param({"property": "retention", "value": 3, "unit": "blue"}, "retention", id="no-unit"),
        pytest.param({"property": "timeOfAvailability", "value": "25:00"}, "25:00", id="no-time"),
        pytest.param({"property": "endOfSupport", "value": "next year"}, "endOfSupport", id="no-date"),
        pytest.param({"property": "availability", "value": 120}, "120", id="too-much"),
    ],
)
def test_lint_finds_levels_nobody_can_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], level: dict[str, Any], text: str
) -> None:
    write(tmp_path / "orders.odcs.yaml", {**BASE, "slaProperties": [level]})
    assert main(["contracts", "lint", str(tmp_path)]) == 1
    assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("query", "dialect", "text"),
    [
        pytest.param("DELETE FROM ${table}", "", "exactly one SELECT", id="writes"),
        pytest.param("SELECT 1 FROM ${table}; DROP TABLE t", "", "exactly one SELECT", id="two"),
        pytest.param("SELECT nextval('s') FROM ${table}", "postgres", "may not call", id="acts"),
        pytest.param("SELECT ((1) FROM ${table} FOR", "postgres", "not SQL of postgres", id="no-sql"),
        pytest.param("SELECT a -> b ? c (( FROM ${table} FOR", "", "", id="another-dialect"),
        pytest.param("SELECT SUM(amount) FROM ${table} WHERE note = 'a'", "postgres", "", id="reads"),
    ],
)
def test_lint_finds_queries_that_do_more_than_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], query: str, dialect: str, text: str
) -> None:
    rule = {"name": "r", "type": "sql", "query": query, "mustBe": 0}
    schema = [{**BASE["schema"][0], "quality": [rule]}]
    place = {"host": "h", "port": 5432, "database": "d", "schema": "s"}
    servers = [{"server": "s", "type": dialect, **place}] if dialect else []
    path = write(tmp_path / "orders.odcs.yaml", {**BASE, "schema": schema, "servers": servers})
    assert main(["contracts", "lint", str(path)]) == (1 if text else 0)
    assert text in " ".join(capsys.readouterr().out.split())


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "orders.odcs.yaml", BASE)
    lint = f"{sys.executable} -m airflow_ext.cli.main contracts lint {path}"
    done = subprocess.run(["sh", "-c", f"{lint} | true"], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_lint_finds_two_contracts_with_one_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.odcs.yaml", BASE)
    write(tmp_path / "b.odcs.yaml", {**BASE, "description": {"purpose": "a copy"}})
    assert main(["contracts", "lint", str(tmp_path), "--format", "junit"]) == 1
    suite = ElementTree.fromstring(capsys.readouterr().out)[0]  # noqa: S314  our own output
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: [", id="broken"),
        pytest.param("a: &a [x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n", id="aliases"),
        pytest.param("\0\0", id="binary"),
        pytest.param("[]", id="list"),
        pytest.param("", id="empty"),
    ],
)
def test_what_is_no_contract_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = str(write(tmp_path / "orders.odcs.yaml", text))
    assert main(["contracts", "lint", path]) == 1
    good = str(write(tmp_path / "good.odcs.yaml", BASE))
    assert main(["contracts", "diff", path, good]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_diff_ends_with_1_if_the_version_is_too_low(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["contracts", "diff", *pair(tmp_path, "column removed", "1.3.0")]) == 1
    assert "2.0.0 or higher" in " ".join(capsys.readouterr().out.split())
    assert main(["contracts", "diff", *pair(tmp_path, "column removed", "2.0.0")]) == 0
    assert main(["contracts", "diff", "--breaking", *pair(tmp_path, "column removed", "2.0.0")]) == 1
    assert main(["contracts", "diff", *pair(tmp_path, "column removed"), "--accept", "column.removed"]) == 0


@pytest.mark.parametrize("columns", [80, 120])
def test_text_fits_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    main(["contracts", "diff", *pair(tmp_path, "query changed")])
    out = capsys.readouterr().out
    folder = str(tmp_path)
    assert max(len(line) for line in out.splitlines() if folder not in line) <= columns


def test_sarif_points_at_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = pair(tmp_path, "INTEGER to SMALLINT")
    assert main(["contracts", "diff", old, new, "--format", "sarif"]) == 1
    log = json.loads(capsys.readouterr().out)
    run = log["runs"][0]
    version, change = run["results"]
    assert (log["version"], version["ruleId"], change["ruleId"]) == ("2.1.0", "version", "column.type")
    line = change["locations"][0]["physicalLocation"]["region"]["startLine"]
    assert "SMALLINT" in Path(new).read_text().splitlines()[line - 1]
    assert run["tool"]["driver"]["rules"][change["ruleIndex"]]["id"] == "column.type"


def test_diff_against_a_commit(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    assert main(["contracts", "diff", "--base", "HEAD", "contracts"]) == 0
    assert "No contract changed" in capsys.readouterr().out
    changed = copy.deepcopy(BASE)
    changed["schema"][0]["properties"].pop()
    write(repository / "contracts" / "moved" / "orders.odcs.yaml", changed)
    (repository / "contracts" / "orders.odcs.yaml").unlink()
    (repository / "contracts" / "clicks.odcs.yaml").unlink()
    write(repository / "contracts" / "new.odcs.yaml", {**BASE, "id": "new"})
    assert main(["contracts", "diff", "--base", "HEAD", "contracts", "--format", "json"]) == 1
    told = {one["contract"]: one for one in json.loads(capsys.readouterr().out)["contracts"]}
    assert told["orders"]["changes"][0]["kind"] == "column.removed"
    assert told["clicks"]["changes"][0]["kind"] == "contract.removed"
    assert told["new"]["problem"] is None


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["lint", "nowhere.yaml"], id="no-file"),
        pytest.param(["lint", "."], id="empty-folder"),
        pytest.param(["diff", "one.yaml"], id="one-file"),
        pytest.param(["diff", "--base", "nothing", "."], id="no-repository"),
        pytest.param(["diff", "--base", "--help", "."], id="ref-as-option"),
        pytest.param(["diff", "a", "b", "--accept", "anything"], id="no-such-kind"),
    ],
)
def test_wrong_use_ends_with_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    try:
        status = main(["contracts", *words])
    except SystemExit as ended:  # argparse ends by itself
        status = int(ended.code or 0)
    assert status == 2
    assert "airflow-ext contracts" in capsys.readouterr().err.strip().splitlines()[-1]
