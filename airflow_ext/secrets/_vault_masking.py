"""What was registered with Airflow's maskers, so that nothing is registered twice or forgotten after a fork.

Airflow's masker keeps a set ``patterns`` and an expression ``replacer`` of all of them, which it compiles anew for
each text it learns: 1,000 secrets take minutes. So all texts of a document are put into the set together, and
where there are many the expression is replaced by a list of plain texts, which is looked through faster.
"""

from __future__ import annotations

import os
import re
import sys
import weakref
from bisect import insort
from collections.abc import Callable, Iterable
from typing import Any

MANY = 100
"""Texts from which on they are looked for one by one."""

# By object and process: a forked child may have been given a fresh masker.
_masked: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def mask(thing: Any, texts: Callable[[], Iterable[str]]) -> None:
    """Register the texts of a document or of credentials before anybody can print them."""
    if _masked.get(thing) == os.getpid():
        return
    from airflow.sdk.log import mask_secret

    found = list(texts())
    _learn_here(found)
    mask_secret(
        list(found)
    )  # what is known here already is told to the supervisor all the same, in one message
    _masked[thing] = os.getpid()


async def amask(thing: Any, texts: Callable[[], Iterable[str]]) -> None:
    """Do the same where an event loop speaks to the supervisor."""
    if _masked.get(thing) == os.getpid():
        return
    from airflow.sdk.log import amask_secret

    found = list(texts())
    _learn_here(found)
    await amask_secret(list(found))
    _masked[thing] = os.getpid()


def _learn_here(texts: list[str]) -> None:
    # Servers have a second masker beside that of tasks, for their own logs.
    for name in ("airflow.sdk._shared.secrets_masker.secrets_masker", "airflow._shared.secrets_masker"):
        module = sys.modules.get(name)
        if module is not None:
            learn(module._secrets_masker(), texts)  # noqa: SLF001  # there is no other way to it
            if name == "airflow._shared.secrets_masker":
                module.mask_secret(list(texts))


def learn(masker: Any, texts: Iterable[str]) -> None:
    """Teach a masker many texts at once; one of another form than expected is left as it is.

    What the masker would not take (too short, or among the words it skips) is left to itself.
    """
    patterns, shortest = getattr(masker, "patterns", None), getattr(masker, "min_length_to_mask", None)
    if not isinstance(patterns, set) or not isinstance(shortest, int) or not hasattr(masker, "replacer"):
        return
    if getattr(masker, "secret_mask_adapter", None) is not None:
        return  # it derives further texts of its own
    skipped: frozenset[str] = getattr(
        sys.modules.get(type(masker).__module__), "SECRETS_TO_SKIP_MASKING", frozenset()
    )
    new = {each for each in texts if len(each) >= shortest and each.lower() not in skipped}
    escaped = {re.escape(each): each for each in new}
    fresh = [text for pattern, text in escaped.items() if pattern not in patterns]
    if not fresh:
        return
    patterns.update(escaped)
    if len(patterns) < MANY:
        masker.replacer = re.compile("|".join(sorted(patterns, key=len, reverse=True)))
        return
    known = masker.replacer
    if isinstance(known, Literals) and len(known) + len(fresh) == len(patterns):
        for text in fresh:
            known.add(text)
    else:
        masker.replacer = Literals(re.sub(r"\\(.)", r"\1", each, flags=re.DOTALL) for each in patterns)


class Literals:
    """Texts to replace, longest first; does what the masker asks of a regular expression.

    :param texts: What to look for.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted(texts, key=_longest_first)

    def __len__(self) -> int:
        return len(self._texts)

    def __bool__(self) -> bool:
        return True

    def add(self, text: str) -> None:
        """Look for one more."""
        insort(self._texts, text, key=_longest_first)

    def sub(self, replacement: str, text: str) -> str:
        """Return a text with all that is known replaced."""
        for each in self._texts:
            if each in text:
                text = text.replace(each, replacement)
        return text


def _longest_first(text: str) -> int:
    return -len(text)
