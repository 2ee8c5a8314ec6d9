"""Looking at the answers of an API before dlt does: it takes what is not there for nothing, or quotes whole pages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
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
            if _rows(table, document):
                _check_pages(table, document)
            response.json = lambda **_: document  # dlt would read it twice more
        return response

    return look


def refused(chain: Iterable[BaseException]) -> InvalidError | None:
    """Return what the author of a table must change, ``None`` if dlt stumbled over something else.

    dlt's own text would quote what the API has answered.

    :param chain: dlt's error and what led to it.
    """
    for error in chain:
        if isinstance(error, InvalidError):
            return error
        if type(error) is ValueError:
            return InvalidError(re.split(r",?\s+got\s+`", str(error), maxsplit=1)[0].strip())
    return None


def _rows(table: SyncApi, document: Any) -> Any:
    """Return what is at ``rows``, which may be empty; ``None`` also if dlt shall find them."""
    if not table.rows:
        return None
    where = f"rows={table.rows!r} of table {table.name!r}"
    found = find(document, table.rows, where)
    if isinstance(found, str | int | float):
        raise InvalidError(f"{where}: there is no list of objects there, but a {type(found).__name__}")
    return found


def _check_pages(table: SyncApi, document: Any) -> None:
    """See to it that a page with rows tells what its paginator goes by; the last one may be empty and tell nothing."""
    told = json.loads(table.paginator) if table.paginator.startswith("{") else {"type": table.paginator}
    counted = {"total_path": "total"} if told["type"] in ("offset", "page_number") else {}
    for setting in ("total_path", "has_more_path"):
        if not (path := {**counted, **told}.get(setting)):
            continue
        where = f"{setting}={path!r} in paginator= of table {table.name!r}"
        found = find(document, path, where)
        wanted = "a number" if setting == "total_path" else "true or false"
        if found is None or isinstance(found, dict | list):
            raise InvalidError(f"{where}: there is {_kind(found)} in the answer, not {wanted}")


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
    kinds = {list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")
