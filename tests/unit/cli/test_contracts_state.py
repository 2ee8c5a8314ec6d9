"""``airflow-ext contracts status``, ``explain``, ``verify`` and ``publish``, on real tables and both stores."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_ext.cli.airflow_api import TOKEN
from airflow_ext.cli.main import main
from tests.unit.cli.airflow_wire import Wire, serving

DAY = "2013-01-05"
CONTRACT = {
    "apiVersion": "v3.1.0",
    "kind": "DataContract",
    "id": "orders",
    "version": "1.2.0",
    "status": "active",
    "team": {"name": "shop"},
    "support": [{"channel": "#shop-data", "tool": "slack"}],
    "schema": [
        {
            "name": "orders",
            "properties": [
                {"name": "day", "logicalType": "date", "required": True, "partitioned": True},
                {"name": "id", "logicalType": "integer", "primaryKey": True},
                {"name": "amount", "logicalType": "number", "logicalTypeOptions": {"minimum": 0}},
            ],
        }
    ],
    "customProperties": [{"property": "airflow.connection", "value": "shop_db"}],
}
ASSET = "contract/orders/v1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import duckdb

    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders.odcs.yaml").write_text(yaml.safe_dump(CONTRACT))
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute("CREATE TABLE orders AS SELECT DATE '2013-01-05' AS day, 1 AS id, 4.5 AS amount")
        connection.execute("INSERT INTO orders VALUES ('2013-01-06', 2, -1)")
    os.environ["SHOP"] = f"duckdb:///{tmp_path / 'shop.duckdb'}"
    os.environ["VERDICTS"] = f"sqlite:///{tmp_path / 'verdicts.db'}"
    return tmp_path


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire(token=secrets.token_urlsafe())
    os.environ[TOKEN] = wire.token
    with serving(wire):
        yield wire


def run(*words: str) -> int:
    return main(["contracts", *words])


@pytest.mark.usefixtures("folder")
def test_verify_judges_the_table_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "orders.odcs.yaml", DAY, "--database-env", "SHOP") == 0
    assert run("verify", "orders.odcs.yaml", "2013-01-06", "--database-env", "SHOP") == 1
    out = capsys.readouterr().out
    assert "valid(amount): expected invalid values = 0, actual 1" in out
    assert "\033[" not in out
    assert run("verify", "orders.odcs.yaml", "2013-01-06", "--database-env", "SHOP", "--format", "sarif") == 1
    assert json.loads(capsys.readouterr().out)["runs"][0]["results"][0]["ruleId"] == "breach"


def test_verify_takes_an_airflow_connection(folder: Path) -> None:
    os.environ["AIRFLOW_CONN_SHOP_DB"] = json.dumps(
        {"conn_type": "duckdb", "host": str(folder / "shop.duckdb")}
    )
    assert run("verify", "orders.odcs.yaml", DAY) == 0


@pytest.mark.usefixtures("folder")
def test_publish_into_a_database_and_look_at_it(capsys: pytest.CaptureFixture[str]) -> None:
    store = ("--store-env", "VERDICTS")
    assert run("status", "orders.odcs.yaml", *store) == 2, "whoever only reads does not make a store"
    assert "no file at the path of its URL (sqlite:///" in capsys.readouterr().err
    assert run("publish", "orders.odcs.yaml", DAY, "--database-env", "SHOP", *store) == 0
    assert "a database emits no events" in capsys.readouterr().out
    assert run("status", "orders.odcs.yaml", *store) == 0
    assert run("publish", "orders.odcs.yaml", "2013-01-06", "--database-env", "SHOP", *store) == 1
    capsys.readouterr()
    assert run("status", "orders>=1,<2", *store, "--format", "json") == 1
    newest = json.loads(capsys.readouterr().out)[ASSET]
    assert [(one["partition"], one["status"]) for one in newest] == [
        ("2013-01-06", "BREACHED"),
        (DAY, "PASS"),
    ]
    assert run("explain", "orders>=1,<2", DAY, *store) == 0
    assert run("explain", "orders>=1,<2", "2013-01-06", *store) == 1
    assert "fails: BREACHED" in capsys.readouterr().out
    assert run("explain", "orders>=1,<2", "2013-01-07", *store) == 1
    assert "waits: NOT_PUBLISHED" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_publish_to_a_running_airflow(wire: Wire, capsys: pytest.CaptureFixture[str]) -> None:
    number = wire.add_asset(ASSET)
    words = ("orders.odcs.yaml", DAY, "--database-env", "SHOP", "--url", wire.url)
    assert run("publish", *words) == 0
    assert wire.state[number, f"p/{DAY}"]["status"] == "PASS"
    assert [event.get("partition_key") for event in wire.events] == [DAY, None]
    assert run("publish", *words, "--no-event") == 0
    assert wire.state[number, f"p/{DAY}"]["seq"] == 2
    assert len(wire.events) == 2
    assert run("explain", "orders>=1,<2", DAY, "--url", wire.url) == 0
    assert "task shop r publish" in capsys.readouterr().out
    assert run("status", "orders>=1,<2", "--url", wire.url) == 0
    assert wire.token not in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_a_breach_is_published_without_an_event(wire: Wire) -> None:
    number = wire.add_asset(ASSET)
    words = ("orders.odcs.yaml", "2013-01-06", "--database-env", "SHOP", "--url", wire.url)
    assert run("publish", *words) == 1
    assert wire.state[number, "p/2013-01-06"]["status"] == "BREACHED"
    assert wire.events == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["verify", "nowhere.yaml", DAY], "No such file", id="no-contract"),
        pytest.param(["verify", "orders.odcs.yaml", "5 Jan", "--database-env", "SHOP"], "5 Jan", id="partition"),
        pytest.param(["verify", "orders.odcs.yaml", DAY, "--database-env", "NONE"], "NONE", id="no-variable"),
        pytest.param(["verify", "orders.odcs.yaml", DAY, "--database-env", "ODD"], "ODD", id="other-database"),
        pytest.param(["verify", "orders.odcs.yaml", DAY, "--database-env", "GONE"], "GONE", id="no-file"),
        pytest.param(["verify", "orders.odcs.yaml", DAY, "--database-env", "CLOSED"], "CLOSED", id="no-server"),
        pytest.param(["verify", "orders.odcs.yaml", DAY, "--conn-id", "none"], "AIRFLOW_CONN_NONE", id="no-conn"),
        pytest.param(["status", "orders>=1", "--store-env", "VERDICTS"], "no upper end", id="open-range"),
        pytest.param(["status", "orders>=1,<2", "--url", "{url}"], "knows no asset", id="no-asset"),
        pytest.param(["explain", "orders>=1,<2", DAY, "--url", "http://127.0.0.1:9"], "cannot be reached", id="down"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_done_is_one_line(
    wire: Wire, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    password = secrets.token_urlsafe()
    os.environ.update(
        ODD="oracle://x", GONE="duckdb:////no/such.file", CLOSED=f"postgresql://me:{password}@127.0.0.1:9/x"
    )
    assert run(*(word.format(url=wire.url) for word in words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert password not in line


def test_verdicts_that_are_none(folder: Path, wire: Wire, capsys: pytest.CaptureFixture[str]) -> None:
    number = wire.add_asset(ASSET)
    junk: Any = {"partitions": "x"}
    wire.state[number, "head"] = junk
    assert run("status", "orders>=1,<2", "--url", wire.url) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert folder
