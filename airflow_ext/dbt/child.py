"""Run one dbt command and tell the parent what its nodes do. A script: ``python -P child.py FD ARGS...``.

dbt keeps flags, adapters and its event manager in globals, so each run gets a process of its own. A new
interpreter is started instead of a fork: the task process has threads and open channels to Airflow that
a fork would copy, and it has not imported dbt, so a fork would save nothing. Only the standard library and
dbt are imported here.

One JSON object per line goes to the file descriptor ``FD``; log lines go to standard output. Standard input is the
lifeline: when it closes the parent is gone, and dbt is stopped as by Ctrl-C, so that it cancels its queries.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

GRACE = 10
"""Seconds dbt has to stop by itself once the parent is gone."""


def _watch_lifeline() -> None:
    # Not sys.stdin: a thread inside its buffer would break the interpreter's end.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE)
    os._exit(1)


def _plain(response: Any) -> dict[str, Any]:
    from google.protobuf import json_format  # type: ignore[import-untyped]  # no stubs among our tools

    return dict(json_format.MessageToDict(response))


def _record(event: Any) -> dict[str, Any]:
    info, result = event.data.node_info, event.data.run_result
    record: dict[str, Any] = {
        "id": info.unique_id,
        "status": result.status or info.node_status,
        "seconds": round(result.execution_time, 3),
        "started": info.node_started_at,
        "message": result.message,
    }
    rows = _plain(result.adapter_response).get("rows_affected")
    if isinstance(rows, (int, float)) and rows >= 0:
        record["rows"] = int(rows)
    if result.num_failures:
        record["failures"] = result.num_failures
    return record


def _hooks(outcome: Any) -> list[dict[str, Any]]:
    # dbt says that a hook has ended but not why it failed; only the results at the end have its message.
    return [
        {
            "id": result.node.unique_id,
            "status": str(result.status),
            "seconds": round(result.execution_time, 3),
            "message": result.message,
        }
        for result in getattr(outcome.result, "results", ())
        if getattr(getattr(result, "node", None), "resource_type", "") == "operation"
    ]


def main(argv: list[str]) -> int:
    """Run dbt with ``argv[2:]`` and return dbt's exit status."""
    out = os.fdopen(int(argv[1]), "w", buffering=1, encoding="utf-8")
    lock = threading.Lock()
    threading.Thread(target=_watch_lifeline, daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        # dbt calls back from its worker threads.
        with lock:
            out.write(json.dumps(message) + "\n")

    def on_event(event: Any) -> None:
        if event.info.name == "NodeFinished":
            send({"node": _record(event)})

    from dbt.cli.main import dbtRunner

    outcome = dbtRunner(callbacks=[on_event]).invoke(argv[2:])
    for record in _hooks(outcome):
        send({"node": record})
    problem = str(outcome.exception) if outcome.exception is not None else ""
    send({"end": {"success": outcome.success, "problem": problem}})
    out.flush()
    return 0 if outcome.success else 1 if outcome.exception is None else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
