"""Values as a driver gives them, made fit for Arrow, which would cut 2.5 to 2 without a word."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

from airflow_ext.sync.arrow_types import UNBOUND_DECIMAL, Column

SAME_FLOAT = 1e-12
"""Floats that differ by less stand for the same decimal: 0.1 + 0.2 is 0.3."""

LONGEST_VALUE = 40


class MisfitError(ValueError):
    """A value is not one of its column's type."""


def plain_values(values: Iterable[Any], column: Column) -> list[Any]:
    """Return a column's Python values as Arrow takes them.

    :raises MisfitError: If a value would have to change to fit.
    """
    import pyarrow as pa

    if column.json:
        # Drivers hand JSON out parsed or as text, depending on the database.
        return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    if pa.types.is_decimal(column.arrow):
        return [None if value is None else _decimal(value, column) for value in values]
    if pa.types.is_integer(column.arrow):
        return [
            value if value is None or isinstance(value, int) else _integer(value, column) for value in values
        ]
    if column.arrow == pa.string():
        return [None if value is None else str(value) for value in values]
    return list(values)


def _integer(value: Any, column: Column) -> int:
    if isinstance(value, float | Decimal) and value == value // 1:
        return int(value)
    raise _misfit(value, column)


def _decimal(value: Any, column: Column) -> Decimal:
    """Return a decimal with the column's digits after the point; only a column that declares none is rounded to them."""
    if isinstance(value, int):
        return Decimal(value)
    try:
        given = Decimal(value) if isinstance(value, str) else value
        rounded = Decimal(format(given, f".{column.arrow.scale}f"))
    except (InvalidOperation, TypeError, ValueError):
        raise _misfit(value, column) from None
    same = math.isclose(rounded, given, rel_tol=SAME_FLOAT) if isinstance(given, float) else rounded == given
    if not same and (column.arrow.precision, column.arrow.scale) != UNBOUND_DECIMAL:
        raise _misfit(value, column)
    return rounded


def _misfit(value: Any, column: Column) -> MisfitError:
    return MisfitError(
        f"column {column.name!r}: the value {str(value)[:LONGEST_VALUE]!r} does not fit {column.arrow}, its declared type"
    )
