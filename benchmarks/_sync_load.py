"""One way of moving rows from PostgreSQL into DuckDB, as a process: ``python _sync_load.py WAY JSON``.

The last line is JSON with the seconds of the work alone and the peak memory in MB. ``operator`` is a ``SyncOperator``,
whose seconds begin when a task calls ``execute`` and whose memory is that of the process it starts.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


def operator(told: dict[str, Any]) -> dict[str, Any]:
    """Run a ``SyncOperator`` as often as asked, with SQL in the source before each run."""
    from types import SimpleNamespace
    from urllib.parse import urlsplit

    from airflow.sdk import DAG
    from airflow.sdk.execution_time.context import OutletEventAccessors

    from airflow_ext.operators.sync import SyncOperator, SyncTable

    url = urlsplit(told["url"])
    fields = {
        "conn_type": "postgres",
        "host": url.hostname,
        "port": url.port,
        "login": url.username,
        "password": url.password,
        "schema": url.path.strip("/"),
    }
    ends = {"source_conn_id": "source", "destination_conn_id": "warehouse"}
    os.environ["AIRFLOW_CONN_SOURCE"] = json.dumps(fields)
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = json.dumps({"conn_type": "duckdb", "host": told["file"]})
    os.environ["AIRFLOW_CONN_EXT_DLT_DEFAULT"] = json.dumps({"conn_type": "ext-dlt", "extra": ends})
    with DAG("bench", schedule=None):
        task = SyncOperator(
            task_id="load", tables=[SyncTable(**told["table"])], pipelines_folder=told["folder"]
        )
    ti = SimpleNamespace(dag_id="bench", task_id="load", run_id="r", map_index=-1, try_number=1)
    run = SimpleNamespace(partition_key=None, run_type="manual")
    seconds, rows = [], []
    for statement in told["before"]:
        if statement:
            _run_sql(told["url"], statement)
        context: Any = {"ti": ti, "dag_run": run, "outlet_events": OutletEventAccessors()}
        started = time.perf_counter()
        result = task.execute(context)
        seconds.append(time.perf_counter() - started)
        rows.append(result["tables"][told["table"]["name"]]["rows"])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": seconds, "rows": rows, "peak_mb": peak}


def connectorx(told: dict[str, Any]) -> dict[str, Any]:
    """Read a table with connectorx and put it into DuckDB, nothing else."""
    started = time.perf_counter()
    import connectorx as cx
    import duckdb

    rows = cx.read_sql(told["url"], f"SELECT * FROM {told['name']}", return_type="arrow", protocol="binary")
    with duckdb.connect(told["file"]) as there:
        there.register("rows", rows)
        there.execute("CREATE TABLE loaded AS SELECT * FROM rows")
    return _done(started)


def copy_csv(told: dict[str, Any]) -> dict[str, Any]:
    """Let PostgreSQL write CSV and DuckDB read it."""
    started = time.perf_counter()
    import duckdb
    import psycopg

    path = Path(told["file"]).with_suffix(".csv")
    statement = f"COPY {told['name']} TO STDOUT (FORMAT csv, HEADER)"
    with (
        psycopg.connect(told["url"]) as source,
        source.cursor() as cursor,
        cursor.copy(statement) as rows,
        path.open("wb") as out,
    ):
        for part in rows:
            out.write(part)
    with duckdb.connect(told["file"]) as there:
        there.execute(f"CREATE TABLE loaded AS SELECT * FROM read_csv('{path}')")
    return _done(started)


def dlt(told: dict[str, Any]) -> dict[str, Any]:
    """Run dlt as its own examples do, with one of its backends."""
    started = time.perf_counter()
    import dlt as library
    from dlt.sources.sql_database import sql_table

    os.environ["DATA_WRITER__DISABLE_COMPRESSION"] = "true"
    pipeline = library.pipeline(
        "bench", destination=library.destinations.duckdb(told["file"]), pipelines_dir=told["folder"]
    )
    rows = sql_table(told["url"], told["name"], backend=told["backend"])
    pipeline.run(rows.add_limit(told["limit"]) if told.get("limit") else rows, write_disposition="replace")
    return _done(started)


def imports(_: dict[str, Any]) -> dict[str, Any]:
    """Import what the engine's process imports, and nothing else: its start-up."""
    started = time.perf_counter()
    import connectorx as cx
    import duckdb
    import pyarrow.compute
    import sqlalchemy.dialects.postgresql.psycopg

    import airflow_ext.sync.dlt_worker

    del cx, duckdb, pyarrow, sqlalchemy, airflow_ext
    return _done(started)


def _done(started: float) -> dict[str, Any]:
    seconds = time.perf_counter() - started
    return {"seconds": [seconds], "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _run_sql(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as there:
        there.execute(statement)


WAYS = {"operator": operator, "connectorx": connectorx, "copy": copy_csv, "dlt": dlt, "imports": imports}

if __name__ == "__main__":
    print(json.dumps(WAYS[sys.argv[1]](json.loads(sys.argv[2]))), flush=True)
