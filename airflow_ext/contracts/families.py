"""Families of database types, and which change of a type keeps every value.

A type is read with sqlglot in the dialect it comes from, then brought to one form (:class:`Parsed`), so that
``int4`` and ``INTEGER``, or Snowflake's ``NUMBER`` and ``DECIMAL(38, 0)``, are the same.

What is wider follows what table formats promote without loss: integers to more bits and to decimals that hold
all their digits, integers to floats that hold them exactly, ``float`` to ``double``, decimals to more digits on
both sides of the point, text to more characters, a date to a timestamp without zone (Delta type widening and
Iceberg v3 promote the same). Never wider: anything to text, to or from a time with a zone, a decimal to a float.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "boolean": ("BOOLEAN", "BIT"),
    "integer": (
        "TINYINT", "SMALLINT", "MEDIUMINT", "INT", "BIGINT", "INT128", "INT256", "UTINYINT", "USMALLINT",
        "UMEDIUMINT", "UINT", "UBIGINT", "UINT128", "UINT256", "SERIAL", "SMALLSERIAL", "BIGSERIAL", "YEAR",
    ),
    "number": ("FLOAT", "DOUBLE", "DECIMAL", "UDECIMAL", "BIGDECIMAL", "DECFLOAT", "MONEY", "SMALLMONEY", "UDOUBLE"),
    "string": ("CHAR", "NCHAR", "VARCHAR", "NVARCHAR", "BPCHAR", "TEXT", "MEDIUMTEXT", "LONGTEXT", "TINYTEXT",
               "NAME", "UUID", "ENUM"),
    "date": ("DATE", "DATE32"),
    "timestamp": ("DATETIME", "DATETIME2", "DATETIME64", "SMALLDATETIME", "TIMESTAMP", "TIMESTAMPNTZ",
                  "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"),
    "timestamptz": ("TIMESTAMPTZ", "TIMESTAMPLTZ"),
    "time": ("TIME", "TIMETZ", "TIME_NS"),
    "array": ("ARRAY", "LIST", "VECTOR"),
    "map": ("MAP",),
    "object": ("STRUCT", "OBJECT", "JSON", "JSONB", "NESTED", "UNION", "VARIANT"),
    "binary": ("BINARY", "VARBINARY", "BLOB", "LONGBLOB", "MEDIUMBLOB", "TINYBLOB"),
}  # fmt: skip
FITS: Mapping[str, frozenset[str]] = {
    "number": frozenset({"number", "integer"}),
    "timestamp": frozenset({"timestamp", "timestamptz"}),
    "object": frozenset({"object", "map"}),
    "vector": frozenset({"array"}),
}
"""Which families keep a logical type's promise, where that is more than the one of the same name."""

_FAMILY_OF = {name: family for family, names in FAMILIES.items() for name in names}
_SAME = {
    "TEXT": "VARCHAR", "NVARCHAR": "VARCHAR", "NAME": "VARCHAR", "BPCHAR": "CHAR", "NCHAR": "CHAR",
    "DATETIME": "TIMESTAMP", "DATETIME2": "TIMESTAMP", "TIMESTAMPNTZ": "TIMESTAMP", "TIMESTAMPLTZ": "TIMESTAMPTZ",
    "SERIAL": "INT", "SMALLSERIAL": "SMALLINT", "BIGSERIAL": "BIGINT", "LIST": "ARRAY", "BINARY": "VARBINARY",
    "BLOB": "VARBINARY", "JSONB": "JSON",
}  # fmt: skip
_BITS = {"TINYINT": 8, "SMALLINT": 16, "MEDIUMINT": 24, "INT": 32, "BIGINT": 64, "INT128": 128, "INT256": 256}
_MANTISSA = {"FLOAT": 24, "DOUBLE": 53}
_UNBOUNDED = 10**9
_TEXT_SIZES = {"TINYTEXT": 255, "MEDIUMTEXT": 2**24 - 1, "LONGTEXT": 2**32 - 1}
_SECONDS = {"SMALLDATETIME": 0, "TIMESTAMP_S": 0, "TIMESTAMP_MS": 3}
_DECIMALS = {
    "duckdb": (18, 3), "snowflake": (38, 0), "bigquery": (38, 9), "mysql": (10, 0), "tsql": (18, 0), "trino": (38, 0),
    "databricks": (10, 0), "spark": (10, 0),
}  # fmt: skip
"""Digits and digits after the point of a decimal without arguments; elsewhere it holds any number."""
_ONE_INTEGER = {"bigquery": 64, "sqlite": 64}
"""Dialects in which each name of an integer type means the same one, and its bits."""
_ONE_FLOAT = ("bigquery", "snowflake", "sqlite")
_BYTES = " of one code page"
_LENGTH_IS_DECORATION = ("duckdb", "sqlite")


class Widening(enum.StrEnum):
    """What a change of a type does to values."""

    SAME = "same"
    WIDER = "wider"
    """Each value of the old type is one of the new, and there are more."""
    NARROWER = "narrower"
    """Each value of the new type is one of the old: some old values no longer fit."""
    OTHER = "other"
    """Neither: values are written, compared or rounded otherwise."""
    UNKNOWN = "unknown"
    """One of the types is not known."""


@dataclass(frozen=True)
class Parsed:
    """A type in one form for all dialects.

    :param name: Our name of the type.
    :param family: Its family, empty if unknown.
    :param numbers: Digits and scale of a decimal, characters of a text, bits of an integer (negative without a sign),
        mantissa of a float, digits of a second of a timestamp.
    :param parts: Types inside, by field name; of an array ``item``, of a map ``key`` and ``value``.
    """

    name: str
    family: str
    numbers: tuple[int, ...] = ()
    parts: tuple[tuple[str, Parsed], ...] = ()


@functools.lru_cache(maxsize=4096)
def parse_type(type_: str, dialect: str) -> Parsed | None:
    """Read a type as a database writes it.

    :param dialect: sqlglot's name of the dialect.
    :return: ``None`` if it cannot be read.
    """
    import sqlglot
    from sqlglot import exp

    if not type_:
        return None
    try:
        return _parsed(exp.DataType.build(type_, dialect=dialect), dialect)
    except (sqlglot.errors.SqlglotError, ValueError, AttributeError):
        return None


def family_of(type_: str, dialect: str) -> str:
    """Return our family of a database type, empty if it is not known."""
    parsed = parse_type(type_, dialect)
    return parsed.family if parsed else ""


def widening(old: str, new: str, dialect: str) -> Widening:
    """Say what becomes of values when a column changes its type.

    :param old: Type before, as the database writes it.
    :param new: Type after.
    :param dialect: sqlglot's name of the dialect, such as ``duckdb`` or ``snowflake``; of a contract that names
        no database ``postgres`` reads most.
    """
    before, after = parse_type(old, dialect), parse_type(new, dialect)
    if before is None or after is None or not before.family or not after.family:
        same = " ".join(old.split()).lower() == " ".join(new.split()).lower()
        return Widening.SAME if same else Widening.UNKNOWN
    return compare(before, after)


def logical_widening(old: str, new: str) -> Widening:
    """Say the same of two ODCS logical types."""
    if not old or not new:
        return Widening.SAME if old == new else Widening.UNKNOWN
    if old == new:
        return Widening.SAME
    wider = {("integer", "number"), ("date", "timestamp"), ("map", "object"), ("vector", "array")}
    if (old, new) in wider:
        return Widening.WIDER
    return Widening.NARROWER if (new, old) in wider else Widening.OTHER


def compare(old: Parsed, new: Parsed) -> Widening:
    """Say what becomes of values when a type read before becomes another."""
    if old == new:
        return Widening.SAME
    forth, back = _holds(new, old), _holds(old, new)
    if forth and back:
        return Widening.SAME
    return Widening.WIDER if forth else Widening.NARROWER if back else Widening.OTHER


def _holds(wide: Parsed, narrow: Parsed) -> bool:
    """Say whether ``wide`` has each value of ``narrow``, written and compared alike."""
    if wide == narrow:
        return True
    kinds = (narrow.family, wide.family)
    if kinds == ("string", "string"):
        return _text_in(narrow, wide)
    if wide.parts or narrow.parts:
        return _parts_hold(wide, narrow)
    if narrow.name == wide.name == "DECIMAL":
        return _decimal_in(narrow, wide)
    if kinds == ("integer", "integer"):
        return _integer_in(narrow.numbers[0], wide.numbers[0])
    if narrow.family == "integer" and wide.family == "number":
        return _values(narrow) <= _values(wide)
    if narrow.name in _MANTISSA and wide.name in _MANTISSA:
        return narrow.numbers <= wide.numbers
    if kinds == ("date", "timestamp"):
        return wide.name != "TIMESTAMP_NS"
    if narrow.name == wide.name and kinds[0] in ("timestamp", "timestamptz", "time", "binary"):
        return narrow.numbers <= wide.numbers
    return False


def _parts_hold(wide: Parsed, narrow: Parsed) -> bool:
    if wide.name != narrow.name or wide.numbers not in ((), narrow.numbers):
        return False
    known = dict(wide.parts)
    return not wide.parts or all(name in known and _holds(known[name], part) for name, part in narrow.parts)


def _values(number: Parsed) -> int:
    """Return the largest integer up to which the type holds each one."""
    if number.name in _MANTISSA:
        return int(2 ** number.numbers[0])
    if number.name == "DECIMAL":
        digits, scale = number.numbers
        return int(10 ** min(digits - scale, 100) - 1)
    bits = number.numbers[0]
    return int(2 ** (-bits if bits < 0 else bits - 1) - 1)


def _integer_in(narrow: int, wide: int) -> bool:
    """Bits of an integer, negative without a sign."""
    if narrow < 0 < wide:
        return -narrow < wide
    return (narrow > 0) == (wide > 0) and abs(narrow) <= abs(wide)


def _decimal_in(narrow: Parsed, wide: Parsed) -> bool:
    (digits, scale), (more, after) = narrow.numbers, wide.numbers
    return after >= scale and more - after >= digits - scale


def _text_in(narrow: Parsed, wide: Parsed) -> bool:
    if wide.name == "ENUM":
        return narrow.name == "ENUM" and {n for n, _ in narrow.parts} <= {n for n, _ in wide.parts}
    if narrow.name == "ENUM":
        return wide.name == "VARCHAR"
    if "UUID" in (narrow.name, wide.name):
        return False
    if wide.name.startswith("CHAR") and not narrow.name.startswith("CHAR"):
        return False
    if wide.name.endswith(_BYTES) and not narrow.name.endswith(_BYTES):
        return False
    return narrow.numbers <= wide.numbers


def _parsed(node: Any, dialect: str) -> Parsed:
    name = getattr(node.this, "name", None) or str(node.this)
    family = _FAMILY_OF.get(name, "")
    if dialect == "mysql" and name == "TINYINT" and _arguments(node) == (1,):
        return Parsed("BOOLEAN", "boolean")  # what BOOLEAN is there
    if family in ("array", "map", "object"):
        return Parsed(_SAME.get(name, name), family, _lengths(node), _parts(node, dialect))
    if name == "ENUM":
        return Parsed(name, family, (), tuple((value.name, Parsed("", "")) for value in node.expressions))
    if name == "BIT":  # a truth value there, elsewhere a string of bits
        truth = dialect == "tsql" or (dialect == "mysql" and _arguments(node) in ((), (1,)))
        return Parsed("BOOLEAN", family) if truth else Parsed(name, "binary", _arguments(node) or (1,))
    return _plain(name, family, _arguments(node), dialect)


def _plain(name: str, family: str, numbers: tuple[int, ...], dialect: str) -> Parsed:
    match family:
        case "integer" if dialect == "snowflake":
            return Parsed("DECIMAL", family, (38, 0))
        case "integer":
            short = _SAME.get(name, name)
            size = _BITS.get(short.removeprefix("U"), 16)
            return Parsed("INTEGER", family, (_ONE_INTEGER.get(dialect, -size if short[0] == "U" else size),))
        case "number":
            return _number(name, numbers, dialect)
        case "string":
            return _text(name, numbers, dialect)
        case "timestamp" | "timestamptz" | "time":
            digits = numbers[0] if numbers else _SECONDS.get(name, _seconds(name, dialect))
            short = "TIMESTAMP" if name in _SECONDS else _SAME.get(name, name)
            return Parsed(short, family, (digits,))
        case "binary":
            return Parsed(_SAME.get(name, name), family, (numbers[0] if numbers else _UNBOUNDED,))
        case _:
            return Parsed(_SAME.get(name, name), family, numbers)


def _seconds(name: str, dialect: str) -> int:
    """Digits of a second without an argument."""
    if dialect == "mysql":
        return 0
    if dialect == "tsql":
        return 3 if name == "DATETIME" else 7
    return {"snowflake": 9, "trino": 3}.get(dialect, 9 if name.endswith("_NS") else 6)


def _number(name: str, numbers: tuple[int, ...], dialect: str) -> Parsed:
    if name in ("FLOAT", "DOUBLE", "UDOUBLE"):
        double = name != "FLOAT" or dialect in _ONE_FLOAT or (numbers and numbers[0] > 24)
        if dialect == "postgres" and name == "DOUBLE" and numbers and numbers[0] <= 24:
            double = False
        return Parsed("DOUBLE" if double else "FLOAT", "number", (53 if double else 24,))
    if name in ("MONEY", "SMALLMONEY"):
        return Parsed("DECIMAL", "number", (19, 4) if name == "MONEY" else (10, 4))
    if name == "BIGDECIMAL":
        return Parsed("DECIMAL", "number", numbers or (76, 38))
    if numbers:
        digits, scale = numbers[0], numbers[1] if len(numbers) > 1 else 0
    elif dialect in _DECIMALS:
        digits, scale = _DECIMALS[dialect]
    else:
        digits, scale = 2 * _UNBOUNDED, _UNBOUNDED
    return Parsed(
        "DECIMAL", "integer" if scale == 0 and dialect == "snowflake" else "number", (digits, scale)
    )


def _text(name: str, numbers: tuple[int, ...], dialect: str) -> Parsed:
    if name == "UUID":
        return Parsed(name, "string")
    short = "VARCHAR" if name in _TEXT_SIZES else _SAME.get(name, name)
    if dialect in _LENGTH_IS_DECORATION:
        return Parsed("VARCHAR", "string", (_UNBOUNDED,))
    if name in _TEXT_SIZES:
        size = _TEXT_SIZES[name]
    elif name == "TEXT" and dialect == "mysql" and not numbers:
        size = 65_535
    elif numbers:
        size = numbers[0]
    else:
        size = (
            1 if name in ("CHAR", "NCHAR") or (dialect == "tsql" and name.endswith("VARCHAR")) else _UNBOUNDED
        )
    if dialect == "tsql" and name in ("CHAR", "VARCHAR"):
        return Parsed(short + _BYTES, "string", (size,))
    return Parsed(short, "string", (size,))


def _arguments(node: Any) -> tuple[int, ...]:
    texts = [part.name or part.sql() for part in node.expressions]
    return tuple(_UNBOUNDED if text.upper() == "MAX" else int(text) for text in texts)


def _lengths(node: Any) -> tuple[int, ...]:
    return tuple(int(value.name) for value in node.args.get("values") or () if value.name.isdigit())


def _parts(node: Any, dialect: str) -> tuple[tuple[str, Parsed], ...]:
    parts = []
    for index, part in enumerate(node.expressions):
        field = part.args.get("kind")  # of a field of a struct; what an array or a map holds has no name
        parts.append(
            (
                part.name.lower() if field else f"item {index}",
                _parsed(part if field is None else field, dialect),
            )
        )
    return tuple(parts)
