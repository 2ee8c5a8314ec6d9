"""Comparing timestamps in SQLite, which keeps them as text in whatever form they were written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlalchemy as sa

SECONDS = 19
"""Length of a timestamp's text up to its seconds; a fraction and a zone may follow."""


def sqlite_moments(column: sa.Column[Any], start: Any, end: Any) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the conditions of ``start <= column < end``, as far as the two are timestamps without a zone.

    As texts ``2026-01-02 00:00:00`` would lie before ``2026-01-02 00:00:00.000000``. SQLite's own functions know
    milliseconds only, so the microseconds are compared as they stand. The date before is compared as text as well: of
    that an index is of use.
    """
    import sqlalchemy as sa

    text = sa.type_coerce(column, sa.String)
    day = timedelta(days=1)  # a text with a zone may be of another date
    if isinstance(start, datetime):
        if start.date() > date.min:
            yield text >= str(start.date() - day)
        yield _exact(text) >= start.isoformat(" ", "microseconds")
    if isinstance(end, datetime):
        if end.date() < date.max - day:
            yield text < str(end.date() + 2 * day)
        yield _exact(text) < end.isoformat(" ", "microseconds")


def _exact(text: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Return a timestamp in UTC with six digits after the point."""
    import sqlalchemy as sa

    rest = sa.func.substr(text, SECONDS + 1)
    zone = sa.func.ltrim(rest, ".0123456789")
    seconds = sa.func.strftime("%Y-%m-%d %H:%M:%S", sa.func.substr(text, 1, SECONDS).concat(zone))
    micros = sa.func.round(sa.cast(rest, sa.REAL) * 1_000_000)
    fraction = sa.case((sa.func.substr(rest, 1, 1) == ".", sa.func.printf(".%06d", micros)), else_=".000000")
    # What is no timestamp is compared as it is, for the reader to stumble over.
    return sa.func.coalesce(seconds.concat(fraction), text)
