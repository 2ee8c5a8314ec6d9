"""Fixtures of the lineage tests."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.dbt.flags import DbtFlags
from airflow_ext.dbt.index import DbtIndex
from airflow_ext.dbt.results import NodeBoard
from airflow_ext.dbt.runner import DbtRun, RunSettings
from airflow_ext.hooks.dbt_lineage import emit_lineage
from tests.paths import ROOT
from tests.unit.hooks.lineage import Backend, Built, task_context, use

SHOP = ROOT / "tests" / "integration" / "dags" / "dbt_shop"
MORE = """
sources:
  - name: web
    schema: main
    tables:
      - name: visits
        columns: [{name: id, data_tests: [not_null]}]
models:
  - name: paid
    columns: [{name: order_id, data_tests: [not_null]}]
  - name: visitors
    columns:
      - name: id
        data_tests:
          - accepted_values: {name: only_twos, arguments: {values: [2], quote: false}, config: {severity: warn}}
          - accepted_values: {name: only_threes, arguments: {values: [3], quote: false}}
unit_tests:
  - name: keeps_rows
    model: visitors
    given: [{input: "source('web', 'visits')", rows: [{id: 1}]}]
    expect: {rows: [{id: 1}]}
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return a build in which ``orders`` failed and a test found rows; not to be changed."""
    import duckdb

    folder = tmp_path_factory.mktemp("lineage") / "shop"
    shutil.copytree(SHOP, folder)
    (folder / "models" / "more.yml").write_text(MORE)
    (folder / "models" / "visitors.sql").write_text("select id from {{ source('web', 'visits') }}")
    (folder / "tests" / "of_nothing.sql").write_text("select 1 where false")
    warehouse = folder.parent / "shop.duckdb"
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("create table main.visits as select 1 as id")
    board = NodeBoard(None)
    flags = DbtFlags(vars={"fail": "orders"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(folder.parent / "airflow"))
        patch.setenv("SHOP_DUCKDB", str(warehouse))
        with DbtRun(RunSettings(folder, folder), flags=flags) as run:
            end = run.run(on_log=lambda _: None, on_node=board.add, on_tick=lambda: None)
            (folder / "target").mkdir()
            shutil.copy(end.target / "manifest.json", folder / "target")
    return Built(folder, board.records)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))


@pytest.fixture
def index(built: Built) -> DbtIndex:
    return built.project().index()


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Serve the provider's HTTP transport."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.headers.append(dict(self.headers))
            made.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            if made.hold is not None:
                made.hold.wait(20)
            self.send_response(made.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Backend(f"http://127.0.0.1:{server.server_port}")
    use(monkeypatch, {"type": "http", "url": made.url})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        if made.hold is not None:
            made.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def emit(built: Built, index: DbtIndex) -> Callable[..., int]:
    """Tell of the build."""

    def emit(**changes: Any) -> int:
        given: dict[str, Any] = {
            "context": None,
            "project": built.project(),
            "index": index,
            "records": built.records,
            "started": 1_780_000_000.0,
            "manifest": built.manifest,
        }
        given |= changes
        context = given.pop("context") or task_context(built)
        return emit_lineage(context, given.pop("project"), given.pop("index"), given.pop("records"), **given)

    return emit
