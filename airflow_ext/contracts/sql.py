"""SQL for the judge: quoted identifiers, bound values, one read-only transaction, an end to every query."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from airflow_ext.contracts.dialects import DIALECTS, MARIADB, dialect_of
from airflow_ext.contracts.driver_errors import QueryError, TimeLimitError, translate
from airflow_ext.contracts.settings import DEFAULT_TIME_LIMIT
from airflow_ext.contracts.sql_text import Bound, Sql
from airflow_ext.exceptions import UnavailableError

__all__ = ["DIALECTS", "Bound", "Database", "QueryError", "Sql", "TimeLimitError"]


class Database:
    """One connection, read only, on which every query comes to an end.

    :param connection: A DB-API connection; the caller closes it.
    :param dialect: Type of the Airflow connection, such as ``duckdb``, ``postgres`` or ``snowflake``.
    :param hook: The common-sql hook it comes from; its SQLAlchemy inspector is asked about tables where the
        database's catalog does not answer. ``None`` asks none.
    :param time_limit: Seconds after which a query is ended.
    :raises InvalidError: If the dialect is another.
    """

    def __init__(
        self, connection: Any, dialect: str, *, hook: Any = None, time_limit: float = DEFAULT_TIME_LIMIT
    ) -> None:
        self.sql = dialect_of(dialect)
        self.hook = hook
        self.time_limit = time_limit
        self._connection = connection
        self._cursor: Any = None
        self._limit = time_limit
        self._ended = threading.Event()
        if self.dialect == "postgres" and getattr(connection, "autocommit", False):
            connection.autocommit = (
                False  # else each statement is a transaction of its own, and none is read only
            )
        if self.dialect == "sqlite":
            connection.create_function("regexp", 2, _regexp, deterministic=True)
        if self.dialect == "mysql" and self._is_mariadb():
            self.sql = MARIADB

    def _is_mariadb(self) -> bool:
        with self._guarded(), closing(self._connection.cursor()) as cursor:
            cursor.execute("SELECT VERSION()")
            return "mariadb" in str(cursor.fetchall()[0][0]).lower()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._writable()

    @property
    def dialect(self) -> str:
        """Sqlglot's name of the dialect."""
        return self.sql.name

    @property
    def folds_case(self) -> bool:
        """Whether names are the same in upper and lower case."""
        return self.sql.folds_case

    def rows(self, sql: Sql) -> list[tuple[Any, ...]]:
        """Run a query.

        :raises TimeLimitError: If it took longer than the time limit and was ended.
        :raises QueryError: If the database refused it; its text never holds a value of the data.
        :raises DeniedError: If the connection's role may not read what the query reads.
        :raises UnavailableError: If the database did not answer.
        """
        return self._run(sql)[0]

    def described(self, sql: Sql) -> list[tuple[str, str]]:
        """Run a query and return names and types of its columns; a type is empty if the driver gives a number."""
        described = self._run(sql)[1]
        names_types = [(column[0], column[1] if len(column) > 1 else "") for column in described]
        return [(name, "" if isinstance(type_, int) else str(type_ or "")) for name, type_ in names_types]

    @contextmanager
    def writing(self) -> Iterator[Self]:
        """Let queries write in one transaction, which is kept at the end and undone by an error."""
        self._end()
        self._writable()
        self._cursor = self._connection.cursor()
        try:
            with self._guarded():
                self._begin_writing()
            yield self
            with self._guarded(), suppress(AttributeError, NotImplementedError):
                self._owner.commit()
            cursor, self._cursor = self._cursor, None
            cursor.close()
        finally:
            self._end()

    def _begin_writing(self) -> None:
        if self.dialect == "duckdb":
            self._cursor.execute("BEGIN TRANSACTION")
        elif self.dialect == "sqlite":
            self._cursor.execute("BEGIN IMMEDIATE")
        else:
            self._limit_by_server()

    def _writable(self) -> None:
        if self.dialect == "sqlite":
            with suppress(Exception):  # a closed connection needs no setting
                self._connection.execute("PRAGMA query_only = OFF")

    @property
    def _owner(self) -> Any:
        """What holds the transaction: a DuckDB cursor is a connection of its own, which keeps the file open."""
        return self._cursor if self.dialect == "duckdb" else self._connection

    def _run(self, sql: Sql) -> tuple[list[tuple[Any, ...]], Sequence[Any]]:
        text, values = self.sql.written(sql)
        with self._guarded():
            if self._cursor is None:
                self._cursor = self._connection.cursor()
                for statement in self.sql.begin:
                    self._cursor.execute(statement)
                self._limit_by_server()
            elif self._limit != self.time_limit:
                self._limit_by_server()
            timer = threading.Timer(self.time_limit, self._interrupt, (self._cursor,))
            timer.daemon = True
            timer.start()
            try:
                self._cursor.execute(text, values) if values else self._cursor.execute(text)
                described = self._cursor.description or ()
                return [tuple(row) for row in self._cursor.fetchall()] if described else [], described
            finally:
                timer.cancel()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        self._ended.clear()
        started = time.monotonic()
        try:
            yield
        except Exception as exc:
            with suppress(Exception):  # what went wrong first is what counts
                self._end()
            late = self._ended.is_set() or time.monotonic() - started >= self.time_limit
            error = translate(exc, self.time_limit if late else None)
            if isinstance(error, UnavailableError):
                raise error from exc
            raise error from None  # the driver's own text may quote data, and a traceback shows causes

    def _limit_by_server(self) -> None:
        self._limit = self.time_limit
        seconds = max(1, round(self.time_limit))
        for statement in self.sql.limits:
            self._cursor.execute(statement.format(seconds=seconds, milliseconds=1000 * seconds))

    def _interrupt(self, cursor: Any) -> None:
        """End what the cursor runs; called in another thread."""
        self._ended.set()
        for owner, name in (
            (cursor, "interrupt"),
            (cursor, "cancel"),
            (self._connection, "interrupt"),
            (self._connection, "cancel"),
        ):
            if callable(end := getattr(owner, name, None)):
                with suppress(Exception):  # it may have come to its end meanwhile
                    end()
                return

    def _end(self) -> None:
        """End the transaction; the next query begins another."""
        cursor = self._cursor
        if cursor is None:
            return
        owner, self._cursor = self._owner, None
        with suppress(AttributeError, NotImplementedError):  # some drivers have no transactions
            owner.rollback()
        cursor.close()


def _regexp(pattern: str, value: Any) -> bool:
    return value is not None and re.search(pattern, str(value)) is not None
