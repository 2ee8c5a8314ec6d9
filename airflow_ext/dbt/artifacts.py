"""What a run of dbt leaves for others: its results and manifest, in a folder or an object store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from airflow_ext.dbt.locations import place_of as _place
from airflow_ext.dbt.locations import read, write
from airflow_ext.exceptions import InvalidProjectError

log = logging.getLogger(__name__)

RUN_RESULTS = "run_results.json"
MANIFEST = "manifest.json"
SOURCES = "sources.json"
_ALL = (RUN_RESULTS, MANIFEST, SOURCES)


def keep_run(target: Path, place: str, *, merge: bool) -> None:
    """Keep the artifacts of a run; those that it did not write are left as they are.

    Each file is replaced as a whole. The manifest comes last, so that whoever finds a new one finds its results too.

    :param target: The run's target folder.
    :param place: Folder or object-store URL to keep them in.
    :param merge: Fold the results that are already there with the new ones, so that the tries of one DAG run make
        one file: of each id the newest result counts, the elapsed times are summed up, the rest is the newest's.
    """
    for name in (RUN_RESULTS, SOURCES, MANIFEST):
        try:
            content = (target / name).read_bytes()
        except FileNotFoundError:
            continue
        if merge and name == RUN_RESULTS:
            content = _merged(place, content)
        write(_file(place, name), content)


def fetch_state(place: str, into: Path, *, needs: str = MANIFEST) -> None:
    """Copy the artifacts of a run, as far as they exist.

    :param place: Folder or object-store URL that has them.
    :param into: Folder to copy to; made when missing.
    :param needs: The file without which the state is of no use.
    :raises InvalidProjectError: If that file is missing.
    """
    into.mkdir(parents=True, exist_ok=True)
    for name in _ALL:
        try:
            content = read(_file(place, name, argument="state"))
        except (FileNotFoundError, NotADirectoryError):
            if name == needs:
                raise InvalidProjectError(
                    f"state={place!r} has no {name}: give the folder or URL where an earlier run's is kept",
                    source=place,
                ) from None
            continue
        (into / name).write_bytes(content)


def place_of(root: str, *, dag_id: str, run_id: str, task_id: str) -> str:
    """Return the place of one task's artifacts in one DAG run.

    :param root: Folder or object-store URL of all artifacts.
    :param dag_id: The DAG.
    :param run_id: Its run.
    :param task_id: The task that ran dbt.
    :raises ValueError: If one of them is empty.
    """
    return _join(root, "runs", dag_id=dag_id, run_id=run_id, task_id=task_id)


def latest_of(root: str, *, project: str, target: str | None) -> str:
    """Return the place of the newest artifacts of a project in one target.

    :param root: Folder or object-store URL of all artifacts.
    :param project: Name of the dbt project.
    :param target: Target that it was built for; ``None`` means the profile's default.
    :raises ValueError: If one of them is empty.
    """
    return _join(root, "latest", project=project, target="default" if target is None else target)


def _join(root: str, kind: str, **parts: str) -> str:
    for name, part in {"root": root, **parts}.items():
        if not part:
            raise ValueError(f"{name}={part!r}: a place for artifacts cannot be made from an empty text")
    if root.startswith("file://"):
        # As a URL it would be unquoted when it is used, and so would the ids.
        root = str(_place(root, argument="root"))
    return "/".join([root.rstrip("/"), kind, *map(_segment, parts.values())])


def _segment(part: str) -> str:
    quoted = quote(part, safe=":+=")
    # Dots alone would lead to another folder.
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")


def _file(place: str, name: str, *, argument: str = "place") -> Path | str:
    return _place(f"{place.rstrip('/')}/{name}", argument=argument)


def _merged(place: str, content: bytes) -> bytes:
    try:
        before = read(_file(place, RUN_RESULTS))
    except FileNotFoundError:
        return content
    new = msgspec.json.decode(content)
    try:
        old = msgspec.json.decode(before)
        results = _by_id(old["results"]) | _by_id(new["results"])
        elapsed = float(old["elapsed_time"]) + float(new["elapsed_time"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        log.warning("%s in %s is no result of dbt and is replaced", RUN_RESULTS, place)
        return content
    return msgspec.json.encode({**new, "results": list(results.values()), "elapsed_time": elapsed})


def _by_id(results: Sequence[Any]) -> dict[str, Any]:
    return {result["unique_id"]: result for result in results}
