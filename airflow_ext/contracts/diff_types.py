"""Compare two database types: the same, wider, or another."""

from __future__ import annotations

from airflow_ext.contracts.grades import Effect

_WHOLE = {"TINYINT": 1, "SMALLINT": 2, "MEDIUMINT": 3, "INT": 4, "BIGINT": 8, "INT128": 16}
_REAL = {"FLOAT": 1, "DOUBLE": 2}
_TEXT = ("CHAR", "VARCHAR")


def type_effect(old: str, new: str, dialect: str) -> Effect | None:
    """Return what changing a type does; ``None`` if both are the same type."""
    from airflow_ext.contracts.catalog import _parse

    before, after = _parse(old, dialect), _parse(new, dialect)
    if before is None or after is None:
        return None if old.strip().upper() == new.strip().upper() else Effect.REPLACES
    if before == after:
        return None
    return Effect.ANNOUNCES if _wider(before, after) else Effect.REPLACES


def _wider(old: tuple[str, tuple[str, ...]], new: tuple[str, tuple[str, ...]]) -> bool:
    for ranks in (_WHOLE, _REAL):
        if old[0] in ranks and new[0] in ranks:
            return ranks[old[0]] < ranks[new[0]]
    if old[0] in _TEXT and new[0] == "VARCHAR":
        return not new[1] or bool(old[1] and int(old[1][0]) <= int(new[1][0]))
    if old[0] == new[0] == "DECIMAL" and old[1] and new[1]:
        before, after = (_digits(args) for args in (old[1], new[1]))
        return before[0] <= after[0] and before[1] <= after[1]
    return False


def _digits(args: tuple[str, ...]) -> tuple[int, int]:
    precision, scale = int(args[0]), int(args[1]) if len(args) > 1 else 0
    return precision - scale, scale
