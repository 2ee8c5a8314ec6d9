"""Writing Arrow batches into a DuckDB file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import SyncFailedError
from airflow_ext.sync.arrow_types import Column
from airflow_ext.sync.cursors import literal
from airflow_ext.sync.direct_load import Session
from airflow_ext.sync.names import quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MEMORY = "512MB"
"""What DuckDB itself may use; beyond it goes to a temporary folder beside the file."""

LOCK_PAUSE_SECONDS = 0.2

ORDER = "#order"
"""Column of a staging table that tells which row came first; no column of a table is normalised to that name."""


class DuckdbTarget:
    """A DuckDB file as destination; it is held from the first to the last table.

    :param path: The file; it is made when missing.
    :param dataset: Schema in it.
    :param lock_seconds: How long to wait for another process that holds the file.
    :param waiting: Told once when that is so.
    """

    def __init__(
        self, path: str, *, dataset: str, lock_seconds: float, waiting: Callable[[str], None]
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._database = _open(path, lock_seconds, waiting)
        self._dataset = dataset
        self._making = threading.Lock()
        self._open: list[duckdb.DuckDBPyConnection] = []

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Return a connection of its own."""
        connection = self._database.cursor()
        self._open.append(connection)
        try:
            yield _DuckdbSession(connection, self._dataset, self._making)
        finally:
            self._open.remove(connection)
            connection.close()

    def interrupt(self) -> None:
        """Stop the statements that run."""
        for connection in list(self._open):
            connection.interrupt()

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _open(path: str, seconds: float, waiting: Callable[[str], None]) -> duckdb.DuckDBPyConnection:
    import duckdb

    config: dict[str, Any] = {"memory_limit": MEMORY, "preserve_insertion_order": "false"}
    end = time.monotonic() + seconds
    told = False
    while True:
        try:
            return duckdb.connect(path, config=config)
        except duckdb.IOException as error:
            reason = str(error).splitlines()[0]
            if "lock" not in reason:
                raise SyncFailedError(reason) from None
            if time.monotonic() >= end:
                raise SyncFailedError(
                    f"another process has held the DuckDB file for {seconds:g} s: {reason}"
                ) from None
            if not told:
                waiting(f"waiting for another process to close {path}")
                told = True
            time.sleep(LOCK_PAUSE_SECONDS)
        except duckdb.Error as error:
            raise SyncFailedError(str(error).splitlines()[0]) from None


class _DuckdbSession:
    row_id = "rowid"
    row_order = quoted(ORDER)  # DuckDB writes batches side by side, so its own row ids tell nothing

    def __init__(self, connection: duckdb.DuckDBPyConnection, dataset: str, making: threading.Lock) -> None:
        self._connection = connection
        self._dataset = dataset
        self._making = making
        # A timestamp without a zone is UTC, wherever the worker is.
        self.fetch("SET TimeZone = 'UTC'")
        ((catalog,),) = self.fetch("SELECT current_database()")
        # With the file's own name: raw.duckdb may hold a schema raw, and "raw" alone would be either.
        self._schema = f"{quoted(catalog)}.{quoted(dataset)}"

    def type_of(self, column: Column) -> str:
        return duckdb_type(column)

    def name(self, table: str) -> str:
        return f"{self._schema}.{quoted(table)}"

    def there(self, table: str) -> bool:
        return bool(self._columns(table))

    def make(self, table: str, columns: Mapping[str, str]) -> None:
        # One at a time: DuckDB refuses what two transactions change in its catalogue at once.
        with self._making:
            there = self._columns(table)
            if not there:
                listed = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())
                self.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
                self.execute(f"CREATE TABLE IF NOT EXISTS {self.name(table)} ({listed})")
            else:
                for name, kind in columns.items():
                    if name not in there:
                        self.execute(f"ALTER TABLE {self.name(table)} ADD COLUMN {quoted(name)} {kind}")

    def unmake(self, table: str) -> None:
        with suppress(SyncFailedError), self._making:
            self.begin()
            try:
                if not self.fetch(f"SELECT 1 FROM {self.name(table)} LIMIT 1"):
                    self.execute(f"DROP TABLE {self.name(table)}")
                self.commit()
            except BaseException:
                self.rollback()
                raise

    def there_or(self, table: str, statements: Iterable[str]) -> bool:
        with self._making:
            if self.there(table):
                return True
            self.begin()
            try:
                for statement in statements:
                    self.execute(statement)
                self.commit()
            except BaseException:
                self.rollback()
                raise
        return False

    def execute(self, statement: str) -> int:
        found = self.fetch(statement)
        return int(found[0][0]) if found and isinstance(found[0][0], int) else 0

    def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        with _told():
            return self._connection.execute(statement).fetchall()

    def insert(self, table: str, columns: Mapping[str, Column], batches: Iterable[pa.Table]) -> int:
        names = ", ".join(quoted(name) for name in columns)
        with self._rows(table, columns, batches) as (rows, selected):
            return self.execute(f"INSERT INTO {self.name(table)} ({names}) SELECT {selected} FROM {rows}")

    def stage(
        self, table: str, columns: Mapping[str, Column], batches: Iterable[pa.Table], *, ordered: bool = False
    ) -> str:
        stage = quoted(f"_staged_{table}")
        with self._rows(table, columns, batches, ordered=ordered) as (rows, selected):
            self.execute(f"CREATE OR REPLACE TEMP TABLE {stage} AS SELECT {selected} FROM {rows}")
        return stage

    def alone(self, name: str) -> None:
        """Do nothing: no other process has the file open."""

    def begin(self) -> None:
        self.fetch("BEGIN")

    def commit(self) -> None:
        self.fetch("COMMIT")

    def rollback(self) -> None:
        import duckdb

        with suppress(duckdb.Error):  # a failed statement or commit has rolled back already
            self._connection.execute("ROLLBACK")

    def _columns(self, table: str) -> dict[str, str]:
        return dict(
            self.fetch(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
                f"AND schema_name = {literal(self._dataset)} AND table_name = {literal(table)}"
            )
        )

    @contextmanager
    def _rows(
        self,
        table: str,
        columns: Mapping[str, Column],
        batches: Iterable[pa.Table],
        *,
        ordered: bool = False,
    ) -> Iterator[tuple[str, str]]:
        """Offer the batches as a table and say how they become the target's types."""
        import duckdb
        import pyarrow as pa

        there = self._columns(table)
        selected = ", ".join(
            f"{_cast(name, column, there[name])} AS {quoted(name)}" for name, column in columns.items()
        )
        schema = pa.schema([(name, column.arrow) for name, column in columns.items()])
        if ordered:
            batches = _numbered(batches)
            schema = schema.append(pa.field(ORDER, pa.int64()))
            selected = f"{selected}, {quoted(ORDER)}"
        failed: list[Exception] = []

        def flow() -> Iterator[pa.RecordBatch]:
            try:
                for batch in batches:
                    yield from batch.to_batches()
            except Exception as error:
                failed.append(error)
                raise

        rows = pa.RecordBatchReader.from_batches(schema, flow())
        self._connection.register("_rows", rows)
        try:
            yield "_rows", selected
        except SyncFailedError:
            if failed:
                raise failed[0] from None  # DuckDB only says that its input ended badly
            raise
        finally:
            with suppress(duckdb.Error):  # in a transaction that has failed; the connection is closed then
                self._connection.unregister("_rows")


def _numbered(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Add a column that counts the rows."""
    import pyarrow as pa

    count = 0
    for batch in batches:
        numbers = pa.array(range(count, count + batch.num_rows), pa.int64())
        count += batch.num_rows
        yield batch.append_column(ORDER, numbers)


def duckdb_type(column: Column) -> str:
    """Return DuckDB's type for a column."""
    import pyarrow as pa

    kind = column.arrow
    if column.json:
        return "JSON"
    if column.uuid:
        return "UUID"
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP WITH TIME ZONE" if kind.tz else "TIMESTAMP"
    names = {
        pa.bool_(): "BOOLEAN",
        pa.int16(): "SMALLINT",
        pa.int32(): "INTEGER",
        pa.int64(): "BIGINT",
        pa.float64(): "DOUBLE",
        pa.date32(): "DATE",
        pa.time64("us"): "TIME",
        pa.binary(): "BLOB",
    }
    return names.get(kind, "VARCHAR")


def _cast(name: str, column: Column, target: str) -> str:
    """Return the expression that turns a column into the target's type without changing its value."""
    own = duckdb_type(column)
    column_name = quoted(name)
    if own == target:
        return column_name if own not in ("JSON", "UUID") else f"CAST({column_name} AS {own})"
    wanted = f"CAST({column_name} AS {target})"
    if own in ("VARCHAR", "JSON", "UUID") or target in ("VARCHAR", "JSON"):
        return wanted
    # DuckDB would round 2.5 to fit an integer.
    return (
        f"CASE WHEN {column_name} IS NULL OR CAST({wanted} AS {own}) = {column_name} THEN {wanted} ELSE "
        f"error('Could not convert ' || {column_name} || ' to {target}, the type of {name} in the destination') END"
    )


@contextmanager
def _told() -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise SyncFailedError(str(error).strip().splitlines()[0]) from None
