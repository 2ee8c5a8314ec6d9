"""Reverse ETL: syncs of a local Hightouch, and rows that the destination refuses."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from airflow.sdk import DAG, AssetAlias
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from airflow_ext.exceptions import SyncFailedError, SyncUnavailableError
from airflow_ext.hooks.sync_vendors import HightouchHook
from airflow_ext.operators.sync import ResyncOperator, SchemaGate, SyncOperator, SyncWait
from airflow_ext.sensors.sync import SyncSensor
from airflow_ext.testing.hightouch import LocalHightouch, RunScript
from airflow_ext.triggers.sync import SyncTrigger
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.sync.remote import Clock, TaskState, context, hightouch_connection

FAST = SyncWait(poll_interval=0.05)


@pytest.fixture
def hightouch(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHightouch]:
    with LocalHightouch() as server:
        monkeypatch.setenv("AIRFLOW_CONN_HT", hightouch_connection(server, workspace="acme"))
        yield server


def make(cls: type[Any] = SyncOperator, **arguments: Any) -> Any:
    given: dict[str, Any] = {"deferrable": False, "waiting": FAST, "sync": "leads"} | arguments
    with DAG("ingest", schedule=None):
        return cls(task_id="load", sync_conn_id="ht", **given)


def starts(server: LocalHightouch) -> int:
    return len(server.calls(method="POST", path="*/trigger"))


def test_a_run_ends_with_its_rows_and_an_event_of_its_destination(
    hightouch: LocalHightouch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = RunScript(seconds=0.1, queued=0.1, added=5, changed=3, removed=2)
    sync = hightouch.sync("leads", script, destination="salesforce")
    run = context(TaskState())
    result = make().execute(run)
    assert (result["backend"], result["run_id"], result["rows"]) == ("hightouch", str(sync.runs[0].id), 10)
    assert result["tables"]["salesforce"] == {
        "rows": 10,
        "failed": 0,
        "counts": {"added": 5, "changed": 3, "removed": 2},
        "schema_changes": [],
    }
    assert result["link"] == f"https://app.hightouch.com/acme/syncs/{sync.id}"
    assert result["started"] < result["ended"]
    told = "Table salesforce: 10 rows (added 5, changed 3, removed 2, failed 0)"
    assert told in capsys.readouterr().out
    [event] = run["outlet_events"][AssetAlias("sync/ingest/load")].asset_alias_events
    assert (event.dest_asset_key.name, event.extra["counts"]["added"]) == ("sync/ht/leads/salesforce", 5)
    assert hightouch.calls(method="POST", path="*/trigger")[0].body == {"fullResync": False}
    sync.scripts[0] = RunScript(seconds=0)
    with pytest.raises(AirflowSkipException):
        make(skip_if_no_rows=True, sync=str(sync.id)).execute(context(TaskState()))


@pytest.mark.parametrize(
    ("limits", "refused", "good"),
    [
        pytest.param({}, 1, False, id="none, unless said"),
        pytest.param({"max_failed_rows": 3}, 3, True, id="as many"),
        pytest.param({"max_failed_rows": 3}, 4, False, id="one more"),
        pytest.param({"max_failed_ratio": 0.05}, 5, True, id="share"),
        pytest.param({"max_failed_ratio": 0.05}, 6, False, id="larger share"),
        pytest.param({"max_failed_rows": 50, "max_failed_ratio": 0.05}, 6, False, id="both hold"),
    ],
)
def test_refused_rows_are_held_to_the_limit(
    hightouch: LocalHightouch, limits: dict[str, Any], refused: int, good: bool
) -> None:
    """A peer ends green with any number of them, or red with one."""
    hightouch.sync("leads", RunScript(seconds=0, added=100, refused=refused))
    task, run = make(**limits), context(TaskState())
    if good:
        assert task.execute(run)["tables"]["crm"]["failed"] == refused
        return
    with pytest.raises(SyncFailedError, match=f"refused {refused} of 100 rows") as caught:
        task.execute(run)
    assert caught.value.status == "refused"
    assert not run["outlet_events"][AssetAlias("sync/ingest/load")].asset_alias_events
    assert not run["task_state_store"].values, "the next try runs anew, which sends the refused rows again"


@pytest.mark.parametrize(
    "limits",
    [
        {"max_failed_rows": -1},
        {"max_failed_rows": True},
        {"max_failed_ratio": 1.5},
        {"max_failed_ratio": -0.1},
    ],
    ids=str,
)
def test_limits_that_make_no_sense_are_refused_at_parse(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        make(**limits)


def test_ends_that_are_none_and_what_is_wrong_with_the_sync(hightouch: LocalHightouch) -> None:
    sync = hightouch.sync("leads")
    for outcome, told, error in (
        ("failed", "query timed out", SyncFailedError),
        ("interrupted", "resumes it in a run of its own", SyncFailedError),
        ("cancelled", "was cancelled in Hightouch", AirflowFailException),
    ):
        sync.scripts[0] = RunScript(seconds=0, outcome=outcome, error="query timed out")  # type: ignore[arg-type]  # pairs
        with pytest.raises(error, match=told):
            make().execute(context(TaskState()))
    began = starts(hightouch)
    sync.disabled = True
    with pytest.raises(AirflowFailException, match="disabled: enable it at https://app"):
        make().execute(context(TaskState()))
    with pytest.raises(AirflowFailException, match="no sync with this slug"):
        make(sync="other").execute(context(TaskState()))
    with pytest.raises(AirflowFailException, match="no sync with this id"):
        make(sync="7").execute(context(TaskState()))
    assert starts(hightouch) == began


def test_what_runs_is_adopted_also_by_a_retry_and_after_a_lost_answer(hightouch: LocalHightouch) -> None:
    sync = hightouch.sync("leads", RunScript(seconds=300))
    hightouch.start_run(sync)
    with pytest.raises(TaskDeferred) as deferred:
        make(deferrable=True).execute(context(TaskState()))
    assert deferred.value.trigger.handle["adopted"] is True
    assert starts(hightouch) == 0
    hightouch.advance(301)
    hightouch.cut(path="*/trigger", method="POST")  # it took the request, we never hear of it
    state = TaskState()
    with pytest.raises(TaskDeferred) as deferred:
        make(deferrable=True).execute(context(state))
    trigger: Any = deferred.value.trigger
    assert isinstance(trigger, SyncTrigger)
    assert trigger.handle["run"] == sync.runs[1].id
    assert state.get("airflow_ext_sync_run")["handle"] == trigger.handle
    hightouch.advance(301)
    make().execute(context(state, try_number=2))
    assert (starts(hightouch), len(sync.runs)) == (1, 2)


def test_a_run_that_is_given_up_goes_on_and_the_message_says_so(
    hightouch: LocalHightouch, capsys: pytest.CaptureFixture[str]
) -> None:
    sync = hightouch.sync("leads", RunScript(seconds=300), RunScript(seconds=0))
    with pytest.raises(SyncFailedError, match="it was querying; it goes on"):
        make(waiting=SyncWait(poll_interval=0.05, timeout=0.2)).execute(context(TaskState()))
    assert "cannot stop a run" in capsys.readouterr().out
    hightouch.advance(301)
    assert make().execute(context(TaskState()))["run_id"] == str(sync.runs[1].id)


def test_everything_is_sent_again_behind_the_run_that_goes_on(hightouch: LocalHightouch) -> None:
    sync = hightouch.sync("leads", RunScript(seconds=0.3), RunScript(seconds=0))
    hightouch.start_run(sync)
    make(ResyncOperator).execute(context(TaskState()))
    assert [run.full for run in sync.runs] == [False, True]
    with pytest.raises(AirflowFailException, match=r"scope=\['a\.b'\].*one destination"):
        make(ResyncOperator, scope=["a.b"]).execute(context(TaskState()))


def test_faults_while_waiting_and_a_deletion(hightouch: LocalHightouch) -> None:
    sync = hightouch.sync("leads", RunScript(seconds=0.4))
    hightouch.fail(429, times=2, path="*/runs", after=1)
    hightouch.html(times=1, path="*/runs")
    make().execute(context(TaskState()))
    sync.scripts[0] = RunScript(seconds=60)
    hightouch.fail(500, times=100, path="*/runs", after=2)
    state = TaskState()
    with pytest.raises(SyncUnavailableError, match="Internal Server Error"):
        make(waiting=SyncWait(poll_interval=0.05, outage=0.1)).execute(context(state))
    hightouch.heal()
    sync.deleted = True
    with pytest.raises(AirflowFailException, match="deleted"):
        make().execute(context(state, try_number=2))


def test_the_gate_looks_at_the_columns_of_the_model(hightouch: LocalHightouch) -> None:
    sync = hightouch.sync("leads", RunScript(seconds=0, added=1), columns=["email", "name"])
    with AssetStateServer().serving():
        make(schema_gate=SchemaGate()).execute(context(TaskState()))
        sync.columns = ["email"]
        with pytest.raises(AirflowFailException, match="crm: column removed name"):
            make(schema_gate=SchemaGate()).execute(context(TaskState()))


def test_a_sensor_is_satisfied_by_a_run_of_a_while_ago(hightouch: LocalHightouch) -> None:
    sync = hightouch.sync("leads", RunScript(seconds=0, added=1))
    run = hightouch.start_run(sync)
    with DAG("waits", schedule=None):
        sensor = SyncSensor(task_id="fresh", sync_conn_id="ht", sync="leads", within=timedelta(minutes=5))
    assert sensor.execute(context(TaskState()))["run_id"] == str(run.id)


def test_the_connection_is_tested_and_a_wrong_key_not_shown(
    hightouch: LocalHightouch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HightouchHook("ht").test_connection() == (True, "Hightouch answers, it has no sync yet")
    key = hightouch.api_key
    hightouch.api_key = secrets.token_hex(16)
    good, told = HightouchHook("ht").test_connection()
    assert not good
    assert "Token is invalid" in told
    assert f"Hightouch at {hightouch.url}" in told
    assert "(connection 'ht')" in told
    assert key not in told


def test_the_local_server_queues_and_pages_as_documented() -> None:
    with LocalHightouch(clock=Clock()) as server:
        sync = server.sync("leads", RunScript(seconds=30, added=3, refused=1))
        for number in range(2):
            server.sync(f"other{number}")
        headers = {"Authorization": f"Bearer {server.api_key}"}
        with httpx.Client(base_url=server.url + server.base, headers=headers) as client:
            body = {"syncSlug": "leads", "fullResync": True}
            ids = [client.post("/syncs/trigger", json=body).json()["id"] for _ in range(2)]
            server.advance(31)
            runs = client.get(f"/syncs/{sync.id}/runs", params={"runId": ids[0]}).json()
            assert [run["status"] for run in runs["data"]] == ["warning"]
            assert runs["data"][0]["failedRows"] == {"addedCount": 1, "changedCount": 0, "removedCount": 0}
            assert client.get(f"/syncs/{sync.id}").json()["status"] == "querying"
            page = client.get("/syncs", params={"limit": 2}).json()
            assert (len(page["data"]), page["hasMore"]) == (2, True)
            assert client.get("/syncs", params={"limit": "x"}).json()["message"] == "Validation failed"
        answer = httpx.get(f"{server.url}{server.base}/syncs", headers={"Authorization": "Bearer x"})
        assert (answer.status_code, answer.json()["details"]) == (401, "Token is invalid")
