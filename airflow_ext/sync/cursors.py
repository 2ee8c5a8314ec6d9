"""Cursor values: the highest one seen, kept as text, and written into statements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidError

if TYPE_CHECKING:
    import pyarrow as pa

_READ: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "Decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "str": str,
}


class Cursor:
    """The value a sync continues from, and the highest one it has seen since.

    :param column: The cursor column; ``None`` if the table has none.
    :param value: The last value of the load before; ``None`` if there is none.
    """

    def __init__(self, column: str | None, value: Any = None) -> None:
        self.column = column
        self.value = value
        self.highest = value

    @classmethod
    def read(cls, kept: Mapping[str, str] | None, *, column: str | None) -> Cursor:
        """Read what :meth:`dump` wrote; a value of another column says nothing about this one."""
        if not kept or kept["column"] != column:
            return cls(column)
        return cls(column, _READ[kept["kind"]](kept["value"]))

    def fit(self, kind: pa.DataType, *, table: str) -> None:
        """Turn the value into one of the column as it is now; a timestamp without a zone is UTC.

        :param kind: The column's Arrow type.
        :raises InvalidError: If the two cannot be compared.
        """
        import pyarrow as pa

        value, types = self.value, pa.types
        if isinstance(value, date) and types.is_timestamp(kind):
            moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)  # noqa: DTZ001
            aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            self.value = self.highest = aware if kind.tz else aware.replace(tzinfo=None)
            return
        number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
        fits = (
            value is None
            or (isinstance(value, int | float | Decimal) and number)
            or (isinstance(value, str) and types.is_string(kind))
            or (type(value) is date and types.is_date(kind))
        )
        if not fits:
            raise InvalidError(
                f"cursor={self.column!r} of table {table!r} has become {kind}, to which its last value, "
                f"{text_of(value)!r} ({type(value).__name__}), cannot be compared; drop the table in the destination to load "
                "it from the beginning, or use another cursor"
            )

    def dump(self) -> dict[str, str] | None:
        """Return the highest value seen as plain JSON."""
        if self.highest is None:
            return None
        return {
            "column": str(self.column),
            "kind": type(self.highest).__name__,
            "value": text_of(self.highest),
        }

    def see(self, values: pa.ChunkedArray, *, limit: Any = None) -> None:
        """Take note of the values of a batch.

        :param limit: The highest of all, where only the source can tell which that is.
        """
        import pyarrow.compute as pc

        if limit is not None:
            self.highest = limit if len(values) else self.highest
            return
        highest = _python(pc.max(values))
        if highest is not None and (self.highest is None or highest > self.highest):
            self.highest = highest


def _python(value: pa.Scalar[Any]) -> Any:
    """Return a scalar's Python value; pyarrow would import pandas for a timestamp, which takes longer than a small load."""
    import pyarrow as pa

    if not value.is_valid or not pa.types.is_timestamp(value.type):
        return value.as_py()
    start = datetime(1970, 1, 1, tzinfo=UTC if value.type.tz else None)
    return start + timedelta(
        microseconds=value.cast(pa.timestamp("us", value.type.tz)).cast(pa.int64()).as_py()
    )


def text_of(value: Any) -> str:
    """Return a value as text that its type reads again."""
    return value.isoformat() if isinstance(value, date) else str(value)


def literal(value: Any) -> str:
    """Return a value as both DuckDB and PostgreSQL read it in a statement."""
    if value is None:
        return "NULL"
    if isinstance(value, datetime):
        return f"{'TIMESTAMP' if value.tzinfo is None else 'TIMESTAMPTZ'} '{value.isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float):
        return f"CAST('{value!r}' AS DOUBLE PRECISION)"
    return str(value)
