"""Reading a table of any SQLAlchemy database as Arrow batches of a schema known before the first row.

The Arrow types come from the reflected columns, not from the driver: the same table has the same types
whether connectorx or SQLAlchemy reads it, and whether the window holds rows or not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidError, SyncFailedError
from airflow_ext.sync.arrow_types import UNBOUND_DECIMAL, Column
from airflow_ext.sync.plain_values import MisfitError, plain_values
from airflow_ext.sync.sqlite_moments import sqlite_moments
from airflow_ext.sync.tables import CursorValue, SyncTable, Window

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

READERS = ("auto", "connectorx", "pyarrow")
CONNECTORX_DIALECTS = ("postgresql", "sqlite")
"""Dialects that are tested with connectorx; every other one is read through SQLAlchemy."""

AUTO_CONNECTORX = ("postgresql",)
"""Not SQLite: connectorx takes the type of a column from its first value, and refuses later ones of other types."""

MAX_CONNECTORX_SCALE = 10
"""connectorx carries decimals with ten digits after the point and cuts the rest off without a word."""

MAX_CONNECTORX_DIGITS = 28
"""Decimals with more digits are refused by connectorx in the midst of a load."""

MOST_CONNECTORX_ROWS = 50_000
"""Smaller batches let reading and writing overlap."""


def choose_reader(wanted: str, dialect: str) -> str:
    """Return ``connectorx`` or ``pyarrow``.

    :param wanted: What the connection says; ``auto`` takes connectorx where it reads whatever the dialect holds.
    :param dialect: SQLAlchemy's name of the source's dialect.
    :raises InvalidError: If the wanted reader is unknown or does not read this dialect.
    """
    if wanted not in READERS:
        raise InvalidError(f"backend={wanted!r} in the connection's extra: use one of {', '.join(READERS)}")
    if wanted == "auto":
        return "connectorx" if dialect in AUTO_CONNECTORX else "pyarrow"
    if wanted == "connectorx" and dialect not in CONNECTORX_DIALECTS:
        raise InvalidError(
            f"backend='connectorx' does not read {dialect}; it reads {', '.join(CONNECTORX_DIALECTS)}. "
            "Use backend='auto' or 'pyarrow'"
        )
    return wanted


class SqlTable:
    """One table of the source, reflected and checked against what the DAG author wants of it.

    :param engine: Engine of the source.
    :param table: What to load.
    :param reader: ``connectorx`` or ``pyarrow``.
    :param chunk_rows: Rows per Arrow batch.
    :raises InvalidError: If the table or one of its named columns does not exist.
    """

    def __init__(self, engine: sa.Engine, table: SyncTable, *, reader: str, chunk_rows: int) -> None:
        import sqlalchemy as sa

        self.engine = engine
        self.table = table
        self.reader = reader
        self.chunk_rows = chunk_rows
        full_name = f"{table.schema}.{table.name}" if table.schema else table.name
        try:
            self.reflected = _reflect(engine, table)
        except sa.exc.NoSuchTableError:
            raise InvalidError(
                f"table {full_name!r} does not exist in the source, or the source's user may not see it"
            ) from None
        there = [column.name for column in self.reflected.columns]
        for argument, names in (
            ("columns", table.columns or ()),
            ("primary_key", table.primary_key),
            ("cursor", (table.cursor,) if table.cursor else ()),
        ):
            if unknown := [name for name in names if name not in there]:
                raise InvalidError(
                    f"{argument}={list(names)!r} of table {full_name!r}: no column {', '.join(unknown)}; "
                    f"the source has {', '.join(there)}"
                )
        wanted = set(table.columns or there)
        self.columns = [self._column(column) for column in self.reflected.columns if column.name in wanted]

    @property
    def partial(self) -> bool:
        """Whether the columns are those of what is new only: a database tells all."""
        return False

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of every batch."""
        import pyarrow as pa

        return pa.schema([(column.name, column.arrow) for column in self.columns])

    @property
    def cursor_type(self) -> type:
        """Python type of the cursor column.

        :raises InvalidError: If it cannot order rows.
        """
        import sqlalchemy as sa

        column = self.reflected.columns[str(self.table.cursor)]
        if isinstance(column.type, sa.Date | sa.DateTime | sa.Integer | sa.Numeric | sa.Float | sa.String):
            kind: type = column.type.python_type
            return kind
        raise InvalidError(
            f"cursor={self.table.cursor!r} of table {self.table.name!r} is {column.type!s}; a cursor is a "
            "date, a timestamp, a number or a text"
        )

    def bounds(self, window: Window) -> tuple[CursorValue, CursorValue]:
        """Return the window's ends as values of the cursor column."""
        start, end = window.bounds(self.cursor_type)
        return self._local(start), self._local(end)

    def resume(self, kept: Any) -> bool:
        """Tell whether there may be something to load; only reading tells."""
        del kept
        return True

    def remember(self) -> Any:
        """Return where the rows come from, so that another sync can tell whether they are its own."""
        if not self.table.cursor:
            return None
        url, table = self.engine.url, self.table
        told = [
            url.get_backend_name(),
            url.host,
            url.port,
            url.database,
            table.schema,
            table.name,
            table.where,
        ]
        return {"from": hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]}

    def overlaps(self, remembered: Any) -> bool:
        """Tell whether another sync goes through the same rows by a cursor."""
        return remembered is not None and remembered == self.remember()

    def identifies(self, columns: Iterable[str]) -> bool:
        """Tell whether the source itself sees to it that these columns are unique and never null."""
        key = {column.name for column in self.reflected.primary_key.columns}
        return bool(key) and key <= set(columns)

    def limit(self) -> Any:
        """Return the highest value of a text cursor, which only the source can tell: it knows their order."""
        import sqlalchemy as sa

        if self.cursor_type is not str:
            return None
        cursor = self.reflected.columns[str(self.table.cursor)]
        try:
            with self.engine.connect() as connection:
                return connection.execute(sa.select(sa.func.max(cursor))).scalar()
        except sa.exc.SQLAlchemyError as error:
            raise SyncFailedError(_reason(error), table=self.table.name) from None

    def batches(
        self,
        *,
        start: Any = None,
        end: Any = None,
        upto: Any = None,
        on_rows: Callable[[int], None] = lambda _: None,
    ) -> Iterator[pa.Table]:
        """Yield the rows with ``start <= cursor < end`` as Arrow tables, at least one even if it is empty.

        :param start: Lowest cursor value; ``None`` has no lower end.
        :param end: First cursor value beyond; ``None`` has no upper end.
        :param upto: Highest cursor value.
        :param on_rows: Called with the rows of each batch.
        :raises InvalidError: If the source does not understand the condition.
        :raises SyncFailedError: If the source fails while it is read.
        """
        query = self._query(self._local(start), self._local(end), self._local(upto))
        read = self._read_connectorx if self.reader == "connectorx" else self._read_sqlalchemy
        empty = True
        try:
            for batch in read(query):
                empty = False
                on_rows(batch.num_rows)
                yield batch
        except SyncFailedError:
            if empty:
                self._refuse_condition()
            raise
        if empty:
            yield self.schema.empty_table()

    def _refuse_condition(self) -> None:
        """See whether it was the condition that failed a query, by asking for no row with it and without it.

        :raises InvalidError: If it was.
        """
        import sqlalchemy as sa

        if not self.table.where:
            return
        nothing = sa.select(sa.literal(1)).select_from(self.reflected).limit(0)
        for query in (nothing, nothing.where(self._condition)):
            try:
                with self.engine.connect() as connection:
                    connection.execute(query)
            except sa.exc.SQLAlchemyError as error:
                if query is nothing:
                    return
                raise InvalidError(
                    f"where={self.table.where!r} of table {self.table.name!r}: {_reason(error)}"
                ) from None

    def _local(self, value: Any) -> Any:
        """Take the zone off a value that is compared with a column without one; both mean UTC."""
        if isinstance(value, datetime) and value.tzinfo is not None:
            column = self.reflected.columns[str(self.table.cursor)]
            if not getattr(column.type, "timezone", False):
                return value.astimezone(UTC).replace(tzinfo=None)
        return value

    def _query(self, start: Any, end: Any, upto: Any) -> sa.Select[Any]:
        import sqlalchemy as sa

        query = sa.select(*(column.select for column in self.columns)).select_from(self.reflected)
        if self.table.cursor:
            cursor = self.reflected.columns[self.table.cursor]
            query = query.where(cursor.is_not(None))
            if self.engine.dialect.name == "sqlite":
                query = query.where(*sqlite_moments(cursor, start, end))
                start, end = (None if isinstance(value, datetime) else value for value in (start, end))
            if start is not None:
                query = query.where(cursor >= start)
            if end is not None:
                query = query.where(cursor < end)
            if upto is not None:
                query = query.where(cursor <= upto)
        return query.where(self._condition) if self.table.where else query

    @property
    def _condition(self) -> sa.TextClause:
        import sqlalchemy as sa

        # A colon would be read as the start of a bound value ("a::int").
        return sa.text("(" + str(self.table.where).replace(":", r"\:") + ")")

    def _read_connectorx(self, query: sa.Select[Any]) -> Iterator[pa.Table]:
        import connectorx
        import pyarrow as pa

        # Plain names instead of the driver's %s: connectorx takes finished SQL in which % is only %.
        dialect = type(self.engine.dialect)(paramstyle="named")  # type: ignore[call-arg]  # every dialect has it
        sql = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        url = self.engine.url.set(drivername=self.engine.url.get_backend_name())
        try:
            reader = connectorx.read_sql(
                url.render_as_string(hide_password=False),
                sql,
                return_type="arrow_stream",
                protocol="binary",
                batch_size=min(self.chunk_rows, MOST_CONNECTORX_ROWS),
            )
            for batch in reader:
                yield self._conform(pa.Table.from_batches([batch]))
        except BaseException as error:
            # connectorx raises bare RuntimeErrors, and its Rust side panics with something that is no
            # Exception at all.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise SyncFailedError(_reason(error), table=self.table.name) from None

    def _read_sqlalchemy(self, query: sa.Select[Any]) -> Iterator[pa.Table]:
        import pyarrow as pa
        import sqlalchemy as sa

        schema = self.schema
        try:
            with self.engine.connect() as connection:
                rows = connection.execution_options(yield_per=self.chunk_rows).execute(query)
                for part in rows.partitions():
                    arrays = [
                        pa.array(plain_values(values, column), type=column.arrow)
                        for column, values in zip(self.columns, zip(*part, strict=True), strict=True)
                    ]
                    yield pa.Table.from_arrays(arrays, schema=schema)
        except (sa.exc.SQLAlchemyError, pa.ArrowException, MisfitError) as error:
            raise SyncFailedError(_reason(error), table=self.table.name) from None

    def _conform(self, batch: pa.Table) -> pa.Table:
        """Give a batch of connectorx the schema of the table; only lossless casts."""
        import pyarrow as pa
        import pyarrow.compute as pc

        arrays = []
        for column, array in zip(self.columns, batch.columns, strict=True):
            if array.type == column.arrow:
                arrays.append(array)
            elif pa.types.is_floating(array.type) and pa.types.is_decimal(column.arrow):
                # SQLite keeps decimals as floats: 12.34 is only 12.34 after rounding.
                arrays.append(pc.cast(pc.round(array, column.arrow.scale), column.arrow, safe=False))
            elif pa.types.is_integer(array.type) and pa.types.is_decimal(column.arrow):
                # SQLite keeps whole decimals as integers; their type alone asks for more digits than they have.
                wide = pc.cast(array, pa.decimal128(38, column.arrow.scale))
                arrays.append(pc.cast(wide, column.arrow))
            else:
                arrays.append(pc.cast(array, column.arrow))
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _column(self, column: sa.Column[Any]) -> Column:
        import pyarrow as pa
        import sqlalchemy as sa

        arrow, is_json = _arrow_type(column.type, self.engine.dialect.name)
        select: Any = column
        postgres = self.engine.dialect.name == "postgresql"
        as_text = arrow == pa.string() and not isinstance(column.type, sa.String | sa.JSON | sa.Uuid)
        if isinstance(column.type, sa.ARRAY) and postgres:
            select = sa.cast(sa.func.to_json(column), sa.Text)
        elif is_json or as_text or isinstance(column.type, sa.Enum | sa.Uuid):
            select = sa.cast(column, sa.Text)
        elif pa.types.is_decimal(arrow) and postgres and self.reader == "connectorx":
            if column.type.precision is None:  # type: ignore[attr-defined]  # only Numeric becomes a decimal
                select = sa.cast(sa.func.round(column, UNBOUND_DECIMAL[1]), sa.Text)
            elif arrow.scale > MAX_CONNECTORX_SCALE or arrow.precision > MAX_CONNECTORX_DIGITS:
                select = sa.cast(column, sa.Text)
        elif pa.types.is_decimal(arrow) and self.engine.dialect.name == "sqlite":
            # SQLAlchemy would make a float of a whole number first, which 9007199254740993 does not survive.
            select = sa.type_coerce(column, sa.types.NullType())
        is_uuid = isinstance(column.type, sa.Uuid)
        return Column(column.name, arrow, is_json, select.label(column.name), is_uuid)


def _reflect(engine: sa.Engine, table: SyncTable) -> sa.Table:
    """Return the table's columns and key; SQLAlchemy's own way also asks for indexes, foreign keys and more."""
    import sqlalchemy as sa

    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        columns = inspector.get_columns(table.name, schema=table.schema)
        key = inspector.get_pk_constraint(table.name, schema=table.schema)["constrained_columns"]
    listed = [
        sa.Column(column["name"], column["type"], primary_key=column["name"] in key) for column in columns
    ]
    return sa.Table(table.name, sa.MetaData(), *listed, schema=table.schema)


def _arrow_type(kind: Any, dialect: str) -> tuple[pa.DataType, bool]:
    """Return the Arrow type for a SQLAlchemy type and whether it is JSON; what is unknown becomes text."""
    import pyarrow as pa
    import sqlalchemy as sa

    small = dialect == "postgresql"  # elsewhere an INTEGER may be unsigned or hold 64 bits
    if isinstance(kind, sa.JSON | sa.ARRAY):
        return pa.string(), True
    if isinstance(kind, sa.Boolean):
        return pa.bool_(), False
    if isinstance(kind, sa.BigInteger) or (isinstance(kind, sa.Integer) and not small):
        return pa.int64(), False
    if isinstance(kind, sa.SmallInteger):
        return pa.int16(), False
    if isinstance(kind, sa.Integer):
        return pa.int32(), False
    if isinstance(kind, sa.Float) or (isinstance(kind, sa.Numeric) and not kind.asdecimal):
        return pa.float64(), False
    if isinstance(kind, sa.Numeric):
        precision, scale = kind.precision, kind.scale
        if precision is None:
            precision, scale = UNBOUND_DECIMAL
        return (pa.decimal128(precision, scale or 0) if precision <= 38 else pa.string()), False
    if isinstance(kind, sa.DateTime):
        return pa.timestamp("us", tz="UTC" if kind.timezone else None), False
    if isinstance(kind, sa.Date):
        return pa.date32(), False
    if isinstance(kind, sa.Time) and not kind.timezone:
        return pa.time64("us"), False
    if isinstance(kind, sa.LargeBinary):
        return pa.binary(), False
    return pa.string(), False


def _reason(error: BaseException) -> str:
    """Return the database's own words out of what a driver wrapped around them."""
    text = str(getattr(error, "orig", None) or error)
    if found := re.search(r'message: "((?:[^"\\]|\\.)*)"', text):
        return found.group(1).encode().decode("unicode_escape")
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
