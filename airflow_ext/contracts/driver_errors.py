"""What a driver's exception means; its text is kept only where it cannot quote a value of the data."""

from __future__ import annotations

from airflow_ext.exceptions import DeniedError, FailedError, UnavailableError

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
_ENDED = ("QueryCanceled", "QueryCanceledError", "InterruptException")
_SQLITE_INTERRUPT = 9
_MYSQL_NO_TABLE = (1146, 1049)
_MYSQL_DENIED = (1142, 1143, 1044)
_MYSQL_ENDED = (3024, 1969)
_SNOWFLAKE_NO_TABLE = 2003
_MSSQL_NO_TABLE = 208


class QueryError(FailedError):
    """The database answered, and refused a query.

    :param kind: Name of the driver's error class.
    :param no_table: Whether it knows no such table, or no such schema.
    """

    def __init__(self, message: str, *, kind: str = "", no_table: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.no_table = no_table


class TimeLimitError(QueryError):
    """A query took longer than the time limit and was ended."""


def translate(exc: Exception, time_limit: float | None) -> Exception:
    """Return our error for a driver's.

    :param time_limit: Seconds after which the query was ended, ``None`` if it was not.
    """
    kind = type(exc).__name__
    kinds = {base.__name__ for base in type(exc).__mro__}
    if time_limit is not None and _was_ended(exc, kind):
        return TimeLimitError(f"ended after the time limit of {time_limit:g} s", kind=kind)
    text = _text_about_names(exc)
    if kind in ("InsufficientPrivilege", "Forbidden") or _number(exc) in _MYSQL_DENIED:
        return DeniedError(
            f"The table cannot be judged: {text or 'permission denied'}. Grant the connection's role USAGE on "
            "the schema, and SELECT on the table and on what its rules read"
        )
    no_table = (
        kind in ("CatalogException", "UndefinedTable", "InvalidSchemaName", "NotFound", "TableNotFoundError")
        or text.startswith("no such table")
        or _number(exc) in (*_MYSQL_NO_TABLE, _SNOWFLAKE_NO_TABLE, _MSSQL_NO_TABLE)
        or getattr(exc, "error_name", "") in ("TABLE_NOT_FOUND", "SCHEMA_NOT_FOUND")
    )
    other_error = getattr(exc, "sqlite_errorcode", None) == _SQLITE_OTHER_ERROR
    if kinds & {"OperationalError", "InterfaceError"} and not other_error and not no_table:
        return UnavailableError(f"The database did not answer: {kind}", service="database")
    return QueryError(text or f"the query failed with {kind}", kind=kind, no_table=no_table)


def _was_ended(exc: Exception, kind: str) -> bool:
    if kind in _ENDED or getattr(exc, "sqlite_errorcode", None) == _SQLITE_INTERRUPT:
        return True
    # drivers of the warehouses have no class of their own for it: here the clock decides
    return not kind.startswith(("Programming", "Syntax", "Undefined"))


def _number(exc: Exception) -> int | None:
    """Return the error number of MySQL, Snowflake or SQL Server drivers."""
    number = getattr(exc, "errno", None) or getattr(exc, "number", None)
    if number is None and exc.args:
        number = exc.args[0]
    return number if isinstance(number, int) else None


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
