"""Looking at the answers of an API before dlt does: it takes what is not there for nothing, or quotes whole pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from airflow_ext.exceptions import InvalidError
from airflow_ext.sync.api import SyncApi

MOST_KEYS = 20
LONGEST_KEY = 40
"""How many keys of an answer a message names, and how much of each: a key may be data, too."""


def answer_check(table: SyncApi) -> Callable[..., Any]:
    """Return a hook for each response of a table, which raises :class:`InvalidError` for an answer that does not fit."""

    def look(response: Any, *_: Any, **__: Any) -> Any:
        if response.ok and not response.is_redirect:
            document = response.json()
            _check_rows(table, document)
            response.json = lambda **_: document  # dlt would read it twice more
        return response

    return look


def _check_rows(table: SyncApi, document: Any) -> None:
    if not table.rows:
        return
    where = f"rows={table.rows!r} of table {table.name!r}"
    found = find(document, table.rows, where)
    if isinstance(found, str | int | float):
        raise InvalidError(f"{where}: there is no list of objects there, but a {type(found).__name__}")


def find(document: Any, path: str, where: str) -> Any:
    """Return what lies at the plain beginning of a JSON path: at ``a.b`` of ``a.b[*].c``.

    :param where: What the path is of, for messages.
    :raises InvalidError: If there is nothing; it names the keys that are there, and no value.
    """
    inside = ""
    for step in _plain_steps(path):
        if document is None:
            return None
        if not isinstance(document, dict):
            raise InvalidError(
                f"{where}: no {step!r} in {inside or 'the answer'}; it is {_kind(document)}, not an object"
            )
        if step not in document:
            raise InvalidError(f"{where}: no {step!r} in {inside or 'the answer'}; it has {keys(document)}")
        document = document[step]
        inside = f"{inside}.{step}" if inside else step
    return document


def keys(document: dict[str, Any]) -> str:
    """Return the keys of an object for a message."""
    names = [str(key)[:LONGEST_KEY] for key in list(document)[:MOST_KEYS]]
    return (", ".join(names) or "no keys") + (", ..." if len(document) > MOST_KEYS else "")


def _plain_steps(path: str) -> Iterator[str]:
    for step in path.removeprefix("$.").split("."):
        name = re.match(r"[\w-]+", step)
        if name:
            yield name[0]
        if not name or name[0] != step:
            return


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"
