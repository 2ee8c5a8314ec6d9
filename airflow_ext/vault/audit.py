"""One line per access to Vault: who, what, from where, how long; never a value."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airflow_ext.exceptions import InvalidError

log = logging.getLogger("airflow_ext.vault.audit")


@dataclass(frozen=True, kw_only=True)
class Access:
    """One lookup.

    :param kind: ``connection``, ``variable``, ``config`` or ``lease``.
    :param id: What was asked for.
    :param path: Mount and path, or the path of the credentials.
    :param source: ``vault``, ``cache``, ``stale``, ``lease`` or ``error``; ``cache`` with a lease id for a lease of before.
    :param found: Whether there was something.
    :param version: Of a KV version 2 secret.
    :param lease_id: Of leased credentials.
    :param ms: Milliseconds it took.
    :param process: ``task``, ``trigger``, ``server`` or ``other``.
    :param owner: DAG, run, task, map index and try, where a task asked.
    """

    kind: str
    id: str
    path: str = ""
    source: str = ""
    found: bool = True
    version: int | None = None
    lease_id: str = ""
    ms: float = 0.0
    process: str = "other"
    owner: Mapping[str, str] | None = None

    def line(self) -> str:
        """Return it as JSON, with the time."""
        told = {key: value for key, value in asdict(self).items() if value not in (None, "")}
        return json.dumps({"at": round(time.time(), 3), **told})


class AuditLog:
    """Where accesses are told: the log, and a file if wanted.

    :param file: Appended to by many processes, one line at a time; made with mode 0600.
    """

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        self._descriptor: tuple[int, int] | None = None

    def tell(self, access: Access, *, from_memory: bool = False) -> None:
        """Write an access down; in the log only what was not served from memory."""
        if self.file is None and from_memory:
            return
        line = access.line()
        if not from_memory:
            log.info("Vault access: %s", line)
        if self.file is not None:
            try:
                os.write(self._open(), line.encode() + b"\n")  # one write, so lines of processes do not mix
            except OSError as error:
                log.warning("audit_file=%r cannot be written (%s)", self.file, error.strerror)

    def _open(self) -> int:
        known = self._descriptor
        if known is None or known[0] != os.getpid():
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            known = self._descriptor = (os.getpid(), os.open(str(self.file), flags, 0o600))
        return known[1]


def read_audit(file: Path, *, last: int = 0, **wanted: str) -> Iterator[dict[str, Any]]:
    """Yield the accesses of a file, oldest first.

    :param last: Only so many, the newest; 0 means all.
    :param wanted: Only those with these values, such as ``id`` or ``dag_id``.
    :raises InvalidError: If the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidError(
            f"{str(file)!r} cannot be read ({error.strerror}): is it the audit_file?"
        ) from None
    found = []
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue  # cut off by a full disk
        flat = {**told, **(told.get("owner") or {})}
        if all(str(flat.get(key)) == value for key, value in wanted.items()):
            found.append(told)
    yield from found[-last:] if last else found
