"""Writing Arrow batches into PostgreSQL with COPY."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidError, SyncFailedError
from airflow_ext.sync.arrow_types import Column
from airflow_ext.sync.cursors import literal
from airflow_ext.sync.direct_load import Session
from airflow_ext.sync.names import quoted

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa


class PostgresTarget:
    """A PostgreSQL database as destination, one connection per table.

    :param url: Its SQLAlchemy URL.
    :param dataset: Schema in it.
    :param lock_seconds: How long a statement waits for another writer's lock.
    :raises InvalidError: If no driver is installed.
    """

    def __init__(self, url: str, *, dataset: str, lock_seconds: float) -> None:
        import sqlalchemy as sa

        named = sa.make_url(url).set(drivername=f"postgresql+{_driver()}")
        self._engine: sa.Engine = sa.create_engine(named, poolclass=sa.pool.NullPool)
        self._dataset = dataset
        self._lock_seconds = lock_seconds
        self._open: list[Any] = []

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Return a connection of its own."""
        errors: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        with _told(errors):
            pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        self._open.append(connection)
        try:
            session = _PostgresSession(connection, self._dataset, errors)
            session.execute(f"SET lock_timeout = {max(1, int(self._lock_seconds * 1000))}")
            # A timestamp without a zone is UTC, whatever the database takes it for.
            session.execute("SET TIME ZONE 'UTC'")
            session.commit()
            yield session
        finally:
            self._open.remove(connection)
            pooled.close()

    def interrupt(self) -> None:
        """Stop the statements that run."""
        for connection in list(self._open):
            with suppress(Exception):  # it may just have ended
                connection.cancel()

    def close(self) -> None:
        """Close what is left of connections."""
        self._engine.dispose()


def _driver() -> str:
    for driver in ("psycopg", "psycopg2"):
        if importlib.util.find_spec(driver) is not None:
            return driver
    raise InvalidError("PostgreSQL as destination needs a driver: pip install 'psycopg[binary]'")


class _PostgresSession:
    row_id = row_order = "ctid"  # COPY writes one row after the other

    def __init__(self, connection: Any, dataset: str, errors: type[Exception]) -> None:
        self._connection = connection
        self._dataset = dataset
        self._errors = errors

    def _told(self) -> AbstractContextManager[None]:
        return _told(self._errors)

    def type_of(self, column: Column) -> str:
        return postgres_type(column)

    def name(self, table: str) -> str:
        return f"{quoted(self._dataset)}.{quoted(table)}"

    def there(self, table: str) -> bool:
        return bool(self._columns(table))

    def make(self, table: str, columns: Mapping[str, str]) -> None:
        there = self._columns(table)
        if there and not set(columns) - set(there):
            self.commit()
            return
        try:
            self._lock()
            listed = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())
            if not self.fetch(f"SELECT 1 FROM pg_namespace WHERE nspname = {literal(self._dataset)}"):
                self.execute(f"CREATE SCHEMA {quoted(self._dataset)}")
            self.execute(f"CREATE TABLE IF NOT EXISTS {self.name(table)} ({listed})")
            for name, kind in columns.items():
                if name not in self._columns(table):
                    self.execute(f"ALTER TABLE {self.name(table)} ADD COLUMN {quoted(name)} {kind}")
            self.commit()
        except BaseException:
            self.rollback()
            raise

    def unmake(self, table: str) -> None:
        with suppress(SyncFailedError):
            try:
                # Another sync that is writing into it keeps it; one that is just about to write fails and may retry.
                self.execute(f"LOCK TABLE {self.name(table)} IN ACCESS EXCLUSIVE MODE NOWAIT")
                if not self.fetch(f"SELECT 1 FROM {self.name(table)} LIMIT 1"):
                    self.execute(f"DROP TABLE {self.name(table)}")
                self.commit()
            except BaseException:
                self.rollback()
                raise

    def there_or(self, table: str, statements: Iterable[str]) -> bool:
        try:
            if not (there := self.there(table)):
                self._lock()
                if not (there := self.there(table)):
                    for statement in statements:
                        self.execute(statement)
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return there

    def execute(self, statement: str) -> int:
        with self._told(), self._connection.cursor() as cursor:
            cursor.execute(statement)
            return int(cursor.rowcount)

    def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        with self._told(), self._connection.cursor() as cursor:
            cursor.execute(statement)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def insert(self, table: str, columns: Mapping[str, Column], batches: Iterable[pa.Table]) -> int:
        return self._copy(self.name(table), columns, batches)

    def stage(
        self, table: str, columns: Mapping[str, Column], batches: Iterable[pa.Table], *, ordered: bool = False
    ) -> str:
        del ordered  # it is anyway
        stage = quoted(f"_staged_{table}"[:63])
        names = ", ".join(quoted(name) for name in columns)
        self.execute(
            f"CREATE TEMP TABLE {stage} ON COMMIT DROP AS SELECT {names} FROM {self.name(table)} WITH NO DATA"
        )
        self._copy(stage, columns, batches)
        self.execute(f"ANALYZE {stage}")
        return stage

    def alone(self, name: str) -> None:
        # Also against a run of the same task on another worker, which believes this one to be dead.
        self.fetch(f"SELECT pg_advisory_lock(hashtext({literal(f'airflow-ext {self._dataset} {name}')}))")

    def begin(self) -> None:
        self.commit()  # the driver opens a transaction with the first statement

    def commit(self) -> None:
        with self._told():
            self._connection.commit()

    def rollback(self) -> None:
        with suppress(Exception):  # a lost connection has rolled back already
            self._connection.rollback()

    def _lock(self) -> None:
        # Two syncs that make the same schema at once would collide in PostgreSQL's own catalogue.
        self.fetch(f"SELECT pg_advisory_xact_lock(hashtext({literal('airflow-ext ' + self._dataset)}))")

    def _columns(self, table: str) -> dict[str, str]:
        return dict(
            self.fetch(
                "SELECT column_name, data_type FROM information_schema.columns "
                f"WHERE table_schema = {literal(self._dataset)} AND table_name = {literal(table)}"
            )
        )

    def _copy(self, where: str, columns: Mapping[str, Column], batches: Iterable[pa.Table]) -> int:
        names = ", ".join(quoted(name) for name in columns)
        statement = f"COPY {where} ({names}) FROM STDIN WITH (FORMAT csv)"
        with self._told(), self._connection.cursor() as cursor:
            if hasattr(cursor, "copy_expert"):
                self._copy_by_psycopg2(cursor, statement, batches)
            else:
                with cursor.copy(statement) as copy:
                    for batch in batches:
                        copy.write(_csv(batch))
            return int(cursor.rowcount)

    def _copy_by_psycopg2(self, cursor: Any, statement: str, batches: Iterable[pa.Table]) -> None:
        flow = _CsvFlow(batches)
        try:
            cursor.copy_expert(statement, flow)
        except self._errors:
            if flow.failed:
                raise flow.failed from None  # PostgreSQL only says that the copy was given up
            raise


class _CsvFlow(io.RawIOBase):
    """Batches as CSV, one at a time, for a driver that reads a file."""

    def __init__(self, batches: Iterable[pa.Table]) -> None:
        self.failed: BaseException | None = None
        self._batches = iter(batches)
        self._text = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._text:
            try:
                batch = next(self._batches, None)
            except BaseException as error:
                self.failed = error
                raise
            if batch is None:
                return b""
            self._text = memoryview(_csv(batch))
        size = len(self._text) if size is None or size < 0 else size
        part, self._text = bytes(self._text[:size]), self._text[size:]
        return part


def _csv(batch: pa.Table) -> bytes:
    import pyarrow as pa
    from pyarrow import csv

    out = io.BytesIO()
    csv.write_csv(hex_bytes(batch), pa.PythonFile(out), csv.WriteOptions(include_header=False))
    return out.getvalue()


def hex_bytes(batch: pa.Table) -> pa.Table:
    """Return the batch with bytes as the hexadecimal text PostgreSQL reads; CSV carries no bytes."""
    import pyarrow as pa

    for index, field in enumerate(batch.schema):
        if pa.types.is_binary(field.type):
            texts = [
                None if value is None else f"\\x{value.hex()}" for value in batch.column(index).to_pylist()
            ]
            batch = batch.set_column(index, field.name, pa.array(texts, pa.string()))
    return batch


def postgres_type(column: Column) -> str:
    """Return PostgreSQL's type for a column."""
    import pyarrow as pa

    kind = column.arrow
    if column.json:
        return "JSONB"
    if column.uuid:
        return "UUID"
    if pa.types.is_decimal(kind):
        return f"NUMERIC({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    names = {
        pa.bool_(): "BOOLEAN",
        pa.int16(): "SMALLINT",
        pa.int32(): "INTEGER",
        pa.int64(): "BIGINT",
        pa.float64(): "DOUBLE PRECISION",
        pa.date32(): "DATE",
        pa.time64("us"): "TIME",
        pa.binary(): "BYTEA",
    }
    return names.get(kind, "TEXT")


@contextmanager
def _told(errors: type[Exception]) -> Iterator[None]:
    import sqlalchemy as sa

    try:
        yield
    except (errors, sa.exc.SQLAlchemyError) as error:
        raise SyncFailedError(_first_line(getattr(error, "orig", None) or error)) from None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
