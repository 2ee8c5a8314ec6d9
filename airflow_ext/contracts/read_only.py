"""What a rule's query may do: read, and nothing else; checked before it runs."""

from __future__ import annotations

import functools
import re
from typing import Any

from airflow_ext.exceptions import InvalidContractError

_ACTING = re.compile(
    # PostgreSQL
    r"nextval|setval|set_config|pg_notify|pg_(?:terminate|cancel)_backend|pg_reload_conf|pg_rotate_logfile"
    r"|pg_(?:try_)?advisory_.*|pg_read_.*|pg_ls_.*|pg_switch_wal|pg_create_.*|pg_drop_.*|lo_.*|dblink.*"
    r"|(?:query|table|schema|database|cursor)_to_xml.*|pg_stat_file|pg_file_.*|pg_logical_.*|pg_replication_.*"
    # DuckDB and SQLite: files, the environment, secrets, SQL in a text
    r"|read_.*|parquet_scan|sniff_csv|glob|getenv|query|query_table|duckdb_secrets|which_secret|.*_scan|.*_query"
    r"|load_extension|readfile|writefile|edit|fts3_tokenizer"
    # MySQL, SQL Server, Snowflake
    r"|load_file|get_lock|release_lock|benchmark|openrowset|opendatasource|openquery|xp_.*|sp_.*|system\$.*",
    re.IGNORECASE,
)
"""Functions that a SELECT may call and that do more than compute from the rows read."""

_FILE = re.compile(
    r".*[/\\\\*].*|.*\.(?:csv|tsv|txt|parquet|json|jsonl|ndjson|xlsx|db|duckdb|gz|zst)", re.I | re.DOTALL
)
"""What DuckDB reads as a file when it stands where a table does."""


NOT_SQL = "its query is not SQL"

_HIDING = {"postgres": ('U&"', 'u&"'), "mysql": ("/*!", "/*M!", "/*m!")}
"""What a database reads otherwise than we do: names in escapes, and comments that MySQL executes."""


def check_reads_only(name: str, query: str, dialect: str) -> None:
    """Refuse what is not exactly one query that only reads.

    :param name: The rule's name, for the message.
    :param query: The query without its placeholders.
    :param dialect: sqlglot's name of the dialect.
    :raises InvalidContractError: With the rule's name.
    """
    if problem := why_not(query, dialect):
        raise InvalidContractError(f"rule {name!r}: {problem}")


@functools.lru_cache(maxsize=4096)
def why_not(query: str, dialect: str) -> str:
    """Return why a query is not exactly one that only reads, empty if it is.

    :param dialect: sqlglot's name of the dialect; empty for what most have in common.
    """
    import sqlglot
    from sqlglot import exp

    writing = (
        exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter, exp.TruncateTable,
        exp.Command, exp.Copy, exp.Into, exp.Lock, exp.Pragma, exp.Set, exp.Use, exp.Attach, exp.Detach,
    )  # fmt: skip
    if any(sign in query for sign in _HIDING.get(dialect, ())):
        return f"a rule may not hide what it does ({_HIDING[dialect][0]})"
    try:
        statements = [
            statement for statement in sqlglot.parse(query, dialect=dialect) if statement is not None
        ]
    except (sqlglot.errors.SqlglotError, RecursionError):
        return f"{NOT_SQL} of {dialect}" if dialect else NOT_SQL
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        return "a rule is exactly one SELECT"
    if statements[0].find(*writing):
        return "a rule may only read"
    if dialect == "duckdb" and any(
        _FILE.fullmatch(table.name) for table in statements[0].find_all(exp.Table)
    ):
        return "a rule may not read files"
    for function in statements[0].find_all(exp.Func):
        if _ACTING.fullmatch(called := _name_of(function)):
            return f"a rule may not call {called}"
    return ""


def _name_of(function: Any) -> str:
    from sqlglot import exp

    if isinstance(function, exp.Anonymous | exp.AnonymousAggFunc):
        return str(function.name)  # also of a quoted one
    return str(function.sql_name())
