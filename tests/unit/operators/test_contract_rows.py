"""Publishing a contract that sets rows aside, shows samples and promises a time."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from airflow_ext.contracts import Contract
from airflow_ext.hooks.verdict_store import verdict_store
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.operators.test_contract import ASSET, DAY, DEMO, connect, context, operator, server, warehouse

__all__ = ["server", "warehouse"]


def changed(sla: list[dict[str, Any]] | None = None, **own: Any) -> Contract:
    document = yaml.safe_load(DEMO.read_text())
    document["customProperties"] += [{"property": f"airflow.{k}", "value": v} for k, v in own.items()]
    document["slaProperties"] += sla or []
    return Contract.from_text(yaml.safe_dump(document))


@pytest.fixture
def bad(warehouse: Path) -> Path:
    with connect(str(warehouse)) as connection:
        connection.execute("UPDATE marts.daily_delays SET delayed_share = 7.5 WHERE carrier = 'AA'")
    return warehouse


def test_bad_rows_are_set_aside_and_shown_where_allowed(
    server: AssetStateServer, bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promised = changed(quarantineTable="marts.set_aside", samples=2)
    task = operator(contract=promised, quarantine="rows")
    with pytest.raises(AirflowFailException):
        task.execute(context())
    stored = verdict_store().verdict(ASSET, DAY)
    assert stored is not None
    assert str(stored.status) == "QUARANTINED"
    assert stored.quarantine is not None
    assert (stored.quarantine.what, stored.quarantine.table, stored.quarantine.rows) == (
        "rows",
        "marts.set_aside",
        1,
    )
    assert "valid(delayed_share): delayed_share holds '7.5'" in capsys.readouterr().out
    with connect(str(bad)) as connection:
        rows = connection.execute("SELECT ext_rule, ext_publication, carrier FROM marts.set_aside").fetchall()
    assert rows == [("valid(delayed_share)", "flights_marts manual__1 -1", "AA")]


def test_nothing_is_shown_or_written_unasked(
    server: AssetStateServer, bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AirflowFailException):
        operator(contract=changed(quarantineTable="marts.set_aside")).execute(context())
    shown = capsys.readouterr().out
    assert "valid(delayed_share)" in shown
    assert "holds" not in shown
    assert not re.search(r"(?<![\d:])7\.5(?!\d)", shown), "but for times of day"
    with connect(str(bad)) as connection:
        found = connection.execute(
            "SELECT COUNT(*) FROM duckdb_tables() WHERE table_name = 'set_aside'"
        ).fetchall()
    assert found == [(0,)]
    with pytest.raises(ValueError, match=r"quarantine='rows'.*airflow\.quarantineTable"):
        operator(quarantine="rows")


def test_a_breach_is_published_although_its_rows_can_be_neither_shown_nor_put_aside(
    server: AssetStateServer, warehouse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = yaml.safe_load(DEMO.read_text())
    carrier = next(p for p in document["schema"][0]["properties"] if p["name"] == "carrier")
    carrier["logicalTypeOptions"] = {"pattern": "^(?=A)"}  # DuckDB has no such patterns
    document["customProperties"] += [
        {"property": "airflow.samples", "value": 2},
        {"property": "airflow.quarantineTable", "value": "marts.set_aside"},
    ]
    promised = Contract.from_text(yaml.safe_dump(document))
    with pytest.raises(AirflowFailException, match="cannot be computed"):
        operator(contract=promised, quarantine="rows").execute(context())
    stored = verdict_store().verdict(ASSET, DAY)
    assert str(stored and stored.status) == "BREACHED"
    assert "Rows put aside: none" in capsys.readouterr().out


def test_only_the_first_publication_can_be_late(server: AssetStateServer, warehouse: Path) -> None:
    task = operator(contract=changed([{"property": "timeOfAvailability", "value": "06:00"}]))
    backfill = SimpleNamespace(partition_key=None, run_type="backfill")
    assert task.execute(context())["status"] == "WARN"
    assert task.execute(context())["status"] == "PASS"
    server.values.clear()
    assert task.execute(context(dag_run=backfill))["status"] == "PASS"
