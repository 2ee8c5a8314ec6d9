"""SyncOperator against the local servers of both vendors."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_ext.contracts import Contract
from airflow_ext.dbt.project import DbtProject
from airflow_ext.exceptions import SyncFailedError, SyncUnavailableError
from airflow_ext.operators.sync import SchemaGate, SyncOperator, SyncWait
from airflow_ext.testing.airbyte import JobScript, LocalAirbyte
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript, Tables
from airflow_ext.triggers.sync import SyncTrigger
from tests.unit.contracts.asset_state import AssetStateServer
from tests.unit.dbt.manifests import manifest, resource, source
from tests.unit.sync.remote import PG, TaskState, airbyte_connection, context, fivetran_connection

FAST = SyncWait(poll_interval=0.05)


@pytest.fixture
def fivetran(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFivetran]:
    with LocalFivetran() as server:
        monkeypatch.setenv("AIRFLOW_CONN_FT", fivetran_connection(server))
        yield server


@pytest.fixture
def airbyte(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAirbyte]:
    with LocalAirbyte() as server:
        monkeypatch.setenv("AIRFLOW_CONN_AB", airbyte_connection(server))
        yield server


def make(sync_conn_id: str = "ft", sync: str = "shop", **arguments: Any) -> SyncOperator:
    given: dict[str, Any] = {"deferrable": False, "waiting": FAST} | arguments
    with DAG("ingest", schedule=None):
        return SyncOperator(task_id="load", sync_conn_id=sync_conn_id, sync=sync, **given)


def add(server: LocalFivetran | LocalAirbyte, *, seconds: float) -> None:
    if isinstance(server, LocalFivetran):
        server.connection("shop", SyncScript(seconds=seconds))
    else:
        server.connection("shop", JobScript(seconds=seconds))


def posts(server: LocalFivetran | LocalAirbyte) -> int:
    return len(server.calls(method="POST", path="*/sync")) + len(server.calls(method="POST", path="*/jobs"))


def test_a_fivetran_sync_ends_with_its_run_and_an_event_per_table(fivetran: LocalFivetran) -> None:
    fivetran.connection("shop", SyncScript(seconds=0.1), tables=PG)
    task, run = make(tables=["shop_public.orders"], partition="2026-01-01"), context(TaskState())
    result = task.execute(run)
    assert result["backend"] == "fivetran"
    assert result["run_id"] == fivetran.connections["shop"].history[0].sync_id
    assert result["started"] < result["ended"]
    assert set(result["tables"]) == {"shop_public.orders", "shop_public.customers"}
    assert result["tables"]["shop_public.orders"]["rows"] is None  # unknown is not none
    assert result["rows"] is None
    declared = run["outlet_events"][Asset("sync/ft/shop/shop_public.orders")]
    assert list(declared.partition_keys) == ["2026-01-01"]
    assert declared.extra["sync"] == "shop"
    alias = run["outlet_events"][AssetAlias("sync/ingest/load")]
    assert {event.dest_asset_key.name for event in alias.asset_alias_events} == {
        "sync/ft/shop/shop_public.orders",
        "sync/ft/shop/shop_public.customers",
    }
    assert not run["task_state_store"].values
    assert not fivetran.calls(path="*/connectors*")


def test_a_table_that_the_sync_does_not_have_is_warned_of(
    fivetran: LocalFivetran, capsys: pytest.CaptureFixture[str]
) -> None:
    fivetran.connection("shop", SyncScript(seconds=0), tables=PG)
    make(tables=["shop_public.orders", "shop_public.ordrs"]).execute(context(TaskState()))
    told = capsys.readouterr().out
    assert "tables=['shop_public.ordrs']: sync 'shop' has no such table" in told
    assert "Its tables: shop_public.customers, shop_public.orders" in told
    make(tables=["shop_public.orders"]).execute(context(TaskState()))
    assert "no such table" not in capsys.readouterr().out


def test_an_airbyte_job_ends_with_its_rows(airbyte: LocalAirbyte) -> None:
    airbyte.connection("shop", JobScript(seconds=0.2, queued=0.1, waiting_as="queued", attempts=2, rows=7))
    result = make("ab").execute(context(TaskState()))
    assert (result["backend"], result["run_id"], result["rows"]) == ("airbyte", "1", 7)
    assert set(result["tables"]) == {"raw.orders", "raw.customers"}


def test_no_new_rows_can_skip_what_follows(airbyte: LocalAirbyte) -> None:
    airbyte.connection("shop", JobScript(seconds=0, rows=0))
    run = context(TaskState())
    with pytest.raises(AirflowSkipException):
        make("ab", skip_if_no_rows=True).execute(run)
    assert run["ti"].pushed["return_value"]["rows"] == 0


def test_the_handle_is_kept_before_the_task_sleeps_and_a_retry_goes_on_with_the_run(
    fivetran: LocalFivetran, airbyte: LocalAirbyte
) -> None:
    for sync_conn_id, server in (("ft", fivetran), ("ab", airbyte)):
        add(server, seconds=300)
        state = TaskState()
        with pytest.raises(TaskDeferred) as deferred:
            make(sync_conn_id, deferrable=True).execute(context(state))
        trigger = deferred.value.trigger
        assert isinstance(trigger, SyncTrigger)
        assert state.get("airflow_ext_sync_run")["handle"] == trigger.handle
        # The worker was lost; the next try finds what runs.
        with pytest.raises(TaskDeferred) as again:
            make(sync_conn_id, deferrable=True).execute(context(state, try_number=2))
        assert again.value.trigger.handle["resumed"] is True
        assert posts(server) == 1
        server.advance(301)
        result = make(sync_conn_id).execute(context(state, try_number=3))
        assert posts(server) == 1
        assert not state.values
        assert result["run_id"]


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_worker_lost_around_the_request_starts_one_run(
    fivetran: LocalFivetran, airbyte: LocalAirbyte, lost: str
) -> None:
    """The draft is kept before the vendor is asked, so the answer may get lost, or the question."""
    for sync_conn_id, server in (("ft", fivetran), ("ab", airbyte)):
        add(server, seconds=0.3)
        state = TaskState()

        class Died(BaseException):
            pass

        class Dying(TaskState):
            def set(self, key: str, value: Any, kept: TaskState = state, server: Any = server) -> None:
                asked = posts(server) > 0
                if asked or lost == "before":
                    if not asked:
                        kept.set(key, value)
                    raise Died
                kept.set(key, value)

        with pytest.raises(Died):
            make(sync_conn_id).execute(context(Dying()))
        make(sync_conn_id).execute(context(state, try_number=2))
        assert posts(server) == 1


def test_a_sync_that_runs_already_is_adopted_and_not_cancelled_with_the_task(
    fivetran: LocalFivetran, airbyte: LocalAirbyte
) -> None:
    connection = fivetran.connection("shop", SyncScript(seconds=60))
    connection.trigger(fivetran.now(), force=False)
    other = airbyte.connection("shop", JobScript(seconds=60))
    airbyte.start_job(other.id)
    for sync_conn_id, server in (("ft", fivetran), ("ab", airbyte)):
        with pytest.raises(TaskDeferred) as deferred:
            make(sync_conn_id, deferrable=True).execute(context(TaskState()))
        assert deferred.value.trigger.handle["adopted"] is True
        assert posts(server) == 0
        with pytest.raises(SyncFailedError, match="did not end in time") as caught:
            make(sync_conn_id, waiting=SyncWait(poll_interval=0.05, timeout=0.1)).execute(
                context(TaskState())
            )
        assert caught.value.status == "timed_out"
        assert not server.calls(method="PATCH") + server.calls(method="DELETE")


def test_on_running_waits_for_the_other_and_then_starts_or_fails(
    fivetran: LocalFivetran, airbyte: LocalAirbyte
) -> None:
    first = fivetran.connection("shop", SyncScript(seconds=0.3))
    other = airbyte.connection("shop", JobScript(seconds=0.3))
    for sync_conn_id, server in (("ft", fivetran), ("ab", airbyte)):
        first.trigger(fivetran.now(), force=False)
        airbyte.start_job(other.id)
        with pytest.raises(AirflowFailException, match="runs already"):
            make(sync_conn_id, on_running="fail").execute(context(TaskState()))
        make(sync_conn_id, on_running="wait").execute(context(TaskState()))
        assert posts(server) == 1
    assert [sync.status for sync in first.history[:2]] == ["COMPLETED"] * 2


def test_a_run_given_up_is_cancelled(fivetran: LocalFivetran, airbyte: LocalAirbyte) -> None:
    fivetran.connection("shop", SyncScript(outcome="stuck"))
    airbyte.connection("shop", JobScript(outcome="stuck"))
    for sync_conn_id in ("ft", "ab"):
        state = TaskState()
        with pytest.raises(SyncFailedError, match="is stuck"):
            make(sync_conn_id, waiting=SyncWait(poll_interval=0.05, stuck_after=0.2)).execute(context(state))
        assert not state.get("airflow_ext_sync_run")["handle"]
    assert airbyte.jobs[0].status == "cancelled"
    shop = fivetran.connections["shop"]
    assert (shop.history[0].status, shop.paused) == ("CANCELED", False)
    bodies = [call.body for call in fivetran.calls(method="PATCH")]
    assert bodies == [{"paused": flag, "run_setup_tests": False} for flag in (True, False)]


def test_a_sync_that_does_not_begin_is_not_waited_for_for_ever(fivetran: LocalFivetran) -> None:
    fivetran.connection("shop", SyncScript(delay=600))
    with pytest.raises(SyncFailedError, match=r"had not begun after 0\.2 s"):
        make(waiting=SyncWait(poll_interval=0.05, start_timeout=0.2)).execute(context(TaskState()))


def test_killing_the_task_cancels_its_run(fivetran: LocalFivetran, airbyte: LocalAirbyte) -> None:
    fivetran.connection("shop", SyncScript(seconds=60))
    airbyte.connection("shop", JobScript(seconds=60))
    for sync_conn_id, server in (("ft", fivetran), ("ab", airbyte)):
        task = make(sync_conn_id)

        def kill(task: SyncOperator = task, server: Any = server) -> None:
            end = time.monotonic() + 20
            while not posts(server) and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.1)
            task.on_kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(AirflowFailException, match="cancelled"):
            task.execute(context(TaskState()))
        killer.join()
    assert airbyte.jobs[0].status == "cancelled"
    assert fivetran.connections["shop"].history[0].status == "CANCELED"


def test_a_failure_tells_the_vendors_reason_and_what_to_do(fivetran: LocalFivetran) -> None:
    fivetran.connection(
        "shop",
        SyncScript(seconds=0, outcome="fail", reason="disk of the source is full"),
        SyncScript(seconds=0, outcome="fail_task", reason="password was changed"),
    )
    state = TaskState()
    with pytest.raises(SyncFailedError, match="disk of the source is full") as caught:
        make().execute(context(state))
    assert caught.value.link == "https://fivetran.com/dashboard/connections/shop/status"
    assert caught.value.run_id
    # A failure that waits for a person is not retried, neither where it happened nor before the next start.
    with pytest.raises(AirflowFailException, match="password was changed"):
        make().execute(context(state, try_number=2))
    with pytest.raises(AirflowFailException, match="setup is broken: Reconnect: password was changed"):
        make().execute(context(state, try_number=3))
    assert posts(fivetran) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"paused": True}, "is paused: resume it at https://fivetran.com", id="paused"),
        pytest.param({"deleted": True}, "no connection with this id or name", id="deleted"),
    ],
)
def test_what_cannot_run_is_said_before_anything_starts(
    fivetran: LocalFivetran, change: dict[str, Any], told: str
) -> None:
    vars(fivetran.connection("shop")).update(change)
    with pytest.raises(AirflowFailException, match=told):
        make().execute(context(TaskState()))
    assert posts(fivetran) == 0


@pytest.mark.parametrize("how", ["paused", "deleted"])
def test_what_happens_to_a_connection_while_it_is_awaited_ends_the_wait(
    fivetran: LocalFivetran, how: str
) -> None:
    """A peer waits for ever where a connection is paused, and tells 'data' where it is deleted."""
    script = SyncScript(seconds=0.2, outcome="delete") if how == "deleted" else SyncScript(seconds=60)
    connection = fivetran.connection("shop", script)
    if how == "paused":
        threading.Timer(0.3, lambda: connection.pause(fivetran.now(), paused=True)).start()
    with pytest.raises(AirflowFailException, match=how):
        make().execute(context(TaskState()))


def test_a_rescheduled_sync_goes_on_at_the_vendors_time_and_not_before(fivetran: LocalFivetran) -> None:
    """Peers restart it at once, against the quota that put it off, or block the triggerer, or wait for ever."""
    fivetran.connection(
        "shop",
        SyncScript(seconds=0, outcome="reschedule", reschedule_after=60),
        SyncScript(seconds=0),
    )
    task, run = make(), context(TaskState())
    done = threading.Thread(target=task.execute, args=(run,))
    done.start()
    time.sleep(0.5)
    assert posts(fivetran) == 1
    fivetran.connections["shop"].rescheduled_for = fivetran.now() - 5.0  # its time has come
    done.join(timeout=20)
    assert not done.is_alive()
    assert posts(fivetran) == 2
    assert fivetran.calls(method="POST", path="*/sync")[1].body == {"force": False}


def test_reschedule_mode_starts_once_and_looks_again(airbyte: LocalAirbyte) -> None:
    airbyte.connection("shop", JobScript(seconds=100))
    state = TaskState()
    arguments: dict[str, Any] = {"mode": "reschedule", "waiting": SyncWait(poll_interval=30)}
    for _ in range(3):
        with pytest.raises(AirflowRescheduleException):
            make("ab", **arguments).execute(context(state))
    airbyte.advance(101)
    make("ab", **arguments).execute(context(state))
    assert posts(airbyte) == 1


def test_an_outage_while_waiting_leaves_the_run_for_the_next_try(airbyte: LocalAirbyte) -> None:
    airbyte.connection("shop", JobScript(seconds=100))
    state = TaskState()
    airbyte.fail(503, times=1000, path="*/jobs/*", method="GET")
    with pytest.raises(SyncUnavailableError, match="503"):
        make("ab", waiting=SyncWait(poll_interval=0.05, outage=0.1)).execute(context(state))
    airbyte.heal()
    airbyte.advance(101)
    make("ab").execute(context(state, try_number=2))
    assert posts(airbyte) == 1
    assert not airbyte.calls(method="DELETE")


@pytest.mark.parametrize(
    ("gate", "failed", "withheld"),
    [
        pytest.param(SchemaGate(), True, [], id="fail"),
        pytest.param(
            SchemaGate(column_removed="quarantine", table_removed="warn", key_changed="allow"),
            False,
            ["shop_public.orders"],
            id="quarantine",
        ),
    ],
)
def test_a_table_that_changed_is_noticed_before_anything_follows(
    fivetran: LocalFivetran, gate: SchemaGate, failed: bool, withheld: list[str]
) -> None:
    changed: Tables = {"public": {"orders": {"id": {}, "vat": {}}}}
    fivetran.connection("shop", SyncScript(seconds=0), SyncScript(seconds=0, tables=changed), tables=PG)
    with AssetStateServer().serving():
        make(schema_gate=gate).execute(context(TaskState()))
        task, run = make(schema_gate=gate), context(TaskState())
        if failed:
            with pytest.raises(AirflowFailException) as caught:
                task.execute(run)
            told = str(caught.value)
            assert "shop_public.customers: table removed" in told
            assert "shop_public.orders: column removed total" in told
            assert "shop_public.orders: key changed" in told
            assert "vat" not in told  # added columns are allowed
            assert not run["outlet_events"][AssetAlias("sync/ingest/load")].asset_alias_events
            return
        for _ in range(2):  # what is in quarantine stays there
            result = make(schema_gate=gate).execute(run := context(TaskState()))
            assert result["quarantined"] == withheld
            names = {
                event.dest_asset_key.name
                for event in run["outlet_events"][AssetAlias("sync/ingest/load")].asset_alias_events
            }
            assert "sync/ft/shop/shop_public.orders" not in names


def test_a_refused_change_names_the_contracts_and_dbt_sources_it_touches(
    fivetran: LocalFivetran, tmp_path: Path
) -> None:
    text = """
apiVersion: v3.1.0
kind: DataContract
id: shop_orders
version: 1.2.0
status: active
schema:
  - name: orders
    physicalName: shop_public.orders
    properties: [{name: id, logicalType: integer}]
"""
    relation = {"database": "db", "schema": "shop_public", "identifier": "orders"}
    orders = source("orders", fqn=["p", "raw", "orders"], **relation)
    staged = resource("model", "stg_orders", orders["unique_id"], fqn=["p", "stg_orders"])
    (tmp_path / "dbt_project.yml").write_text("name: p\nprofile: p\n")
    (tmp_path / "manifest.json").write_bytes(manifest(orders, staged))
    project = DbtProject(project_dir=tmp_path, profiles_dir=tmp_path, manifest=tmp_path / "manifest.json")
    changed: Tables = {"public": {"orders": {"id": {"is_primary_key": True}}, "Customers": {"id": {}}}}
    fivetran.connection("shop", SyncScript(seconds=0), SyncScript(seconds=0, tables=changed), tables=PG)
    readers = [Contract.from_text(text), project]
    with AssetStateServer().serving():
        make(schema_gate=SchemaGate(), readers=readers).execute(context(TaskState()))
        with pytest.raises(AirflowFailException) as caught:
            make(schema_gate=SchemaGate(), readers=readers).execute(context(TaskState()))
    told = str(caught.value)
    assert "shop_public.orders: column removed total" in told
    assert "shop_public.orders is in contract shop_orders 1.2.0" in told
    assert "shop_public.orders is in dbt source raw.orders, read by stg_orders" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"sync": "{{ x }}"}, "not templated", id="template"),
        pytest.param({"tables": "orders"}, r"give a list of names, such as \['shop\.orders'\]", id="no list"),
        pytest.param({"window_start": "a", "window_end": "b"}, "has no window", id="window"),
        pytest.param({"mode": "sleep"}, "poke, reschedule", id="mode"),
        pytest.param({"on_running": "kill"}, "adopt, wait, fail", id="on running"),
        pytest.param({"mode": "reschedule"}, "at least 10", id="reschedule too often"),
    ],
)
def test_wrong_arguments_fail_when_the_dag_is_parsed(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        make(**arguments)
    with pytest.raises(ValueError, match="above 0"):
        SyncWait(poll_interval=0)


def test_a_connection_of_another_kind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FT", '{"conn_type": "postgres"}')
    with pytest.raises(AirflowFailException, match=r"'postgres'.*ext-fivetran"):
        make().execute(context(TaskState()))
    monkeypatch.setenv("AIRFLOW_CONN_FT", '{"conn_type": "ext-dlt"}')
    with pytest.raises(AirflowFailException, match=r"'ft' .*give SyncOperator tables= instead of sync="):
        make().execute(context(TaskState()))
    monkeypatch.setenv("AIRFLOW_CONN_FT", '{"conn_type": "ext-fivetran"}')
    with pytest.raises(AirflowFailException, match="API secret") as told:
        make().execute(context(TaskState()))
    assert "".join(traceback.format_exception(told.value)).count("API secret into password") == 1
    with pytest.raises(AirflowFailException, match="sync_conn_id='nowhere'") as told:
        make("nowhere").execute(context(TaskState()))
    assert told.value.__cause__ is None
