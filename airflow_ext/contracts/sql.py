"""SQL for the judge: quoted identifiers, bound values, one read-only transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from airflow_ext.exceptions import DeniedError, FailedError, InvalidError, UnavailableError

DIALECTS = ("duckdb", "postgres", "sqlite")
_BEGIN = {
    "duckdb": ("BEGIN TRANSACTION READ ONLY",),
    # a driver opens the transaction itself; repeatable read, so that all rules see the same rows
    "postgres": ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",),
    "sqlite": ("PRAGMA query_only = ON", "BEGIN"),
}
_SQLITE_OTHER_ERROR = 1
"""SQLite calls a wrong query an operational error; only its code tells it from a missing file."""
_SQLITE_NAMES = ("no such table", "no such column", "no such function", "unknown database", 'near "')
_DUCKDB_NAMES = ("CatalogException", "BinderException", "ParserException")
_POSTGRES_NAMES = (
    "UndefinedTable",
    "UndefinedColumn",
    "UndefinedFunction",
    "InvalidSchemaName",
    "InvalidCatalogName",
    "SyntaxError",
)


class QueryError(FailedError):
    """The database answered, and refused a query.

    :param kind: Name of the driver's error class.
    :param no_table: Whether it knows no such table, or no such schema.
    """

    def __init__(self, message: str, *, kind: str = "", no_table: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.no_table = no_table


@dataclass(frozen=True)
class Bound:
    """A value that travels beside the query, never inside it."""

    value: Any


class Sql:
    """A piece of SQL: text, values and other pieces in a row."""

    def __init__(self, *parts: str | Bound | Sql) -> None:
        self.parts: tuple[str | Bound, ...] = tuple(
            piece for part in parts for piece in (part.parts if isinstance(part, Sql) else (part,))
        )

    @classmethod
    def join(cls, separator: str, pieces: Sequence[Sql]) -> Sql:
        """Return the pieces with ``separator`` between them."""
        parts: list[str | Sql] = []
        for index, piece in enumerate(pieces):
            parts += [separator, piece] if index else [piece]
        return cls(*parts)

    def render(self, placeholder: str) -> tuple[str, tuple[Any, ...]]:
        """Return text and values for a driver.

        :param placeholder: ``?`` or ``%s``.
        """
        values = tuple(part.value for part in self.parts if isinstance(part, Bound))
        escape = placeholder == "%s" and bool(values)
        text = "".join(
            placeholder if isinstance(part, Bound) else part.replace("%", "%%") if escape else part
            for part in self.parts
        )
        return text, values


def quote(name: str) -> str:
    """Quote one identifier; the same for all dialects here."""
    return '"' + name.replace('"', '""') + '"'


def quote_table(name: str) -> str:
    """Quote a table's name, which may have a schema and a catalog before it."""
    return ".".join(quote(part) for part in name.split("."))


class Database:
    """One connection, read only.

    :param connection: A DB-API connection; the caller closes it.
    :param dialect: ``duckdb``, ``postgres`` or ``sqlite``.
    :raises InvalidError: If the dialect is another.
    """

    def __init__(self, connection: Any, dialect: str) -> None:
        if dialect not in DIALECTS:
            raise InvalidError(f"dialect={dialect!r}: contracts can be judged on {', '.join(DIALECTS)}")
        self.dialect = dialect
        self._connection = connection
        self._placeholder = "%s" if dialect == "postgres" else "?"
        self._cursor: Any = None
        if dialect == "sqlite":
            connection.create_function("regexp", 2, _regexp, deterministic=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if self.dialect == "sqlite":
            self._connection.execute("PRAGMA query_only = OFF")

    @property
    def folds_case(self) -> bool:
        """Whether names are the same in upper and lower case."""
        return self.dialect in ("duckdb", "sqlite")

    def rows(self, sql: Sql) -> list[tuple[Any, ...]]:
        """Run a query.

        :raises QueryError: If the database refused it; its text never holds a value of the data.
        :raises DeniedError: If the connection's role may not read what the query reads.
        :raises UnavailableError: If the database did not answer.
        """
        return self._run(sql)[0]

    def column_names(self, sql: Sql) -> list[str]:
        """Run a query and return the names of its columns."""
        return self._run(sql)[1]

    def _run(self, sql: Sql) -> tuple[list[tuple[Any, ...]], list[str]]:
        text, values = sql.render(self._placeholder)
        try:
            if self._cursor is None:
                self._cursor = self._connection.cursor()
                for statement in _BEGIN[self.dialect]:
                    self._cursor.execute(statement)
            self._cursor.execute(text, values) if values else self._cursor.execute(text)
            names = [column[0] for column in self._cursor.description or ()]
            return [tuple(row) for row in self._cursor.fetchall()], names
        except Exception as exc:
            with suppress(Exception):  # what went wrong first is what counts
                self._end()
            error = self._translate(exc)
            if isinstance(error, UnavailableError):
                raise error from exc
            raise error from None  # the driver's own text may quote data, and a traceback shows causes

    def _end(self) -> None:
        """End the transaction; the next query begins another."""
        cursor, self._cursor = self._cursor, None
        if cursor is None:
            return
        # a DuckDB cursor is a connection of its own: it holds the transaction, and the file until it is closed
        (cursor if self.dialect == "duckdb" else self._connection).rollback()
        cursor.close()

    def _translate(self, exc: Exception) -> Exception:
        kind = type(exc).__name__
        kinds = {base.__name__ for base in type(exc).__mro__}
        text = _text_about_names(exc)
        if kind == "InsufficientPrivilege":
            return DeniedError(
                f"The table cannot be judged: {text or 'permission denied'}. Grant the connection's role USAGE on "
                "the schema, and SELECT on the table and on what its rules read"
            )
        other_error = getattr(exc, "sqlite_errorcode", None) == _SQLITE_OTHER_ERROR
        if kinds & {"OperationalError", "InterfaceError"} and not other_error:
            return UnavailableError(f"The database did not answer: {kind}", service="database")
        no_table = kind in ("CatalogException", "UndefinedTable", "InvalidSchemaName") or text.startswith(
            "no such table"
        )
        return QueryError(text or f"the query failed with {kind}", kind=kind, no_table=no_table)


def _text_about_names(exc: Exception) -> str:
    """Return the text of an error that speaks about names and syntax only, empty for any other.

    Whatever else a database has to say may quote a value: ``invalid input "..."``.
    """
    kind = type(exc).__name__
    text = " ".join(str(exc).split())[:200]
    if (diag := getattr(exc, "diag", None)) is not None:
        # without a position it was found while running, in a value cast to a name or to a query
        named = kind in _POSTGRES_NAMES and diag.statement_position is not None
        return str(diag.message_primary) if named or kind == "InsufficientPrivilege" else ""
    if hasattr(exc, "sqlite_errorcode"):
        return text if text.startswith(_SQLITE_NAMES) else ""
    return text if kind in _DUCKDB_NAMES else ""


def _regexp(pattern: str, value: Any) -> bool:
    return value is not None and re.search(pattern, str(value)) is not None
