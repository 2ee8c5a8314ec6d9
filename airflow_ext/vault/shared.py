"""What the tasks of one worker tell each other: encrypted files in memory, readable with a key that is never written.

The process that supervises tasks makes a folder on a file system in memory and a random key; the tasks it forks
inherit the key with its memory. Nobody else can read the files, also not after all these processes have ended.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_ext.vault.cache import Document, Entry, Key

log = logging.getLogger(__name__)

MEMORY = Path("/dev/shm")  # noqa: S108  # a folder of our own, mode 0700, is made in it
PREFIX = "airflow-ext-vault"
MOST_FILES = 1_000
LARGEST = 256 * 1024
"""Bytes; larger documents are not shared."""


@dataclass(frozen=True, eq=False)
class SharedCache:
    """Outcomes of reads, for this process and those forked from it.

    :param folder: Where they are kept; of this user alone.
    :param key: 32 random bytes, in memory only.
    :param maker: Id of the process that removes the folder in the end.
    """

    folder: Path
    key: bytes
    maker: int

    def __repr__(self) -> str:
        return f"SharedCache({str(self.folder)!r})"

    @classmethod
    def create(cls, root: Path = MEMORY) -> SharedCache | None:
        """Make a folder and a key; ``None`` where there is no file system in memory.

        :param root: Where such a file system is mounted.
        """
        if not _is_in_memory(root):
            log.warning("shared_cache is off: %s is no file system in memory here", root)
            return None
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: F401  # forked tasks inherit it
        except ImportError:
            log.warning("shared_cache is off: the package cryptography is missing")
            return None
        remove_left_behind(root)
        mine = f"{PREFIX}-{os.getuid()}-{os.getpid()}-{started(os.getpid())}-{secrets.token_hex(4)}"
        folder = root / mine
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            log.warning("shared_cache is off: %s (%s)", folder, error.strerror)
            return None
        made = cls(folder, secrets.token_bytes(32), os.getpid())
        from multiprocessing.util import (
            Finalize,
        )  # unlike atexit, also runs at the end of an executor's workers

        Finalize(None, made.remove, exitpriority=10)
        return made

    def remove(self) -> None:
        """Remove the folder, in the process that made it; in others nothing happens."""
        if os.getpid() == self.maker:
            shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, key: Key) -> Entry | None:
        """Return what another process left, ``None`` if there is nothing that can be used."""
        file = self._file(key)
        try:
            told = json.loads(self._opened(file.name, file.read_bytes()))
            return _entry(told)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  # a torn or foreign file; its text may be of a secret
            log.debug("a shared secret was not readable (%s)", type(error).__name__)
            return None

    def put(self, key: Key, entry: Entry) -> None:
        """Leave an outcome for the others; what cannot be written is not shared."""
        file = self._file(key)
        text = json.dumps(_told(entry)).encode()
        if len(text) > LARGEST:
            return
        draft = file.with_name(f".{secrets.token_hex(8)}")
        try:
            if not file.exists() and len(os.listdir(self.folder)) >= MOST_FILES:  # noqa: PTH208  # names suffice
                return
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(self._sealed(file.name, text))
            draft.replace(file)
        except OSError as error:
            draft.unlink(missing_ok=True)
            log.debug("a secret was not shared (%s)", error.strerror)

    def drop(self, key: Key) -> None:
        """Forget what is there, as it may be seen no more."""
        with suppress(OSError):
            self._file(key).unlink(missing_ok=True)

    def _file(self, key: Key) -> Path:
        # Also the names of secrets are nobody's business.
        return self.folder / hmac.new(self.key, "\0".join(key).encode(), hashlib.sha256).hexdigest()

    def _sealed(self, name: str, text: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(12)
        return nonce + AESGCM(self.key).encrypt(nonce, text, name.encode())

    def _opened(self, name: str, sealed: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self.key).decrypt(sealed[:12], sealed[12:], name.encode())


def _told(entry: Entry) -> dict[str, Any]:
    document = entry.document
    times = [entry.read_at, entry.fresh_until, entry.usable_until]
    told: dict[str, Any] = {"times": times, "stale": entry.stale}
    if document is not None:
        told |= {"path": document.path, "data": dict(document.data), "version": document.version}
    return told


def _entry(told: dict[str, Any]) -> Entry:
    document = Document(told["path"], told["data"], told["version"]) if "data" in told else None
    read_at, fresh_until, usable_until = (float(each) for each in told["times"])
    return Entry(
        document, None, read_at, fresh_until, usable_until, stale=bool(told["stale"]), due_at=math.inf
    )


def _is_in_memory(root: Path) -> bool:
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    kinds = {parts[1]: parts[2] for parts in (line.split() for line in mounts) if len(parts) > 2}
    return kinds.get(str(root)) in ("tmpfs", "ramfs")


def started(process: int) -> str:
    """Return when a process started, in the kernel's ticks; empty when there is none of that id."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def remove_left_behind(root: Path = MEMORY) -> None:
    """Remove folders whose makers were killed; their keys are gone, so nobody can read them."""
    for folder in root.glob(f"{PREFIX}-{os.getuid()}-*"):
        parts = folder.name.removeprefix(f"{PREFIX}-").split("-")
        if len(parts) == 4 and parts[1].isdigit() and started(int(parts[1])) != parts[2]:
            shutil.rmtree(folder, ignore_errors=True)
