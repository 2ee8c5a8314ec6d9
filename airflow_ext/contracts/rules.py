"""What a contract promises about its rows, as rules that can be measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from typing import Any

from airflow_ext.contracts.settings import Severities

Number = int | float | Decimal

_OPERATORS: Mapping[str, tuple[str, Callable[[Number, Any], bool]]] = {
    "mustBe": ("= {}", lambda value, bound: value == bound),
    "mustNotBe": ("other than {}", lambda value, bound: value != bound),
    "mustBeGreaterThan": ("> {}", lambda value, bound: value > bound),
    "mustBeGreaterOrEqualTo": (">= {}", lambda value, bound: value >= bound),
    "mustBeLessThan": ("< {}", lambda value, bound: value < bound),
    "mustBeLessOrEqualTo": ("<= {}", lambda value, bound: value <= bound),
    "mustBeBetween": ("between {} and {}", lambda value, bound: bound[0] <= value <= bound[1]),
    "mustNotBeBetween": ("not between {} and {}", lambda value, bound: not bound[0] <= value <= bound[1]),
}
SQL_PLACEHOLDER = re.compile(r"\$?\{(table|object|model|column|property|field|partition)\}")


@dataclass(frozen=True)
class Check:
    """What a figure must be.

    :param operator: An ODCS operator such as ``mustBeGreaterThan``.
    :param bound: A number, or two for the ``Between`` operators.
    """

    operator: str
    bound: Any

    def passes(self, value: Number) -> bool:
        """Say whether ``value`` is as it must be."""
        return _OPERATORS[self.operator][1](value, self.bound)

    def __str__(self) -> str:
        bounds = self.bound if isinstance(self.bound, list | tuple) else [self.bound]
        return _OPERATORS[self.operator][0].format(*bounds)


NONE_OF_THEM = Check("mustBe", 0)


@dataclass(frozen=True)
class Validity:
    """What a valid value of a column looks like; ``None`` does not restrict."""

    values: tuple[Any, ...] | None = None
    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    minimum: Any = None
    maximum: Any = None
    exclusive_minimum: Any = None
    exclusive_maximum: Any = None

    def __bool__(self) -> bool:
        return self != Validity()


@dataclass(frozen=True)
class Rule:
    """One measurable promise.

    :param name: As the author named it, or built from metric and columns.
    :param metric: ``rowCount``, ``nullValues``, ``missingValues``, ``invalidValues``, ``duplicateValues``,
        ``sql``, ``lag`` (age of the newest row) or ``retention`` (age of the oldest).
    :param check: What the figure must be.
    :param columns: Columns it is about.
    :param percent: Measure per cent of the partition's rows instead of rows.
    :param severity: ``error`` or ``warning``.
    :param dimension: The dimension of quality it belongs to, empty if not said.
    :param missing: Values that count as missing beside NULL.
    :param validity: What a valid value is.
    :param query: The query of an ``sql`` rule.
    """

    name: str
    metric: str
    check: Check
    columns: tuple[str, ...] = ()
    percent: bool = False
    severity: str = "error"
    dimension: str = ""
    missing: tuple[Any, ...] = ()
    validity: Validity = field(default_factory=Validity)
    query: str = ""

    @property
    def expected(self) -> str:
        """What the contract says, for a reason."""
        what = {
            "rowCount": "rows",
            "nullValues": "NULL values",
            "missingValues": "missing values",
            "invalidValues": "invalid values",
            "duplicateValues": "duplicates",
            "sql": "result",
            "lag": "age of the newest row",
            "retention": "age of the oldest row",
        }[self.metric]
        timed = self.metric in ("lag", "retention")
        bound = f"<= {duration(self.check.bound)}" if timed else str(self.check)
        return f"{what} {bound}{' %' if self.percent else ''}"


class RuleReader:
    """Reads ODCS rules and collects what is wrong with them.

    :param partitioned: Whether the contract restricts rules to a partition.
    :param columns: Names of the columns promised.
    :param severities: How grave each kind of failure is.
    """

    def __init__(self, *, partitioned: bool, columns: Collection[str], severities: Severities) -> None:
        self.partitioned = partitioned
        self.columns = columns
        self.severities = severities
        self.rules: list[Rule] = []
        self.skipped: list[str] = []
        self.problems: list[tuple[tuple[str | int, ...], str]] = []

    def quality(
        self, quality: Mapping[str, Any], path: tuple[str | int, ...], column: str | None, known: Validity
    ) -> None:
        """Read one entry of a ``quality`` list.

        :param column: The column it stands at, ``None`` at the table.
        :param known: What the column's ``logicalTypeOptions`` and ``enum`` say about valid values.
        """
        metric = quality.get("metric") or quality.get("rule")
        kind = quality.get("type") or "library"
        name = str(quality.get("name") or quality.get("id") or f"{metric or kind}({column or 'table'})")
        if kind in ("text", "custom"):
            self.skipped.append(f"{name}: a rule of type {kind} is not judged")
            return
        if kind == "library" and not metric:
            self.problems.append((path, "a rule needs a metric, or type: sql with a query, or type: text"))
            return
        check = self._check(quality, path)
        if check is None:
            return
        dimension = str(quality.get("dimension") or "")
        severity = self.severities.of_rule(str(quality.get("severity") or ""), dimension)
        if severity == "ignore":
            self.skipped.append(f"{name}: ignored by airflow.severity")
            return
        unit = quality.get("unit") or "rows"
        if unit not in ("rows", "percent"):
            self.problems.append(((*path, "unit"), f"{unit!r} is not known, use rows or percent"))
        common = {
            "name": name, "check": check, "severity": severity, "dimension": dimension, "percent": unit == "percent"
        }  # fmt: skip
        if kind == "sql":
            self._sql(quality, path, column, common)
        else:
            arguments = self._arguments(quality.get("arguments") or {}, (*path, "arguments"))
            if arguments is not None:
                self._library(str(metric), arguments, path, column, known, common)

    def _arguments(self, arguments: Any, path: tuple[str | int, ...]) -> Mapping[str, Any] | None:
        """Check the shapes of what a rule of a metric reads; ``None`` if one is wrong."""
        if not isinstance(arguments, Mapping):
            self.problems.append((path, f"{arguments!r} is not a mapping"))
            return None
        before = len(self.problems)
        for name in ("properties", "validValues", "missingValues"):
            values = arguments.get(name)
            if values is None:
                continue
            if not isinstance(values, list) or any(isinstance(value, list | dict) for value in values):
                self.problems.append(((*path, name), f"{values!r} is not a list of plain values"))
            elif name == "properties":
                self.problems += [
                    ((*path, name), f"{value!r} is not among the properties")
                    for value in values
                    if value not in self.columns
                ]
        pattern = arguments.get("pattern")
        if pattern is not None and not isinstance(pattern, str):
            self.problems.append(((*path, "pattern"), f"{pattern!r} is not a text, put it in quotes"))
        return arguments if len(self.problems) == before else None

    def _check(self, quality: Mapping[str, Any], path: tuple[str | int, ...]) -> Check | None:
        operator = next((name for name in _OPERATORS if name in quality), None)
        if operator is None:
            self.problems.append((path, f"a rule needs one of {', '.join(_OPERATORS)}"))
            return None
        bound = quality[operator]
        numbers = bound if isinstance(bound, list) else [bound]
        two = operator.endswith("Between")
        if (
            isinstance(bound, list) is not two
            or (two and len(numbers) != 2)
            or any(isinstance(n, bool) or not isinstance(n, int | float) or not isfinite(n) for n in numbers)
        ):
            what = "a list of two numbers" if two else "a number"
            self.problems.append(((*path, operator), f"{bound!r} is not {what}"))
            return None
        if two and bound[0] > bound[1]:
            self.problems.append(((*path, operator), "the smaller number comes first"))
            return None
        return Check(operator, tuple(bound) if two else bound)

    def _sql(
        self,
        quality: Mapping[str, Any],
        path: tuple[str | int, ...],
        column: str | None,
        common: dict[str, Any],
    ) -> None:
        query = quality["query"].strip().rstrip(";")
        used = {match[1] for match in SQL_PLACEHOLDER.finditer(query)}
        if self.partitioned and not used & {"table", "object", "model", "partition"}:
            self.problems.append(
                ((*path, "query"), "not restricted to the partition: write FROM ${table} or use ${partition}")
            )
        if column is None and used & {"column", "property", "field"}:
            self.problems.append(((*path, "query"), "${column} is known only in a rule of a column"))
        if common.pop("percent"):
            self.problems.append(
                ((*path, "unit"), "percent has no meaning for a query; let it return the share")
            )
        self.rules.append(Rule(metric="sql", query=query, columns=(column,) if column else (), **common))

    def _library(
        self,
        metric: str,
        arguments: Mapping[str, Any],
        path: tuple[str | int, ...],
        column: str | None,
        known: Validity,
        common: dict[str, Any],
    ) -> None:
        columns = (column,) if column else tuple(arguments.get("properties") or ())
        if metric == "rowCount":
            if common["percent"]:
                self.problems.append(((*path, "unit"), "a row count has no percentage"))
            self.rules.append(Rule(metric=metric, **common))
            return
        if not columns:
            self.problems.append(
                (path, f"{metric} needs a column: put it there or name arguments.properties")
            )
            return
        if metric != "duplicateValues" and len(columns) > 1:
            self.problems.append(((*path, "arguments", "properties"), f"{metric} takes one column"))
            return
        if metric == "missingValues":
            common["missing"] = tuple(arguments.get("missingValues") or ())
        if metric == "invalidValues":
            values = arguments.get("validValues")
            given = Validity(
                values=None if values is None else tuple(values), pattern=arguments.get("pattern")
            )
            common["validity"] = given or known
            if not common["validity"]:
                self.problems.append((path, "invalidValues needs arguments.validValues or arguments.pattern"))
                return
            if common["validity"].pattern is not None:
                self._pattern(common["validity"].pattern, (*path, "arguments", "pattern"))
        self.rules.append(Rule(metric=metric, columns=columns, **common))

    def _pattern(self, pattern: str, path: tuple[str | int, ...]) -> None:
        try:
            re.compile(pattern)
        except re.error as exc:
            self.problems.append((path, f"not a regular expression: {exc}"))

    def column(self, column: str, spec: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
        """Read the rules of a column: what its type options imply, and its ``quality``."""
        known = validity_of(spec)
        if known.pattern is not None:
            self._pattern(known.pattern, (*path, "logicalTypeOptions", "pattern"))
        for index, quality in enumerate(spec.get("quality") or ()):
            self.quality(quality, (*path, "quality", index), column, known)
        if spec.get("required") or spec.get("primaryKey"):
            self.rules.append(Rule(f"required({column})", "nullValues", NONE_OF_THEM, (column,)))
        if spec.get("unique"):
            self.rules.append(Rule(f"unique({column})", "duplicateValues", NONE_OF_THEM, (column,)))
        if known and not any(r.metric == "invalidValues" and r.columns == (column,) for r in self.rules):
            self.rules.append(
                Rule(f"valid({column})", "invalidValues", NONE_OF_THEM, (column,), validity=known)
            )
        if (spec.get("logicalTypeOptions") or {}).get("format"):
            self.skipped.append(f"format({column}): formats are not judged, use a pattern")

    def time(self, kind: str, element: str, column: str, seconds: float) -> None:
        """Read a ``freshness``, ``latency`` or ``retention`` promise about a column."""
        name, severity = f"{kind}({element})", self.severities.of(kind)
        if severity == "ignore":
            self.skipped.append(f"{name}: ignored by airflow.severity")
            return
        metric = "retention" if kind == "retention" else "lag"
        check = Check("mustBeLessOrEqualTo", seconds)
        self.rules.append(Rule(name, metric, check, (column,), severity=severity, dimension="timeliness"))


def validity_of(spec: Mapping[str, Any]) -> Validity:
    """Return what a column's ``logicalTypeOptions`` and ``enum`` say about its values."""
    options = spec.get("logicalTypeOptions") or {}
    values = [entry["value"] for entry in spec.get("enum") or ()]
    if spec.get("logicalType") not in (None, "string", "number", "integer"):
        options = {}
    return Validity(
        values=tuple(values) if values else None,
        pattern=options.get("pattern"),
        min_length=options.get("minLength"),
        max_length=options.get("maxLength"),
        minimum=options.get("minimum"),
        maximum=options.get("maximum"),
        exclusive_minimum=options.get("exclusiveMinimum"),
        exclusive_maximum=options.get("exclusiveMaximum"),
    )


def duration(seconds: float) -> str:
    """Return a length of time as people write it, such as ``2h 5m``."""
    left = int(abs(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount}{unit}")
    return ("-" if seconds < 0 else "") + (" ".join(parts[:2]) or "0s")
