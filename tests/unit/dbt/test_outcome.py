"""What is made of messages and results, without a dbt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.dbt.child import EventReader, counted, node_record
from airflow_ext.dbt.outcome import COMPILED_LIMIT, WARNING_LIMIT, WARNINGS, RunReader


def reader(target: Path, command: str = "build") -> tuple[RunReader, list[Mapping[str, Any]]]:
    nodes: list[Mapping[str, Any]] = []
    return RunReader(target, command=command, on_node=nodes.append), nodes


def write_results(target: Path, *results: dict[str, Any]) -> None:
    (target / "run_results.json").write_text(json.dumps({"results": results}))


def test_warnings_are_told_once_short_and_not_without_end(tmp_path: Path) -> None:
    one, _ = reader(tmp_path)
    for text in ["a", "b", "a", "x" * 5_000, *(f"w{n}" for n in range(500))]:
        one.take({"warning": text})
    assert one.warnings[:2] == ("a", "b")
    assert len(one.warnings[2]) == WARNING_LIMIT
    assert len(one.warnings) == WARNINGS == len(set(one.warnings))


def test_long_sql_is_cut_with_a_note(tmp_path: Path) -> None:
    node = {"path": "a.sql", "original_file_path": "models/a.sql", "package_name": "p", "relation_name": None}
    (tmp_path / "manifest.json").write_text(json.dumps({"nodes": {"model.p.a": node}, "unit_tests": {}}))
    (tmp_path / "compiled" / "p" / "models").mkdir(parents=True)
    (tmp_path / "compiled" / "p" / "models" / "a.sql").write_text("select 1 -- " + "é" * COMPILED_LIMIT)
    one, nodes = reader(tmp_path)
    one.take({"node": {"id": "model.p.a", "status": "error"}})
    text = nodes[0]["compiled"]
    assert text.startswith("select 1 -- é")
    assert text.endswith(f"é\n-- cut here; {COMPILED_LIMIT + 12} characters in all")


@pytest.mark.parametrize("place", ["{outside}", "../../../outside/key.sql"], ids=["absolute", "upwards"])
def test_a_manifest_cannot_have_another_file_told_as_sql(tmp_path: Path, place: str) -> None:
    outside, target = tmp_path / "outside" / "key.sql", tmp_path / "target"
    outside.parent.mkdir()
    outside.write_text("key")
    (target / "compiled" / "p").mkdir(parents=True)
    node = {"path": "key.sql", "original_file_path": place.format(outside=outside), "package_name": "p"}
    (target / "manifest.json").write_text(json.dumps({"nodes": {"model.p.a": node}}))
    one, nodes = reader(target)
    one.take({"node": {"id": "model.p.a", "status": "error"}})
    assert nodes == [{"id": "model.p.a", "status": "error"}]


@pytest.mark.parametrize("content", [None, "{", '{"nodes": []}'], ids=["none", "torn", "odd"])
def test_without_a_manifest_a_failure_has_no_sql(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    one, nodes = reader(tmp_path)
    one.take({"node": {"id": "model.p.a", "status": "error", "message": "no"}})
    assert nodes == [{"id": "model.p.a", "status": "error", "message": "no"}]


def test_results_tell_only_what_was_not_told(tmp_path: Path) -> None:
    one, nodes = reader(tmp_path)
    one.take({"node": {"id": "model.p.a", "status": "success", "seconds": 1.0, "rows": 0}})
    one.take({"node": {"id": "model.p.b", "status": "error", "seconds": 1.0}})
    write_results(
        tmp_path,
        {"unique_id": "model.p.a", "status": "success", "execution_time": 9, "adapter_response": {}},
        {"unique_id": "model.p.b", "status": "error", "execution_time": 9, "message": "why"},
        {"unique_id": "model.p.c", "status": "skipped", "execution_time": 0, "message": "fail_fast"},
    )
    one.settle()
    assert nodes[2:] == [
        {"id": "model.p.b", "status": "error", "seconds": 1.0, "message": "why"},
        {"id": "model.p.c", "status": "skipped", "seconds": 0.0, "message": "fail_fast"},
    ]


def test_a_message_does_not_name_files_that_are_gone(tmp_path: Path) -> None:
    one, nodes = reader(tmp_path)
    message = f"Database Error\n  no\n  compiled code at {tmp_path}/run/p/a.sql"
    one.take({"node": {"id": "model.p.a", "status": "error", "message": message}})
    assert nodes[0]["message"] == "Database Error\n  no"


@pytest.mark.parametrize(
    ("status", "statuses", "errors", "end"),
    [
        pytest.param(0, [], [], (True, ""), id="good"),
        pytest.param(
            0, ["success", "error"], [], (False, ""), id="a node failed and a wrapper lost the status"
        ),
        pytest.param(1, ["success", "error"], ["x"], (False, ""), id="a node failed"),
        pytest.param(1, ["skipped"], [], (False, ""), id="skipped only"),
        pytest.param(1, ["success"], ["cannot"], (False, "cannot"), id="no node failed"),
        pytest.param(1, [], ["one", "two", "two"], (False, "one\ntwo"), id="no results"),
        pytest.param(2, ["success", "error"], ["broke"], (False, "broke"), id="broke"),
        pytest.param(2, [], [], (None, ""), id="broke in silence"),
    ],
)
def test_the_end_of_a_program_is_its_status_and_its_results(
    tmp_path: Path, status: int, statuses: list[str], errors: list[str], end: tuple[bool | None, str]
) -> None:
    one, _ = reader(tmp_path)
    write_results(tmp_path, *({"unique_id": f"m{n}", "status": each} for n, each in enumerate(statuses)))
    for error in errors:
        one.take({"error": error})
    assert one.end(status) == end


def test_the_error_that_ended_dbt_is_told_before_others(tmp_path: Path) -> None:
    one, _ = reader(tmp_path)
    one.take({"error": "noise"})
    one.take({"problem": "the reason"})
    assert one.end(2) == (False, "the reason")
    assert one.end(0) == (False, "the reason"), "a wrapper has lost the status"


@pytest.mark.parametrize(
    ("response", "counts"),
    [
        pytest.param({"rows_affected": 4.0}, {"rows": 4}, id="rows"),
        pytest.param({"rows_affected": -1}, {}, id="rows unknown"),
        pytest.param({"bytes_processed": 7, "bytes_billed": 10}, {"bytes": 10}, id="billed"),
        pytest.param({"bytes_billed": None, "bytes_processed": 7}, {"bytes": 7}, id="processed"),
        pytest.param({"rows_affected": "4", "code": "x"}, {}, id="text"),
    ],
)
def test_rows_and_bytes_are_what_the_adapter_tells(response: dict[str, Any], counts: dict[str, int]) -> None:
    assert counted(response) == counts


def finished(status: str, **result: Any) -> dict[str, Any]:
    return {"node_info": {"unique_id": "model.p.a"}, "run_result": {"status": status, **result}}


def test_batches_are_not_told_as_their_model() -> None:
    sent: list[dict[str, Any]] = []
    events = EventReader(sent.append)
    for _ in range(3):
        events.started("model.p.a")
    events.finished(finished("success"))
    events.raised("model.p.a", "division by zero")
    events.finished(finished("error", message="ERROR"))
    assert sent == []
    events.finished(finished("partial success", message="PARTIAL SUCCESS (1/2)"))
    assert sent[0]["node"]["status"] == "partial success"
    assert sent[0]["node"]["message"] == "PARTIAL SUCCESS (1/2)\ndivision by zero"


def test_what_is_ephemeral_is_told_only_if_it_fails() -> None:
    sent: list[dict[str, Any]] = []
    events = EventReader(sent.append)
    for status in ("success", "error"):
        told = finished(status)
        told["node_info"]["materialized"] = "ephemeral"
        events.finished(told)
    assert [one["node"]["status"] for one in sent] == ["error"]


def test_a_record_has_no_empty_fields_and_times_with_their_zone() -> None:
    info = {
        "unique_id": "a",
        "node_started_at": "2026-01-01T00:00:00.5",
        "node_finished_at": "",
        "node_status": "Pass",
    }
    assert node_record({"node_info": info}) == {
        "id": "a",
        "status": "pass",
        "seconds": 0.0,
        "started": "2026-01-01T00:00:00.5Z",
    }
