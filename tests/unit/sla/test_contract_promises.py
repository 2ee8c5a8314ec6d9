"""Promises that stand in a contract: read from its ``slaProperties``, and judged partition by partition."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from airflow_ext.contracts import Contract
from airflow_ext.contracts.verdict import Status
from airflow_ext.exceptions import InvalidError
from airflow_ext.sla import sla
from airflow_ext.sla.declare import definitions
from airflow_ext.sla.policy import Policy
from airflow_ext.sla.policy_files import read_policies
from tests.unit.sla.world import CALLBACK, World

ASSET = "contract/orders/v2"
BERLIN = {"property": "airflow.timezone", "value": "Europe/Berlin"}
SIX = {"property": "timeOfAvailability", "value": "06:00"}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a contract into the folder that the configuration names."""
    monkeypatch.setenv("AIRFLOW__AIRFLOW_EXT__CONTRACTS_FOLDER", str(tmp_path))

    def contract(*levels: dict[str, Any], name: str = "orders", version: str = "2.1.0", **more: Any) -> Path:
        document = {
            "apiVersion": "v3.1.0",
            "kind": "DataContract",
            "id": name,
            "version": version,
            "status": "active",
            "schema": [{"name": "orders", "properties": [{"name": "id", "logicalType": "integer"}]}],
            "slaProperties": list(levels),
            "customProperties": [BERLIN],
            **more,
        }
        path = tmp_path / f"{name}-{version}.odcs.json"
        path.write_text(json.dumps(document))
        return path

    return contract


def policies(**arguments: Any) -> list[Policy]:
    alert = sla(callback=CALLBACK, **{"contract": "orders>=2,<3", **arguments})
    return [Policy.from_flat(item) for item in definitions(alert.callback.kwargs)]


def test_each_property_that_says_when_becomes_a_policy(write: Write) -> None:
    path = write(
        SIX,
        {"property": "timeOfAvailability", "value": "07:00"},
        {"property": "latency", "value": 8, "unit": "h", "element": "orders.id"},
        {"property": "latency", "value": 1, "unit": "d"},
        {"property": "freshness", "value": 30, "unit": "h"},
        {"property": "frequency", "value": "daily"},
        {"property": "retention", "value": 3, "unit": "y"},
        team={"name": "shop"},
        customProperties=[BERLIN, {"property": "airflow.grace", "value": "10m"}],
    )
    write({"property": "timeOfAvailability", "value": "05:00"}, version="1.9.0")
    found = policies()
    assert [(item.name, item.promise) for item in found] == [
        (
            "contract-orders-v2-timeOfAvailability",
            "contract orders v2 published by 06:00 Europe/Berlin, every day (grace 10 min)",
        ),
        ("contract-orders-v2-latency", "contract orders v2 published within 8 h of its partition's end"),
        ("contract-orders-v2-freshness", "contract orders v2 published again before it is 1 d 6 h old"),
        ("contract-orders-v2-frequency", "contract orders v2 published at least once in every 1 d"),
    ]
    assert {item.owner for item in found} == {"shop"}
    first, *_ = policies(contract=Contract.from_file(path), name="shop", owner="me")
    assert (first.name, first.owner) == ("shop-timeOfAvailability", "me")


@pytest.mark.parametrize(
    ("value", "by", "zone"),
    [("06:00Z", "06:00", "UTC"), ("06:00:30+05:30", "00:30:30", "UTC"), ("06:00", "06:00", "Europe/Berlin")],
)
def test_a_time_with_an_offset_is_that_moment_all_the_year(
    write: Write, value: str, by: str, zone: str
) -> None:
    write({"property": "timeOfAvailability", "value": value})
    (found,) = policies()
    assert (found.by, found.tz) == (by, zone)


def test_what_comes_less_often_than_daily_must_never_be_older(write: Write) -> None:
    write({"property": "frequency", "value": 1, "unit": "w"})
    (found,) = policies()
    assert (found.kind, found.fresh) == ("fresh", timedelta(weeks=1))


@pytest.mark.parametrize(
    ("levels", "arguments", "words"),
    [
        pytest.param([], {}, "promises nothing about time: add one of timeOfAvail", id="nothing"),
        pytest.param(
            [{"property": "retention", "value": 1, "unit": "y"}], {}, "promises nothing", id="retention"
        ),
        pytest.param(
            [SIX], {"contract": "order>=2,<3"}, "no contract 'order' in .*did you mean orders", id="unknown"
        ),
        pytest.param([SIX], {"contract": "orders>=3,<4"}, "has version 2.1.0 only", id="version"),
        pytest.param([SIX], {"contract": "orders>=1,<3"}, "one, write one for each", id="majors"),
        pytest.param([SIX], {"tz": "UTC"}, "a zone of its own: leave it out", id="zone"),
        pytest.param([SIX], {"task": "load"}, "task= and contract= are given", id="task"),
        pytest.param(
            [{"property": "timeOfAvailability", "value": "noon"}], {}, "'noon' is no time of day", id="clock"
        ),
        pytest.param(
            [{"property": "latency", "value": "soon"}], {}, "latency: 'soon' is not a number", id="latency"
        ),
        pytest.param(
            [{"property": "frequency", "value": 0, "unit": "d"}], {}, "nobody can keep that", id="zero"
        ),
    ],
)
def test_what_is_refused(
    write: Write, levels: list[dict[str, Any]], arguments: dict[str, Any], words: str
) -> None:
    write(*levels)
    with pytest.raises(InvalidError, match=words):
        policies(**arguments)


def test_without_a_folder_the_way_out_is_named() -> None:
    with pytest.raises(InvalidError, match=r"set \[airflow_ext\] contracts_folder, give contract=Contract"):
        policies()
    assert policies(by="06:00", tz="UTC")[0].partitions is None


def test_a_broken_file_of_somebody_else_breaks_nothing(write: Write, tmp_path: Path) -> None:
    write(SIX)
    (tmp_path / "other.odcs.yaml").write_text("kind: [orders")
    assert policies()
    (tmp_path / "orders.odcs.yaml").write_text("kind: [orders")
    with pytest.raises(InvalidError, match=r"orders\.odcs\.yaml"):
        policies()


def test_yaml_takes_them_from_the_contract_too(write: Write, tmp_path: Path) -> None:
    write(SIX, {"property": "freshness", "value": 2, "unit": "d"})
    file = tmp_path / "slas.yaml"
    file.write_text("slas:\n- {dag: shop, contract: 'orders>=2,<3', callback: a.b}\n")
    assert [definition["policy"] for _, definition in read_policies(file)] == [
        "contract-orders-v2-timeOfAvailability",
        "contract-orders-v2-freshness",
    ]
    file.write_text("slas:\n- {dag: shop, contract: 'invoices>=2,<3', callback: a.b}\n")
    with pytest.raises(InvalidError, match="SLA 1: contract='invoices>=2,<3': no contract 'invoices'"):
        read_policies(file)


@pytest.fixture
def shop(write: Write, database: Engine) -> World:
    """A DAG that promises what its contract does: each day in Berlin by six."""
    write(SIX)
    world = World(database, start="2026-03-02 12:00")
    world.add_dag("shop", sla(contract="orders>=2,<3", callback=CALLBACK))
    world.tick_at("2026-03-02 12:00")
    return world


def test_the_day_itself_has_to_be_published_not_just_any(shop: World) -> None:
    shop.publish(ASSET, "2026-03-01", "2026-03-03 04:00")  # a repair of the day before
    shop.tick_at("2026-03-03 05:00")
    assert shop.states() == {
        "2026-03-03 p/2026-03-02": ("missed", "no_event"),
    } | {name: state for name, state in shop.states().items() if not name.startswith("2026-03-03")}
    shop.publish(ASSET, "2026-03-02", "2026-03-04 08:00")  # more than a day late
    shop.tick_at("2026-03-04 09:00")
    assert shop.state("2026-03-03") == ("recovered", "late")
    assert shop.state("2026-03-04") == ("missed", "no_event")


def test_a_day_published_in_time_by_whomever_keeps_the_promise(shop: World) -> None:
    run_id = shop.run("shop", "2026-03-03 00:00", run_type="backfill")
    source = {"source_dag_id": "shop", "source_run_id": run_id}
    shop.publish(ASSET, "2026-03-02", "2026-03-03 04:00", source=source)
    shop.tick_at("2026-03-03 05:00")
    assert shop.state("2026-03-03") == ("met", "")
    assert shop.told() == []


def test_a_breach_is_no_delivery_and_is_named(shop: World) -> None:
    shop.publish(ASSET, "2026-03-02", "2026-03-03 04:00", status=Status.BREACHED)
    shop.tick_at("2026-03-03 05:00")
    assert shop.told() == [("open", "missed", "breached")]
    shop.publish(ASSET, "2026-03-02", "2026-03-03 05:30")
    shop.tick_at("2026-03-03 05:31")
    assert shop.state("2026-03-03") == ("recovered", "late")


def test_repairs_of_old_days_make_nothing_fresh(write: Write, database: Engine) -> None:
    write(
        {"property": "freshness", "value": 26, "unit": "h"},
        {"property": "latency", "value": 6, "unit": "h"},
        {"property": "frequency", "value": 1, "unit": "d"},
    )
    world = World(database, start="2026-03-02 12:00")
    world.add_dag("shop", sla(contract="orders>=2,<3", callback=CALLBACK))
    world.publish(ASSET, "2026-03-01", "2026-03-02 03:00")
    assert world.tick_at("2026-03-02 12:00").judged.lag == timedelta(0)
    world.publish(ASSET, "2026-02-20", "2026-03-03 04:00")
    world.publish(ASSET, "2026-02-21", "2026-03-03 04:01", status=Status.BREACHED)
    world.tick_at("2026-03-03 05:01")
    assert world.states()["2026-03-03 p/2026-03-02"] == ("missed", "no_event")
    assert world.states()["2026-03-03 fresh-1"] == ("missed", "breached")
    world.publish(ASSET, "2026-03-02", "2026-03-03 09:00")
    world.tick_at("2026-03-03 23:01")
    assert world.states()["2026-03-03 fresh-1"] == ("recovered", "stale")
    assert world.states()["2026-03-03 p/2026-03-02"] == ("recovered", "late")
    assert world.states()["2026-03-03 20260302T230000Z"] == ("met", "")


@pytest.mark.parametrize(
    ("keys", "slots"),
    [
        pytest.param("%Y-%m", ["p/2026-02"], id="months"),
        pytest.param("%Y-%m-%d", [f"p/2026-0{day}" for day in ("2-28", "3-01", "3-02")], id="days"),
        pytest.param("%Y-%m-%dT%H", [f"p/2026-03-0{day}T05" for day in (1, 2, 3)], id="hours"),
    ],
)
def test_a_time_of_day_is_owed_when_another_partition_has_ended(
    write: Write, database: Engine, keys: str, slots: list[str]
) -> None:
    write(SIX, customProperties=[BERLIN, {"property": "airflow.partition", "value": keys}])
    world = World(database, start="2026-03-01 00:00", horizon=timedelta(hours=60))
    world.add_dag("shop", sla(contract="orders>=2,<3", callback=CALLBACK))
    world.tick_at("2026-03-01 00:00")
    assert [name.partition(" ")[2] for name in world.states()] == slots
