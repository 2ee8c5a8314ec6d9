"""File systems that a provider has made, as text from which the engine's process makes them again."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SECRET_WORDS = ("secret", "passw", "passphrase", "pwd", "token", "key", "authorization", "connection_string")


def dump_filesystem(made: AbstractFileSystem) -> str:
    """Return a file system as JSON that ``AbstractFileSystem.from_json`` reads, credentials included.

    fsspec's own ``to_json`` gives up at every option that is no text or number. Amazon's provider hands over a whole
    session, of which only the credentials and the region are needed.

    :raises InvalidError: If an option is an object that cannot travel.
    """
    from fsspec.json import FilesystemJSONEncoder

    given: dict[str, Any] = dict(made.storage_options)
    sessions = [name for name, value in given.items() if hasattr(value, "get_credentials")]
    options = {name: value for name, value in given.items() if name not in sessions}
    for name in sessions:
        options |= _session_options(given[name], options)
    kind, protocol = type(made), made.protocol
    told = {
        "cls": f"{kind.__module__}:{kind.__name__}",
        "protocol": protocol if isinstance(protocol, str) else protocol[0],
        "args": list(made.storage_args),
    }
    try:
        return json.dumps(told | options, cls=FilesystemJSONEncoder)
    except TypeError:
        wrong = next((name for name, value in options.items() if not _plain(value)), "its arguments")
        raise InvalidError(
            f"the provider gives {wrong} as an object, which another process cannot be given; put it as text into "
            f"storage_options of the connection's extra, such as {{{wrong!r}: '...'}}"
        ) from None


def secrets_of(filesystems: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values in dumped file systems that must never show up in a message."""
    return tuple(value for text in filesystems.values() for value in secrets_within(json.loads(text)))


def secrets_within(value: Any, name: str = "") -> Iterator[str]:
    """Yield the texts in a nested value whose names say that they are secret."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from secrets_within(inner, str(key))
    elif isinstance(value, str) and value and any(word in name.lower() for word in SECRET_WORDS):
        yield value


def _session_options(session: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a session of botocore knows, as s3fs takes it.

    Credentials of a role are those of this moment; the load must end before they do.
    """
    options = asyncio.run(_credentials(session))
    region = session.get_config_variable("region") if hasattr(session, "get_config_variable") else None
    if region:
        options["client_kwargs"] = {"region_name": region, **(given.get("client_kwargs") or {})}
    return options


async def _credentials(session: Any) -> dict[str, Any]:
    found = await _done(session.get_credentials())
    if found is None:
        return {}
    keys = await _done(found.get_frozen_credentials())
    return {"key": keys.access_key, "secret": keys.secret_key, "token": keys.token}


async def _done(value: Any) -> Any:
    """Wait for what aiobotocore promises; botocore answers at once."""
    return await value if inspect.isawaitable(value) else value


def _plain(value: Any) -> bool:
    from fsspec.json import FilesystemJSONEncoder

    try:
        json.dumps(value, cls=FilesystemJSONEncoder)
    except TypeError:
        return False
    return True
