"""The few statements that databases write differently."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, any_, bindparam
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import Base

_CHUNK = 1000


def table_of(model: type[Base]) -> Table:
    """Return the table of a model."""
    table = model.__table__
    assert isinstance(table, Table)  # noqa: S101  the type is wider than what a mapped class has
    return table


def insert_new(session: Session, table: Table) -> Any:
    """Return an INSERT that leaves out rows whose unique key is there already."""
    name = session.get_bind().dialect.name
    if name == "postgresql":
        return postgresql_insert(table).on_conflict_do_nothing()
    if name == "sqlite":
        return sqlite_insert(table).on_conflict_do_nothing()
    return table.insert().prefix_with("IGNORE", dialect="mysql")


def add_new(session: Session, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows in bulk, leaving out those that are there."""
    for start in range(0, len(rows), _CHUNK):
        session.execute(insert_new(session, table).values(list(rows[start : start + _CHUNK])))


def among(session: Session, column: ColumnElement[Any], ids: Iterable[int]) -> ColumnElement[bool]:
    """Return ``column IN (ids)`` in the form that is quick for thousands of them."""
    values = list(ids)
    if session.get_bind().dialect.name == "postgresql":
        return column == any_(bindparam(None, values, type_=ARRAY(column.type)))
    return column.in_(values)


def chunks(items: Sequence[Any], size: int = _CHUNK) -> Iterable[Sequence[Any]]:
    """Cut a list into pieces of ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
