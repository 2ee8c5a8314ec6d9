"""How much a change of a contract matters: to its consumers, to its producer, to its version."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.version import Version


class Effect(enum.StrEnum):
    """What a change does to the set of data that a contract allows."""

    LOOSENS = "loosens"
    """Data may come that was not allowed before, or a promise about it is gone."""
    TIGHTENS = "tightens"
    """More is promised: data that was good may now breach."""
    REPLACES = "replaces"
    """Another promise in the place of one."""
    UNCLEAR = "unclear"
    """Cannot be told from the two files."""
    ANNOUNCES = "announces"
    """Whoever read the data can go on reading it, and should know: a wider type, a deprecation."""
    WORDS = "words"
    """Nothing about the data."""


class Grade(enum.StrEnum):
    """What a change means to one side."""

    BREAKING = "breaking"
    NOTICE = "notice"
    SAFE = "safe"


class Bump(enum.IntEnum):
    """Part of a version that grows."""

    NONE = 0
    PATCH = 1
    MINOR = 2
    MAJOR = 3

    def __str__(self) -> str:
        return self.name.lower()


_GRADES = {
    Effect.LOOSENS: (Grade.BREAKING, Grade.SAFE, Bump.MAJOR),
    Effect.TIGHTENS: (Grade.SAFE, Grade.BREAKING, Bump.MINOR),
    Effect.REPLACES: (Grade.BREAKING, Grade.BREAKING, Bump.MAJOR),
    Effect.UNCLEAR: (Grade.NOTICE, Grade.NOTICE, Bump.MINOR),
    Effect.ANNOUNCES: (Grade.NOTICE, Grade.SAFE, Bump.MINOR),
    Effect.WORDS: (Grade.SAFE, Grade.SAFE, Bump.PATCH),
}


@dataclass(frozen=True)
class Change:
    """One difference between two versions of a contract.

    :param kind: What kind of change, such as ``column.removed``; stable, for ``--accept`` and for tools.
    :param where: The element it is about, as readers name it: ``orders.amount``, ``slaProperties.retention``.
    :param text: What happened, one line.
    :param effect: What it does to the data allowed.
    :param path: Path in the new file, or in the old one for what is gone.
    :param old: How it was, empty if it was not there.
    :param new: How it is, empty if it is gone.
    :param table: Name of the table it is about, empty if about the whole contract.
    :param column: The column it is about, as the database names it; empty if about the table.
    :param line: Line in the new file; 0 for what is gone.
    :param hint: What the author may want to do.
    """

    kind: str
    where: str
    text: str
    effect: Effect
    path: tuple[str | int, ...] = ()
    old: str = ""
    new: str = ""
    table: str = ""
    column: str = ""
    line: int = 0
    hint: str = ""

    @property
    def consumer(self) -> Grade:
        """What it means to those who read the data."""
        return _GRADES[self.effect][0]

    @property
    def producer(self) -> Grade:
        """What it means to the data that is there, and to those who make it."""
        return _GRADES[self.effect][1]

    @property
    def bump(self) -> Bump:
        """The part of the version that has to grow for it."""
        return _GRADES[self.effect][2]


def needed_bump(old: str, changes: Iterable[Change]) -> Bump:
    """Return the part of the version that has to grow for all changes together.

    Below 1.0.0 nothing is stable (semver.org, item 4): there a breaking change needs a minor version.

    :param old: The version before.
    """
    bump = max((change.bump for change in changes), default=Bump.NONE)
    return min(bump, Bump.MINOR) if Version(old).major == 0 else bump


def made_bump(old: str, new: str) -> Bump | None:
    """Return the part of the version that did grow; ``None`` if it went backwards."""
    before, after = Version(old), Version(new)
    if after < before:
        return None
    if after.major > before.major:
        return Bump.MAJOR
    if after.minor > before.minor:
        return Bump.MINOR
    return Bump.PATCH if after > before else Bump.NONE


def next_version(old: str, bump: Bump) -> str:
    """Return the lowest version that is ``bump`` above ``old``."""
    version = Version(old)
    match bump:
        case Bump.MAJOR:
            return f"{version.major + 1}.0.0"
        case Bump.MINOR:
            return f"{version.major}.{version.minor + 1}.0"
        case Bump.PATCH:
            return f"{version.major}.{version.minor}.{version.micro + 1}"
        case _:
            return old
