"""Where a missed SLA is told: any Airflow notifier, named by its path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from airflow_ext.exceptions import InvalidError

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_SECRET_WORDS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "authorization",
    "private_key",
    "integration_key",
    "routing_key",
)


class Channel:
    """One notifier and the arguments it is called with, except the message.

    Write it as you would call the notifier, with the class as a string::

        Channel("airflow.providers.smtp.notifications.smtp.SmtpNotifier", smtp_conn_id="mail", to="ops@example.com")

    The class is imported where the notice is sent, in the triggerer, never while DAGs are parsed. Arguments
    that hold the message (``subject``, ``text``, ``body``, ``html_content`` and the like) are filled in when
    you leave them out; your own may be templates with ``{{ sla.subject }}``, ``{{ sla.text }}`` and any
    other field of :class:`~airflow_ext.sla.event.SlaEvent`.

    Arguments are stored in the metadata database and shown in metrics, so secrets belong into the
    connection the notifier names.

    :param notifier: Full path of a subclass of Airflow's ``BaseNotifier``.
    :param arguments: JSON values.
    :raises TypeError: If the path is no string, or an argument is no JSON value.
    :raises InvalidError: If the path is not a full one or an argument looks like a secret.
    """

    __slots__ = ("arguments", "notifier")

    def __init__(self, notifier: str, /, **arguments: Any) -> None:
        self.notifier = check_path("notifier", notifier)
        self.arguments = arguments
        for name, value in arguments.items():
            if any(word in name.lower() for word in _SECRET_WORDS):
                raise InvalidError(
                    f"Channel({notifier!r}, {name}=...): this looks like a secret, and arguments are stored in clear; "
                    "put it into an Airflow connection and pass the connection's id"
                )
            if name == "context":
                raise InvalidError("Channel(..., context=...): the context is given when the notice is sent")
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"Channel({notifier!r}, {name}=...) is a {type(value).__name__}: use strings, numbers, "
                    "booleans, lists and dicts, they must survive JSON"
                ) from error

    def __repr__(self) -> str:
        names = "".join(f", {name}=..." for name in self.arguments)
        return f"Channel({self.notifier!r}{names})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Channel):
            return NotImplemented
        return (self.notifier, self.arguments) == (other.notifier, other.arguments)

    def __hash__(self) -> int:
        return hash((self.notifier, json.dumps(self.arguments, sort_keys=True)))

    @property
    def label(self) -> str:
        """Name for logs and metrics: the class without its module."""
        return self.notifier.rpartition(".")[2]


def channels_to_json(channels: Iterable[Channel]) -> str:
    """Return channels as one string, because callback arguments must be flat."""
    return json.dumps(
        [{"notifier": channel.notifier, "arguments": channel.arguments} for channel in channels]
    )


def channels_from_json(text: str) -> list[Channel]:
    """Read what :func:`channels_to_json` wrote."""
    return [Channel(item["notifier"], **item["arguments"]) for item in json.loads(text)]


def load(path: str) -> Any:
    """Import the object at a dotted path.

    :raises ImportError: If its module, or one that module needs, is not there.
    :raises AttributeError: If the module has no such name.
    """
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def check_path(argument: str, path: str) -> str:
    """Check that ``path`` looks like ``package.module.name``; nothing is imported.

    :raises TypeError: If it is no string; a class or function is answered with its path.
    :raises InvalidError: If it is no full dotted path.
    """
    if not isinstance(path, str):
        name = f"{getattr(path, '__module__', '')}.{getattr(path, '__qualname__', '')}"
        way_out = f"write it as the string {name!r}" if _PATH.fullmatch(name) else "write its full path"
        raise TypeError(
            f"{argument}={path!r} must be a string, because it is imported in the triggerer: {way_out}"
        )
    if not _PATH.fullmatch(path):
        raise InvalidError(
            f'{argument}={path!r} is not a full path: write "package.module.Name" '
            "of something installed where the triggerer runs"
        )
    return path
