"""What a run of dbt leaves for others: its results and manifest, in a folder or an object store."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
SAME_SECONDS = 0.002
"""Between the duration of a node as told while dbt ran and as its results have it, rounded."""
_ALL = (RUN_RESULTS, MANIFEST, SOURCES)


def keep_run(
    target: Path,
    place: str,
    *,
    earlier: Mapping[str, Mapping[str, Any]] | None = None,
    results: str | None = None,
) -> None:
    """Keep the artifacts of a run; those that it did not write are left as they are.

    Each file is replaced as a whole. The manifest comes last, so that whoever finds a new one finds its results too.

    :param target: The run's target folder.
    :param place: Folder or object-store URL to keep them in.
    :param earlier: What earlier tries of the same build did, as records by id; their results become part of the
        file: those that are there already, and what is known of others, as a killed try leaves no file. ``None`` means
        that there were none.
    :param results: The place that has the results of all tries, to be kept here too; ``None`` means those of the
        target folder.
    """
    for name in (RUN_RESULTS, SOURCES, MANIFEST):
        try:
            content = (target / name).read_bytes()
        except FileNotFoundError:
            continue
        if name == RUN_RESULTS and earlier is not None:
            content = _merged(place, content, earlier)
        elif name == RUN_RESULTS and results is not None:
            content = read(_file(results, RUN_RESULTS))
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
                latest = "; what latest_of() names is there once a build of the whole project with artifacts= went well"
                raise InvalidProjectError(
                    f"state={place!r} has no {name}: give the folder or URL where an earlier run's is kept"
                    + (latest if "/latest/" in place else ""),
                    source=place,
                ) from None
            continue
        (into / name).write_bytes(content)


def place_of(root: str, *, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
    """Return the place of one task's artifacts in one DAG run.

    :param root: Folder or object-store URL of all artifacts.
    :param dag_id: The DAG.
    :param run_id: Its run.
    :param task_id: The task that ran dbt.
    :param map_index: Which of its instances, if it is mapped.
    :raises ValueError: If one of them is empty.
    """
    mapped = {"map_index": str(map_index)} if map_index >= 0 else {}
    return _join(root, "runs", dag_id=dag_id, run_id=run_id, task_id=task_id, **mapped)


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


def _merged(place: str, content: bytes, earlier: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return the results of all tries: of each id the newest, the elapsed times summed up, the rest the newest's."""
    new = msgspec.json.decode(content)
    kept, elapsed = _kept(place)
    same = {name: kept[name] for name, record in earlier.items() if _is_of(record, kept.get(name))}
    made = {name: _result_of(name, record) for name, record in earlier.items() if name not in same}
    results = {**same, **made, **_by_id(new["results"])}
    seconds = float(new["elapsed_time"]) + (elapsed if same else 0)
    return msgspec.json.encode({**new, "results": list(results.values()), "elapsed_time": seconds})


def _kept(place: str) -> tuple[dict[str, Any], float]:
    try:
        old = msgspec.json.decode(read(_file(place, RUN_RESULTS)))
        return _by_id(old["results"]), float(old["elapsed_time"])
    except FileNotFoundError:
        return {}, 0.0
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        log.warning("%s in %s is no result of dbt and is replaced", RUN_RESULTS, place)
        return {}, 0.0


def _is_of(record: Mapping[str, Any], result: Mapping[str, Any] | None) -> bool:
    """Tell whether a result that was kept is of the same build: a cleared build leaves the file of the one before."""
    if result is None or str(result["status"]).lower() != record["status"]:
        return False
    if "seconds" not in record:  # of tests only the status is known
        return True
    return abs(float(result.get("execution_time") or 0) - float(record["seconds"])) < SAME_SECONDS


def _result_of(unique_id: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a node that a killed try built, as dbt would have written it."""
    rows = record.get("rows")
    return {
        "unique_id": unique_id,
        "status": record["status"],
        "timing": [{"name": "execute", "started_at": record["started"], "completed_at": None}]
        if record.get("started")
        else [],
        "thread_id": "",
        "execution_time": float(record.get("seconds") or 0),
        "adapter_response": {} if rows is None else {"rows_affected": rows},
        "message": record.get("message"),
        "failures": record.get("failures"),
        "compiled": None,
        "compiled_code": None,
        "relation_name": None,
        "batch_results": None,
    }


def _by_id(results: Sequence[Any]) -> dict[str, Any]:
    return {result["unique_id"]: result for result in results}
