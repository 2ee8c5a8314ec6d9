from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pytest
from airflow.sdk.log import mask_secret
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

from airflow_ext.dbt.index import DbtIndex
from airflow_ext.dbt.results import NodeRecord
from airflow_ext.dbt.selection import select_ids
from tests.paths import ROOT
from tests.unit.hooks.lineage import NAMESPACE, Backend, Built, task_context, use

MODEL = "shop.main.shop.{}.build.run"
TESTS = "shop.main.shop.{}.build.test"


def test_each_executed_node_is_a_run_below_the_task(
    built: Built, backend: Backend, emit: Callable[..., int]
) -> None:
    from airflow.providers.openlineage.plugins import macros

    context = task_context(built)
    # 3 seeds, 5 models, a snapshot and 8 tests.
    assert emit(context=context) == 17
    jobs = {event["job"]["name"]: event["job"]["facets"]["jobType"]["jobType"] for event in backend.events}
    assert jobs == {
        **{f"shop.main.shop.raw_{name}.build.seed": "SEED" for name in ("customers", "orders", "payments")},
        **{MODEL.format(f"stg_{name}"): "MODEL" for name in ("customers", "orders", "payments")},
        MODEL.format("orders"): "MODEL",
        MODEL.format("visitors"): "MODEL",
        "shop.main.shop.customers_history.build.snapshot": "SNAPSHOT",
        **{TESTS.format(name): "TEST" for name in ("stg_customers", "visitors", "paid")},
        "shop.main.source.shop.web.visits.build.test": "TEST",
        "test.shop.of_nothing": "TEST",
    }
    for event in backend.events:
        assert event["job"]["namespace"] == "prod"
        assert event["job"]["facets"]["jobType"]["integration"] == "DBT"
        assert event["run"]["facets"]["processing_engine"]["name"] == "dbt"
        assert event["run"]["facets"]["processing_engine"]["version"].startswith("1.")
        parent = event["run"]["facets"]["parent"]
        assert parent["run"]["runId"] == macros.lineage_run_id(context["ti"])
        assert (parent["job"]["namespace"], parent["job"]["name"]) == ("prod", "shop.build")
        assert parent["root"]["run"]["runId"] == macros.lineage_root_run_id(context["ti"])
        assert (parent["root"]["job"]["namespace"], parent["root"]["job"]["name"]) == ("prod", "shop")


def test_events_are_openlineages_own_and_carry_dbts_times(
    built: Built, backend: Backend, emit: Callable[..., int]
) -> None:
    emit()
    for event in backend.events:
        # The client's classes refuse an id that is no UUID and a time that is none.
        RunEvent(
            eventType=RunState(event["eventType"]),
            eventTime=event["eventTime"],
            run=Run(event["run"]["runId"]),
            job=Job(event["job"]["namespace"], event["job"]["name"]),
            producer=event["producer"],
        )
    for job in {event["job"]["name"] for event in backend.events}:
        start, end = backend.ends(job)
        assert start["eventType"] == "START"
        assert end["eventType"] in ("COMPLETE", "FAIL")
        assert start["run"]["runId"] == end["run"]["runId"]
        assert datetime.fromisoformat(start["eventTime"]) <= datetime.fromisoformat(end["eventTime"])
    start, end = backend.ends("shop.main.shop.raw_orders.build.seed")
    record = built.records["seed.shop.raw_orders"]
    begin = datetime.fromisoformat(start["eventTime"])
    assert begin == datetime.fromisoformat(record["started"])
    took = datetime.fromisoformat(end["eventTime"]) - begin
    assert took.total_seconds() == pytest.approx(record["seconds"])


@pytest.mark.parametrize(
    ("job", "inputs", "output"),
    [
        pytest.param("shop.main.shop.raw_orders.build.seed", [], "raw_orders", id="seed"),
        pytest.param(MODEL.format("stg_orders"), ["raw_orders"], "stg_orders", id="model"),
        pytest.param(MODEL.format("visitors"), ["visits"], "visitors", id="of a source"),
        pytest.param(
            "shop.main.shop.customers_history.build.snapshot",
            ["stg_customers"],
            "customers_history",
            id="snapshot",
        ),
    ],
)
def test_datasets_have_the_names_of_the_assets(
    job: str, inputs: list[str], output: str, built: Built, backend: Backend, emit: Callable[..., int]
) -> None:
    emit()
    project, index = built.project(), built.project().index()
    names = {node.relation[2]: project.dataset(node) for node in (*index.nodes, *index.extras)}
    for event in backend.ends(job):
        assert [(one["namespace"], one["name"]) for one in event["inputs"]] == [names[one] for one in inputs]
        assert [(one["namespace"], one["name"]) for one in event["outputs"]] == [names[output]]
    assert names[output] == (NAMESPACE, f"shop.main.{output}")


def test_a_failed_model_fails_with_its_message_and_wrote_nothing(
    backend: Backend, emit: Callable[..., int]
) -> None:
    emit()
    start, end = backend.ends(MODEL.format("orders"))
    assert end["eventType"] == "FAIL"
    assert "told to fail: orders" in end["run"]["facets"]["errorMessage"]["message"]
    assert "errorMessage" not in start["run"]["facets"]
    assert [one["name"] for one in start["outputs"]] == ["shop.main.orders"]
    assert end["outputs"] == []
    # The ephemeral model between them is part of the query.
    assert [one["name"] for one in end["inputs"]] == ["shop.main.stg_orders", "shop.main.stg_payments"]


def test_queries_and_rows_are_told(backend: Backend, emit: Callable[..., int]) -> None:
    emit()
    _, end = backend.ends(MODEL.format("stg_orders"))
    sql = end["job"]["facets"]["sql"]
    assert sql["query"].startswith('select * from "shop"."main"."raw_orders"')
    assert sql["dialect"] == "duckdb"
    start, end = backend.ends("shop.main.shop.raw_orders.build.seed")
    assert end["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 4
    assert not start["outputs"][0].get("outputFacets")


def test_tests_are_assertions_about_their_dataset(backend: Backend, emit: Callable[..., int]) -> None:
    emit()
    start, end = backend.ends(TESTS.format("visitors"))
    assert (end["eventType"], end["outputs"]) == ("FAIL", [])
    assert not start["inputs"][0].get("inputFacets")
    assert (end["inputs"][0]["namespace"], end["inputs"][0]["name"]) == (NAMESPACE, "shop.main.visitors")
    told = end["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    keys = ("name", "assertion", "column", "success", "severity", "expected", "actual")
    # The unit test is none of them: it says nothing of the data.
    assert sorted(tuple(one[key] for key in keys) for one in told) == [
        ("only_threes", "accepted_values", "id", False, "error", "0", "1"),
        ("only_twos", "accepted_values", "id", False, "warn", "0", "1"),
    ]
    assert end["run"]["facets"]["errorMessage"]["message"] == "Got 1 result, configured to fail if != 0"
    _, end = backend.ends(TESTS.format("stg_customers"))
    assert end["eventType"] == "COMPLETE"
    told = end["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert {(one["assertion"], one["success"]) for one in told} == {("unique", True), ("not_null", True)}


@pytest.mark.parametrize(
    ("job", "results"),
    [
        pytest.param("test.shop.of_nothing", {"test.shop.of_nothing": "pass"}, id="reads nothing"),
        pytest.param(
            TESTS.format("paid"), {"test.shop.not_null_paid_order_id.d80d114362": "pass"}, id="ephemeral"
        ),
    ],
)
def test_tests_of_no_table_have_their_results_in_the_run(
    job: str, results: dict[str, str], backend: Backend, emit: Callable[..., int]
) -> None:
    emit()
    start, end = backend.ends(job)
    assert start["inputs"] == end["inputs"] == []
    assert "test" not in start["run"]["facets"]
    assert {one["name"]: one["status"] for one in end["run"]["facets"]["test"]["tests"]} == results


def test_all_tests_of_a_node_have_their_results_in_the_run(
    backend: Backend, emit: Callable[..., int]
) -> None:
    emit()
    _, end = backend.ends(TESTS.format("visitors"))
    told = {one["name"].rsplit(".", 1)[0]: one["status"] for one in end["run"]["facets"]["test"]["tests"]}
    assert told == {
        "test.shop.only_twos": "fail",
        "test.shop.only_threes": "fail",
        "unit_test.shop.visitors": "pass",
    }


def test_a_selection_reads_also_what_is_not_built_with_it(
    index: DbtIndex, backend: Backend, emit: Callable[..., int]
) -> None:
    chosen = ("seed.shop.raw_orders", "model.shop.orders")
    selected = select_ids(index, chosen)
    assert selected.nodes[-1].parents == ("seed.shop.raw_orders",)
    records = {"model.shop.orders": NodeRecord(status="success")}
    assert emit(index=selected, records=records) == 1
    start, end = backend.ends(MODEL.format("orders"))
    assert [one["name"] for one in end["inputs"]] == ["shop.main.stg_orders", "shop.main.stg_payments"]
    # Where dbt told no time, that of the try is told.
    assert datetime.fromisoformat(start["eventTime"]).timestamp() == 1_780_000_000


def test_telling_again_is_the_same_and_another_try_another_run(
    built: Built, backend: Backend, emit: Callable[..., int]
) -> None:
    emit()
    first, backend.bodies = backend.events, []
    emit()
    assert backend.events == first
    backend.bodies = []
    emit(context=task_context(built, attempt=2))
    ids = {event["run"]["runId"] for event in first}
    assert len(ids) * 2 == len(first)
    assert ids.isdisjoint(event["run"]["runId"] for event in backend.events)


def test_the_root_is_that_of_who_triggered_the_run(
    built: Built, backend: Backend, emit: Callable[..., int]
) -> None:
    root = {
        "rootParentRunId": str(uuid4()),
        "rootParentJobNamespace": "there",
        "rootParentJobName": "caller",
    }
    emit(context=task_context(built, conf={"openlineage": root}))
    told = backend.events[0]["run"]["facets"]["parent"]["root"]
    assert told["run"]["runId"] == root["rootParentRunId"]
    assert (told["job"]["namespace"], told["job"]["name"]) == ("there", "caller")


def test_other_commands_have_jobs_of_their_own(backend: Backend, emit: Callable[..., int]) -> None:
    emit(command="run")
    jobs = {event["job"]["name"] for event in backend.events}
    assert {"shop.main.shop.orders", "shop.main.shop.raw_orders.seed", "shop.main.shop.paid.test"} <= jobs


def test_without_a_namespace_runs_have_no_datasets(
    built: Built, backend: Backend, emit: Callable[..., int]
) -> None:
    assert emit(project=built.project(namespace=None)) == 17
    assert all(event["inputs"] == event["outputs"] == [] for event in backend.events)
    assert backend.ends(MODEL.format("orders"))[1]["eventType"] == "FAIL"


def test_without_the_runs_manifest_names_and_results_are_told(
    backend: Backend, tmp_path: Path, emit: Callable[..., int]
) -> None:
    (tmp_path / "manifest.json").write_text('{"nodes": ')
    for manifest in (None, tmp_path / "manifest.json", tmp_path / "missing.json"):
        backend.bodies = []
        assert emit(manifest=manifest) == 17
        assert "sql" in backend.ends(MODEL.format("orders"))[1]["job"]["facets"]
        assert "sql" not in backend.ends(MODEL.format("stg_orders"))[1]["job"]["facets"]
        _, end = backend.ends(TESTS.format("stg_customers"))
        told = end["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
        assert {one["assertion"] for one in told} == {"unique_stg_customers_id", "not_null_stg_customers_id"}


def test_secrets_are_in_no_event(
    index: DbtIndex, backend: Backend, monkeypatch: pytest.MonkeyPatch, emit: Callable[..., int]
) -> None:
    key, password = secrets.token_hex(16), secrets.token_hex(16)
    mask_secret(password)
    use(monkeypatch, {"type": "http", "url": backend.url, "auth": {"type": "api_key", "apiKey": key}})
    records = {
        "model.shop.orders": NodeRecord(
            status="error", message=f"no login with {password} {'x' * 3000}", compiled=f"select '{password}'"
        )
    }
    assert emit(records=records) == 1
    assert all(headers.pop("Authorization") == f"Bearer {key}" for headers in backend.headers)
    assert not any(one in text for one in (key, password) for text in (*backend.bodies, str(backend.headers)))
    message = backend.events[1]["run"]["facets"]["errorMessage"]["message"]
    assert message.startswith("no login with ***")
    assert len(message) <= 2_000


RULE = [{"scope": {"dag_id": "shop", "task_id": "build"}, "controls": {"emit": False}}]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("DISABLED", "True", id="disabled"),
        pytest.param("TRANSPORT", "", id="no transport"),
        pytest.param("EMISSION_POLICY", json.dumps(RULE), id="not for this task"),
    ],
)
def test_nothing_is_sent_where_openlineage_is_off(
    name: str,
    value: str,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    emit: Callable[..., int],
) -> None:
    monkeypatch.setenv(f"AIRFLOW__OPENLINEAGE__{name}", value)
    assert emit() == 0
    assert backend.bodies == []
    assert "OpenLineage was told" not in caplog.text


def test_queries_stay_where_source_code_is_not_to_be_told(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, emit: Callable[..., int]
) -> None:
    rule = [{"scope": {}, "controls": {"include_source_code": False}}]
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__EMISSION_POLICY", json.dumps(rule))
    assert emit() == 17
    assert not any("sql" in event["job"]["facets"] for event in backend.events)


def test_events_go_to_a_file_and_the_log_has_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    emit: Callable[..., int],
) -> None:
    use(monkeypatch, {"type": "file", "log_file_path": str(tmp_path / "events"), "append": True})
    assert emit() == 17
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert len(events) == 28
    assert {event["eventType"] for event in events} == {"START", "COMPLETE", "FAIL"}
    assert caplog.text.count("OpenLineage was told of 17 dbt nodes and tests") == 1
    assert "Successfully emitted" not in caplog.text + capsys.readouterr().out


def test_a_transport_that_sends_in_the_background_has_sent_all(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, emit: Callable[..., int]
) -> None:
    use(monkeypatch, {"type": "async_http", "url": backend.url})
    assert emit() == 17
    assert len(backend.events) == 28


def refused() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_server_that_is_down_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, emit: Callable[..., int]
) -> None:
    use(monkeypatch, {"type": "http", "url": refused(), "retry": {"total": 1}})
    begun = time.monotonic()
    assert emit() == 0
    assert time.monotonic() - begun < 10
    assert caplog.text.count("Failed to emit OpenLineage") == 1
    assert "OpenLineage was told of 0 dbt nodes and tests and not of the rest" in caplog.text


def test_a_server_that_refuses_is_asked_once(
    backend: Backend, caplog: pytest.LogCaptureFixture, emit: Callable[..., int]
) -> None:
    backend.status = 401
    assert emit() == 0
    assert len(backend.bodies) == 1
    assert "OpenLineage was told of 0 dbt nodes" in caplog.text
    assert "401" in caplog.text


def test_a_server_that_does_not_answer_is_left_when_the_time_is_over(
    backend: Backend, caplog: pytest.LogCaptureFixture, emit: Callable[..., int]
) -> None:
    backend.hold = threading.Event()
    begun = time.monotonic()
    assert emit(bound=0.5) == 0
    assert time.monotonic() - begun < 5
    assert "the time for it is over" in caplog.text
    backend.hold.set()
    for thread in threading.enumerate():
        if thread.name == "dbt-lineage":
            thread.join(20)
    assert len(backend.bodies) == 1


def test_a_wrong_setting_is_a_warning_without_its_value(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, emit: Callable[..., int]
) -> None:
    key = secrets.token_hex(16)
    for transport in ({"type": "http", "auth": {"type": "api_key", "apiKey": key}}, [key]):
        monkeypatch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", json.dumps(transport))
        assert emit() == 0
    assert caplog.text.count("OpenLineage was told of 0 dbt nodes") == 2
    assert key not in caplog.text


ALONE = """
import importlib.machinery, os, sys
from types import SimpleNamespace

import airflow_ext.plugin, airflow_ext.operators.dbt
from airflow_ext.hooks.dbt_lineage import emit_lineage

def told():
    ti = SimpleNamespace()
    count = emit_lineage({"ti": ti}, None, None, {}, started=0.0)
    return count, "openlineage.client" in sys.modules

assert told() == (0, False), "disabled"
for name in [name for name in sys.modules if name.startswith("airflow.providers.openlineage")]:
    del sys.modules[name]

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] == "openlineage" or name.startswith("airflow.providers.openlineage"):
            return None
        return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Without
os.environ["OPENLINEAGE_URL"] = "http://127.0.0.1:9"
assert told() == (0, False), "missing"
"""


def test_without_the_provider_nothing_is_told_and_nothing_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "OpenLineage was told" not in done.stderr + done.stdout
