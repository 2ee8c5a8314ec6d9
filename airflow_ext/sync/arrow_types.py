"""Columns on their way: the Arrow types a destination is given, and how others become them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidError

if TYPE_CHECKING:
    import pyarrow as pa

UNBOUND_DECIMAL = (38, 9)
"""Precision and scale of a numeric column that declares none."""


@dataclass(frozen=True)
class Column:
    """One column to load.

    :param name: Its name in the source.
    :param arrow: The Arrow type it arrives as.
    :param json: It holds JSON text.
    :param select: The SQLAlchemy expression that reads it, labelled with the name.
    :param uuid: It holds UUIDs as text.
    :param empty: It holds nothing, so that its type says nothing.
    """

    name: str
    arrow: pa.DataType
    json: bool = False
    select: Any = None
    uuid: bool = False
    empty: bool = False


def as_column(name: str, kind: pa.DataType) -> Column:
    """Return the column for a type that a file has."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return as_column(name, kind.value_type)
    if types.is_nested(kind):
        return Column(name, pa.string(), json=True)
    if types.is_boolean(kind) or types.is_date(kind):
        return Column(name, pa.bool_() if types.is_boolean(kind) else pa.date32())
    if types.is_integer(kind):
        small = {
            pa.int8(): pa.int16(),
            pa.uint8(): pa.int16(),
            pa.int16(): pa.int16(),
            pa.uint16(): pa.int32(),
        }
        wide = pa.decimal128(20, 0) if kind == pa.uint64() else pa.int64()
        return Column(name, {**small, pa.int32(): pa.int32()}.get(kind, wide))
    if types.is_floating(kind):
        return Column(name, pa.float64())
    if types.is_decimal(kind) and kind.precision <= 38:
        return Column(name, pa.decimal128(kind.precision, kind.scale))
    if types.is_timestamp(kind):
        return Column(name, pa.timestamp("us", tz="UTC" if kind.tz else None))
    if types.is_time(kind):
        return Column(name, pa.time64("us"))
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return Column(name, pa.binary())
    return Column(name, pa.string(), empty=types.is_null(kind))


def named_type(name: str, kind: str) -> Column:
    """Return the column for a type as a DAG author names it.

    :raises InvalidError: If it is none.
    """
    import pyarrow as pa

    if found := re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", kind):
        precision, scale = int(found[1]), int(found[2])
        if 0 < precision <= 38 and scale <= precision:
            return Column(name, pa.decimal128(precision, scale))
    types = {
        "text": pa.string(),
        "boolean": pa.bool_(),
        "bigint": pa.int64(),
        "double": pa.float64(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us"),
        "timestamptz": pa.timestamp("us", tz="UTC"),
        "json": pa.string(),
        "uuid": pa.string(),
    }
    if kind not in types:
        raise InvalidError(f"types={{{name!r}: {kind!r}}}: no such type")
    return Column(name, types[kind], json=kind == "json", uuid=kind == "uuid")


def conform(batch: pa.Table, columns: list[Column]) -> pa.Table:
    """Give a batch the columns wanted; one it lacks is null, and only casts without loss happen.

    :raises pyarrow.ArrowInvalid: If a value does not fit.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = []
    for column in columns:
        if column.name not in batch.column_names:
            arrays.append(pa.nulls(batch.num_rows, column.arrow))
            continue
        array = batch.column(column.name)
        if column.json and pa.types.is_nested(array.type):
            texts = [None if value is None else json.dumps(value, default=str) for value in array.to_pylist()]
            array = pa.array(texts, pa.string())
        elif pa.types.is_dictionary(array.type):
            array = pc.cast(array, array.type.value_type)
        if array.type != column.arrow:
            array = pc.cast(array, column.arrow)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, names=[column.name for column in columns])
