from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_ext.sync.tables import SyncTable, Window


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"mode": "upsert"}, "mode='upsert'.*merge, append, replace, window", id="unknown mode"),
        pytest.param({"mode": "merge"}, "needs primary_key=", id="merge without key"),
        pytest.param({"mode": "window"}, "needs cursor=", id="window without cursor"),
        pytest.param({"mode": "replace", "cursor": "day"}, "loads the whole table", id="replace with cursor"),
        pytest.param(
            {"primary_key": ["id"], "columns": ["name"]}, "must hold the primary key.*id", id="key not loaded"
        ),
        pytest.param({"mode": "append", "columns": []}, "all columns", id="no column"),
        pytest.param({"mode": "append", "primary_key": [""]}, "give column names", id="blank column name"),
    ],
)
def test_arguments_that_do_not_go_together_are_told_with_the_way_out(
    arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        SyncTable("orders", **arguments)


def test_a_dotted_name_is_split_for_the_author() -> None:
    with pytest.raises(ValueError, match="name='orders', schema='shop'"):
        SyncTable("shop.orders", mode="append")


def test_a_lone_string_is_one_column() -> None:
    assert SyncTable("orders", primary_key="order_id").primary_key == ("order_id",)


def test_a_table_survives_its_json_form() -> None:
    table = SyncTable(
        "orders", schema="shop", primary_key=["a", "b"], cursor="b", columns=["a", "b"], where="a > 1"
    )
    assert SyncTable.from_dict(table.to_dict()) == table


@pytest.mark.parametrize(
    ("start", "end", "like", "bounds"),
    [
        pytest.param(
            "2013-01-01", "2013-01-02", date, (date(2013, 1, 1), date(2013, 1, 2)), id="dates from dates"
        ),
        pytest.param(
            "2013-01-01T00:00:00+00:00",
            "2013-01-02",
            date,
            (date(2013, 1, 1), date(2013, 1, 2)),
            id="dates from midnights",
        ),
        pytest.param(
            "2013-01-01",
            "2013-01-01T12:00:00+02:00",
            datetime,
            (datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 1, 10, tzinfo=UTC)),
            id="moments in UTC",
        ),
        pytest.param("9", "10", int, (9, 10), id="numbers, not texts"),
        pytest.param("1.5", "2", Decimal, (Decimal("1.5"), Decimal(2)), id="decimals"),
        pytest.param("a", "b", str, ("a", "b"), id="texts"),
    ],
)
def test_a_window_takes_the_type_of_its_column(
    start: str, end: str, like: type, bounds: tuple[Any, Any]
) -> None:
    assert Window(start=start, end=end).bounds(like) == bounds


@pytest.mark.parametrize(
    ("start", "end", "like", "told"),
    [
        pytest.param("2013-01-02", "2013-01-02", date, "must lie before", id="empty"),
        pytest.param("2013-01-02", "2013-01-01", date, "must lie before", id="backwards"),
        pytest.param("2013-01-01T06:00", "2013-01-02", date, "whole dates", id="part of a day"),
        pytest.param("yesterday", "2013-01-02", date, "window_start='yesterday' is no date", id="no date"),
        pytest.param("1", "x", int, "window_end='x' is no int", id="no number"),
    ],
)
def test_a_wrong_window_names_its_side(start: str, end: str, like: type, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Window(start=start, end=end).bounds(like)


@pytest.mark.parametrize("blank", ["", " ", "None"])
def test_a_template_that_rendered_to_nothing_is_no_window(blank: str) -> None:
    with pytest.raises(ValueError, match="rendered to nothing"):
        Window(start=blank, end="2013-01-02")
