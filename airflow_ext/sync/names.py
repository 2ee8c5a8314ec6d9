"""Names of tables and columns in the destination: snake case, the same with and without dlt."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from airflow_ext.exceptions import InvalidError

LONGEST = 63
"""PostgreSQL cuts longer names without a word."""

_SIGNS = str.maketrans("+-*@|", "x_xal")


def normal(name: str) -> str:
    """Return a name of the source as the destination has it: ``FlightDate`` is ``flight_date``."""
    text = re.sub(r"[^a-zA-Z\d_]+", "_", name.strip().translate(_SIGNS))
    text = re.sub("([^_])([A-Z][a-z]+)", r"\1_\2", text)
    text = re.sub("([a-z0-9])([A-Z])", r"\1_\2", text).lower()
    if text[:1].isdigit():
        text = f"_{text}"
    bare = text.rstrip("_")
    text = re.sub("__+", "_", bare + "x" * (len(text) - len(bare)))
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def normal_columns(table: str, names: Iterable[str]) -> dict[str, str]:
    """Return the destination's name of each column.

    :raises InvalidError: If two columns would have the same name there.
    """
    found: dict[str, str] = {}
    for name in names:
        there = normal(name)
        if other := next((known for known, taken in found.items() if taken == there), None):
            raise InvalidError(
                f"table {table!r}: its columns {other!r} and {name!r} would both arrive as {there!r}; leave one out "
                "with columns=[...] or rename it with a view"
            )
        found[name] = there
    return found


def quoted(name: str) -> str:
    """Return a name as both DuckDB and PostgreSQL read it in a statement."""
    return '"' + name.replace('"', '""') + '"'
