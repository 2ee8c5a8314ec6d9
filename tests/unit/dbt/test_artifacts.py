"""Artifacts in a folder and in an object store."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath

from airflow_ext.dbt.artifacts import fetch_state, keep_run, latest_of, place_of
from airflow_ext.exceptions import InvalidProjectError


@pytest.fixture(params=["folder", "file-url", "object-store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that does not exist yet."""
    name = secrets.token_hex(4)
    if request.param == "object-store":
        request.getfixturevalue("shelf")
        return f"memory://bucket/{name}/run:1+2"
    return f"{'file://' if request.param == 'file-url' else ''}{tmp_path}/{name}/run:1+2"


def read(place: str, name: str) -> Any:
    return json.loads(ObjectStoragePath(f"{place}/{name}").read_text())


def write_run(folder: Path, statuses: dict[str, str], *, elapsed: float, which: str = "build") -> Path:
    folder.mkdir(exist_ok=True)
    results = [{"unique_id": unique_id, "status": status} for unique_id, status in statuses.items()]
    content = {
        "metadata": {"n": elapsed},
        "args": {"which": which},
        "results": results,
        "elapsed_time": elapsed,
    }
    (folder / "run_results.json").write_text(json.dumps(content))
    (folder / "manifest.json").write_text(json.dumps({"made": elapsed}))
    return folder


ONLY_A = {"a": {"status": "success"}}


def test_what_a_killed_try_built_is_among_the_results(place: str, tmp_path: Path) -> None:
    """It left no file; what is there is of an earlier build of the run, which was cleared."""
    keep_run(write_run(tmp_path / "before", {"a": "success", "old": "success"}, elapsed=9), place)
    known = {"a": {"status": "success", "seconds": 7.5, "started": "2026-01-01T00:00:00Z", "rows": 3}}
    keep_run(write_run(tmp_path / "target", {"b": "success"}, elapsed=1), place, earlier=known)
    assert statuses(place) == {"a": "success", "b": "success"}
    first = read(place, "run_results.json")["results"][0]
    assert (first["execution_time"], first["adapter_response"]) == (7.5, {"rows_affected": 3})
    keep_run(tmp_path / "target", f"{place}-latest", results=place)
    assert statuses(f"{place}-latest") == {"a": "success", "b": "success"}


def statuses(place: str) -> dict[str, str]:
    return {each["unique_id"]: each["status"] for each in read(place, "run_results.json")["results"]}


def test_the_tries_of_a_run_make_one_file(place: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    keep_run(write_run(target, {"a": "success", "b": "error", "c": "skipped"}, elapsed=1.5), place)
    assert statuses(place) == {"a": "success", "b": "error", "c": "skipped"}
    keep_run(write_run(target, {"b": "success", "c": "success"}, elapsed=2.0), place, earlier=ONLY_A)
    assert statuses(place) == {"a": "success", "b": "success", "c": "success"}
    kept = read(place, "run_results.json")
    assert (kept["elapsed_time"], kept["metadata"]) == (3.5, {"n": 2.0})
    assert read(place, "manifest.json") == {"made": 2.0}


def test_without_merging_the_newest_run_is_kept_alone(place: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    keep_run(write_run(target, {"a": "success"}, elapsed=1), place)
    keep_run(write_run(target, {"b": "success"}, elapsed=2), place)
    assert statuses(place) == {"b": "success"}


def test_what_a_run_did_not_write_stays(place: str, tmp_path: Path) -> None:
    (first := tmp_path / "first").mkdir()
    (first / "sources.json").write_text('{"results": []}')
    keep_run(first, place, earlier={})
    keep_run(write_run(tmp_path / "second", {"a": "success"}, elapsed=1), place, earlier={})
    assert read(place, "sources.json") == {"results": []}
    assert statuses(place) == {"a": "success"}


@pytest.mark.parametrize(
    "before", ["{", "[]", '{"results": [{}], "elapsed_time": 1}'], ids=["torn", "list", "odd"]
)
def test_a_file_that_is_no_result_is_replaced(
    before: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "run_results.json").write_text(before)
    keep_run(write_run(tmp_path / "target", {"a": "success"}, elapsed=1), str(place), earlier={})
    assert statuses(str(place)) == {"a": "success"}
    assert "is no result of dbt and is replaced" in caplog.text


def test_a_state_is_fetched_as_far_as_it_exists(place: str, tmp_path: Path) -> None:
    keep_run(write_run(tmp_path / "target", {"a": "success"}, elapsed=1), place, earlier={})
    into = tmp_path / "run" / "state"
    fetch_state(f"{place}/", into)
    assert sorted(path.name for path in into.iterdir()) == ["manifest.json", "run_results.json"]
    assert json.loads((into / "manifest.json").read_text()) == {"made": 1}


@pytest.mark.parametrize("needs", ["manifest.json", "run_results.json"])
def test_a_state_without_what_it_is_needed_for_is_refused(place: str, tmp_path: Path, needs: str) -> None:
    with pytest.raises(
        InvalidProjectError, match=rf"^state='.*run:1\+2' has no {needs}: give the folder or URL"
    ):
        fetch_state(place, tmp_path / "state", needs=needs)


def test_a_state_of_the_last_good_build_says_when_there_is_one(tmp_path: Path) -> None:
    place = latest_of(str(tmp_path), project="shop", target=None)
    with pytest.raises(
        InvalidProjectError, match="once a build of the whole project with artifacts= went well"
    ):
        fetch_state(place, tmp_path / "state")


@pytest.mark.parametrize(
    ("part", "segment"),
    [
        pytest.param("manual__2026-01-01T00:00:00+00:00", "manual__2026-01-01T00:00:00+00:00", id="run id"),
        pytest.param("..", "%2E%2E", id="dots"),
        pytest.param(".", "%2E", id="dot"),
        pytest.param("../../etc", "..%2F..%2Fetc", id="path"),
        pytest.param("a/b?c#d%e", "a%2Fb%3Fc%23d%25e", id="url characters"),
        pytest.param("conn@host", "conn%40host", id="at sign"),
        pytest.param("größe x", "gr%C3%B6%C3%9Fe%20x", id="unicode"),
        pytest.param("\\..\n", "%5C..%0A", id="control"),
    ],
)
def test_an_id_is_one_segment_of_a_place(part: str, segment: str) -> None:
    assert place_of("s3://bucket/dbt/", dag_id="d", run_id=part, task_id="t.build") == (
        f"s3://bucket/dbt/runs/d/{segment}/t.build"
    )
    assert latest_of("/data", project=part, target=None) == f"/data/latest/{segment}/default"


@pytest.mark.parametrize("scheme", ["", "file://"], ids=["folder", "file-url"])
def test_hostile_ids_stay_below_the_root(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "manifest.json").write_text("{}")
    place = place_of(f"{scheme}{tmp_path}/root", dag_id="..", run_id="../..", task_id="/etc")
    keep_run(tmp_path / "target", place, earlier={})
    kept = next((tmp_path / "root").rglob("manifest.json"))
    assert kept.relative_to(tmp_path / "root").parts == (
        "runs",
        "%2E%2E",
        "..%2F..",
        "%2Fetc",
        "manifest.json",
    )


def test_a_password_in_a_place_is_refused_without_telling_it(tmp_path: Path) -> None:
    secret = secrets.token_hex()
    with pytest.raises(InvalidProjectError, match=r"^state: a URL must not hold a password") as refused:
        fetch_state(f"ftp://user:{secret}@host/run", tmp_path / "state")
    assert secret not in str(refused.value)


@pytest.mark.parametrize("empty", ["root", "dag_id", "run_id", "task_id"])
def test_an_empty_part_is_refused(empty: str) -> None:
    parts: dict[str, Any] = {"root": "/r", "dag_id": "d", "run_id": "r", "task_id": "t", empty: ""}
    with pytest.raises(ValueError, match=f"^{empty}=''"):
        place_of(parts.pop("root"), **parts)
