"""Which backend a connection means, other packages' too, and whether it works."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, AssetAlias
from airflow.sdk.exceptions import TaskDeferred

from airflow_ext.exceptions import InvalidError
from airflow_ext.hooks.sync_vendors import AirbyteHook, FivetranHook, get_remote_backend
from airflow_ext.operators.sync import SyncOperator, SyncWait
from airflow_ext.sync.airbyte import AirbyteBackend
from airflow_ext.sync.fivetran import FivetranBackend
from airflow_ext.testing.airbyte import LocalAirbyte
from airflow_ext.testing.fivetran import LocalFivetran
from tests.unit.sync.remote import TaskState, airbyte_connection, context, fivetran_connection

ACME = '''
"""A vendor of another package: its syncs end when they are looked at for the second time."""

from airflow_ext.sync.model import Capabilities, RunStatus, SyncRef, SyncResult, SyncStatus, TableResult


class Acme:
    name = "acme"
    capabilities = Capabilities(remote=True, row_counts=True)
    looks = 0

    async def start(self, request, *, keep=None):
        return {"backend": self.name, "sync": request.sync, "name": request.sync}

    async def poll(self, handle, *, wait=0):
        Acme.looks += 1
        return RunStatus(status=SyncStatus.RUNNING if Acme.looks < 2 else SyncStatus.SUCCEEDED, run_id="7")

    async def status_many(self, handles):
        return {key: await self.poll(handle) for key, handle in handles.items()}

    async def resume(self, handle):
        return handle

    async def explain(self, handle, status):
        return status

    async def result(self, handle, status):
        table = TableResult(name="crm.leads", rows=3)
        return SyncResult(backend=self.name, run_id=status.run_id, started=None, ended=None, tables=(table,))

    async def aclose(self):
        pass


def backend(connection, *, tries=4):
    return Acme()
'''


def connect(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_THERE", json.dumps(fields))


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install another package as pip would."""
    info = tmp_path / "acme_airflow-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-airflow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[airflow_ext.sync_backends]\nacme-sync = acme_sync:backend\nbroken-sync = nowhere:backend\n"
    )
    (tmp_path / "acme_sync.py").write_text(ACME)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize("deferrable", [False, True], ids=["on a worker", "in the triggerer"])
def test_another_package_brings_a_vendor(monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    connect(monkeypatch, conn_type="acme-sync")
    monkeypatch.delitem(sys.modules, "acme_sync", raising=False)
    with DAG("ingest", schedule=None):
        task = SyncOperator(
            task_id="load",
            sync_conn_id="there",
            sync="leads",
            deferrable=deferrable,
            waiting=SyncWait(poll_interval=0.05),
        )
    run = context(TaskState())
    if deferrable:
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(run)
        trigger: Any = deferred.value.trigger
        trigger.resume_after = 0.0

        async def event() -> Any:
            async with asyncio.timeout(20), aclosing(trigger.run()) as events:
                return (await anext(events)).payload

        result = task.execute_complete(run, asyncio.run(event()), **(deferred.value.kwargs or {}))
    else:
        result = task.execute(run)
    assert (result["backend"], result["run_id"], result["tables"]["crm.leads"]["rows"]) == ("acme", "7", 3)
    events = run["outlet_events"][AssetAlias("sync/ingest/load")].asset_alias_events
    assert [event.dest_asset_key.name for event in events] == ["sync/there/leads/crm.leads"]


@pytest.mark.usefixtures("acme")
def test_a_package_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, conn_type="broken-sync")
    with pytest.raises(InvalidError, match=r"'broken-sync': the backend 'nowhere:backend' cannot be loaded"):
        get_remote_backend("there")


@pytest.mark.parametrize(
    ("fields", "kind", "base"),
    [
        pytest.param(
            {"conn_type": "fivetran", "login": "k", "password": "s"},
            FivetranBackend,
            "https://api.fivetran.com",
            id="another provider's fivetran",
        ),
        pytest.param({"conn_type": "ext-airbyte"}, AirbyteBackend, "https://api.airbyte.com/v1", id="Cloud"),
        pytest.param(
            {"conn_type": "airbyte", "host": "http://ab", "port": 8000, "schema": "v1/applications/token"},
            AirbyteBackend,
            "http://ab:8000/api/public/v1",
            id="another provider's airbyte",
        ),
        pytest.param(
            {"conn_type": "airbyte", "host": "https://ab/api/public/v1/"},
            AirbyteBackend,
            "https://ab/api/public/v1",
            id="slash at the end",
        ),
    ],
)
def test_the_type_of_a_connection_chooses(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], kind: type, base: str
) -> None:
    connect(monkeypatch, **fields)
    backend: Any = get_remote_backend("there")
    assert backend.http.base_url == base
    assert isinstance(backend, kind)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        pytest.param({"conn_type": "ext-fivetran", "login": "k"}, "API secret into password", id="no secret"),
        pytest.param({"conn_type": "ext-airbyte", "login": "k"}, "client secret", id="half a login"),
        pytest.param({"conn_type": "ext-airbyte", "host": "ftp://x"}, "http or https URL", id="no URL"),
        pytest.param({"conn_type": "ext-dlt"}, "'ext_dlt'.*airbyte", id="embedded"),
    ],
)
def test_what_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], told: str
) -> None:
    connect(monkeypatch, **fields)
    with pytest.raises(InvalidError, match=told):
        get_remote_backend("there")


def test_test_connection_asks_the_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalFivetran() as fivetran, LocalAirbyte() as airbyte:
        connect(monkeypatch, **json.loads(fivetran_connection(fivetran)))
        assert FivetranHook("there").test_connection() == (True, "Fivetran account Local")
        assert [call.path for call in fivetran.calls()] == ["/v1/account/info"]
        connect(monkeypatch, **json.loads(airbyte_connection(airbyte)))
        assert AirbyteHook("there").test_connection() == (True, "Airbyte answers, it has no connection yet")
        wrong = secrets.token_hex(8)
        connect(monkeypatch, **json.loads(airbyte_connection(airbyte)) | {"password": wrong})
        good, told = AirbyteHook("there").test_connection()
        assert not good
        assert "401" in told
        assert wrong not in told
