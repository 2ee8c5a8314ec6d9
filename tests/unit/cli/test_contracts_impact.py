"""``airflow-ext contracts impact`` on a folder of DAGs and on an Airflow's API."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from airflow_ext.cli.airflow_api import TOKEN, AirflowApi
from airflow_ext.cli.main import main
from airflow_ext.exceptions import UnavailableError
from benchmarks._contracts_pairs import BASE
from tests.unit.cli.airflow_wire import Wire, serving

SOURCE = """
with DAG("revenue", schedule="@daily"):
    with TaskGroup("checks"):
        ContractSensor(task_id="ok", contract="orders>=1.1,<2", uses=["amount"])
"""


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    wire = Wire(token=secrets.token_urlsafe())
    monkeypatch.setenv(TOKEN, wire.token)
    wire.add_asset(
        "contract/orders/v1",
        consuming_tasks=[
            {"dag_id": "revenue", "task_id": "checks.ok"},
            {"dag_id": "hidden", "task_id": "ok"},
        ],
        scheduled_dags=[{"dag_id": "digest"}],
        producing_tasks=[{"dag_id": "shop", "task_id": "publish"}],
    )
    wire.add_asset("contract/orders/v1/unkeyed", producing_tasks=[{"dag_id": "shop", "task_id": "publish"}])
    wire.sources["revenue"] = SOURCE
    with serving(wire):
        yield wire


def contract(folder: Path) -> str:
    path = folder / "orders.odcs.yaml"
    own = [{"property": "airflow.consumers", "value": [{"name": "finance", "uses": ["note"]}]}]
    path.write_text(yaml.safe_dump({**BASE, "customProperties": own}))
    return str(path)


def test_a_folder_of_dags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "revenue.py").write_text(SOURCE)
    words = ["contracts", "impact", contract(tmp_path), "--dags", str(tmp_path)]
    assert main(words) == 0
    assert main([*words, "--drop", "orders.amount"]) == 1
    assert "breaks" in capsys.readouterr().out
    assert main([*words, "--drop", "orders.day"]) == 0


def test_a_consumer_that_the_contract_names_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["contracts", "impact", contract(tmp_path), "--dags", str(tmp_path), "--format", "json"]
    assert main([*words, "--drop", "orders.note"]) == 1
    (asked,) = json.loads(capsys.readouterr().out)["contracts"]
    assert [(use["dag_id"], use["reach"]) for use in asked["uses"]] == [("finance", "breaks")]


def test_a_running_airflow(wire: Wire, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["contracts", "impact", "--url", wire.url, "--drop", "orders.note", "--format", "json"]
    assert main(words) == 1
    out = capsys.readouterr().out
    (asked,) = json.loads(out)["contracts"]
    assert {(use["dag_id"], use["task_id"]): (use["kind"], use["reach"]) for use in asked["uses"]} == {
        ("revenue", "checks.ok"): ("waits", "safe"),
        ("hidden", "ok"): ("waits", "may break"),
        ("digest", None): ("starts", "may break"),
        ("shop", "publish"): ("publishes", "safe"),
    }
    assert wire.token not in out


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        pytest.param((401, "{}"), "HTTP 401", id="expired"),
        pytest.param((403, "{}"), "HTTP 403", id="forbidden"),
        pytest.param((500, "<html>a stack trace</html>"), "HTTP 500", id="broken"),
        pytest.param((200, "<html>Sign in</html>"), "no JSON", id="html"),
        pytest.param((302, ""), "redirects", id="redirect"),
        pytest.param((200, "[]"), "assets is missing", id="other-json"),
    ],
)
def test_a_server_that_answers_badly(
    wire: Wire, capsys: pytest.CaptureFixture[str], raw: tuple[int, str], said: str
) -> None:
    wire.raw = raw
    assert main(["contracts", "impact", "--url", wire.url, "orders"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert wire.token not in line


def test_a_server_that_answers_too_slowly(wire: Wire) -> None:
    wire.drip = threading.Event()
    with pytest.raises(UnavailableError, match="did not answer"):
        AirflowApi(wire.url, seconds=0.3).get("assets")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--url", "http://127.0.0.1:9", "orders"], id="nobody-there"),
        pytest.param(["--url", "ftp://example.com", "orders"], id="no-http"),
        pytest.param(["--url", "http://me:pw@example.com", "orders"], id="password-in-url"),
        pytest.param(["--dags", "nowhere", "orders"], id="no-folder"),
        pytest.param(["--dags", "."], id="no-contract"),
        pytest.param(["--dags", ".", "nowhere.odcs.yaml"], id="no-file"),
    ],
)
def test_wrong_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TOKEN, secrets.token_urlsafe())
    assert main(["contracts", "impact", *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
