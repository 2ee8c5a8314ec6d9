"""Files of a dbt project that are local or in an object store.

A place is a ``Path``, or the text of a URL such as ``s3://bucket/manifest.json`` (with an Airflow connection:
``s3://conn_id@bucket/manifest.json``). URLs are read through Airflow's ``ObjectStoragePath``.

A DAG file reads its manifest with every parse and every task start, so a remote one is read from a local copy
that many processes share. The store is asked at most once in a while whether the file has changed, and while it
does not answer the copy serves.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec

from airflow_ext.exceptions import InvalidProjectError

log = logging.getLogger(__name__)

_ONE_SLASH = re.compile(r"[a-z][a-z0-9+.-]+:/(?!/)")

LOOK_INTERVAL = 60.0
"""Seconds between two looks of one machine at a remote file."""


class _Seen(msgspec.Struct, frozen=True, array_like=True):
    """What was last known of a remote file.

    :param identity: Hash of what the store tells of it (size, time, ETag); empty if it was not there.
    :param looked: When the store was asked, in seconds since the epoch.
    """

    identity: str
    looked: float


def place_of(value: str | Path, *, argument: str) -> Path | str:
    """Return a path as an absolute one and a URL as it is.

    :param value: A path or URL; ``file://`` is a path.
    :param argument: Name of the argument, for messages.
    :raises InvalidProjectError: If a URL carries a password, or begins with one slash only.
    """
    text = str(value)
    if _ONE_SLASH.match(text):
        raise InvalidProjectError(f"{argument}={text!r}: a URL has two slashes, as in s3://bucket/folder")
    if "://" not in text or isinstance(value, Path):
        return Path(value).absolute()
    parts = urlsplit(text)
    if parts.password is not None:
        raise InvalidProjectError(
            f"{argument}: a URL must not hold a password; name a connection instead: SCHEME://CONN_ID@..."
        )
    return Path(url2pathname(parts.path)).absolute() if parts.scheme == "file" else text


def beside(place: Path | str, suffix: str) -> Path | str:
    """Return the place of a file next to another: ``manifest.json`` and ``.x.json`` give ``manifest.x.json``.

    :param place: The other file.
    :param suffix: What replaces its last suffix.
    """
    if isinstance(place, Path):
        return place.with_suffix(suffix)
    head, slash, name = place.rpartition("/")
    return f"{head}{slash}{name.rpartition('.')[0] or name}{suffix}"


def read(place: Path | str) -> bytes:
    """Return the content of a file.

    :param place: Path or URL.
    :raises FileNotFoundError: If there is none.
    """
    if isinstance(place, Path):
        return place.read_bytes()
    with _remote(place).open("rb") as file:
        content: bytes = file.read()
    return content


def write(place: Path | str, content: bytes) -> None:
    """Replace a file as a whole: readers see the old or the new content, never a part.

    Object stores do that by themselves.

    :param place: Path or URL; missing folders are made.
    :param content: What to write.
    """
    if isinstance(place, Path):
        write_atomically(place, content)
        return
    path = _remote(place)
    try:
        _put(path, content)
    except FileNotFoundError:
        # Only stores that know folders. Asking others first would ask for the right to make buckets.
        path.parent.mkdir(parents=True, exist_ok=True)
        _put(path, content)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a local file as a whole: readers see the old or the new content, never a part.

    Who may read it is what the process' umask says, as of any file.

    :param path: File to write; missing folders are made.
    :param content: What to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    try:
        with new.open("xb") as file:
            file.write(content)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def local_copy(url: str, *, cache: Path, fresh: bool = False, now: float | None = None) -> Path | None:
    """Return a local copy of a remote file, fetched anew if the store's has changed.

    :param url: The remote file.
    :param cache: Folder of copies.
    :param fresh: Ask the store now, however short ago it was asked.
    :param now: Seconds since the epoch; ``None`` asks the clock.
    :return: The copy; ``None`` if the store says that there is no such file.
    :raises InvalidProjectError: If the store does not answer and there is no copy, or it cannot be kept.
    """
    now = time.time() if now is None else now
    name = hashlib.blake2b(url.encode(), digest_size=16).hexdigest()
    copy, note = cache / f"{name}.copy", cache / f"{name}.seen"
    seen = _seen(note)
    if not fresh and seen is not None and now - LOOK_INTERVAL < seen.looked <= now:
        if copy.is_file():
            return copy
        if not seen.identity:
            return None
    known = seen.identity if seen is not None and copy.is_file() else ""
    # Noted before looking: of many processes one goes, and a store in trouble costs one attempt a minute.
    if known:
        _keep(note, _Seen(known, now))
    try:
        identity = _identity(url)
        content = read(url) if identity != known else None
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            copy.unlink(missing_ok=True)
        _keep(note, _Seen("", now))
        return None
    except Exception as exc:
        if not known:
            raise InvalidProjectError(f"{url} cannot be read: {_told(exc)}", source=url) from exc
        log.warning("%s cannot be read (%s); going on with the last copy of it", url, _told(exc))
        return copy
    if content is not None:
        try:
            write_atomically(copy, content)
        except OSError as exc:
            raise InvalidProjectError(
                f"no copy of {url} can be kept in {cache}: {exc}; AIRFLOW_HOME must be writable", source=url
            ) from exc
        _keep(note, _Seen(identity, now))
    return copy


def _remote(url: str) -> Any:
    from airflow.sdk import ObjectStoragePath

    return ObjectStoragePath(url)


def _put(path: Any, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)


def _identity(url: str) -> str:
    path = _remote(url)
    # A process that lives long would otherwise be told what its first listing of the folder had.
    path.fs.invalidate_cache()
    return f"{path.checksum()}"


def _seen(note: Path) -> _Seen | None:
    try:
        return msgspec.msgpack.decode(note.read_bytes(), type=_Seen)
    except (OSError, msgspec.DecodeError):
        return None


def _keep(note: Path, seen: _Seen) -> None:
    # Without the note everything works, the store is only asked more often.
    with contextlib.suppress(OSError):
        write_atomically(note, msgspec.msgpack.encode(seen))


def _told(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"
