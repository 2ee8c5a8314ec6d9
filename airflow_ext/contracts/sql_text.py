"""Pieces of SQL whose values travel beside the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bound:
    """A value that travels beside the query, never inside it."""

    value: Any


class Sql:
    """A piece of SQL: text, values and other pieces in a row."""

    def __init__(self, *parts: str | Bound | Sql) -> None:
        self.parts: tuple[str | Bound, ...] = tuple(
            piece for part in parts for piece in (part.parts if isinstance(part, Sql) else (part,))
        )

    @classmethod
    def join(cls, separator: str, pieces: Sequence[Sql]) -> Sql:
        """Return the pieces with ``separator`` between them."""
        parts: list[str | Sql] = []
        for index, piece in enumerate(pieces):
            parts += [separator, piece] if index else [piece]
        return cls(*parts)

    def render(self, placeholder: str) -> tuple[str, tuple[Any, ...]]:
        """Return text and values for a driver.

        :param placeholder: ``?`` or ``%s``.
        """
        values = tuple(part.value for part in self.parts if isinstance(part, Bound))
        escape = placeholder == "%s" and bool(values)
        text = "".join(
            placeholder if isinstance(part, Bound) else part.replace("%", "%%") if escape else part
            for part in self.parts
        )
        return text, values
