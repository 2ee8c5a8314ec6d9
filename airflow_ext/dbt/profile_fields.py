"""What is read of a connection for a profile, and how it is said when something is missing or wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from airflow_ext.exceptions import InvalidProjectError

SETTINGS = "dbt"
"""Key of the connection's extra whose content is merged into the profile as it is."""

DATABASE = "Database (schema)"
"""How the forms of databases call a connection's schema."""

_T = TypeVar("_T")

_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})
_SECRET_WORDS = frozenset(
    {"apikey", "credential", "credentials", "jwt", "pass", "passphrase", "passwd", "password", "pwd"}
    | {"secret", "secrets", "token", "tokens"}
)
_SECRET_PARTS = ("access_key", "account_key", "api_key", "private_key", "secret_key", "signing_key")
_POINTERS = frozenset({"arn", "file", "filepath", "id", "name", "path", "uri", "url"})
"""Last words of names that say where a secret is, not what it is."""
_SECRET_TEXT = re.compile(
    r"://[^/@\s]*:[^/@\s]+@|\b\w*(?:password|passwd|passphrase|pwd|secret|token)\w*\s*=", re.IGNORECASE
)


class ConnectionLike(Protocol):
    """What is read of an Airflow connection."""

    conn_id: str
    conn_type: str | None
    host: str | None
    port: int | None
    login: str | None
    password: str | None
    schema: str | None

    @property
    def extra_dejson(self) -> dict[str, Any]:
        """The connection's extra as a dict."""


class Secret(str):
    """A value that travels in a ``DBT_ENV_SECRET_`` variable only."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(***)"


def looks_secret(name: str) -> bool:
    """Return whether a setting of this name holds a secret.

    :param name: Name of a setting; ``token`` and ``aws_secret_access_key`` do, ``private_key_path`` and
        ``aws_access_key_id`` do not.
    """
    words = [
        word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if word
    ]
    if not words or words[-1] in _POINTERS:
        return False
    return not _SECRET_WORDS.isdisjoint(words) or any(part in "_".join(words) for part in _SECRET_PARTS)


def guarded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which each text of a secret-looking name is a :class:`Secret`.

    :param settings: Settings, nested as they like.
    """
    return {name: _guarded(value, name) for name, value in settings.items()}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on it, mapping into mapping; ``None`` takes a setting away.

    :param base: Settings.
    :param over: Settings that win.
    """
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[name] = merged(below, value)
        else:
            result[name] = value
    return {name: value for name, value in result.items() if value is not None}


def _guarded(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return guarded(value)
    if isinstance(value, list):
        return [_guarded(item, name) for item in value]
    return Secret(value) if isinstance(value, str) and value and looks_secret(name) else value


class ConnectionReader:
    """One connection, read for one adapter.

    Values of an extra may be typed or, as in a connection made from a URI, all text. An empty text counts
    as not given.

    :param connection: The connection.
    :param adapter: Name of dbt's adapter, for messages.
    :raises InvalidProjectError: If the extra is not a JSON object.
    """

    def __init__(self, connection: ConnectionLike, *, adapter: str) -> None:
        self.connection = connection
        self.adapter = adapter
        self._missing: list[str] = []
        extra: Any = connection.extra_dejson
        if not isinstance(extra, Mapping):
            raise self.error("its extra is not a JSON object")
        self.extra = {name: value for name, value in extra.items() if value not in (None, "")}

    def error(self, problem: str) -> InvalidProjectError:
        """Return an error about the connection.

        :param problem: What is wrong; no value of a field that could be secret.
        """
        name = self.connection.conn_id
        return InvalidProjectError(
            f"connection {name!r} makes no profile for dbt's {self.adapter} adapter: {problem}", source=name
        )

    def need(self, value: _T | None, label: str) -> _T | None:
        """Return a value, and note its label if there is none; :meth:`finish` then names all of them.

        :param value: What was read.
        :param label: Where it is to be put, as the connection form shows it.
        """
        if value is None or value == "":
            self._missing.append(label)
            return None
        return value

    def finish(self) -> None:
        """End reading.

        :raises InvalidProjectError: If needed values are missing; it names where each is to be put.
        """
        if self._missing:
            raise self.error(f"it lacks {', '.join(self._missing)}")

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Refuse settings that say how to connect and that dbt has nothing for.

        :param reasons: Key of the extra -> why, and what to do instead.
        :raises InvalidProjectError: If one of them is set.
        """
        for key, reason in reasons.items():
            value = self.extra.get(key)
            if value and str(value).lower() not in _FALSE:
                raise self.error(f'extra "{key}" is set: {reason}')

    @property
    def login(self) -> str | None:
        """The login, ``None`` if empty."""
        return self.connection.login or None

    @property
    def password(self) -> Secret | None:
        """The password, ``None`` if empty."""
        return Secret(self.connection.password) if self.connection.password else None

    def port(self, default: int) -> int:
        """Return the port.

        :param default: Port of a connection without one.
        """
        return int(self.connection.port or default)

    def text(self, key: str) -> str | None:
        """Return a text of the extra.

        :param key: Key of the extra.
        :raises InvalidProjectError: If it is neither text nor number.
        """
        value = self.extra.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.error(f'extra "{key}" is to be text, not {type(value).__name__}')
        return str(value)

    def texts(self, *keys: str) -> dict[str, str]:
        """Return those texts of the extra that are there, by key.

        :param keys: Keys of the extra.
        """
        return {key: value for key in keys if (value := self.text(key)) is not None}

    def secret(self, key: str) -> Secret | None:
        """Return a secret text of the extra.

        :param key: Key of the extra.
        """
        value = self.text(key)
        return None if value is None else Secret(value)

    def integer(self, key: str) -> int | None:
        """Return a whole number of the extra.

        :param key: Key of the extra.
        :raises InvalidProjectError: If it is something else.
        """
        value = self.extra.get(key)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
            return int(value)
        raise self.error(f'extra "{key}" is to be a whole number, not {value!r}')

    def integers(self, *keys: str) -> dict[str, int]:
        """Return those whole numbers of the extra that are there, by key.

        :param keys: Keys of the extra.
        """
        return {key: value for key in keys if (value := self.integer(key)) is not None}

    def flag(self, key: str) -> bool | None:
        """Return a yes or no of the extra.

        :param key: Key of the extra.
        :raises InvalidProjectError: If it is neither a bool nor a word such as ``true`` or ``no``.
        """
        value = self.extra.get(key)
        word = str(value).strip().lower()
        if value is None or isinstance(value, bool):
            return value
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise self.error(f'extra "{key}" is to be true or false, not {value!r}')

    def mapping(self, key: str) -> dict[str, Any] | None:
        """Return a mapping of the extra, also one that is written as JSON text.

        :param key: Key of the extra.
        :raises InvalidProjectError: If it is something else; its content is not quoted.
        """
        value = self.extra.get(key)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                # Its error holds the text, which may be a key.
                raise self.error(f'extra "{key}" is to be a JSON object') from None
        if value is not None and not isinstance(value, dict):
            raise self.error(f'extra "{key}" is to be a JSON object, not {type(value).__name__}')
        return value

    def listing(self, key: str) -> list[str] | None:
        """Return a list of texts of the extra, also one that is written as JSON or with commas.

        :param key: Key of the extra.
        :raises InvalidProjectError: If it is something else.
        """
        value = self.extra.get(key)
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
            except ValueError:
                raise self.error(f'extra "{key}" is to be a list') from None
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f'extra "{key}" is to be a list of texts')
        return [item.strip() for item in value if item.strip()]

    def settings(self) -> dict[str, Any]:
        """Return the settings that the connection gives in dbt's own words, in the extra ``dbt``.

        :raises InvalidProjectError: If they are no mapping, hold a secret or would change the adapter.
        """
        settings = self.mapping(SETTINGS) or {}
        if "type" in settings:
            raise self.error(f'extra "{SETTINGS}" has "type", which the type of the connection decides')
        for path in _secret_paths(settings, (SETTINGS,)):
            raise self.error(
                f'extra "{SETTINGS}" has "{path}", which looks like a secret: these settings are not kept secret, '
                "use the connection's own field for it, or a profiles.yml of yours with env_var() (profiles_dir=)"
            )
        return settings


def _secret_paths(value: Any, path: tuple[str, ...]) -> list[str]:
    if isinstance(value, Mapping):
        return [found for name, item in value.items() for found in _secret_paths(item, (*path, str(name)))]
    if isinstance(value, list):
        return [found for item in value for found in _secret_paths(item, path)]
    if value is None or isinstance(value, bool):
        return []
    secret = looks_secret(path[-1]) or (isinstance(value, str) and _SECRET_TEXT.search(value) is not None)
    return [".".join(path)] if secret else []
