"""What a channel's error says: text without secrets, and when to come again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_LONGEST = 400
_SHORTEST_SECRET = 4
_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://(?:[^\s/@]*@)?([^\s/?#'\"<>)\]]*)[^\s'\"<>)\]]*", re.IGNORECASE)
_DEPTH = 10


def describe(error: BaseException, notifier: Any = None) -> str:
    """Return class and text of an error in one line, without any secret.

    What the notifier's connections hold is taken out, and of addresses all but the host: chat and incident tools put
    their secrets into paths.

    :param notifier: Its arguments that end in ``_conn_id`` name the connections.
    """
    text = " ".join(str(error).split())
    for secret in sorted(_secrets(notifier), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _URL.sub(r"\1://\2/***", text)
    name = type(error).__name__
    return f"{name}: {text[:_LONGEST]}" if text else name


def retry_after(error: BaseException, *, now: datetime) -> float | None:
    """Return the seconds that an HTTP answer behind an error asked to wait (RFC 9110, 10.2.3); ``None`` if it did not."""
    for link in _chain(error):
        answer = getattr(link, "response", None)
        headers = getattr(link, "headers", None) or getattr(answer, "headers", None)
        if not isinstance(headers, Mapping):
            continue
        value = next(
            (str(headers[name]) for name in headers if str(name).lower() == "retry-after"), ""
        ).strip()
        if value.isascii() and value.isdigit() and len(value) < _DEPTH:
            return float(value)
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            continue
        return max(0.0, ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds())
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(_DEPTH):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _secrets(notifier: Any) -> set[str]:
    from airflow.sdk import BaseHook

    found: set[str] = set()
    for name, value in vars(notifier).items() if notifier is not None else ():
        if not name.endswith("_conn_id") or not isinstance(value, str) or not value:
            continue
        try:
            connection = BaseHook.get_connection(value)
            found |= {str(connection.password or ""), *_leaves(connection.extra_dejson)}
            if "/" in (host := str(connection.host or "")):
                found.add(host.split("://")[-1].partition("/")[2])
        except Exception:  # noqa: BLE001, S112  - a backend raises anything, and the text must be told anyway
            continue
    return {secret for secret in found if len(secret) >= _SHORTEST_SECRET}


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value
