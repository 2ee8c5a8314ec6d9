"""The compact index of a dbt project: what a DAG file needs, readable in milliseconds.

Every DAG file parse and every task start reads the graph. It is therefore computed once per content of
the manifest and kept in a cache folder, as two kinds of files that are only ever replaced as a whole:

* ``<hash of the manifest>.idx``: an index,
* ``<hash of the manifest's path>.ref``: size and time of the manifest last seen there, and its index.

A manifest that cannot be read because somebody is just writing it is answered with the index that its
path pointed to before.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from airflow_ext.exceptions import InvalidProjectError

log = logging.getLogger(__name__)

INDEX_VERSION = 2

_T = TypeVar("_T")


class DbtNode(msgspec.Struct, frozen=True, array_like=True):
    """One thing of a dbt project that has a task: a model, seed, snapshot, or a source with tests.

    :param unique_id: dbt's id.
    :param name: dbt's name.
    :param kind: dbt's resource type.
    :param runs: Whether dbt builds it; false for sources and ephemeral models, which only have tests.
    :param task_id: Id of its task inside the group.
    :param parents: Ids of the nodes it is made from, seen through ephemeral models.
    :param tests: Ids of the tests that are shown with it.
    :param asset: Name of its Airflow asset; empty if dbt does not build it.
    """

    unique_id: str
    name: str
    kind: str
    runs: bool
    task_id: str
    parents: tuple[str, ...]
    tests: tuple[str, ...]
    asset: str


class DbtIndex(msgspec.Struct, frozen=True, array_like=True):
    """The graph of one manifest.

    :param version: Version of this layout.
    :param key: Hash of the manifest.
    :param project: Name of the dbt project.
    :param dbt_version: dbt that wrote the manifest.
    :param adapter: Adapter it was written with.
    :param nodes: All nodes, parents before children.
    :param orphan_tests: Tests that belong to no node.
    """

    version: int
    key: str
    project: str
    dbt_version: str
    adapter: str
    nodes: tuple[DbtNode, ...]
    orphan_tests: tuple[str, ...]

    def executed(self) -> list[str]:
        """Return the ids of everything that a whole ``dbt build`` runs."""
        ids = [node.unique_id for node in self.nodes if node.runs]
        ids += [test for node in self.nodes for test in node.tests]
        return [*ids, *self.orphan_tests]


class _Ref(msgspec.Struct, frozen=True, array_like=True):
    size: int
    mtime_ns: int
    inode: int
    key: str


def cache_dir() -> Path:
    """Return the folder of cached indexes: below ``AIRFLOW_HOME``, shared by all its processes."""
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "airflow-ext" / "dbt"


def load_index(
    manifest: Path,
    *,
    read: Callable[..., DbtIndex],
    remedy: str,
    cache: Path | None = None,
) -> DbtIndex:
    """Return the index of a manifest, from the cache where its content is known.

    :param manifest: Path of a ``manifest.json``.
    :param read: Builds an index: ``read(content, key=, source=)``.
    :param remedy: What to do when there is no usable manifest, as a command.
    :param cache: Cache folder; ``None`` means :func:`cache_dir`.
    :raises InvalidProjectError: If the manifest is missing, or cannot be read and was never readable.
    """
    cache = cache or cache_dir()
    ref_path = cache / f"{_hash(os.fsencode(manifest.absolute()))}.ref"
    try:
        stat = manifest.stat()
    except FileNotFoundError:
        raise InvalidProjectError(
            f"there is no dbt manifest at {manifest}; make it with: {remedy}", source=str(manifest)
        ) from None
    ref = _decode(ref_path, _Ref)
    if ref is not None and (ref.size, ref.mtime_ns, ref.inode) == (
        stat.st_size,
        stat.st_mtime_ns,
        stat.st_ino,
    ):
        index = _cached(cache, ref.key)
        if index is not None:
            return index
    content = manifest.read_bytes()
    key = _hash(content)
    index = _cached(cache, key)
    if index is None:
        try:
            index = read(content, key=key, source=str(manifest))
        except InvalidProjectError as exc:
            last_good = _cached(cache, ref.key) if ref is not None else None
            if last_good is None:
                message = f"{exc}; make it anew with: {remedy}"
                raise InvalidProjectError(message, source=str(manifest)) from exc
            log.warning("%s; going on with the last good one, make it anew with: %s", exc, remedy)
            return last_good
        _write(cache / f"{key}.idx", msgspec.msgpack.encode(index))
    _write(ref_path, msgspec.msgpack.encode(_Ref(stat.st_size, stat.st_mtime_ns, stat.st_ino, key)))
    return index


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole: readers see the old or the new content, never a part.

    :param path: File to write; missing folders are made.
    :param content: What to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _cached(cache: Path, key: str) -> DbtIndex | None:
    index = _decode(cache / f"{key}.idx", DbtIndex)
    return index if index is not None and index.version == INDEX_VERSION else None


def _decode(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as exc:
        # Without a cache everything works, each parse only reads the whole manifest.
        log.info("The dbt index cannot be kept in %s: %s", path.parent, exc)
