"""Loading one table straight into DuckDB or PostgreSQL: data and what is known of them in one transaction.

A worker that dies at any point leaves the table as it was or as it shall be, and the cursor always fits the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from airflow_ext.exceptions import InvalidError, SyncFailedError
from airflow_ext.sync.arrow_types import Column
from airflow_ext.sync.cursors import Cursor, literal
from airflow_ext.sync.direct_books import Books, Keeper
from airflow_ext.sync.model import SchemaChange
from airflow_ext.sync.names import normal, normal_columns, quoted
from airflow_ext.sync.tables import SyncTable, Window

if TYPE_CHECKING:
    import pyarrow as pa

VALID_FROM, VALID_TO = "_valid_from", "_valid_to"


class Readable(Protocol):
    """What can be loaded: a table of a database, files."""

    columns: list[Column]

    @property
    def partial(self) -> bool:
        """Whether the columns are those of what is new only, so that one that is missing has not been removed."""
        ...

    @property
    def table(self) -> SyncTable:
        """What the DAG author wrote."""
        ...

    def resume(self, kept: Any) -> bool:
        """Get ready, knowing what the load before remembered; false if there is nothing to load."""
        ...

    def remember(self) -> Any:
        """Return plain JSON for the next load."""
        ...

    def overlaps(self, remembered: Any) -> bool:
        """Tell whether another sync has loaded what this would load, by what it remembers."""
        ...

    def bounds(self, window: Window) -> tuple[Any, Any]:
        """Return the window's ends as values of the cursor column."""
        ...

    def limit(self) -> Any:
        """Return the highest cursor value if only the source can tell it."""
        ...

    def identifies(self, columns: Iterable[str]) -> bool:
        """Tell whether the source sees to it that these columns are unique and never null."""
        ...

    def batches(
        self, *, start: Any = None, end: Any = None, upto: Any = None, on_rows: Callable[[int], None] = ...
    ) -> Iterator[pa.Table]:
        """Yield the rows."""
        ...


class Session(Keeper, Protocol):
    """One connection to the destination, with one transaction at a time."""

    row_id: str
    row_order: str
    """What orders the rows of an ordered staging table as they came."""

    def type_of(self, column: Column) -> str:
        """Return the destination's type for a column."""
        ...

    def unmake(self, table: str) -> None:
        """Drop a table if it is empty and nobody uses it just now."""
        ...

    def insert(self, table: str, columns: Mapping[str, Column], batches: Iterable[pa.Table]) -> int:
        """Write batches into a table of the dataset; return the rows."""
        ...

    def stage(
        self, table: str, columns: Mapping[str, Column], batches: Iterable[pa.Table], *, ordered: bool = False
    ) -> str:
        """Write batches into a temporary table with the columns of another and return its name.

        :param ordered: It shall be known which row came first.
        """
        ...

    def alone(self, name: str) -> None:
        """Wait until no other session has called this with the same name; it ends with the session."""
        ...

    def begin(self) -> None:
        """Begin a transaction."""
        ...

    def commit(self) -> None:
        """End it well."""
        ...

    def rollback(self) -> None:
        """Undo it, whatever state it is in."""
        ...


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a load did.

    :param rows: Rows that were written.
    :param changes: What changed in the source's columns since the load before.
    :param load_id: The load, as the book of loads has it.
    :param before: An earlier try had done it.
    :param columns: Type by column of the source, as it is now; empty if that is not known.
    :param known: The same as it was in the load before; ``None`` if there was none.
    """

    rows: int
    changes: tuple[SchemaChange, ...] = ()
    load_id: str = ""
    before: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, str] | None = None


class TableLoad:
    """Loads one table by its mode.

    :param session: A connection of its own.
    :param source: What to load.
    :param sync: Name under which cursors are kept.
    :param key: What the author of a task gives as ``state_key=`` to go on from them.
    :param request_of: Tells what the tries of one append have in common, by a sync's name; empty if it may be repeated.
    :param load_id: Name of this load.
    :param window: Range of cursor values.
    :param count: Told the rows of each batch.
    """

    def __init__(
        self,
        session: Session,
        source: Readable,
        *,
        sync: str,
        key: str,
        request_of: Callable[[str], str],
        load_id: str,
        window: Window | None,
        count: Callable[[int], None],
    ) -> None:
        self.session = session
        self.source = source
        self.table = source.table
        self.sync = sync
        self.request_of = request_of
        self.request = request_of(sync)
        self.load_id = load_id
        self.window = window if source.table.cursor else None
        self.count = count
        self.there = normal(self.table.name)
        self.books = Books(session, sync, key, self.table.name)
        self.columns: dict[str, Column] = {}
        self.names = ""
        self.key = [normal(name) for name in self.table.primary_key]

    def run(self) -> Loaded:
        """Load the table.

        :raises InvalidError: If its author must change something.
        :raises SyncFailedError: If source or destination fail.
        """
        self.session.alone(f"{self.sync}/{self.table.name}")
        state: dict[str, Any] = {}
        if existed := self.books.open(self.there):
            state = self.books.state()
        known: dict[str, str] | None = state.get("columns")
        as_it_was = Loaded(rows=0, load_id=self.load_id, columns=known or {}, known=known)
        if done := self.books.earlier(self.request):
            return replace(as_it_was, rows=done[0], load_id=done[1], before=True)
        if not self.source.resume(state.get("source")):
            return as_it_was
        if existed and self.table.mode == "append" and (self.window or not state.get("cursor")):
            self._refuse_to_double()
        there = normal_columns(self.table.name, [column.name for column in self.source.columns])
        self.columns = {there[column.name]: column for column in self.source.columns}
        self.names = ", ".join(quoted(name) for name in self.columns)
        self.session.make(self.there, self._types())
        now = columns_now(self.source, known)
        cursor = Cursor.read(state.get("cursor"), column=self.table.cursor)
        if self.table.cursor and self.window is None:
            cursor.fit(self.columns[there[self.table.cursor]].arrow, table=self.table.name)
        self.session.begin()
        try:
            rows = self._load(cursor)
            self._keep({**state, "columns": now}, cursor, rows, before=state)
            self.session.commit()
        except BaseException:
            self.session.rollback()
            if not existed:
                self.session.unmake(self.there)
            raise
        return replace(as_it_was, rows=rows, changes=column_changes(known, now), columns=now)

    def _refuse_to_double(self) -> None:
        """See to it that this sync appends nothing that another one, or itself by another name, has appended.

        :raises InvalidError: If it would.
        """
        if not self.session.fetch(f"SELECT 1 FROM {self.session.name(self.there)} LIMIT 1"):
            return
        for sync, state in self.books.others(self.there):
            if not self.source.overlaps(state.get("source")):
                continue
            if self.window and not state.get("cursor") and not self.books.earlier(self.request_of(sync)):
                continue  # it has loaded other windows
            key = state.get("key", "")
            way_out = (
                f"If it is the same under a new name, give the task state_key={key or '<dag id>/<task id>'!r}"
            )
            if key and key == self.books.key:
                way_out = "If the copies of a mapped task have changed their order, put them back"
            raise InvalidError(
                f"table {self.table.name!r}: sync {key or sync!r} ({sync}) has appended the same rows, and this one, "
                f"{self.sync}, which does not know them, would double them. {way_out}; if both shall append, let them "
                "write different tables"
            )

    def _types(self) -> dict[str, str]:
        types = {name: self.session.type_of(column) for name, column in self.columns.items()}
        if self.table.mode == "scd2":
            if taken := {VALID_FROM, VALID_TO} & set(types):
                raise InvalidError(
                    f"mode='scd2' of table {self.table.name!r} adds the column {min(taken)!r}, which the source has too"
                )
            types |= {VALID_FROM: "TIMESTAMPTZ", VALID_TO: "TIMESTAMPTZ"}
        return types

    def _load(self, cursor: Cursor) -> int:
        mode = self.table.mode
        target = self.session.name(self.there)
        start, end = (None, None) if self.window is None else self.source.bounds(self.window)
        if mode == "window":
            column = quoted(normal(str(self.table.cursor)))
            self.session.execute(
                f"DELETE FROM {target} WHERE {column} >= {literal(start)} AND {column} < {literal(end)}"
            )
            return self._insert(self._batches(cursor, start=start, end=end))
        if mode == "replace":
            self.session.execute(f"DELETE FROM {target}")
            return self._insert(self._batches(cursor))
        since = start if self.window else cursor.value
        batches = self._batches(cursor, start=since, end=end)
        empty = not self.session.fetch(f"SELECT 1 FROM {target} LIMIT 1")
        last = None if self.window or empty else cursor.value
        if mode == "append":
            return self._insert(batches) if last is None else self._append(batches, last)
        if mode == "merge":
            if empty and self._unique:
                return self._insert(batches)
            return self._merge(batches, last)
        return self._versions(batches)

    def _batches(self, cursor: Cursor, *, start: Any = None, end: Any = None) -> Iterator[pa.Table]:
        upto = self.source.limit() if self.table.cursor and self.window is None else None
        for batch in self.source.batches(start=start, end=end, upto=upto, on_rows=self.count):
            if self.table.cursor and self.window is None:
                cursor.see(batch.column(self.table.cursor), limit=upto)
            yield batch.rename_columns(list(self.columns))

    def _insert(self, batches: Iterable[pa.Table]) -> int:
        return self.session.insert(self.there, self.columns, batches)

    def _append(self, batches: Iterable[pa.Table], last: Any) -> int:
        """Add the rows; those at the last cursor value are read again, and known ones left out."""
        target = self.session.name(self.there)
        stage = self.session.stage(self.there, self.columns, batches)
        column = quoted(normal(str(self.table.cursor)))
        at = f"{column} = {literal(last)}"
        if self.key:
            self.session.execute(
                f"DELETE FROM {stage} AS s WHERE s.{at} AND EXISTS "
                f"(SELECT 1 FROM {target} AS t WHERE t.{at} AND {self._same('s', 't')})"
            )
            return self.session.execute(
                f"INSERT INTO {target} ({self.names}) SELECT {self.names} FROM {stage}"
            )
        # Rows may be alike: of three alike of which two are known, one is new.
        return self.session.execute(
            f"INSERT INTO {target} ({self.names}) SELECT {self.names} FROM {stage} WHERE NOT ({at}) UNION ALL "
            f"(SELECT {self.names} FROM {stage} WHERE {at} EXCEPT ALL SELECT {self.names} FROM {target} WHERE {at})"
        )

    def _merge(self, batches: Iterable[pa.Table], last: Any) -> int:
        target = self.session.name(self.there)
        stage = self.session.stage(self.there, self.columns, batches, ordered=not self._unique)
        if last is not None:
            at = f"{quoted(normal(str(self.table.cursor)))} = {literal(last)}"
            self.session.execute(
                f"DELETE FROM {stage} AS s WHERE s.{at} AND EXISTS "
                f"(SELECT 1 FROM {target} AS t WHERE t.{at} AND {self._same('s', 't')} AND {self._alike('s', 't')})"
            )
            if not self.session.fetch(f"SELECT 1 FROM {stage} LIMIT 1"):
                return 0
        self._one_per_key(stage)
        self.session.execute(
            f"DELETE FROM {target} AS t WHERE EXISTS (SELECT 1 FROM {stage} AS s WHERE {self._same('s', 't')})"
        )
        return self.session.execute(f"INSERT INTO {target} ({self.names}) SELECT {self.names} FROM {stage}")

    def _versions(self, batches: Iterable[pa.Table]) -> int:
        """Close the versions that are no longer so and open the new ones."""
        target = self.session.name(self.there)
        stage = self.session.stage(self.there, self.columns, batches, ordered=not self._unique)
        self._one_per_key(stage)
        now = literal(datetime.now(UTC))
        seen = f"EXISTS (SELECT 1 FROM {stage} AS s WHERE {self._same('s', 't')})"
        alike = (
            f"EXISTS (SELECT 1 FROM {stage} AS s WHERE {self._same('s', 't')} AND {self._alike('s', 't')})"
        )
        # Without a cursor the whole table was read, so what is not there has been deleted.
        gone = f"NOT {alike}" if not self.table.cursor else f"{seen} AND NOT {alike}"
        self.session.execute(
            f"UPDATE {target} AS t SET {quoted(VALID_TO)} = {now} WHERE t.{quoted(VALID_TO)} IS NULL AND {gone}"
        )
        return self.session.execute(
            f"INSERT INTO {target} ({self.names}, {quoted(VALID_FROM)}) SELECT {self.names}, {now} FROM {stage} AS s "
            f"WHERE NOT EXISTS (SELECT 1 FROM {target} AS t WHERE t.{quoted(VALID_TO)} IS NULL AND {self._same('s', 't')})"
        )

    @property
    def _unique(self) -> bool:
        """Whether the source itself sees to it that there is one row per key."""
        return self.source.identifies(self.table.primary_key)

    def _one_per_key(self, stage: str) -> None:
        """Keep the last row of each key, where the source itself does not see to it.

        :raises SyncFailedError: If a key is null: such a row would be added again by every load.
        """
        if self._unique:
            return
        null = " OR ".join(f"{quoted(name)} IS NULL" for name in self.key)
        ((nulls,),) = self.session.fetch(f"SELECT count(*) FROM {stage} WHERE {null}")
        if nulls:
            raise SyncFailedError(
                f"primary_key={list(self.table.primary_key)!r}: it is null in {nulls} rows, and a null identifies no row",
                table=self.table.name,
            )
        row_id, last = self.session.row_id, f"{self.session.row_order} DESC"
        keys = ", ".join(quoted(name) for name in self.key)
        order = f"{quoted(normal(self.table.cursor))} DESC, " if self.table.cursor else ""
        self.session.execute(
            f"DELETE FROM {stage} WHERE {row_id} IN (SELECT r FROM (SELECT {row_id} AS r, row_number() OVER "
            f"(PARTITION BY {keys} ORDER BY {order}{last}) AS n FROM {stage}) AS numbered WHERE n > 1)"
        )

    def _same(self, one: str, other: str) -> str:
        return " AND ".join(f"{one}.{quoted(name)} = {other}.{quoted(name)}" for name in self.key)

    def _alike(self, one: str, other: str) -> str:
        rest = [name for name in self.columns if name not in self.key]
        return " AND ".join(
            [f"{one}.{quoted(name)} IS NOT DISTINCT FROM {other}.{quoted(name)}" for name in rest] or ["TRUE"]
        )

    def _keep(self, kept: dict[str, Any], cursor: Cursor, rows: int, *, before: Mapping[str, Any]) -> None:
        if self.table.cursor and self.window is None:
            kept["cursor"] = cursor.dump()
        if (remembered := self.source.remember()) is not None:
            kept["source"] = remembered
        if not rows and not self.request and kept == before:
            return  # nothing new, and nothing to remember
        self.books.keep(kept, load_id=self.load_id, request=self.request, rows=rows)


def columns_now(source: Readable, known: Mapping[str, str] | None) -> dict[str, str]:
    """Return type by column of a source as it is now.

    :param known: The same as it was in the load before.
    """
    now = {
        column.name: known[column.name]
        if column.empty and known and column.name in known
        else str(column.arrow)
        for column in source.columns
    }
    return {**(known or {}), **now} if source.partial else now


def column_changes(before: Mapping[str, str] | None, now: Mapping[str, str]) -> tuple[SchemaChange, ...]:
    """Return how a table's columns differ from those of the load before; ``None`` is a first load."""
    if before is None:
        return (SchemaChange(kind="table_added"),)
    added = [SchemaChange(kind="column_added", column=c, type=now[c]) for c in now if c not in before]
    removed = [SchemaChange(kind="column_removed", column=c) for c in before if c not in now]
    retyped = [
        SchemaChange(kind="column_retyped", column=c, type=now[c])
        for c in now
        if c in before and before[c] != now[c]
    ]
    return (*added, *removed, *retyped)
