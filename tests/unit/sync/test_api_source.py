"""An HTTP API as source, through a real server and real worker processes."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException
from requests import Response

from airflow_ext.exceptions import InvalidError
from airflow_ext.hooks.sync import DltHook
from airflow_ext.operators.sync import SyncOperator
from airflow_ext.sync.api import SyncApi
from airflow_ext.sync.api_answers import answer_check, origin
from airflow_ext.sync.model import SyncStatus
from airflow_ext.sync.tables import SyncTable
from tests.unit.sync.remote import TaskState, context

ORDERS = SyncApi(
    "orders",
    path="/orders",
    rows="data",
    paginator={"type": "offset", "limit": 2, "total_path": "total"},
    primary_key="id",
    cursor="at",
    cursor_param="since",
)


class Shop(ThreadingHTTPServer):
    """Orders, two per page, for whom has the token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = secrets.token_hex(8)
        self.orders = [
            {"id": n, "at": f"2026-01-0{n}", "tags": ["x"] * n, "amount": n * 1.5} for n in range(1, 6)
        ]
        self.asked: list[dict[str, list[str]]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Shop

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.send_response(401)
            self.end_headers()
            return
        self.server.asked.append(query)
        found = [order for order in self.server.orders if order["at"] >= query.get("since", [""])[0]]  # type: ignore[operator]  # texts
        offset = int(query["offset"][0])
        body = json.dumps({"data": found[offset : offset + 2], "total": len(found)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def api(shop: Shop, token: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{shop.server_port}"
    return {"source_url": "", "api": {"base_url": url, "auth": {"type": "bearer", "token": token}}}


def test_pages_are_read_and_the_next_run_goes_on_from_the_cursor(shop: Shop, syncs: Any) -> None:
    there = api(shop, shop.token)
    first = syncs(ORDERS, **there)
    assert first.status is SyncStatus.SUCCEEDED, first.reason
    assert first.result.to_dict()["tables"] == {
        "orders": {"rows": 5, "schema_changes": [{"kind": "table_added"}]}
    }
    shop.orders[4]["amount"] = 100.0
    shop.orders.append({"id": 6, "at": "2026-01-06", "tags": [], "amount": 0.5, "note": "new"})
    second = syncs(ORDERS, **there)
    assert second.status is SyncStatus.SUCCEEDED, second.reason
    changes = second.result.to_dict()["tables"]["orders"]["schema_changes"]
    assert changes == [{"kind": "column_added", "column": "note", "type": "text"}]
    assert shop.asked[-1]["since"] == ["2026-01-05"]
    assert second.result.to_dict()["tables"]["orders"]["rows"] == 2  # the last one of before is loaded again
    assert syncs.rows("SELECT count(*), count(DISTINCT id), sum(amount) FROM raw.orders") == [(6, 6, 115.5)]
    assert syncs.rows("SELECT count(*) FROM raw.orders__tags") == [(15,)]


def test_rows_that_are_not_where_they_should_be_fail_and_empty_nothing(shop: Shop, syncs: Any) -> None:
    there = api(shop, shop.token)
    paginator = json.loads(ORDERS.paginator)
    pages: dict[str, Any] = {"path": "/orders", "mode": "replace", "paginator": paginator}
    assert syncs(SyncApi("orders", rows="data", **pages), **there).status is SyncStatus.SUCCEEDED
    status = syncs(SyncApi("orders", rows="dta", **pages), **there)
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    assert status.reason == "rows='dta' of table 'orders': no 'dta' in the answer; it has data, total"
    assert syncs.rows("SELECT count(*) FROM raw.orders") == [(5,)]
    status = syncs(ORDERS, **there)
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    assert (
        "mode='merge' of table 'orders': it has been loaded by another mode before; drop it" in status.reason
    )


@pytest.mark.parametrize("rows", ["data", None], ids=["told where", "found by dlt"])
def test_a_page_that_does_not_tell_the_total_is_not_shown(shop: Shop, syncs: Any, rows: str | None) -> None:
    shop.orders[0]["name"] = private = secrets.token_hex(8)
    paginator = {"type": "offset", "limit": 2, "total_path": "totl"}
    status = syncs(
        SyncApi("orders", path="/orders", rows=rows, mode="append", paginator=paginator),
        **api(shop, shop.token),
    )
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    if rows:
        told = (
            "total_path='totl' in paginator= of table 'orders': no 'totl' in the answer; it has data, total"
        )
        assert status.reason == told
    assert "totl" in status.reason
    assert private not in status.reason + str(syncs.messages)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        pytest.param("data.items", "no 'items' in data; it is a list, not an object", id="in a list"),
        pytest.param("$.page.items[*]", "no 'items' in page; it has of", id="below the top"),
        pytest.param("total", "no list of objects there, but a int", id="a number"),
        pytest.param("data[*]", "", id="an empty list"),
        pytest.param("none.items", "", id="null"),
    ],
)
def test_rows_are_looked_for_where_a_path_is_plain(rows: str, told: str) -> None:
    answer = Response()
    answer.status_code = 200
    answer._content = b'{"data": [], "page": {"of": "private"}, "total": 3, "none": null}'
    look = answer_check(SyncApi("orders", path="/orders", rows=rows, mode="append"), "shop")
    with pytest.raises(InvalidError, match=re.escape(told)) if told else nullcontext():
        assert look(answer).json()["total"] == 3


def test_a_cursor_that_no_row_has_is_for_the_author_to_fix(shop: Shop, syncs: Any) -> None:
    shop.orders[0]["tags"] = [private := secrets.token_hex(8)]
    paginator = json.loads(ORDERS.paginator)
    table = SyncApi("o", path="/orders", mode="append", cursor="updatd_at", paginator=paginator, rows="data")
    status = syncs(table, **api(shop, shop.token))
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    has = "it has id, at, tags, amount"
    assert (
        status.reason == f"cursor='updatd_at' of table 'o': an object in the answer does not have it; {has}"
    )
    assert private not in str(syncs.messages)


@pytest.mark.parametrize(
    ("status", "kind", "body", "told"),
    [
        pytest.param(404, "text/html", b"<html>private", "answers 404 Not Found", id="no such path"),
        pytest.param(
            200, "text/html; charset=x", b"<html>", "answers text/html, which is not JSON", id="html"
        ),
        pytest.param(204, "", b"", "answers nothing, which is not JSON", id="nothing"),
        pytest.param(503, "text/html", b"<html>", "", id="may pass"),
        pytest.param(403, "text/html", b"<html>", "", id="too many requests, for some"),
    ],
)
def test_an_answer_that_a_retry_does_not_change_is_for_the_author_to_fix(
    syncs: Any, status: int, kind: str, body: bytes, told: str
) -> None:
    answer = Response()
    answer.status_code, answer._content = status, body
    answer.headers["Content-Type"] = kind
    server = {"base_url": "https://me:pw@shop.example.com:8443/v1"}
    who = origin(syncs.backend(source_url="", source_id="shop", api=server).pair)
    look = answer_check(SyncApi("o", path="/nope", mode="append"), who)
    said = re.escape(f"path='/nope' of table 'o': shop.example.com:8443 (connection 'shop') {told}") + "$"
    with pytest.raises(InvalidError, match=said) if told else nullcontext():
        look(answer)


def test_a_refused_token_is_not_shown(shop: Shop, syncs: Any) -> None:
    wrong = secrets.token_hex(8)
    status = syncs(ORDERS, secrets=(wrong,), **api(shop, wrong))
    assert (status.status, status.fixable) == (SyncStatus.FAILED, True)
    assert "401" in status.reason
    assert wrong not in status.reason + str(syncs.messages)


def test_an_api_is_reached_by_airflows_connections(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"source_conn_id": "shop", "destination_conn_id": "warehouse"}
    token = {"token": shop.token}
    for name, document in (
        ("shop", {"conn_type": "http", "host": "http://127.0.0.1", "port": shop.server_port, "extra": token}),
        ("warehouse", {"conn_type": "duckdb", "host": str(tmp_path / "w.duckdb")}),
        ("both", {"conn_type": "ext-dlt", "extra": both}),
    ):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(document))
    with DAG("ingest", schedule=None):
        folder = tmp_path / "state"
        task = SyncOperator(task_id="load", sync_conn_id="both", tables=[ORDERS], pipelines_folder=folder)
        other = SyncTable("orders2", mode="replace")
        mixed = SyncOperator(task_id="mixed", sync_conn_id="both", tables=[ORDERS, other])
    assert task.execute(context(TaskState()))["tables"]["orders"]["rows"] == 5
    assert shop.token in DltHook("both").get_conn([ORDERS]).secrets
    with pytest.raises(AirflowFailException, match="SyncApi, SyncTable have different sources"):
        mixed.execute(context(TaskState()))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"path": "http://x/y", "mode": "append"}, "below the connection's URL", id="whole URL"),
        pytest.param({"path": "/a", "mode": "window", "cursor": "at"}, "use mode='merge'", id="window"),
        pytest.param(
            {"path": "/a", "mode": "append", "cursor_param": "since"}, "needs cursor=", id="no cursor"
        ),
        pytest.param(
            {"path": "/a", "mode": "append", "paginator": "magic"}, "the paginators are", id="paginator"
        ),
    ],
)
def test_wrong_arguments_name_what_is_right(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SyncApi("orders", **arguments)


def test_an_http_connection_says_where_and_who() -> None:
    from airflow.sdk import Connection

    from airflow_ext.hooks._sync_files import api_source

    plain = Connection(
        conn_id="shop", conn_type="http", host="shop.example.com/v1", login="me", password="pw", port=8443
    )
    assert api_source(plain) == {
        "base_url": "https://shop.example.com:8443/v1",
        "auth": {"type": "http_basic", "username": "me", "password": "pw"},
    }
    token = Connection(
        conn_id="shop", conn_type="http", host="http://shop.example.com", extra='{"token": "t"}'
    )
    assert api_source(token) == {
        "base_url": "http://shop.example.com",
        "auth": {"type": "bearer", "token": "t"},
    }
    with pytest.raises(InvalidError, match="'http' connection with a host"):
        api_source(Connection(conn_id="shop", conn_type="postgres", host="x"))
