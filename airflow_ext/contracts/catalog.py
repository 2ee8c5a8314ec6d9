"""What a table looks like in its database.

Asked in this order: the database's own catalog (``information_schema`` where it has one), the SQLAlchemy inspector
of the user's hook, and last a query for no rows, which tells names and perhaps types.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from airflow_ext.contracts.catalog_queries import columns_query, key_query
from airflow_ext.contracts.families import family_of
from airflow_ext.contracts.sql import Database, QueryError, Sql

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Found:
    """A column as it is.

    :param type: As the database writes it; empty if it does not say.
    :param family: Our family of the type, empty if unknown.
    :param nullable: Whether it may hold NULL, ``None`` if the database does not say.
    """

    name: str
    type: str
    family: str
    nullable: bool | None = None


@dataclass(frozen=True)
class FoundTable:
    """A table as it is.

    :param name: Its name as the database writes it, quoted.
    :param columns: Its columns by name; in lower case where the database does not tell cases apart.
    :param key: Columns of its primary key, empty for none, ``None`` if the database does not say.
    :param folds_case: Whether names mean the same in upper and lower case.
    """

    name: str
    columns: Mapping[str, Found] = field(default_factory=dict)
    key: tuple[str, ...] | None = None
    folds_case: bool = False

    def column(self, name: str) -> Found | None:
        """Return the column with a name, by the database's idea of what is the same name."""
        return self.columns.get(name.lower() if self.folds_case else name)


def look_at(database: Database, table: str, *, with_key: bool = False) -> FoundTable | None:
    """Return a table, a view or a materialized view; ``None`` if it is not there.

    :param table: Its name in the contract, with schema and catalog where it has them.
    :param with_key: Whether to ask for its primary key too.
    :raises QueryError: If it cannot be looked at for another reason than that it is not there.
    :raises DeniedError: If it may not be looked at.
    """
    name, rows, key = _from_catalog(database, table, with_key)
    if not rows and not database.sql.native_catalog:
        rows, key = _from_inspector(database, table)
    if not rows:
        try:
            query = database.sql.cut(Sql(f"SELECT * FROM {name}"), 0)
            rows = [(column, type_, None) for column, type_ in database.described(query)]
        except QueryError as exc:
            if not exc.no_table:
                raise
            return None
    fold = str.lower if database.folds_case else str
    columns = {
        fold(str(column)): Found(
            str(column), str(type_ or ""), family_of(str(type_ or ""), database.dialect), nullable
        )
        for column, type_, nullable in rows
    }
    return FoundTable(name, columns, key, database.folds_case)


def _from_catalog(
    database: Database, table: str, with_key: bool
) -> tuple[str, list[Row], tuple[str, ...] | None]:
    """Return the table's quoted name, name, type and nullability of its columns, and its key."""
    name = database.sql.quote_table(table)
    query = columns_query(database.sql, table)
    try:
        found = database.rows(query) if query else []
    except QueryError:
        if database.sql.native_catalog:
            raise
        return name, [], None
    if found and found[0][0] is not None:
        # the case in which the database keeps the name; of several the one written as in the contract
        places = {(row[0], row[1]) for row in found}
        written = tuple(table.split(".")[-2:])
        place = min(places, key=lambda each: (each[-len(written) :] != written, each))
        found = [row for row in found if (row[0], row[1]) == place]
        before = table.split(".")[:-2]
        shown = [*before, *place] if "." in table else [place[1]]
        name = ".".join(database.sql.quote(part) for part in shown)
    rows = [(row[2], row[3], _yes(row[4])) for row in found]
    key = None
    if found and with_key and (asked := key_query(database.sql, table, found[0][0], found[0][1])):
        with suppress(QueryError):  # not every edition of a database keeps keys
            key = tuple(str(row[0]) for row in database.rows(asked))
    return name, rows, key


def _from_inspector(database: Database, table: str) -> tuple[list[Row], tuple[str, ...] | None]:
    """Ask the SQLAlchemy inspector of the hook; nothing if there is none, or no such table."""
    *before, name = table.split(".")
    try:
        inspector = database.hook.inspector
        schema = ".".join(before) or None
        columns = inspector.get_columns(name, schema)
        key = tuple(inspector.get_pk_constraint(name, schema).get("constrained_columns") or ())
        rows = [(each["name"], str(each["type"]), each.get("nullable")) for each in columns]
    except Exception:  # noqa: BLE001  no hook, no SQLAlchemy dialect or no table: the next way tells which
        return [], None
    return rows, key


def _yes(value: object) -> bool | None:
    return None if value is None else str(value).upper() in ("YES", "TRUE", "1", "Y", "T")
