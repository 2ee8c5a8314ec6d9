"""Asset events, recorded with Airflow's own accessors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_ext.events import MAX_PARTITION_LENGTH, Event, emit, outlets_for, partition_of

ORDERS = Asset("orders")
ITEMS = Asset("items")
ALIAS = AssetAlias("shop")


def context(run_type: str = "scheduled", partition_key: str | None = None) -> Any:
    run = SimpleNamespace(run_type=run_type, partition_key=partition_key)
    return {"outlet_events": OutletEventAccessors(), "dag_run": run}


def unkeyed(run: Any) -> dict[str, Any]:
    return {e.dest_asset_key.name: e.extra for e in run["outlet_events"][ALIAS].asset_alias_events}


def test_in_an_ordinary_run_each_event_goes_out_twice() -> None:
    run = context()
    outlets = emit(run, [Event(ORDERS, {"rows": 1}), Event(ITEMS)], alias="shop", partition="2013-01-05")
    assert outlets == outlets_for([ORDERS, ITEMS], alias="shop")
    for asset, extra in ((ORDERS, {"rows": 1}), (ITEMS, {})):
        accessor = run["outlet_events"][asset]
        assert (accessor.partition_keys, accessor.extra) == ({"2013-01-05"}, extra)
    assert unkeyed(run) == {"orders": {"rows": 1}, "items": {}}


@pytest.mark.parametrize(
    ("run", "options", "expected"),
    [
        pytest.param(context(partition_key="2013-01-05"), {}, {}, id="partitioned-run"),
        pytest.param(context("backfill"), {}, {}, id="backfill"),
        pytest.param(
            context("backfill"), {"unkeyed_in_backfill": True}, {"orders": {}}, id="backfill-on-request"
        ),
        pytest.param(context("manual"), {}, {"orders": {}}, id="manual"),
        pytest.param(
            context("backfill", "2013-01-05"),
            {"unkeyed_in_backfill": True},
            {},
            id="partitioned-backfill-on-request",
        ),
    ],
)
def test_who_gets_an_unkeyed_event(run: Any, options: dict[str, bool], expected: dict[str, Any]) -> None:
    emit(run, [Event(ORDERS)], alias="shop", partition="2013-01-05", **options)
    assert run["outlet_events"][ORDERS].partition_keys == {"2013-01-05"}
    assert unkeyed(run) == expected


def test_without_a_partition_there_is_one_unkeyed_event() -> None:
    run = context()
    emit(run, [Event(ORDERS, {"rows": 1})], alias="shop", partition=None)
    accessor = run["outlet_events"][ORDERS]
    assert (accessor.partition_keys, accessor.extra) == (set(), {"rows": 1})
    assert unkeyed(run) == {}


@pytest.mark.parametrize(
    ("run", "options", "expected"),
    [
        pytest.param(context("backfill"), {}, [ALIAS], id="backfill"),
        pytest.param(
            context("backfill"), {"unkeyed_in_backfill": True}, [ORDERS, ALIAS], id="backfill-on-request"
        ),
        pytest.param(context("backfill", "2013-01-05"), {}, [ORDERS, ALIAS], id="partitioned-backfill"),
    ],
)
def test_a_backfill_without_a_key_emits_nothing(
    run: Any, options: dict[str, bool], expected: list[Any]
) -> None:
    assert emit(run, [Event(ORDERS)], alias="shop", partition=None, **options) == expected
    assert len(run["outlet_events"]) == (ORDERS in expected)


@pytest.mark.parametrize(
    ("given", "of_run", "expected"),
    [
        pytest.param("2013-01-05", "2013-01-06", "2013-01-05", id="given"),
        pytest.param(None, "2013-01-06", "2013-01-06", id="not-given"),
        pytest.param("", "2013-01-06", "2013-01-06", id="empty"),
        pytest.param("  ", "2013-01-06", "2013-01-06", id="blank"),
        pytest.param("None", "2013-01-06", "2013-01-06", id="rendered-none"),
        pytest.param("None", None, None, id="nothing"),
    ],
)
def test_the_key_is_the_given_one_else_that_of_the_run(
    given: str | None, of_run: str | None, expected: str | None
) -> None:
    assert partition_of(context(partition_key=of_run), given) == expected


def test_nothing_to_emit_leaves_the_alias_alone() -> None:
    run = context()
    assert emit(run, [], alias="shop", partition="2013-01-05") == [ALIAS]
    assert len(run["outlet_events"]) == 0


@pytest.mark.parametrize(
    "partition", ["", "  ", "x" * (MAX_PARTITION_LENGTH + 1)], ids=["empty", "blank", "long"]
)
def test_a_partition_key_airflow_cannot_keep_is_refused(partition: str) -> None:
    run = context()
    with pytest.raises(ValueError, match="partition="):
        emit(run, [Event(ORDERS)], alias="shop", partition=partition)
    assert len(run["outlet_events"]) == 0
