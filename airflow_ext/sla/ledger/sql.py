"""The few statements that databases write differently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, any_, bindparam, column, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import Base

_CHUNK = 1000
_MANY = 20


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
    """Insert rows in bulk, leaving out those that are there.

    :param rows: All with the same keys.
    """
    if not rows:
        return
    statement = insert_new(session, table)
    if session.get_bind().dialect.name == "postgresql" and len(rows) >= _MANY:
        names = list(rows[0])
        given = _given(table, rows, names)
        session.execute(statement.from_select(names, select(*(given.c[name] for name in names))))
    else:
        # Not .values(rows): a statement as long as its rows is compiled anew each time, which costs more than the insert.
        session.execute(statement, list(rows))


def set_each(
    session: Session, table: Table, rows: Sequence[Mapping[str, Any]], *, same: Mapping[str, Any]
) -> None:
    """Set columns of many rows, each to values of its own.

    :param rows: ``id`` and the values of its own, all with the same keys.
    :param same: Values that are the same for all.
    """
    if not rows:
        return
    own = [name for name in rows[0] if name != "id"]
    if session.get_bind().dialect.name == "postgresql":
        given = _given(table, rows, ["id", *own])
        statement = update(table).where(table.c.id == given.c.id)
        session.execute(statement.values({**{name: given.c[name] for name in own}, **same}))
        return
    each: dict[str, Any] = {name: bindparam(f"own_{name}") for name in own}
    session.connection().execute(
        update(table).where(table.c.id == bindparam("own_id")).values({**each, **same}),
        [{f"own_{name}": row[name] for name in ("id", *own)} for row in rows],
    )


def _given(table: Table, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Any:
    """Return rows as a table of a query, for PostgreSQL: an array for each column is quicker than a value for each cell."""
    arrays = (bindparam(None, [row[name] for row in rows], type_=ARRAY(table.c[name].type)) for name in names)
    columns = (column(name, table.c[name].type) for name in names)
    return func.unnest(*arrays).table_valued(*columns).render_derived(name="given")


def among(session: Session, where: ColumnElement[Any], ids: Iterable[Any]) -> ColumnElement[bool]:
    """Return ``where IN (ids)`` in the form that is quick for thousands of them."""
    values = list(ids)
    if session.get_bind().dialect.name == "postgresql":
        return where == any_(bindparam(None, values, type_=ARRAY(where.type)))
    return where.in_(values)


def chunks(items: Sequence[Any], size: int = _CHUNK) -> Iterable[Sequence[Any]]:
    """Cut a list into pieces of ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
