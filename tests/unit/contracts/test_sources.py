"""Contracts from folders and URLs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from airflow_ext.contracts import Contract
from airflow_ext.contracts.loading import MAX_BYTES
from airflow_ext.exceptions import (
    AirflowExtError,
    DeniedError,
    InvalidContractError,
    InvalidError,
    UnavailableError,
)
from tests.unit.contracts.samples import document

SECRET = "zq81-secret"


def put(folder: Path, name: str, **changes: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document(**changes)))
    return path


def test_a_folder_is_read_with_its_folders(tmp_path: Path) -> None:
    put(tmp_path, "b/orders.odcs.yaml", version="2.0.0")
    put(tmp_path, "a/orders.odcs.yml", version="1.10.0")
    put(tmp_path, "orders.odcs.json", version="1.9.0")
    put(tmp_path, "bills.odcs.yaml", id="bills")
    put(tmp_path, ".hidden/orders.odcs.yaml")
    (tmp_path / "notes.yaml").write_text("not: a contract")
    found = Contract.from_folder(tmp_path)
    assert [(c.id, c.version) for c in found] == [
        ("bills", "1.2.0"),
        ("orders", "1.9.0"),
        ("orders", "1.10.0"),
        ("orders", "2.0.0"),
    ]


def test_all_problems_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    one = put(tmp_path, "a.odcs.yaml")
    two = put(tmp_path, "b.odcs.yaml", version="1.2")
    bad = put(tmp_path, "c.odcs.yaml", wrong=1)
    with pytest.raises(InvalidContractError) as caught:
        Contract.from_folder(tmp_path)
    assert f"{two}: orders 1.2 is also in {one}" in str(caught.value)
    assert any(p.startswith(f"{bad}: line ") and "wrong: unknown field" in p for p in caught.value.problems)


@pytest.mark.parametrize(("name", "problem"), [("", "holds no contract"), ("nowhere", "no such folder")])
def test_a_folder_without_contracts_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(InvalidContractError, match=problem):
        Contract.from_folder(tmp_path / name)


def test_no_more_of_a_file_is_read_than_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x.odcs.yaml"
    with path.open("wb") as file:
        file.truncate(1000 * MAX_BYTES)
    with pytest.raises(InvalidContractError, match="larger than 1,000,000 bytes"):
        Contract.from_file(path)


class Server:
    """A local server of contracts that keeps what it was asked."""

    def __init__(self) -> None:
        outer = self
        self.asked: list[tuple[str, str | None]] = []
        self.other = ""

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization")))
                path = self.path.partition("?")[0]
                if path == "/slow":
                    time.sleep(2)
                if path in ("/away", "/loop", "/file"):
                    target = {
                        "/away": f"{outer.other}/orders",
                        "/loop": "/loop",
                        "/file": "file:///etc/passwd",
                    }[path]
                    self.send_response(302)
                    self.send_header("Location", target)
                    self.end_headers()
                    return
                body = yaml.safe_dump(document()).encode() if path == "/orders" else b"x" * (3 * MAX_BYTES)
                self.send_response({"/denied": 403, "/gone": 404, "/broken": 500}.get(path, 200))
                self.end_headers()
                with suppress(OSError):  # a client that has read enough goes
                    self.wfile.write(body if path in ("/orders", "/large") else b"")

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_a_contract_is_fetched(server: Server) -> None:
    contract = Contract.from_url(f"{server.url}/orders?token={SECRET}", headers={"Authorization": "Bearer x"})
    assert (contract.id, contract.source) == ("orders", f"{server.url}/orders")
    assert server.asked == [(f"/orders?token={SECRET}", "Bearer x")]
    named = Contract.from_url(f"{server.url.replace('//', f'//user:{SECRET}@')}/orders")
    assert named.source == f"{server.url}/orders"
    assert str(server.asked[1][1]).startswith("Basic ")


def test_headers_are_not_sent_on_to_another_place(server: Server) -> None:
    other = Server()
    server.other = other.url
    try:
        assert Contract.from_url(f"{server.url}/away", headers={"Authorization": "Bearer x"}).id == "orders"
        assert other.asked == [("/orders", None)]
    finally:
        other.close()


@pytest.mark.parametrize(
    ("path", "error", "problem"),
    [
        ("/denied", DeniedError, "HTTP 403"),
        ("/gone", InvalidError, "HTTP 404"),
        ("/broken", UnavailableError, "HTTP 500"),
        ("/large", InvalidContractError, "larger than"),
        ("/loop", InvalidError, "more than 3 redirects"),
        ("/file", InvalidError, "expected an http or https URL"),
        ("/slow", UnavailableError, "no answer within 0.2 s"),
    ],
)
def test_what_cannot_be_fetched(
    server: Server, path: str, error: type[AirflowExtError], problem: str
) -> None:
    with pytest.raises(error, match=problem) as caught:
        Contract.from_url(f"{server.url}{path}?token={SECRET}", timeout=0.2 if path == "/slow" else 10)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("url", ["ftp://x/y", "orders.odcs.yaml", f"file:///x?{SECRET}", "http://[", ""])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidError, match="expected an http or https URL") as caught:
        Contract.from_url(url)
    assert SECRET not in str(caught.value)


def test_a_server_that_is_not_there(server: Server) -> None:
    server.close()
    with pytest.raises(UnavailableError, match=r"/orders: cannot be fetched: ConnectError"):
        Contract.from_url(f"{server.url}/orders?token={SECRET}")
    server.http = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.http.serve_forever, daemon=True).start()
