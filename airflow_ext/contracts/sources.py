"""Where the text of a contract comes from: a file, a folder or a URL, each within limits."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urljoin, urlsplit, urlunsplit

from airflow_ext.contracts.loading import MAX_BYTES
from airflow_ext.exceptions import DeniedError, InvalidContractError, InvalidError, UnavailableError

SUFFIXES = (".odcs.yaml", ".odcs.yml", ".odcs.json")
URL_SECONDS = 10.0
MAX_REDIRECTS = 3


def file_text(path: Path) -> str:
    """Return the text of a file.

    :raises InvalidContractError: If it cannot be read, is too large or is no text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as exc:
        hint = "" if path.is_absolute() else f" (looked in {Path.cwd()})"
        raise _refused(str(path), f"{exc.strerror}{hint}") from None
    return _decoded(data, str(path))


def contract_files(folder: Path) -> list[Path]:
    """Return the contract files below a folder, sorted; links to folders and hidden folders are not followed.

    :raises InvalidContractError: If there is no such folder, or no contract in it.
    """
    if not folder.is_dir():
        raise _refused(str(folder), "no such folder")
    found = sorted(_walk(folder))
    if not found:
        raise _refused(str(folder), f"holds no contract: no file ends in {', '.join(SUFFIXES)}")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(where, name) for name in names if name.lower().endswith(SUFFIXES))


def url_text(url: str, *, headers: Mapping[str, str], timeout: float) -> tuple[str, str]:
    """Return the text behind a URL, and the URL without its secrets.

    :param timeout: Seconds for all of it.
    :raises InvalidError: If the URL cannot be used.
    :raises DeniedError: If the server refuses.
    :raises UnavailableError: If it does not answer in time.
    """
    import httpx

    source = shown(url)
    deadline = time.monotonic() + timeout
    origin = _origin(url)
    try:
        with httpx.Client(follow_redirects=False) as client:
            for _ in range(MAX_REDIRECTS + 1):
                sent = dict(headers) if _origin(url) == origin else {}
                left = max(deadline - time.monotonic(), 0.001)
                with client.stream("GET", url, headers=sent, timeout=left) as response:
                    if response.is_redirect:
                        url = _next(url, response.headers["location"], source)
                        continue
                    _check_status(response.status_code, source)
                    data = bytearray()
                    for piece in response.iter_bytes(65_536):
                        data += piece
                        if len(data) > MAX_BYTES:
                            break
                        if time.monotonic() > deadline:
                            raise _late(source, timeout)
                    return _decoded(bytes(data), source), source
    except httpx.TimeoutException:
        raise _late(source, timeout) from None
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        # the text of the library's error may hold the URL
        raise UnavailableError(f"{source}: cannot be fetched: {type(exc).__name__}", service=source) from None
    raise InvalidError(f"{source}: more than {MAX_REDIRECTS} redirects")


def shown(url: str) -> str:
    """Return a URL as it may be shown: without user, password, query and fragment.

    :raises InvalidError: If it is no ``http`` or ``https`` URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, parts, port = None, urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidError("url: expected an http or https URL of a contract")
    place = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{place}:{port}" if port else place, parts.path, "", ""))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _next(url: str, location: str, source: str) -> str:
    target = urljoin(url, location)
    if urlsplit(target).scheme != "https" and urlsplit(url).scheme == "https":
        raise InvalidError(f"{source}: redirects from https to something else")
    shown(target)
    return target


def _check_status(status: int, source: str) -> None:
    if status in (401, 403):
        raise DeniedError(
            f"{source}: the server refuses (HTTP {status}); check the headers sent", status=status
        )
    if status in (404, 410):
        raise InvalidError(f"{source}: there is no contract (HTTP {status})")
    if status != 200:
        raise UnavailableError(f"{source}: HTTP {status}", service=source)


def _late(source: str, timeout: float) -> UnavailableError:
    return UnavailableError(f"{source}: no answer within {timeout:g} s", service=source)


def _decoded(data: bytes, source: str) -> str:
    if len(data) > MAX_BYTES:
        raise _refused(source, f"larger than {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _refused(source, "not UTF-8 text") from None


def _refused(source: str, what: str) -> InvalidContractError:
    return InvalidContractError(f"{source}: {what}", source=source, problems=(f"file: {what}",))
