"""Looking at the answers of an API before dlt does: it takes what is not there for nothing, or quotes whole pages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from airflow_ext.exceptions import InvalidError
from airflow_ext.sync.api import SyncApi
from airflow_ext.sync.dlt_job import DltPair
from airflow_ext.sync.tables import SyncTable

MOST_KEYS = 20
LONGEST_KEY = 40
"""How many keys of an answer a message names, and how much of each: a key may be data, too."""

REFUSALS = {
    400: "Bad Request: look at params= and cursor_param=",
    401: "Unauthorized: look at login, password, token or api_key of the connection",
    404: "Not Found",
    405: "Method Not Allowed",
    410: "Gone",
    422: "Unprocessable Content: look at params= and cursor_param=",
}
"""Statuses that a retry does not change; others, such as 403 where an API limits what is asked of it, may pass."""


def origin(pair: DltPair) -> str:
    """Return who answers, for messages."""
    host = urlsplit(str(pair.api["base_url"])).netloc.rpartition("@")[2]
    return f"{host} (connection {pair.source_id!r})" if pair.source_id else host


def answer_check(table: SyncApi, origin: str) -> Callable[..., Any]:
    """Return a hook for each response of a table, which raises :class:`InvalidError` for an answer that does not fit.

    :param origin: Who answers.
    """
    where = f"path={table.path!r} of table {table.name!r}: {origin}"

    def look(response: Any, *_: Any, **__: Any) -> Any:
        if response.status_code in REFUSALS:
            raise InvalidError(f"{where} answers {response.status_code} {REFUSALS[response.status_code]}")
        if response.ok and not response.is_redirect:
            document = _document(response, where)
            response.json = lambda **_: document  # dlt would read it twice more
            if _rows(table, document):
                _check_pages(table, document)
        return response

    return look


def _document(response: Any, where: str) -> Any:
    try:
        return response.json()
    except ValueError:
        kind = str(response.headers.get("Content-Type", "")).partition(";")[0][:LONGEST_KEY]
        what = (
            f"{kind or 'something'}, which is not JSON" if response.content else "nothing, which is not JSON"
        )
        raise InvalidError(f"{where} answers {what}") from None


def refused(chain: Iterable[BaseException], tables: Iterable[SyncTable]) -> InvalidError | None:
    """Return what the author of a table must change, ``None`` if dlt stumbled over something else.

    dlt's own text would quote what the API has answered.

    :param chain: dlt's error and what led to it.
    :param tables: What was read.
    """
    cursors = {table.name: table.cursor for table in tables}
    for error in chain:
        if isinstance(error, InvalidError):
            return error
        if type(error).__name__.startswith("IncrementalCursor"):
            name = str(getattr(error, "pipe_name", ""))
            return InvalidError(f"cursor={cursors.get(name)!r} of table {name!r}: {_no_cursor(error)}")
        if type(error) is ValueError:
            return InvalidError(re.split(r",?\s+got\s+`", str(error), maxsplit=1)[0].strip())
    return None


def _no_cursor(error: Any) -> str:
    """Return what is wrong with the cursor of a row; the row itself stays untold."""
    match type(error).__name__:
        case "IncrementalCursorPathMissing":
            has = f"; it has {keys(error.item)}" if isinstance(error.item, dict) else ""
            return f"an object in the answer does not have it{has}"
        case "IncrementalCursorPathHasValueNone":
            return "it is null in an object of the answer, and a cursor needs a value in each"
        case _:
            return f"it is {_kind(error.item)} in the answer, which cannot be compared with {_kind(error.cursor_value)}"


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
