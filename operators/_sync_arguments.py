"""What a task's author says of tables and windows, checked when the DAG is parsed, and what is told of those that arrived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ext.operators._sync_memory import SyncWait
from airflow_ext.sync.files import SyncFiles
from airflow_ext.sync.model import SyncResult, TableResult
from airflow_ext.sync.tables import SyncTable

MOST_NAMED = 20
"""Tables that a message names one by one."""


def check_list(tables: Any, sync: str | None) -> tuple[SyncTable | str, ...]:
    """Return ``tables=`` as a tuple.

    :raises TypeError: If it is one table instead of a list.
    """
    if isinstance(tables, str | SyncTable) or not isinstance(tables, Sequence | set | frozenset):
        each = "'shop.orders'" if sync is not None else "SyncTable('orders', ...)"
        what = "names" if sync is not None else "tables"
        raise TypeError(f"tables={tables!r}: give a list of {what}, such as [{each}]")
    return tuple(tables)


def check_waiting(waiting: Any, sync: str | None) -> None:
    """Check ``waiting=`` as a task was given it.

    :raises ValueError: If there is nothing it could be about.
    :raises TypeError: If it is no :class:`SyncWait`.
    """
    if waiting is None:
        return
    if not isinstance(waiting, SyncWait):
        raise TypeError(f"waiting={waiting!r}: give a SyncWait, such as SyncWait(timeout=3600)")
    if sync is None:
        raise ValueError(
            f"waiting={waiting!r} is about runs of a vendor, with sync=; what the embedded engine loads ends with the "
            "task's execution_timeout="
        )


def check_windows(tables: Sequence[SyncTable], window_start: str | None, window_end: str | None) -> None:
    """Check the window of an embedded sync.

    :raises ValueError: If it does not go with the tables.
    """
    if (window_start is None) != (window_end is None):
        raise ValueError(
            f"window_start={window_start!r}, window_end={window_end!r}: give both or none of them"
        )
    windowed = [table.name for table in tables if table.mode == "window"]
    if windowed and window_start is None:
        raise ValueError(
            f"window_start=None: mode='window' of table {windowed[0]!r} needs window_start= and "
            "window_end=, such as '{{ ds }}' and '{{ macros.ds_add(ds, 1) }}'"
        )
    whole = [
        table.name
        for table in tables
        if table.mode == "merge" and not table.cursor and not isinstance(table, SyncFiles)
    ]
    if whole and window_start is not None:
        raise ValueError(
            f"window_start={window_start!r} says nothing to table {whole[0]!r}: mode='merge' without cursor= loads all of "
            "it in each run. Give its cursor=, use mode='replace', or load it in a task without a window"
        )


def check_names(
    sync: str, tables: Sequence[SyncTable | str], window_start: str | None, window_end: str | None
) -> tuple[str, ...]:
    """Return the names of a vendor's tables.

    :raises ValueError: If the sync is not named, or there is a window.
    :raises TypeError: If a table is not given by its name.
    """
    if not isinstance(sync, str) or not sync.strip() or "{{" in sync:
        raise ValueError(f"sync={sync!r}: give the id or name of a sync; it is not templated")
    names = tuple(name for name in tables if isinstance(name, str))
    if len(names) != len(tables):
        raise TypeError(
            f"tables={tables!r}: with sync= the vendor knows the tables; give their names, such as 'shop.orders'"
        )
    if window_start is not None or window_end is not None:
        raise ValueError(
            f"window_start={window_start!r}, window_end={window_end!r}: a vendor's sync has no window"
        )
    return names


def not_there(assets: Mapping[str, Any], result: SyncResult, sync: str) -> str:
    """Return what to warn of if a vendor's sync has not all tables that its task names, else an empty text.

    :param assets: The assets by the names of their tables.
    """
    arrived = [table.name for table in result.tables]
    missing = [name for name in assets if name not in arrived]
    if not missing:
        return ""
    more = f" and {len(arrived) - MOST_NAMED} more" if len(arrived) > MOST_NAMED else ""
    known = ", ".join(sorted(arrived)[:MOST_NAMED]) + more if arrived else "none that the vendor tells of"
    return (
        f"tables={missing!r}: sync {sync!r} has no such table, so what waits for the assets of these names never starts. "
        f"Its tables: {known}"
    )


def rows_told(table: TableResult) -> str:
    """Return what the log says of a table's rows."""
    if table.rows is None:
        return "synced (the vendor does not tell how many rows)"
    known = {**table.counts, **({} if table.failed is None else {"failed": table.failed})}
    more = ", ".join(f"{name} {count}" for name, count in known.items())
    return f"{table.rows} rows{f' ({more})' if more else ''}"
