"""Compare the service levels of two versions of a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ext.contracts.diff_base import Changes, Element, ordered
from airflow_ext.contracts.grades import Effect
from airflow_ext.contracts.levels import BETTER, DATES, ENDS, figure
from airflow_ext.contracts.rules import duration

Level = Mapping[str, Any]
_BASE = "slaProperties"
_FIGURES = ("value", "valueExt", "unit")


def compare_levels(changes: Changes, old: Sequence[Level], new: Sequence[Level]) -> None:
    """Add what differs between two lists of ``slaProperties``."""
    left = {_key(item, old): (index, item) for index, item in enumerate(old)}
    right = {_key(item, new): (index, item) for index, item in enumerate(new)}
    for key in [*left, *(key for key in right if key not in left)]:
        before, after = left.get(key), right.get(key)
        index, item = after or before or (0, {})
        name = str(item["property"])
        element = Element(f"{_BASE}.{name}", (_BASE, index), *_column(item))
        if before is None:
            _added(changes, element, item, name)
        elif after is None:
            _removed(changes, element, item, name)
        elif before[1] != after[1]:
            _changed(changes, element, before[1], after[1], name)


def _key(item: Level, items: Sequence[Level]) -> tuple[str, str]:
    name = str(item["property"])
    alone = sum(other["property"] == name for other in items) == 1
    return name, "" if alone else str(item.get("element") or item.get("driver") or item.get("id") or "")


def _column(item: Level) -> tuple[str, str]:
    table, dot, column = str(item.get("element") or "").partition(".")
    return (table, column) if dot else ("", "")


def _said(item: Level) -> str:
    return " ".join(str(part) for part in (item.get("value"), item.get("unit")) if part is not None)


def _added(changes: Changes, element: Element, item: Level, name: str) -> None:
    if name in ENDS:
        changes.add("sla.end", element, "is announced", Effect.ANNOUNCES, new=_said(item))
    elif name in BETTER and name not in DATES:
        changes.add("sla.added", element, "is promised", Effect.TIGHTENS, new=_said(item))
    else:
        changes.add("words", element, "is new", Effect.WORDS, new=_said(item))


def _removed(changes: Changes, element: Element, item: Level, name: str) -> None:
    if name in ENDS:
        changes.add("sla.end", element, "is taken back", Effect.TIGHTENS, old=_said(item))
    elif name in BETTER and name not in DATES:
        changes.add("sla.removed", element, "is no longer promised", Effect.LOOSENS, old=_said(item))
    else:
        changes.add("words", element, "is gone", Effect.WORDS, old=_said(item))


def _changed(changes: Changes, element: Element, old: Level, new: Level, name: str) -> None:
    before = len(changes.found)
    if old.get("element") != new.get("element"):
        changes.add(
            "sla.element",
            element,
            "is about something else",
            Effect.REPLACES if name in BETTER else Effect.WORDS,
            path=element.part("element") if "element" in new else None,
            old=old.get("element"),
            new=new.get("element"),
        )
    if any(old.get(field) != new.get(field) for field in _FIGURES):
        _moved(changes, element, old, new, name)
    if len(changes.found) == before:
        changes.words(element, old, new, besides=("element", *_FIGURES))


def _moved(changes: Changes, element: Element, old: Level, new: Level, name: str) -> None:
    was, is_now = figure(old), figure(new)
    path, said = element.part("value"), {"old": _said(old), "new": _said(new)}
    if name not in BETTER:
        text = "changed; what that means is not known here"
        changes.add("sla.changed", element, text, Effect.ANNOUNCES, path=path, **said)
    elif was is None or is_now is None or _other_zone(old, new, name):
        changes.add("sla.changed", element, "changed", Effect.UNCLEAR, path=path, **said)
    elif effect := ordered(was, is_now, upper=BETTER[name] == "lower"):
        text = _way(was, is_now, name)
        changes.add(
            "sla.loosened" if effect is Effect.LOOSENS else "sla.tightened",
            element,
            text,
            effect,
            path=path,
            **said,
        )


def _other_zone(old: Level, new: Level, name: str) -> bool:
    if name != "timeOfAvailability":
        return False
    return _zone(str(old.get("value"))) != _zone(str(new.get("value")))


def _zone(text: str) -> str:
    return "".join(char for char in text.partition(":")[2][2:] if not char.isspace())


def _way(old: float, new: float, name: str) -> str:
    if name in DATES or name == "timeOfAvailability":
        by = duration(abs(new - old))
        return f"is {by} {'later' if new > old else 'earlier'}"
    return (
        "is longer"
        if name in ("retention",) and new > old
        else ("is shorter" if name == "retention" else f"{'grows' if new > old else 'shrinks'}")
    )
    longer, shorter = ("is longer", "is shorter") if name == "retention" else ("grows", "shrinks")
    return longer if new > old else shorter
