"""The compact index of a dbt project: what a DAG file needs, readable in milliseconds.

Every DAG file parse and every task start reads the graph. It is therefore computed once per content of
the manifest and kept in a cache folder, as two kinds of files that are only ever replaced as a whole:

* ``<hash of the manifest>.idx``: an index,
* ``<hash of the manifest's path>.ref``: size and time of the manifest last seen there, and its index.

A manifest that cannot be read because somebody is just writing it is answered with the index that its
path pointed to before.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from airflow_ext.dbt.locations import write_atomically
from airflow_ext.exceptions import InvalidProjectError

__all__ = ["DbtIndex", "DbtNode", "DbtTest", "cache_dir", "content_key", "load_index", "write_atomically"]

log = logging.getLogger(__name__)

INDEX_VERSION = 4
KEPT_DAYS = 30
"""Days after which an index that nobody read is removed: each new content of a manifest makes one."""

_DAY = 86_400.0

_T = TypeVar("_T")


class DbtNode(msgspec.Struct, frozen=True, array_like=True):
    """One thing of a dbt project that can have a task.

    :param unique_id: dbt's id.
    :param name: dbt's name.
    :param kind: dbt's resource type: model, seed, snapshot, function, source or exposure.
    :param runs: Whether dbt builds it; false for sources and ephemeral models, which only have tests,
        and for exposures.
    :param task_id: Id of its task inside the group.
    :param parents: Ids of the nodes it is made from, seen through nodes that are not shown.
    :param tests: Ids of the tests that are shown with it.
    :param asset: Name of its Airflow asset; empty if it is no dataset that dbt builds.
    :param tags: dbt's tags.
    :param folder: Folders of its file, joined by ``/``: ``marts/core`` of ``models/marts/core/x.sql``, ``models``
        at their root; ``seeds``, ``snapshots``, ``functions``, ``sources`` and ``exposures`` for these kinds; with
        the package in front if it is not the project's own.
    :param relation: Database, schema and identifier in the warehouse; empty parts where it has none.
    :param sources: Ids of sources without tests that it reads.
    :param freshness: Whether it is a source with a freshness rule.
    :param url: Where an exposure is found.
    """

    unique_id: str
    name: str
    kind: str
    runs: bool
    task_id: str
    parents: tuple[str, ...]
    tests: tuple[str, ...]
    asset: str
    tags: tuple[str, ...] = ()
    folder: str = ""
    relation: tuple[str, str, str] = ("", "", "")
    sources: tuple[str, ...] = ()
    freshness: bool = False
    url: str = ""


class DbtTest(msgspec.Struct, frozen=True, array_like=True):
    """A data test or unit test.

    :param unique_id: dbt's id.
    :param task_id: Id of its task, where tests have tasks of their own.
    :param parents: Ids of the nodes it tests.
    :param home: Id of the node that shows it; empty if it tests nothing.
    """

    unique_id: str
    task_id: str
    parents: tuple[str, ...]
    home: str


class DbtIndex(msgspec.Struct, frozen=True, array_like=True):
    """The graph of one manifest, or of a selection of it.

    :param version: Version of this layout.
    :param key: Hash of the manifest, and of the selection.
    :param project: Name of the dbt project.
    :param dbt_version: dbt that wrote the manifest.
    :param adapter: Adapter it was written with.
    :param nodes: What dbt builds or tests, parents before children.
    :param orphan_tests: Ids of tests that belong to no node.
    :param tests: All tests.
    :param extras: What is shown only when asked for: sources without tests, and exposures.
    :param default_selector: Selector that dbt takes when nothing is selected; empty if the project has none.
    """

    version: int
    key: str
    project: str
    dbt_version: str
    adapter: str
    nodes: tuple[DbtNode, ...]
    orphan_tests: tuple[str, ...]
    tests: tuple[DbtTest, ...] = ()
    extras: tuple[DbtNode, ...] = ()
    default_selector: str = ""

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


def content_key(content: bytes) -> str:
    """Return the hash by which the content of a manifest is known.

    :param content: The file.
    """
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def load_index(
    manifest: Path,
    *,
    read: Callable[..., DbtIndex],
    remedy: str,
    source: str | None = None,
    cache: Path | None = None,
) -> DbtIndex:
    """Return the index of a manifest, from the cache where its content is known.

    :param manifest: Path of a ``manifest.json``.
    :param read: Builds an index: ``read(content, key=, source=)``.
    :param remedy: What to do when there is no usable manifest, as a command.
    :param source: What messages call the manifest; ``None`` means its path.
    :param cache: Cache folder; ``None`` means :func:`cache_dir`.
    :raises InvalidProjectError: If the manifest is missing, or cannot be read and was never readable.
    """
    cache, source = cache or cache_dir(), source or str(manifest)
    ref_path = cache / f"{content_key(os.fsencode(manifest.absolute()))}.ref"
    try:
        stat = manifest.stat()
    except OSError as exc:
        raise missing_manifest(source, remedy) from exc
    ref = _decode(ref_path, _Ref)
    if ref is not None and (ref.size, ref.mtime_ns, ref.inode) == (
        stat.st_size,
        stat.st_mtime_ns,
        stat.st_ino,
    ):
        index = _cached(cache, ref.key)
        if index is not None:
            return index
    try:
        content = manifest.read_bytes()
    except IsADirectoryError as exc:
        raise InvalidProjectError(
            f"{source} is a folder: give manifest= the path of the manifest.json in it", source=source
        ) from exc
    except OSError as exc:
        raise InvalidProjectError(f"{source} cannot be read: {exc}", source=source) from exc
    key = content_key(content)
    index = _cached(cache, key)
    if index is None:
        try:
            index = read(content, key=key, source=source)
        except InvalidProjectError as exc:
            last_good = _cached(cache, ref.key) if ref is not None else None
            if last_good is None:
                message = f"{exc}; make it anew with: {remedy}"
                raise InvalidProjectError(message, source=source) from exc
            log.warning("%s; going on with the last good one, make it anew with: %s", exc, remedy)
            return last_good
        _write(cache / f"{key}.idx", msgspec.msgpack.encode(index))
        _prune(cache)
    _write(ref_path, msgspec.msgpack.encode(_Ref(stat.st_size, stat.st_mtime_ns, stat.st_ino, key)))
    return index


def missing_manifest(source: str, remedy: str) -> InvalidProjectError:
    """Return the error of a manifest that is not there.

    :param source: The manifest's place.
    :param remedy: Command that makes it.
    """
    return InvalidProjectError(f"there is no dbt manifest at {source}; make it with: {remedy}", source=source)


def _cached(cache: Path, key: str) -> DbtIndex | None:
    path = cache / f"{key}.idx"
    index = _decode(path, DbtIndex)
    if index is None or index.version != INDEX_VERSION:
        return None
    # Its time tells when it was last of use; noted once a day. The cache may belong to somebody else.
    with suppress(OSError):
        if path.stat().st_mtime < time.time() - _DAY:
            os.utime(path)
    return index


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


def _prune(cache: Path) -> None:
    oldest = time.time() - KEPT_DAYS * _DAY
    for path in (*cache.glob("*.idx"), *cache.glob("*.ref")):
        # Another process may prune at the same time; what points to a manifest is made anew when it is asked for.
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
