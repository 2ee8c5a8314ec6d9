"""What every part of a comparison needs: where things are, and a place to put what was found."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ext.contracts.grades import Change, Effect
from airflow_ext.contracts.loading import Places

Path = tuple[str | int, ...]
MAX_SHOWN = 80
"""Characters of a value in a change."""
_LINE = re.compile(r"line (\d+),")


def line_of(places: Places | None, path: Path) -> int:
    """Return the line of an element in its file, 0 if it has none."""
    match = _LINE.match(places.problem(path, "")) if places is not None else None
    return int(match[1]) if match else 0


def shown(value: Any) -> str:
    """Return a value of a contract as one short line; empty for what is not there."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


@dataclass(frozen=True)
class Element:
    """An element of a contract that is in both versions, or in one of them.

    :param where: As readers name it.
    :param path: Its path in the file it is in, the new one if in both.
    :param table: Table it belongs to.
    :param column: Column it belongs to.
    """

    where: str
    path: Path
    table: str = ""
    column: str = ""

    def part(self, *parts: str | int) -> Path:
        """Return the path of something in it."""
        return (*self.path, *parts)


class Changes:
    """Collect what differs.

    :param places: Lines of the new file.
    """

    def __init__(self, places: Places | None) -> None:
        self.found: list[Change] = []
        self._places = places

    def add(
        self,
        kind: str,
        element: Element,
        text: str,
        effect: Effect,
        *,
        path: Path | None = None,
        old: Any = None,
        new: Any = None,
    ) -> None:
        """Add one change.

        :param path: Where it is, if not at the element itself.
        """
        path = element.path if path is None else path
        gone = new is None and old is not None
        self.found.append(
            Change(
                kind=kind,
                where=element.where,
                text=text,
                effect=effect,
                path=path,
                old=shown(old),
                new=shown(new),
                table=element.table,
                column=element.column,
                line=0 if gone else line_of(self._places, path),
            )
        )

    def words(
        self, element: Element, old: Mapping[str, Any], new: Mapping[str, Any], *, besides: Iterable[str]
    ) -> None:
        """Add one change for all fields that say nothing about the data.

        :param besides: Fields that are looked at elsewhere.
        """
        known = set(besides)
        names = [
            name for name in sorted({*old, *new}) if name not in known and old.get(name) != new.get(name)
        ]
        if names:
            first = next((name for name in names if name in new), None)
            self.add(
                "words",
                element,
                f"{', '.join(names)} changed",
                Effect.WORDS,
                path=element.part(first) if first else element.path,
            )


def flag(changes: Changes, kind: str, element: Element, name: str, what: str, old: Any, new: Any) -> None:
    """Compare a constraint that is off when it is absent.

    :param name: The field.
    :param what: What it promises, for the text.
    """
    if bool(old) == bool(new):
        return
    text = f"is no longer promised to be {what}" if old else f"is promised to be {what}"
    changes.add(
        kind,
        element,
        text,
        Effect.LOOSENS if old else Effect.TIGHTENS,
        path=element.part(name) if new is not None else element.path,
    )


def ordered(old: float, new: float, *, upper: bool) -> Effect | None:
    """Return what moving a bound does.

    :param upper: Whether what is above the bound is not allowed.
    """
    if old == new:
        return None
    return Effect.LOOSENS if (new > old) is upper else Effect.TIGHTENS


def accepted(
    old: Callable[[float], bool], new: Callable[[float], bool], points: Iterable[float]
) -> Effect | None:
    """Compare what two conditions allow, at points that tell them apart."""
    more = fewer = False
    for point in points:
        before, after = old(point), new(point)
        more, fewer = more or (after and not before), fewer or (before and not after)
    if more and fewer:
        return Effect.REPLACES
    return Effect.LOOSENS if more else Effect.TIGHTENS if fewer else None


def points_around(bounds: Iterable[float], *, whole: bool) -> list[float]:
    """Return figures at, between and outside of bounds.

    :param whole: Only whole numbers count, so that ``> 0`` and ``>= 1`` are the same.
    """
    sorted_bounds = sorted(set(bounds))
    if whole:
        return sorted({float(int(b) + step) for b in sorted_bounds for step in (-1, 0, 1)})
    between = [(a + b) / 2 for a, b in itertools.pairwise(sorted_bounds)]
    outside = [sorted_bounds[0] - 1, sorted_bounds[-1] + 1] if sorted_bounds else []
    return sorted([*sorted_bounds, *between, *outside])
