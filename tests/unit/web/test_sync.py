"""The webhook of sync vendors on Airflow's own web app and metadata."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from airflow.models.asset import AssetModel
from airflow.models.asset_state_store import AssetStateStoreModel
from airflow.models.connection import Connection
from airflow.sdk import DAG
from airflow.utils.session import create_session
from sqlalchemy import delete, select

from airflow_ext.operators.sync import SyncOperator
from airflow_ext.web import sync as module
from tests.unit.web.conftest import START, Site, store

SECRET = secrets.token_hex(16)
PATH = "/airflow-ext/sync/webhook/"


@pytest.fixture(autouse=True)
def _connections(metadata: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fields: dict[str, Any] = {"conn_type": "ext-fivetran", "login": "key", "password": secrets.token_hex(8)}
    monkeypatch.setenv("AIRFLOW_CONN_FT", json.dumps({**fields, "extra": {"webhook_secret": SECRET}}))
    monkeypatch.setenv("AIRFLOW_CONN_UNSIGNED", json.dumps(fields))
    monkeypatch.setattr(module, "_SIGNERS", module.Signers())
    with DAG("syncs", schedule=None, start_date=START) as dag:
        SyncOperator(task_id="load", sync_conn_id="ft", sync="shop")
    store(dag)
    yield
    with create_session() as session:
        session.execute(delete(AssetStateStoreModel))


def payload(**changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"event": "sync_end", "created": now, "connector_id": "shop", "sync_id": "one"}
    return told | {"data": {"status": "SUCCESSFUL"}} | changes


def send(
    site: Site,
    told: Mapping[str, Any] | bytes,
    *,
    conn_id: str = "ft",
    secret: str = SECRET,
    signature: str | None = None,
) -> tuple[int, str]:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    signed = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {b"X-Fivetran-Signature-256": (signed if signature is None else signature).encode()}

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(site.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            return await client.post(PATH + conn_id, content=body, headers=headers)

    answer = asyncio.run(post())
    return answer.status_code, answer.json()["status"]


def state() -> dict[str, Any]:
    with create_session() as session:
        found = session.scalars(
            select(AssetStateStoreModel.value)
            .join(AssetModel, AssetModel.id == AssetStateStoreModel.asset_id)
            .where(AssetModel.name == "sync/ft", AssetStateStoreModel.key == "webhook/ft")
        ).all()
    return json.loads(found[0]) if found else {}


def test_the_end_of_a_sync_is_noted_once(site: Site) -> None:
    told = payload()
    assert send(site, told) == (200, "noted")
    assert state()["shop"]["run_id"] == "one"
    assert send(site, told) == (200, "known")
    older = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert send(site, payload(sync_id="zero", created=older)) == (200, "known")
    assert state()["shop"]["run_id"] == "one"
    assert send(site, payload(sync_id="two", connector_id="crm")) == (200, "noted")
    assert set(state()) == {"shop", "crm"}


def test_a_signature_in_upper_case_is_as_good(site: Site) -> None:
    body = json.dumps(payload()).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest().upper()
    assert send(site, body, signature=signature) == (200, "noted")


@pytest.mark.parametrize(
    ("told", "how", "status"),
    [
        pytest.param(payload(), {"secret": "another"}, 401, id="wrong secret"),
        pytest.param(payload(), {"signature": ""}, 401, id="no signature"),
        pytest.param(payload(), {"signature": "\u00e9"}, 401, id="not ascii"),
        pytest.param(payload(), {"conn_id": "nowhere"}, 401, id="no such connection"),
        pytest.param(payload(), {"conn_id": "unsigned", "secret": ""}, 401, id="connection without secret"),
        pytest.param(payload(), {"conn_id": "a%20b"}, 401, id="no connection id"),
        pytest.param(payload(created="2020-01-01T00:00:00Z"), {}, 401, id="old"),
        pytest.param(payload(created="2999-01-01T00:00:00Z"), {}, 401, id="from the future"),
        pytest.param(payload(created=None), {}, 401, id="no time"),
        pytest.param(payload(connector_id=7), {}, 401, id="no sync"),
        pytest.param(b"[" * 1000, {}, 401, id="no JSON"),
        pytest.param(b"x" * (module.MAX_BODY + 1), {}, 413, id="large"),
    ],
)
def test_what_is_not_certain_changes_nothing_and_learns_nothing(
    site: Site, told: Any, how: dict[str, Any], status: int
) -> None:
    assert send(site, told, **how) == (status, "refused" if status == 401 else "too large")
    assert state() == {}


def test_other_events_are_taken_and_not_noted(site: Site) -> None:
    test_event = {"event": "test_event", "created": payload()["created"], "connector_id": "_connector_1"}
    assert send(site, test_event) == (200, "nothing to note")
    assert send(site, payload(event="sync_start")) == (200, "nothing to note")
    assert state() == {}


def test_a_connection_no_dag_names_is_not_even_looked_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {
        "conn_type": "fivetran",
        "login": "key",
        "password": "x" * 8,
        "extra": {"webhook_secret": SECRET},
    }
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(fields))
    looked_up: list[str] = []
    find = Connection.get_connection_from_secrets

    def look_up(conn_id: str) -> Connection:
        looked_up.append(conn_id)
        return find(conn_id)

    monkeypatch.setattr(Connection, "get_connection_from_secrets", look_up)
    assert send(site, payload(), conn_id="other") == (401, "refused")
    assert looked_up == []
    assert send(site, payload())[0] == 200
    assert looked_up == ["ft"]
