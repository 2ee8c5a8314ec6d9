"""What to bring in: tables, their keys and modes, and the window of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

MODES = ("merge", "append", "replace", "window", "scd2")

CursorValue = int | Decimal | date | datetime | str


def _names(argument: str, value: Iterable[str]) -> tuple[str, ...]:
    # A lone string is iterable too: "id" would become the columns "i" and "d".
    if isinstance(value, str):
        value = (value,)
    names = tuple(value)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{argument}={value!r}: give column names, such as {argument}=['id']")
    return names


@dataclass(frozen=True, init=False)
class SyncTable:
    """One table of the source and how it arrives in the destination.

    :param name: Table or view in the source; it keeps this name in the destination, in snake case.
    :param schema: Schema in the source; ``None`` is the source's default.
    :param mode: What happens to rows that are there already.

        ``merge`` replaces rows with the same primary key and adds the others; rows that vanished from
        the source stay.

        ``append`` only adds, each window once, and without a cursor once per run of the DAG.

        ``replace`` loads the whole table and swaps it in one transaction.

        ``window`` makes the destination equal to the source for the run's window of ``cursor``: rows in
        the window are deleted and loaded in one transaction, so changed and vanished rows are right and a
        second load changes nothing.

        ``scd2`` keeps every version of a row, valid from ``_valid_from`` until ``_valid_to`` (UTC; null for the
        version that holds now). Without a cursor, rows that vanished from the source end too.
    :param primary_key: Columns that identify a row; needed for ``merge`` and ``scd2``.
    :param cursor: Column that orders rows in time: the window's column, and without a window the column
        whose last value the next run starts from. Rows where it is null are never loaded.
    :param columns: Columns to load; ``None`` loads all, also those that appear later.
    :param where: SQL condition in the source's dialect, added to the query as it is.
    :param asset: Name of the asset that stands for the loaded table; ``None`` is
        ``sync/<connection id>/<name>``.
    :raises ValueError: If the mode is unknown or the arguments do not go together.
    """

    name: str
    schema: str | None
    mode: str
    primary_key: tuple[str, ...]
    cursor: str | None
    columns: tuple[str, ...] | None
    where: str | None
    asset: str | None

    def __init__(
        self,
        name: str,
        *,
        schema: str | None = None,
        mode: str = "merge",
        primary_key: Iterable[str] = (),
        cursor: str | None = None,
        columns: Iterable[str] | None = None,
        where: str | None = None,
        asset: str | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "schema", schema)
        put(self, "mode", mode)
        put(self, "primary_key", _names("primary_key", primary_key))
        put(self, "cursor", cursor)
        put(self, "columns", None if columns is None else _names("columns", columns))
        put(self, "where", where)
        put(self, "asset", asset)
        self._check()

    def _check(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"name={self.name!r}: a table needs a name")
        if "." in self.name:
            schema, _, name = self.name.rpartition(".")
            raise ValueError(
                f"name={self.name!r}: give the schema apart, as name={name!r}, schema={schema!r}"
            )
        where = f"table {self.name!r}"
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} of {where}: the modes are {', '.join(MODES)}")
        if self.mode in ("merge", "scd2") and not self.primary_key:
            raise ValueError(
                f"mode={self.mode!r} of {where} needs primary_key=[...]; without a key use mode='window' with a "
                "cursor, mode='replace' or mode='append'"
            )
        if self.mode == "window" and not self.cursor:
            raise ValueError(f"mode='window' of {where} needs cursor=, the column the window lies in")
        if self.mode == "replace" and self.cursor:
            raise ValueError(
                f"cursor={self.cursor!r} of {where}: mode='replace' loads the whole table; leave the cursor "
                "out or use mode='window'"
            )
        if self.columns is not None:
            needed = [*self.primary_key, *([self.cursor] if self.cursor else [])]
            missing = [column for column in needed if column not in self.columns]
            if missing or not self.columns:
                raise ValueError(
                    f"columns={list(self.columns)!r} of {where} must hold the primary key and the cursor; "
                    f"missing: {', '.join(missing) or 'all columns'}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> SyncTable:
        """Read what :meth:`to_dict` wrote."""
        value = dict(value)
        return cls(value.pop("name"), **value)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A half-open range of cursor values, as text: ``start`` belongs to it, ``end`` does not.

    :raises ValueError: If one side is blank.
    """

    start: str
    end: str

    def __post_init__(self) -> None:
        for side, value in (("window_start", self.start), ("window_end", self.end)):
            if not value.strip() or value.strip() == "None":
                raise ValueError(
                    f"{side}={value!r}: it rendered to nothing; a run without a data interval has no ds, "
                    "so give a value that exists in every run, such as '{{ params.day }}'"
                )

    def bounds(self, like: type) -> tuple[CursorValue, CursorValue]:
        """Return both ends as values of a cursor column's Python type.

        A date and time without a zone is UTC. For a column of whole dates both ends must be midnights.

        :param like: ``datetime``, ``date``, ``int``, ``Decimal``, ``float`` or ``str``.
        :raises ValueError: If a side is no such value or the window is empty.
        """
        start, end = (
            _parse(side, text, like)
            for side, text in (("window_start", self.start), ("window_end", self.end))
        )
        if not start < end:  # type: ignore[operator]  # both are of the same type
            raise ValueError(
                f"window_start={self.start!r} must lie before window_end={self.end!r}: the window is "
                "half open and holds window_start, not window_end"
            )
        return start, end


def _parse(side: str, text: str, like: type) -> CursorValue:
    try:
        if like is str:
            return text
        if issubclass(like, datetime):
            value = datetime.fromisoformat(text)
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        if issubclass(like, date):
            moment = datetime.fromisoformat(text)
            if (moment.hour, moment.minute, moment.second, moment.microsecond) != (0, 0, 0, 0):
                raise ValueError(
                    f"{side}={text!r}: the cursor holds whole dates; give a date such as {{{{ ds }}}}"
                )
            return moment.date()
        if issubclass(like, int):
            return int(text)
        return Decimal(text)
    except (ValueError, InvalidOperation) as error:
        if str(error).startswith(side):
            raise
        raise ValueError(f"{side}={text!r} is no {like.__name__}, which the cursor column holds") from error
