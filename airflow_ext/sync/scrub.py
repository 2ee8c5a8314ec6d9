"""Taking credentials out of texts that others write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

_URL_CREDENTIALS = re.compile(r"(\b[\w+.-]+://[^\s:/@]*):[^\s@]+@")
_KEY_VALUE = re.compile(
    r"(?i)\b(password|passwd|pwd|token|secret)(\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,;&)]+)"
)

SHORTEST = 4
"""Secrets below this length are not searched for: replacing every "a" hides the message, not the secret."""


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with ``***`` in place of credentials.

    :param text: An error message, a log line.
    :param secrets: Values known to be secret; found plain, URL-encoded (also as SQLAlchemy does), and as text in JSON
        and Python.
    """
    for secret in sorted({form for value in secrets for form in _forms(value)}, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _URL_CREDENTIALS.sub(r"\1:***@", text)
    return _KEY_VALUE.sub(r"\1\2***", text)


def _forms(secret: str) -> tuple[str, ...]:
    if len(secret) < SHORTEST:
        return ()
    encoded = (quote(secret, safe=""), quote(secret), quote_plus(secret), quote(secret, safe=" +"))
    return secret, *encoded, json.dumps(secret)[1:-1], repr(secret)[1:-1]
