"""How a table differs from what its contract promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airflow_ext.contracts.catalog import Found, FoundTable
from airflow_ext.contracts.families import FITS, Widening, parse_type, widening
from airflow_ext.contracts.settings import Severities
from airflow_ext.contracts.tables import Column, Table
from airflow_ext.contracts.verdict import Reason


@dataclass(frozen=True)
class Difference:
    """One difference.

    :param kind: ``missing``, ``extra``, ``retyped``, ``widened``, ``nullable`` or ``key``.
    :param columns: The columns it is about, as the contract writes them.
    :param promised: What the contract says.
    :param found: What the database says.
    """

    kind: str
    columns: tuple[str, ...]
    promised: str
    found: str

    def __str__(self) -> str:
        mark = {"missing": "-", "extra": "+"}.get(self.kind, "~")
        return f"{mark} {', '.join(self.columns)}: {self.promised} -> {self.found}"


def differences(table: Table, found: FoundTable, dialect: str) -> Iterator[Difference]:
    """Yield what differs between a table as promised and as it is.

    :param dialect: sqlglot's name of the database's dialect.
    """
    promised = set()
    for column in table.columns:
        actual = found.column(column.name)
        if actual is None:
            yield Difference("missing", (column.name,), f"column of {column.written_type}", "no such column")
            continue
        promised.add(actual.name)
        if change := type_change(column, actual, dialect):
            yield Difference(change, (column.name,), column.written_type, actual.type)
        if column.required and actual.nullable:
            yield Difference("nullable", (column.name,), "NOT NULL", "may be NULL")
    for actual in found.columns.values():
        if table.columns and actual.name not in promised:
            yield Difference("extra", (actual.name,), "no such column", actual.type or "a column")
    if table.key and found.key:
        wanted = tuple(actual.name for name in table.key if (actual := found.column(name)))
        if sorted(wanted) != sorted(found.key):
            yield Difference("key", table.key, ", ".join(table.key), ", ".join(found.key))


def type_change(promised: Column, found: Found, dialect: str) -> str:
    """Say how a type differs: ``retyped``, ``widened`` or, if the promise is kept or nothing is known, nothing."""
    if not found.type:
        return ""
    if promised.logical_type and found.family:
        fits = FITS.get(promised.logical_type, frozenset({promised.logical_type}))
        if found.family not in fits:
            return "retyped"
    if not promised.physical_type:
        return ""
    change = widening(promised.physical_type, found.type, dialect)
    if change in (Widening.SAME, Widening.UNKNOWN) or _says_no_size(promised, found, dialect):
        return ""
    return "widened" if change is Widening.WIDER else "retyped"


def _says_no_size(promised: Column, found: Found, dialect: str) -> bool:
    """A promise of ``numeric`` says nothing about digits, one of ``varchar`` nothing about length."""
    wanted, actual = parse_type(promised.physical_type, dialect), parse_type(found.type, dialect)
    same = wanted is not None and actual is not None and wanted.name == actual.name
    return same and "(" not in promised.physical_type and wanted is not None and wanted.name != "INTEGER"


def keeps(promised: Column, found: Found, dialect: str) -> bool:
    """Say whether values of a column are of the type promised, so that rules about them make sense."""
    return type_change(promised, found, dialect) != "retyped"


def schema_reasons(table: Table, found: FoundTable, dialect: str, severities: Severities) -> Iterator[Reason]:
    """Yield the differences that are not ignored as reasons."""
    for difference in differences(table, found, dialect):
        severity = severities.of(f"schema.{difference.kind}")
        if severity != "ignore":
            name = f"schema.{difference.kind}({', '.join(difference.columns)})"
            yield Reason(
                name,
                difference.promised,
                difference.found,
                severity,
                columns=difference.columns,
                dimension="conformity",
            )
