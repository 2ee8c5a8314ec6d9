"""Compare one column, and what is nested in it, in two versions of a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ext.contracts.diff_base import (
    Changes,
    Element,
    Path,
    accepted,
    flag,
    ordered,
    points_around,
)
from airflow_ext.contracts.diff_quality import compare_quality
from airflow_ext.contracts.families import Widening, logical_widening, widening
from airflow_ext.contracts.grades import Effect
from airflow_ext.contracts.levels import moment

Spec = Mapping[str, Any]
_HANDLED = (
    "name", "physicalName", "logicalType", "physicalType", "logicalTypeOptions", "required", "unique", "primaryKey",
    "enum", "quality", "relationships", "properties", "items", "map", "deprecated", "classification",
    "partitioned", "partitionKeyPosition", "id",
)  # fmt: skip
_TYPE_EFFECTS = {
    Widening.SAME: None,
    Widening.WIDER: Effect.ANNOUNCES,
    Widening.NARROWER: Effect.REPLACES,  # values that were there are cut, rounded or refused
    Widening.OTHER: Effect.REPLACES,
    Widening.UNKNOWN: Effect.REPLACES,
}
_UPPER = {"maxLength": True, "minLength": False, "maxItems": True, "minItems": False,
          "maxProperties": True, "minProperties": False}  # fmt: skip
_BOUNDS = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))


def actual_name(spec: Spec) -> str:
    """Return the name of a table or a column in the database."""
    return str(spec.get("physicalName") or spec["name"])


def compare_properties(
    changes: Changes,
    element: Element,
    old: Sequence[Spec],
    new: Sequence[Spec],
    *,
    old_path: Path,
    dialect: str,
    keys: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset()),
) -> tuple[list[Spec], list[Spec]]:
    """Compare the columns of a table, or the properties nested in one.

    :param element: The table or the column they belong to.
    :param old_path: Where the old list is.
    :param dialect: sqlglot's name of the database, for types; empty if not known.
    :param keys: Columns of the primary key, before and after.
    :return: What is gone and what is new, to look for renames.
    """
    before = {str(spec["name"]): (index, spec) for index, spec in enumerate(old)}
    after = {str(spec["name"]): (index, spec) for index, spec in enumerate(new)}
    gone = [spec for name, (_, spec) in before.items() if name not in after]
    come = [spec for name, (_, spec) in after.items() if name not in before]
    for name, (index, spec) in before.items():
        if name not in after:
            inner = _inner(element, spec, (*old_path, index))
            changes.add("column.removed", inner, "is gone", Effect.LOOSENS, old=_type_text(spec))
    for name, (index, spec) in after.items():
        inner = _inner(element, spec, element.part("properties", index))
        if name not in before:
            changes.add("column.added", inner, "is new", Effect.TIGHTENS, new=_type_text(spec))
        else:
            old_index, old_spec = before[name]
            _Column(changes, inner, old_spec, spec, (*old_path, old_index), dialect, keys).compare()
    return gone, come


def _inner(element: Element, spec: Spec, path: Path) -> Element:
    column = element.column or actual_name(spec)
    return Element(f"{element.where}.{spec['name']}", path, element.table, column)


def _type_text(spec: Spec) -> str:
    types = [str(spec[name]) for name in ("logicalType", "physicalType") if spec.get(name)]
    return " ".join(types) or "a column"


class _Column:
    def __init__(
        self,
        changes: Changes,
        element: Element,
        old: Spec,
        new: Spec,
        old_path: Path,
        dialect: str,
        keys: tuple[frozenset[str], frozenset[str]],
    ) -> None:
        self.changes, self.element, self.old, self.new = changes, element, old, new
        self.old_path, self.dialect, self.keys = old_path, dialect, keys

    def add(self, kind: str, text: str, effect: Effect, field: str) -> None:
        path = self.element.part(field) if field in self.new else self.element.path
        self.changes.add(
            kind, self.element, text, effect, path=path, old=self.old.get(field), new=self.new.get(field)
        )

    def compare(self) -> None:
        if actual_name(self.old) != actual_name(self.new):
            text = f"is called {actual_name(self.new)} in the database, it was {actual_name(self.old)}"
            self.add("column.renamed", text, Effect.REPLACES, "physicalName")
        self.compare_types()
        for name, what in (("required", "without NULL"), ("unique", "unique")):
            flag(
                self.changes,
                f"column.{name}",
                self.element,
                name,
                what,
                self.old.get(name),
                self.new.get(name),
            )
        self.compare_key()
        self.compare_options(
            self.old.get("logicalTypeOptions") or {}, self.new.get("logicalTypeOptions") or {}
        )
        self.compare_enum()
        compare_quality(
            self.changes,
            self.element,
            self.old.get("quality") or [],
            self.new.get("quality") or [],
            (*self.old_path, "quality"),
        )
        compare_relationships(self.changes, self.element, self.old, self.new)
        announce(self.changes, self.element, self.old, self.new)
        if (self.old.get("classification") or "") != (self.new.get("classification") or ""):
            self.add(
                "column.classification", "has another classification", Effect.ANNOUNCES, "classification"
            )
        self.compare_nested()
        self.changes.words(self.element, self.old, self.new, besides=_HANDLED)

    def compare_types(self) -> None:
        for field, wider in (("logicalType", self.logical_effect), ("physicalType", self.physical_effect)):
            old, new = self.old.get(field), self.new.get(field)
            if old == new:
                continue
            if not old or not new:
                effect = Effect.TIGHTENS if new else Effect.LOOSENS
                self.add("column.type", f"{field} is {'new' if new else 'gone'}", effect, field)
                continue
            effect_or_none = wider(str(old), str(new))
            if effect_or_none is None:
                self.add("column.spelling", f"{field} is written another way", Effect.WORDS, field)
                continue
            text = "is wider" if effect_or_none is Effect.ANNOUNCES else "has another type"
            kind = "column.widened" if effect_or_none is Effect.ANNOUNCES else "column.type"
            self.add(kind, text, effect_or_none, field)

    @staticmethod
    def logical_effect(old: str, new: str) -> Effect | None:
        return _TYPE_EFFECTS[logical_widening(old, new)]

    def physical_effect(self, old: str, new: str) -> Effect | None:
        return _TYPE_EFFECTS[widening(old, new, self.dialect or "postgres")]

    def compare_key(self) -> None:
        old, new = bool(self.old.get("primaryKey")), bool(self.new.get("primaryKey"))
        if old == new:
            return
        composite = any(len(key) > 1 for key in self.keys)
        text = "is now part of the primary key" if new else "is no longer part of the primary key"
        effect = Effect.REPLACES if composite else Effect.TIGHTENS if new else Effect.LOOSENS
        self.add("column.key", text, effect, "primaryKey")

    def compare_options(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        for pair in _BOUNDS:
            if any(old.get(name) != new.get(name) for name in pair):
                self.compare_bounds(old, new, pair)
        for name in sorted({*old, *new} - {name for pair in _BOUNDS for name in pair}):
            before, after = old.get(name), new.get(name)
            if before != after:
                self.option(name, before, after, self.option_effect(name, before, after))

    def option_effect(self, name: str, before: Any, after: Any) -> Effect | None:
        if name in ("uniqueItems",):
            return Effect.TIGHTENS if after else Effect.LOOSENS if before else None
        if name == "required":
            return _sets(set(after or ()), set(before or ()))
        if before is None or after is None:
            return Effect.TIGHTENS if before is None else Effect.LOOSENS
        if name in _UPPER:
            return ordered(before, after, upper=_UPPER[name])
        return Effect.REPLACES if name in ("dimensions", "elementType") else Effect.UNCLEAR

    def option(self, name: str, before: Any, after: Any, effect: Effect | None) -> None:
        if effect is None:
            return
        path = self.element.part("logicalTypeOptions")
        text = (
            f"{name} is new" if before is None else f"{name} is gone" if after is None else f"{name} changed"
        )
        self.changes.add(
            "column.validity",
            self.element,
            text,
            effect,
            path=path if after is not None else None,
            old=before,
            new=after,
        )

    def compare_bounds(self, old: Mapping[str, Any], new: Mapping[str, Any], pair: tuple[str, str]) -> None:
        was, is_now = ({name: _figure(options[name]) for name in pair if options.get(name) is not None}
                       for options in (old, new))  # fmt: skip
        name = next(
            (name for name in pair if old.get(name) != new.get(name) and new.get(name) is not None), pair[0]
        )
        before = {name: old[name] for name in pair if old.get(name) is not None}
        after = {name: new[name] for name in pair if new.get(name) is not None}
        if not was or not is_now:
            effect: Effect | None = Effect.TIGHTENS if is_now else Effect.LOOSENS
        elif None in (*was.values(), *is_now.values()):
            effect = Effect.UNCLEAR
        else:
            days = self.new.get("logicalType") == "date"
            scale = 86_400.0 if days else 1.0
            low = {key: value / scale for key, value in was.items() if value is not None}
            high = {key: value / scale for key, value in is_now.items() if value is not None}
            effect = accepted(
                lambda value: _within(value, low),
                lambda value: _within(value, high),
                points_around(
                    [*low.values(), *high.values()], whole=days or self.new.get("logicalType") == "integer"
                ),
            )
        self.option(
            name if before and after else next(iter({**before, **after})),
            ", ".join(f"{key} {value}" for key, value in before.items()) or None,
            ", ".join(f"{key} {value}" for key, value in after.items()) or None,
            effect,
        )

    def compare_enum(self) -> None:
        old, new = ([entry["value"] for entry in spec.get("enum") or ()] for spec in (self.old, self.new))
        if not old or not new:
            if old or new:
                text = "allows only some values" if new else "is no longer restricted to some values"
                self.changes.add(
                    "column.enum", self.element, text, Effect.TIGHTENS if new else Effect.LOOSENS, path=self.element.part("enum") if new else None,
                    old=old or None, new=new or None,
                )  # fmt: skip
            return
        effect = _sets({repr(value) for value in old}, {repr(value) for value in new})
        if effect is not None:
            self.changes.add(
                "column.enum",
                self.element,
                "allows other values",
                effect,
                path=self.element.part("enum"),
                old=old,
                new=new,
            )
        elif self.old.get("enum") != self.new.get("enum"):
            self.changes.add(
                "words",
                self.element,
                "labels of values changed",
                Effect.WORDS,
                path=self.element.part("enum"),
            )

    def compare_nested(self) -> None:
        compare_properties(
            self.changes,
            self.element,
            self.old.get("properties") or [],
            self.new.get("properties") or [],
            old_path=(*self.old_path, "properties"),
            dialect=self.dialect,
        )
        for part in (("items",), ("map", "key"), ("map", "value")):
            self.compare_part(part)

    def compare_part(self, part: tuple[str, ...]) -> None:
        old, new = _dig(self.old, part), _dig(self.new, part)
        if old == new:
            return
        where = Element(
            f"{self.element.where}[{part[-1]}]",
            self.element.part(*part),
            self.element.table,
            self.element.column,
        )
        if not old or not new:
            text = f"{part[-1]} is {'described' if new else 'no longer described'}"
            effect = Effect.TIGHTENS if new else Effect.LOOSENS
            path = where.path if new else self.element.path
            self.changes.add("column.type", where, text, effect, path=path, old=_text(old), new=_text(new))
            return
        old, new = {"name": part[-1], **old}, {"name": part[-1], **new}
        keys: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        _Column(self.changes, where, old, new, (*self.old_path, *part), self.dialect, keys).compare()


def compare_relationships(changes: Changes, element: Element, old: Spec, new: Spec) -> None:
    """Compare foreign keys; they are promises, though not judged here."""
    before, after = _relations(old), _relations(new)
    for key in [*before, *(key for key in after if key not in before)]:
        was, is_now = before.get(key), after.get(key)
        path = element.part("relationships")
        if was is None or is_now is None:
            effect = Effect.LOOSENS if is_now is None else Effect.TIGHTENS
            text = f"the reference to {key[1]} is {'gone' if is_now is None else 'new'}"
            changes.add("relationship", element, text, effect, path=path if is_now else None,
                        old=key[1] if was else None, new=key[1] if is_now else None)  # fmt: skip
        elif _ends(was) != _ends(is_now):
            changes.add(
                "relationship", element, "refers to something else", Effect.REPLACES, path=path,
                old=_ends(was)[1], new=_ends(is_now)[1],
            )  # fmt: skip


def _relations(spec: Spec) -> dict[tuple[str, str], Spec]:
    return {
        ("id", str(item["id"])) if item.get("id") else ("to", "".join(str(item.get("to")))): item
        for item in spec.get("relationships") or ()
        if (item.get("type") or "foreignKey") == "foreignKey"
    }


def _ends(item: Spec) -> tuple[str, str]:
    return str(item.get("from")), str(item.get("to"))


def announce(changes: Changes, element: Element, old: Spec, new: Spec) -> None:
    """Compare whether a table or a column is deprecated."""
    if bool(old.get("deprecated")) == bool(new.get("deprecated")):
        return
    text = "is deprecated" if new.get("deprecated") else "is no longer deprecated"
    path = element.part("deprecated") if "deprecated" in new else element.path
    changes.add("deprecated", element, text, Effect.ANNOUNCES, path=path)  # fmt: skip


def _sets(old: set[Any], new: set[Any]) -> Effect | None:
    """Return what it does to allow ``new`` where ``old`` was allowed."""
    if old == new:
        return None
    if old < new:
        return Effect.LOOSENS
    return Effect.TIGHTENS if new < old else Effect.REPLACES


def _within(value: float, bounds: Mapping[str, float]) -> bool:
    return all(
        {
            "minimum": value >= bound,
            "exclusiveMinimum": value > bound,
            "maximum": value <= bound,
            "exclusiveMaximum": value < bound,
        }[name]
        for name, bound in bounds.items()
    )


def _figure(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return moment(str(value))


def _dig(spec: Spec, part: tuple[str, ...]) -> Any:
    value: Any = spec
    for name in part:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(spec: Any) -> str | None:
    return _type_text(spec) if spec else None
