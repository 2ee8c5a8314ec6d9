"""Databases that dlt writes through SQLAlchemy: what it does not know of their types."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dlt
    import pyarrow as pa
    from dlt.destinations.impl.sqlalchemy.type_mapper import MysqlVariantTypeMapper

PLAIN_TEXT = ("utf8mb4_nopad_bin", "utf8mb4_0900_bin", "utf8mb4_bin")
"""Collations of MariaDB and MySQL in which only texts that are the same are equal, the better one first."""


def dialect_of(pipeline: dlt.Pipeline) -> Any:
    """Return SQLAlchemy's dialect of a pipeline's destination, ``None`` if it is reached in another way."""
    if not pipeline.destination.destination_type.endswith(".sqlalchemy"):
        return None
    client: Any = pipeline.sql_client()
    return client.dialect


def teach(pipeline: dlt.Pipeline) -> None:
    """Tell dlt how text and bytes of any length and any sign fit into MySQL and MariaDB.

    Theirs are cut off at 64 KB, and what a server takes for equal, as it does "a" and "A", would be one key.
    """
    dialect = dialect_of(pipeline)
    if dialect is None or dialect.name not in ("mysql", "mariadb"):
        return
    from dlt.destinations.impl.sqlalchemy.dialect import (
        MysqlDialectCapabilities,
        register_dialect_capabilities,
    )

    with pipeline.sql_client() as client:
        asked = (
            "SELECT collation_name FROM information_schema.collations WHERE collation_name LIKE 'utf8mb4%bin'"
        )
        types = mysql_types({str(name) for (name,) in client.execute_sql(asked) or ()})

    class Capabilities(MysqlDialectCapabilities):
        def type_mapper_class(self) -> Any:
            return types

    for name in ("mysql", "mariadb"):
        register_dialect_capabilities(name, Capabilities)


def mysql_types(collations: Collection[str]) -> type[MysqlVariantTypeMapper]:
    """Return what maps dlt's types to those of MySQL and MariaDB.

    :param collations: Names of those that the server has.
    """
    from dlt.destinations.impl.sqlalchemy.type_mapper import MysqlVariantTypeMapper
    from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT

    collation = next((name for name in PLAIN_TEXT if name in collations), None)

    class Types(MysqlVariantTypeMapper):
        def db_type_from_text_type(self, column: Any, table: Any) -> Any:
            if column.get("precision") or column.get("unique"):
                return super().db_type_from_text_type(column, table)
            return LONGTEXT(charset="utf8mb4", collation=collation)

        def db_type_from_binary_type(self, column: Any, table: Any) -> Any:
            del column, table
            return LONGBLOB()

    return Types


def misfit(batch: pa.Table, dialect: str) -> str:
    """Return what a database would refuse or change without a word, for a message; empty if there is nothing.

    :param dialect: SQLAlchemy's name of it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_floating(field.type) and dialect in ("sqlite", "mysql", "mariadb"):
            wrong = pc.is_nan(column) if dialect == "sqlite" else pc.invert(pc.is_finite(column))
            if pc.any(wrong).as_py():
                return f"column {field.name!r} holds NaN or infinity, which {dialect} does not have"
        if pa.types.is_decimal(field.type) and dialect == "sqlite" and (value := _too_exact(column)):
            return f"column {field.name!r} holds {value}, of which SQLite keeps about 15 digits"
    return ""


def _too_exact(column: pa.ChunkedArray) -> Decimal | None:
    """Return a decimal that is another one as a double, in which SQLite keeps it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = pc.cast(column, pa.float64())
    suspects = column.filter(pc.greater(pc.abs(whole), 1e15 / 10**column.type.scale))
    values: list[Decimal | None] = suspects.to_pylist()
    return next((value for value in values if value and Decimal(repr(float(value))) != value), None)


def literal(value: Any, dialect: Any) -> str:
    """Return a value as SQL has it, in a condition that dlt hands to SQLAlchemy."""
    import sqlalchemy as sa

    text = str(sa.literal(value).compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    # sa.text takes a colon for the start of a bound value.
    return text.replace(":", r"\:")
