"""Compare the quality rules of one element in two versions of a contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_ext.contracts.diff_base import Changes, Element, Path, accepted, points_around
from airflow_ext.contracts.grades import Effect
from airflow_ext.contracts.rules import Check

OPERATORS = (
    "mustBe",
    "mustNotBe",
    "mustBeGreaterThan",
    "mustBeGreaterOrEqualTo",
    "mustBeLessThan",
    "mustBeLessOrEqualTo",
    "mustBeBetween",
    "mustNotBeBetween",
)
_SOFT = {"warning", "warn", "info"}
_DECISIVE = (
    "severity",
    "type",
    "metric",
    "query",
    "unit",
    "arguments",
    "engine",
    "implementation",
    *OPERATORS,
)
_NULLS = {"nullValues", "missingValues"}

Rule = Mapping[str, Any]


def compare_quality(
    changes: Changes, element: Element, old: Sequence[Rule], new: Sequence[Rule], old_path: Path
) -> None:
    """Add what differs between two lists of rules.

    :param old_path: Where the old list is in its file.
    """
    for before, after in _pairs(old, new):
        if before is None and after is not None:
            _added(changes, element, after, element.part("quality", _index(new, after)))
        elif after is None and before is not None:
            _removed(changes, element, before, (*old_path, _index(old, before)))
        elif before is not None and after is not None and before != after:
            _Pair(changes, element, before, after, element.part("quality", _index(new, after))).compare()


def _index(rules: Sequence[Rule], rule: Rule) -> int:
    return next(index for index, other in enumerate(rules) if other is rule)


def name_of(rule: Rule) -> str:
    """Return the name that a rule's author gave it, else what it measures."""
    return str(rule.get("name") or rule.get("id") or _metric(rule) or rule.get("type") or "rule")


def _metric(rule: Rule) -> str:
    return str(rule.get("metric") or rule.get("rule") or "")


def _kind(rule: Rule) -> str:
    return str(rule.get("type") or "library")


def is_promise(rule: Rule) -> bool:
    """Say whether breaking a rule breaches the contract: it can be measured, and is more than a warning."""
    if str(rule.get("severity") or "").lower() in _SOFT:
        return False
    if check_of(rule) is None:
        return False
    return (
        bool(rule.get("query")) if _kind(rule) == "sql" else _kind(rule) == "library" and bool(_metric(rule))
    )


def check_of(rule: Rule) -> Check | None:
    """Return what a rule's figure must be, ``None`` if that is not said in numbers."""
    operator = next((name for name in OPERATORS if rule.get(name) is not None), None)
    if operator is None:
        return None
    bound = rule[operator]
    numbers = bound if isinstance(bound, list) else [bound]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        return None
    if operator.endswith("Between") is not (len(numbers) == 2 and isinstance(bound, list)):
        return None
    return Check(operator, tuple(numbers) if operator.endswith("Between") else bound)


def _pairs(old: Sequence[Rule], new: Sequence[Rule]) -> Iterator[tuple[Rule | None, Rule | None]]:
    """Pair rules by id, by name, by what they say, by what they measure; what is left has no partner."""
    left, right = list(old), list(new)
    for key in (
        lambda rule: rule.get("id"),
        lambda rule: rule.get("name"),
        lambda rule: repr(sorted(rule.items(), key=str)),
        lambda rule: None if rule.get("name") else (_kind(rule), _metric(rule), str(rule.get("query"))),
        lambda rule: None if rule.get("name") or _metric(rule) else _kind(rule),
    ):
        for before in list(left):
            wanted = key(before)
            partner = next((rule for rule in right if wanted is not None and key(rule) == wanted), None)
            if partner is not None:
                left = [rule for rule in left if rule is not before]
                right = [rule for rule in right if rule is not partner]
                yield before, partner
    for before in left:
        yield before, None
    for after in right:
        yield None, after


def _added(changes: Changes, element: Element, rule: Rule, path: Path) -> None:
    promise = is_promise(rule)
    changes.add(
        "quality.added",
        element,
        f"rule {name_of(rule)!r} is new{'' if promise else ', but breaks nothing'}",
        Effect.TIGHTENS if promise else Effect.ANNOUNCES if check_of(rule) else Effect.WORDS,
        path=path,
        new=_said(rule),
    )


def _removed(changes: Changes, element: Element, rule: Rule, path: Path) -> None:
    promise = is_promise(rule)
    words = _kind(rule) == "text"
    changes.add(
        "quality.removed",
        element,
        f"rule {name_of(rule)!r} is gone",
        Effect.LOOSENS if promise else Effect.WORDS if words else Effect.ANNOUNCES,
        path=path,
        old=_said(rule),
    )


def _said(rule: Rule) -> str:
    check = check_of(rule)
    what = _metric(rule) or _kind(rule)
    unit = " %" if rule.get("unit") == "percent" else ""
    return f"{what} {check}{unit}" if check else what


class _Pair:
    def __init__(self, changes: Changes, element: Element, old: Rule, new: Rule, path: Path) -> None:
        self.changes, self.element, self.old, self.new, self.path = changes, element, old, new, path

    def add(self, kind: str, text: str, effect: Effect, field: str, old: Any, new: Any) -> None:
        path = (*self.path, field) if field in self.new else self.path
        text = f"rule {name_of(self.new)!r}: {text}"
        self.changes.add(kind, self.element, text, effect, path=path, old=old, new=new)

    def differs(self, field: str) -> bool:
        return bool(self.old.get(field) != self.new.get(field))

    def compare(self) -> None:
        was, is_now = is_promise(self.old), is_promise(self.new)
        before = len(self.changes.found)
        if was != is_now:
            effect = Effect.TIGHTENS if is_now else Effect.LOOSENS
            text = "now breaches the contract" if is_now else "no longer breaches the contract"
            field = next(name for name in _DECISIVE if self.differs(name))
            self.add("quality.severity", text, effect, field, _said(self.old), _said(self.new))
        elif was:
            self.compare_promises()
        elif any(self.differs(name) for name in _DECISIVE):
            words = _kind(self.old) == _kind(self.new) == "text"
            effect = Effect.WORDS if words else Effect.ANNOUNCES
            self.add("quality.changed", "changed", effect, "", _said(self.old), _said(self.new))
        if len(self.changes.found) == before:
            known = set(_DECISIVE) if was else set()
            where = Element(self.element.where, self.path, self.element.table, self.element.column)
            self.changes.words(where, self.old, self.new, besides=known)

    def compare_promises(self) -> None:
        old, new = _metric(self.old), _metric(self.new)
        if _kind(self.old) != _kind(self.new) or (old != new and {old, new} != _NULLS):
            self.add("quality.changed", "measures something else", Effect.REPLACES, "metric", old, new)
            return
        if old != new:
            self.compare_nulls()
        if _kind(self.new) == "sql" and _squeezed(self.old["query"]) != _squeezed(self.new["query"]):
            self.add(
                "quality.query",
                "another query",
                Effect.UNCLEAR,
                "query",
                self.old["query"],
                self.new["query"],
            )
        if (self.old.get("unit") == "percent") != (self.new.get("unit") == "percent"):
            self.add(
                "quality.threshold", "another unit", Effect.UNCLEAR, "unit", _said(self.old), _said(self.new)
            )
        else:
            self.compare_thresholds()
        self.compare_arguments()

    def compare_thresholds(self) -> None:
        old, new = check_of(self.old), check_of(self.new)
        if old is None or new is None or old == new:
            return
        whole = _kind(self.new) == "library" and self.new.get("unit") != "percent"
        points = points_around([*_bounds(old), *_bounds(new)], whole=whole)
        if _kind(self.new) == "library":
            points = [point for point in points if point >= 0]
        effect = accepted(old.passes, new.passes, points)
        if effect is None:
            return
        text = {
            Effect.LOOSENS: "allows more",
            Effect.TIGHTENS: "allows less",
            Effect.REPLACES: "allows something else",
        }[effect]
        self.add("quality.threshold", text, effect, new.operator, _said(self.old), _said(self.new))

    def compare_nulls(self) -> None:
        """``missingValues`` counts NULL and further values."""
        rule = self.new if _metric(self.new) == "missingValues" else self.old
        if [value for value in (rule.get("arguments") or {}).get("missingValues") or [] if value is not None]:
            effect = self.counting(more=rule is self.new)
            self.add(
                "quality.changed",
                "counts other values",
                effect,
                "metric",
                _metric(self.old),
                _metric(self.new),
            )

    def compare_arguments(self) -> None:
        if _metric(self.old) != _metric(self.new):
            return
        old, new = self.old.get("arguments") or {}, self.new.get("arguments") or {}
        for name, counted in (("validValues", False), ("missingValues", True), ("properties", False)):
            before, after = _texts(old.get(name)), _texts(new.get(name))
            if before == after:
                continue
            if name == "validValues" and not (before and after):
                effect = Effect.UNCLEAR
            elif before < after or after < before:
                effect = self.counting(more=counted is (before < after))
            else:
                effect = Effect.UNCLEAR
            self.add(
                "quality.arguments", f"{name} changed", effect, "arguments", old.get(name), new.get(name)
            )
        if old.get("pattern") != new.get("pattern"):
            self.add(
                "quality.arguments",
                "another pattern",
                Effect.UNCLEAR,
                "arguments",
                old.get("pattern"),
                new.get("pattern"),
            )

    def counting(self, *, more: bool) -> Effect:
        """Return what counting more, or fewer, bad rows does by the rule's threshold."""
        check = check_of(self.new)
        if check is None:
            return Effect.UNCLEAR
        passes = [check.passes(p) for p in points_around([0, *_bounds(check)], whole=False) if p >= 0]
        if passes == sorted(passes, reverse=True):
            return Effect.TIGHTENS if more else Effect.LOOSENS
        if passes == sorted(passes):
            return Effect.LOOSENS if more else Effect.TIGHTENS
        return Effect.REPLACES


def _bounds(check: Check) -> list[float]:
    return list(check.bound) if isinstance(check.bound, tuple | list) else [check.bound]


def _texts(values: Any) -> set[str]:
    return {repr(value) for value in values or ()}


def _squeezed(query: str) -> str:
    return " ".join(query.split()).rstrip("; ")
