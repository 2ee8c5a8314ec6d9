"""SQL for the judge: quoted identifiers, bound values, one read-only transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from airflow_ext.exceptions import FailedError, InvalidError, UnavailableError

DIALECTS = ("duckdb", "postgres", "sqlite")
_BEGIN = {
    "duckdb": ("BEGIN TRANSACTION READ ONLY",),
    # a driver opens the transaction itself; repeatable read, so that all rules see the same rows
    "postgres": ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",),
    "sqlite": ("PRAGMA query_only = ON", "BEGIN"),
}
_SQLITE_OTHER_ERROR = 1
"""SQLite calls a wrong query an operational error; only its code tells it from a missing file."""


class QueryError(FailedError):
    """The database answered, and refused a query.

    :param kind: Name of the driver's error class.
    """

    def __init__(self, message: str, *, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


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

        :raises QueryError: If the database refused it.
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
            raise self._translate(exc) from exc

    def _end(self) -> None:
        """End the transaction; the next query begins another."""
        cursor, self._cursor = self._cursor, None
        if cursor is None:
            return
        # a DuckDB cursor is a connection of its own: it holds the transaction, and the file until it is closed
        (cursor if self.dialect == "duckdb" else self._connection).rollback()
        cursor.close()

    def _translate(self, exc: Exception) -> Exception:
        kinds = {kind.__name__ for kind in type(exc).__mro__}
        code = getattr(exc, "sqlite_errorcode", None)
        if "ProgrammingError" in kinds or code == _SQLITE_OTHER_ERROR:
            # its text names tables, columns and functions
            return QueryError(" ".join(str(exc).split())[:200], kind=type(exc).__name__)
        if kinds & {"OperationalError", "InterfaceError"}:
            return UnavailableError(f"The database did not answer: {type(exc).__name__}", service="database")
        # the text of any other error may quote a value of the data
        return QueryError(f"the query failed with {type(exc).__name__}", kind=type(exc).__name__)


def _regexp(pattern: str, value: Any) -> bool:
    return value is not None and re.search(pattern, str(value)) is not None
