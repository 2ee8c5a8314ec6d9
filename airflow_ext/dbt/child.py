"""Run one dbt command and tell the parent what its nodes do. A script with two uses:

* ``python -P child.py FD FOLDER ARGS...`` runs the dbt of this environment in this process. One JSON object per line goes
  to the file descriptor ``FD``; log lines go to standard output.
* ``python -P child.py watch FOLDER PROGRAM ARGS...`` runs a dbt of another environment and only looks after it.

dbt keeps flags, adapters and its event manager in globals, so each run gets a process of its own. A new
interpreter is started instead of a fork: the task process has threads and open channels to Airflow that
a fork would copy, and it has not imported dbt, so a fork would save nothing. Only the standard library and
dbt are imported here.

Standard input is the lifeline: when it closes the parent is gone, and dbt is stopped as by Ctrl-C, so that it cancels
its queries. Then ``FOLDER``, the run's own, is removed in the parent's stead.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

GRACE = 5
"""Seconds dbt has to stop by itself once the parent is gone."""

ABOUT_NODES = frozenset(
    {"LogFreshnessResult", "LogTestResult", "RunResultWarning", "RunResultWarningMessage"}
)
"""Warnings of dbt that repeat what its nodes' results say."""


class EventReader:
    """Turn events of dbt into messages: one for each node, though a microbatch tells of each of its batches.

    :param send: Gets the messages.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._running: dict[str, int] = {}
        self._causes: dict[str, str] = {}
        self._lock = threading.Lock()

    def started(self, unique_id: str) -> None:
        """Note that a node, or a batch of it, begins."""
        with self._lock:
            self._running[unique_id] = self._running.get(unique_id, 0) + 1

    def raised(self, unique_id: str, cause: str) -> None:
        """Note why a batch failed: the result of its node says only that it did."""
        self._causes[unique_id] = cause

    def finished(self, data: Mapping[str, Any]) -> None:
        """Tell of a node, unless only a batch of it has ended.

        :param data: Data of the event ``NodeFinished``.
        """
        unique_id = data["node_info"]["unique_id"]
        with self._lock:
            self._running[unique_id] = left = self._running.get(unique_id, 1) - 1
        if left > 0:
            return
        record = node_record(data)
        cause = self._causes.pop(unique_id, "")
        if data["node_info"].get("materialized") == "ephemeral" and record["status"] == "success":
            # Nothing was built: it is a part of the models that read it.
            return
        if (
            cause
            and record["status"] not in ("success", "skipped")
            and cause not in record.get("message", "")
        ):
            record["message"] = f"{record.get('message', '')}\n{cause}".strip()
        self._send({"node": record})

    def warned(self, name: str, text: str) -> None:
        """Tell of a warning that is not about the result of a node."""
        if name not in ABOUT_NODES and text.strip():
            self._send({"warning": text.strip()})

    def printed(self, text: str) -> None:
        """Tell of output that the command was asked for."""
        self._send({"output": text})


def node_record(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what one ``NodeFinished`` says, without empty fields.

    :param data: The event's data; Fusion's has neither message nor adapter's response.
    """
    info, result = data["node_info"], data.get("run_result") or {}
    record = {
        "id": info["unique_id"],
        "status": str(result.get("status") or info.get("node_status") or "").lower(),
        "seconds": round(float(result.get("execution_time") or 0), 3),
        "started": utc(info.get("node_started_at")),
        "ended": utc(info.get("node_finished_at")),
        "message": result.get("message"),
        "relation": (info.get("node_relation") or {}).get("relation_name"),
        "failures": int(result.get("num_failures") or 0),
    }
    record = {field: value for field, value in record.items() if value or field == "seconds"}
    return record | counted(result.get("adapter_response") or {})


def utc(moment: Any) -> str:
    """Return a moment as dbt writes it with its zone, which dbt leaves out in some places.

    :param moment: ISO date and time; nothing stays nothing.
    """
    text = str(moment or "")
    return text if not text or text.endswith("Z") or "+" in text else f"{text}Z"


def counted(response: Mapping[str, Any]) -> dict[str, int]:
    """Return the rows and bytes that an adapter's response tells.

    :param response: The response; billed bytes count before processed ones.
    """
    counts = {}
    for field, names in (("rows", ("rows_affected",)), ("bytes", ("bytes_billed", "bytes_processed"))):
        for name in names:
            value = response.get(name)
            if isinstance(value, (int, float)) and value >= 0:
                counts[field] = int(value)
                break
    return counts


class Lifeline:
    """Watch for the parent's end.

    :param folder: The run's folder.
    :param interrupt: Asks dbt to stop.
    """

    def __init__(self, folder: str, interrupt: Callable[[], None]) -> None:
        self._folder = folder
        self._interrupt = interrupt
        self._lost = False
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        # Not sys.stdin: a thread inside its buffer would break the interpreter's end.
        while os.read(0, 1024):
            pass
        self._lost = True
        self._interrupt()
        time.sleep(GRACE)
        self.clean()
        # This process leads its group, so nothing that dbt has started is left either.
        os.killpg(os.getpgid(0), signal.SIGKILL)

    def clean(self) -> None:
        """Remove the run's folder if its parent cannot."""
        if self._lost:
            shutil.rmtree(self._folder, ignore_errors=True)


def watch(folder: str, argv: list[str]) -> int:
    """Run a program and return its exit status; see to it that it does not outlive the parent."""
    import subprocess

    # Ctrl-C goes to the whole group: the program decides what it means. A handler, unlike ignoring the signal, is not
    # passed on to the program.
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    except OSError as exc:
        sys.stdout.write(f"{argv[0]} could not be started: {exc.strerror}\n")
        return 126
    lifeline = Lifeline(folder, lambda: process.send_signal(signal.SIGINT))
    status = process.wait()
    lifeline.clean()
    return status if status >= 0 else 128 - status


def run(fd: int, folder: str, args: list[str]) -> int:
    """Run the dbt of this environment and return its exit status."""
    out = os.fdopen(fd, "w", buffering=1, encoding="utf-8")
    lock = threading.Lock()
    # The parent may have been started with Ctrl-C switched off, as shells do for what runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    lifeline = Lifeline(folder, lambda: os.kill(os.getpid(), signal.SIGINT))

    def send(message: dict[str, Any]) -> None:
        # dbt calls back from its worker threads.
        with lock:
            out.write(json.dumps(message) + "\n")

    reader = EventReader(send)

    def on_event(event: Any) -> None:
        # dbt waits while this runs, so only what is needed is taken from an event.
        name = event.info.name
        if name == "NodeStart":
            reader.started(event.data.node_info.unique_id)
        elif name == "NodeFinished":
            from google.protobuf import json_format  # type: ignore[import-untyped]  # no stubs among our tools

            reader.finished(json_format.MessageToDict(event.data, preserving_proto_field_name=True))
        elif name == "GenericExceptionOnRun":
            reader.raised(event.data.unique_id, event.data.exc)
        elif name == "PrintEvent":
            reader.printed(event.data.msg)
        elif name == "ShowNode":
            reader.printed(event.data.preview)
        if event.info.level == "warn":
            reader.warned(name, event.info.msg)

    # dbt makes many objects that live to its end. Looking through them again and again, and through those of its
    # modules, is a sixth of the time that a small build takes.
    gc.disable()
    from dbt.cli.main import dbtRunner

    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    gc.enable()
    outcome = dbtRunner(callbacks=[on_event]).invoke(args)
    exception = outcome.exception
    problem = "" if exception is None else str(exception) or type(exception).__name__
    lifeline.clean()
    end: dict[str, Any] = {"success": outcome.success, "problem": problem}
    if args[0] == "ls" and isinstance(outcome.result, list):
        # What macros print while dbt parses is among what it printed.
        end["listed"] = outcome.result
    # Nobody reads it if the parent is gone.
    with contextlib.suppress(BrokenPipeError):
        send({"end": end})
    return 0 if outcome.success else 1 if exception is None else 2


def main(argv: list[str]) -> int:
    """Do what the arguments ask for and return an exit status."""
    return watch(argv[2], argv[3:]) if argv[1] == "watch" else run(int(argv[1]), argv[2], argv[3:])


def leave(status: int) -> None:
    """End the process as the interpreter does, but without taking each object apart: a sixth of a small build."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    # Here adapters close what they hold open, such as the file of a DuckDB.
    atexit._run_exitfuncs()  # noqa: SLF001  # there is no other name for it
    for stream in (sys.stdout, sys.stderr):
        # The parent may be gone.
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main(sys.argv))
