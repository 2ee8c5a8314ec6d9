"""What a check of ``doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    :param status: ``ok``; ``warn``: works, but you should know; ``fail``: does not work.
    :param what: What was found, one line.
    :param remedy: What to do about it; empty when nothing.
    """

    status: Status
    what: str
    remedy: str = ""


def ok(what: str) -> Finding:
    """Return a finding with nothing to do."""
    return Finding("ok", what)


def warn(what: str, remedy: str) -> Finding:
    """Return a finding that works, with what to know or do."""
    return Finding("warn", what, remedy)


def fail(what: str, remedy: str) -> Finding:
    """Return a finding that does not work, with what to do."""
    return Finding("fail", what, remedy)
