"""What the destination remembers of loads: our two tables in the dataset, written in the load's own transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from airflow_ext.sync.cursors import literal, text_of
from airflow_ext.sync.names import normal

STATE, LOADS = "_sync_state", "_sync_loads"
"""Our tables in the dataset: the cursor and columns of each sync's tables, and one row per load."""

_BOOKS = {
    STATE: {"sync": "TEXT", "table_name": "TEXT", "state": "TEXT"},
    LOADS: {
        "load_id": "TEXT",
        "sync": "TEXT",
        "table_name": "TEXT",
        "request": "TEXT",
        "row_count": "BIGINT",
        "loaded_at": "TEXT",
    },
}


class Keeper(Protocol):
    """What the books need of a connection to the destination."""

    def make(self, table: str, columns: Mapping[str, str]) -> None:
        """Create the table, or add the columns it lacks, and commit."""
        ...

    def there(self, table: str) -> bool:
        """Tell whether a table exists in the dataset."""
        ...

    def there_or(self, table: str, statements: Iterable[str]) -> bool:
        """Tell whether a table exists; if not, run statements and commit, before anybody can make it."""
        ...

    def name(self, table: str) -> str:
        """Return a table of the dataset as statements name it."""
        ...

    def execute(self, statement: str) -> int:
        """Run a statement and return the rows it touched."""
        ...

    def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        ...


@dataclass(frozen=True)
class Books:
    """What is known of one sync's loads of one table.

    :param session: The connection that loads the table.
    :param sync: Name under which cursors are kept.
    :param key: What the author of a task gives as ``state_key=`` to go on from them; empty if there is no task.
    :param table: The table as the DAG author wrote it.
    """

    session: Keeper
    sync: str
    key: str
    table: str

    def open(self, there: str) -> bool:
        """Tell whether the table is in the destination; of one that is not, forget every load of every sync.

        Its rows are gone, so a cursor would leave out what was before it. It must be forgotten for good before the table
        is made: a try that dies then leaves an empty table, which the next one would take for the one that was loaded.

        :param there: Its name in the destination.
        """
        if self.session.there(there):
            return True
        gone = {book: names for book in _BOOKS if (names := self._names(book, there))}
        return self.session.there_or(
            there,
            [f"DELETE FROM {self.session.name(book)} WHERE table_name IN ({gone[book]})" for book in gone],
        )

    def earlier(self, request: str) -> tuple[int, str] | None:
        """Return rows and id of the load that an earlier try of the same append has done."""
        if not request:
            return None
        found = self.session.fetch(
            f"SELECT row_count, load_id FROM {self.session.name(LOADS)} WHERE request = {literal(request)}"
        )
        return (found[0][0], found[0][1]) if found else None

    def state(self) -> dict[str, Any]:
        """Return what the last load has kept."""
        found = self.session.fetch(f"SELECT state FROM {self.session.name(STATE)} WHERE {self._mine()}")
        state: dict[str, Any] = json.loads(found[0][0]) if found else {}
        return state

    def others(self, there: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield name and state of every other sync that loads a table.

        :param there: Its name in the destination.
        """
        if names := self._names(STATE, there):
            found = self.session.fetch(
                f"SELECT sync, state FROM {self.session.name(STATE)} WHERE table_name IN ({names})"
            )
            for sync, text in found:
                if sync != self.sync:
                    yield sync, json.loads(text)

    def _names(self, book: str, there: str) -> str:
        """Return the names that authors have written for a table of the destination, as literals."""
        names = self.session.fetch(f"SELECT DISTINCT table_name FROM {self.session.name(book)}")
        return ", ".join(literal(name) for (name,) in names if normal(name) == there)

    def keep(self, state: Mapping[str, Any], *, load_id: str, request: str, rows: int) -> None:
        """Keep a state for the next load, and note this one."""
        kept = {**state, "key": self.key} if self.key else state
        books, loads = self.session.name(STATE), self.session.name(LOADS)
        self.session.execute(f"DELETE FROM {books} WHERE {self._mine()}")
        values = [self.sync, self.table, json.dumps(kept)]
        self.session.execute(f"INSERT INTO {books} VALUES ({', '.join(literal(v) for v in values)})")
        told = [load_id, self.sync, self.table, request, rows, text_of(datetime.now(UTC))]
        self.session.execute(f"INSERT INTO {loads} VALUES ({', '.join(literal(v) for v in told)})")

    def _mine(self) -> str:
        return f"sync = {literal(self.sync)} AND table_name = {literal(self.table)}"


def make_books(session: Keeper) -> None:
    """Create the tables that remember cursors and loads."""
    for table, columns in _BOOKS.items():
        session.make(table, columns)
