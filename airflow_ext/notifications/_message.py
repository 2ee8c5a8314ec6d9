"""Which arguments of a notifier hold the message."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

_FILLED_IN = {
    "subject": "subject",
    "title": "subject",
    "summary": "subject",
    "html_content": "html",
    "text": "text",
    "body": "text",
    "message": "text",
    "dedup_key": "key",
}


def accepted_arguments(notifier_class: Any) -> set[str]:
    """Return the names of the arguments a notifier takes."""
    return set(inspect.signature(notifier_class).parameters)


def message_fields(notifier_class: Any, *, given: Collection[str], name: str, source: Any) -> dict[str, Any]:
    """Return the arguments that hold the message, of those a notifier takes and nobody gives.

    As templates where the notifier renders them, so that a brace in a name is no template.

    :param given: Arguments that are given already.
    :param name: What the message is called in templates.
    :param source: What has its fields ``subject``, ``text``, ``html`` and ``key``.
    """
    templated = set(notifier_class.template_fields)
    return {
        argument: f"{{{{ {name}.{field} }}}}" if argument in templated else getattr(source, field)
        for argument, field in _FILLED_IN.items()
        if argument in accepted_arguments(notifier_class) - set(given)
    }
