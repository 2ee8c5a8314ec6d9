"""The embedded engine behind the sync protocol: starts the worker process, listens, stops it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import airflow_ext
from airflow_ext.exceptions import InvalidError
from airflow_ext.extras import require
from airflow_ext.sync.backend import Keep, RunHandle, SyncRequest
from airflow_ext.sync.dlt_job import DltJob, DltPair
from airflow_ext.sync.model import Capabilities, RunStatus, SyncResult, SyncStatus
from airflow_ext.sync.scrub import scrub

OUTPUT_LINES = 40
"""Lines the worker printed that are kept for a failure nobody foresaw."""

DRAIN_SECONDS = 5
"""Time to read what a worker that has ended left in its pipes; a child of its own may hold them open."""


class DltBackend:
    """Runs each sync in a process of its own on this machine.

    :param pair: Source and destination.
    :param folder: Folder for the pipelines' state and load packages. It holds rows of the source until
        they are loaded, never credentials; give it a place that outlives a crash of the task.
    """

    name = "dlt"
    capabilities = Capabilities(cancel=True, windowed=True, row_counts=True, schema_changes=True)

    def __init__(self, pair: DltPair, *, folder: Path) -> None:
        self.pair = pair
        self.folder = folder
        self._runs: dict[str, _Run] = {}

    async def start(self, request: SyncRequest, *, keep: Keep | None = None) -> RunHandle:
        """Start the worker process and return at once.

        :param keep: Not used: the run ends with the task that started it.

        :raises MissingExtraError: If dlt is not installed.
        """
        del keep
        require("dlt", extra="dlt")
        job = DltJob(
            pair=self.pair,
            name=request.name,
            key=request.key,
            folder=self.folder.resolve(),
            tables=request.tables,
            window=request.window,
            run=request.run,
        )
        run = await asyncio.to_thread(_Run, job)
        key = uuid.uuid4().hex
        self._runs[key] = run
        return {"backend": self.name, "run": key, "pid": run.pid}

    async def poll(self, handle: RunHandle, *, wait: float = 0) -> RunStatus:
        """Return where the run stands, at the latest after ``wait`` seconds."""
        return await asyncio.to_thread(self._run(handle).status, wait)

    async def cancel(self, handle: RunHandle, *, patience: float = 3) -> None:
        """Ask the worker to stop between two steps, then end it.

        What it was writing is rolled back by the database; packages it had extracted stay for the next try.
        """
        await asyncio.to_thread(self._run(handle).stop, patience)

    def _run(self, handle: RunHandle) -> _Run:
        try:
            return self._runs[handle["run"]]
        except KeyError:
            raise InvalidError(
                f"run={handle.get('run')!r} was not started by this process; the embedded engine's runs "
                "end with the task that started them"
            ) from None


class _Run:
    """One worker process and what it has told so far."""

    def __init__(self, job: DltJob) -> None:
        self._secrets = job.pair.secrets
        self._changed = threading.Condition()
        self._status = SyncStatus.RUNNING
        self._phase = "start"
        self._rows: dict[str, int] = {}
        self._messages: list[tuple[str, str]] = []
        self._told_end: dict[str, Any] = {}
        self._end: dict[str, Any] = {}
        self._cancelled = False
        self._output: deque[str] = deque(maxlen=OUTPUT_LINES)
        job.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        events, out = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow_ext.sync.dlt_worker", str(out)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(out,),
                cwd=job.folder,
                env=_environment(job.folder),
            )
        except BaseException:
            os.close(events)
            raise
        finally:
            os.close(out)
        self.pid = self._process.pid
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_events, args=(events,), daemon=True),
        ]
        self._waiter = threading.Thread(target=self._await_end, daemon=True)
        for reader in self._readers:
            reader.start()
        self._write(job.dump())
        self._waiter.start()

    def status(self, wait: float) -> RunStatus:
        with self._changed:
            self._changed.wait_for(lambda: self._status.ended or self._messages, timeout=wait)
            messages, self._messages = tuple(self._messages), []
            end = self._end
            result = SyncResult.from_dict(end["result"]) if end.get("result") else None
            return RunStatus(
                status=self._status,
                phase=self._phase,
                rows=dict(self._rows),
                messages=messages,
                reason=end.get("reason", ""),
                table=end.get("table", ""),
                fixable=end.get("fixable", False),
                result=replace(result, columns=end["columns"]) if result else None,
            )

    def stop(self, patience: float) -> None:
        self._cancelled = True
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._waiter.join(patience)

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101  # it is a pipe
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once; what it printed tells why

    def _read_output(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        with self._process.stdout as lines:
            for line in lines:
                self._keep(line)

    def _keep(self, line: bytes) -> None:
        self._output.append(scrub(line.decode(errors="replace").rstrip(), self._secrets))

    def _read_events(self, events: int) -> None:
        with os.fdopen(events, "rb") as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    self._keep(line)  # torn: the worker was killed while it wrote
                else:
                    self._take(event)

    def _await_end(self) -> None:
        """End the run with the process, whatever became of its pipes."""
        code = self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError):  # it died before it had read the job
                self._process.stdin.close()
        for reader in self._readers:
            reader.join(DRAIN_SECONDS)
        with self._changed:
            self._end, self._status = self._judge(self._told_end, code)
            self._changed.notify_all()

    def _take(self, event: dict[str, Any]) -> None:
        with self._changed:
            if event["event"] in ("done", "failed", "cancelled"):
                self._told_end = event
            elif event["event"] == "rows":
                self._rows[event["table"]] = event["rows"]
            elif event["event"] == "phase":
                self._phase = event["phase"]
            else:
                self._messages.append((event["level"], event["text"]))
                self._changed.notify_all()

    def _judge(self, end: dict[str, Any], code: int) -> tuple[dict[str, Any], SyncStatus]:
        if end.get("event") == "done":
            return end, SyncStatus.SUCCEEDED
        if self._cancelled or end.get("event") == "cancelled":
            return {"reason": "the sync was cancelled"}, SyncStatus.CANCELLED
        if end:
            return end, SyncStatus.FAILED
        killed = "killed, perhaps for want of memory" if code == -9 else f"ended with status {code}"
        tail = "\n".join(list(self._output))
        return {"reason": f"the engine's process was {killed}\n{tail}".rstrip()}, SyncStatus.FAILED


def _environment(folder: Path) -> dict[str, str]:
    """Return the worker's environment.

    dlt takes every variable with a double underscore for configuration, and Airflow's hold secrets the
    worker has no use for; both stay out. The user's own environment is not touched.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if "__" not in name and not name.startswith(("AIRFLOW_CONN_", "AIRFLOW_VAR_", "DLT_"))
    }
    package = str(Path(airflow_ext.__file__).parents[1])
    return kept | {
        "PYTHONPATH": os.pathsep.join([package, *([kept["PYTHONPATH"]] if kept.get("PYTHONPATH") else [])]),
        "DLT_DATA_DIR": str(folder),
        "DLT_PROJECT_DIR": str(folder),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUST_BACKTRACE": "0",
        "PROVIDERS__ENABLE_AIRFLOW_SECRETS": "false",
        # Rows a destination refuses are refused again by every retry; given up, they are read anew.
        "LOAD__AUTO_ABORT_ON_TERMINAL_ERROR": "true",
        "LOAD__TRUNCATE_STAGING_DATASET": "true",
    }
