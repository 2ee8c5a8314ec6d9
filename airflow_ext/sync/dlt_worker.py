"""The process of the embedded engine: ``python -m airflow_ext.sync.dlt_worker FD``.

The job arrives as the first line of standard input, credentials included; standard input stays open for
as long as the parent lives and its end stops the run. Events leave as lines of JSON on the file descriptor
``FD``, so that whatever a library prints is no event.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import threading
import traceback
from typing import IO, Any

from airflow_ext.exceptions import InvalidError, SyncFailedError
from airflow_ext.sync.direct import DirectEngine
from airflow_ext.sync.dlt_engine import DltEngine, causes, root_cause
from airflow_ext.sync.dlt_job import DltJob
from airflow_ext.sync.scrub import scrub

LAST_WORDS_SECONDS = 3
"""Time to stop in good order once the parent is gone."""


class _Events:
    """Writes events to the parent, free of credentials."""

    def __init__(self, out: IO[str], secrets: tuple[str, ...]) -> None:
        self._out = out
        self._secrets = secrets
        self._lock = threading.Lock()

    def __call__(self, event: dict[str, Any]) -> None:
        event = {
            key: scrub(value, self._secrets) if isinstance(value, str) else value
            for key, value in event.items()
        }
        with self._lock:
            self._out.write(json.dumps(event) + "\n")
            self._out.flush()


_KNOWN_LINES = (
    "column hints were different",  # every JSON column: its hint differs from Arrow's text on purpose
    "Terminal exception in job",  # comes back as the reason of the failure
    "failed terminally in load",
)


class _LogEvents(logging.Handler):
    """Hands on dlt's warnings, without those that say nothing new."""

    def __init__(self, tell: _Events) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not any(known in text for known in _KNOWN_LINES):
            self._tell({"event": "log", "level": "warning", "text": f"dlt: {text.splitlines()[0]}"})


def _stop(*_: object) -> None:
    # dlt cleans up after a KeyboardInterrupt and takes a SIGTERM for the end of the process.
    raise KeyboardInterrupt


def _read_job() -> bytes:
    # Not sys.stdin: a thread inside its buffer would break the interpreter's end.
    line = b""
    while not line.endswith(b"\n") and (part := os.read(0, 65536)):
        line += part
    return line


def _watch_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(LAST_WORDS_SECONDS)
    os._exit(1)


def describe(error: BaseException) -> dict[str, Any]:
    """Return the event for an error: its own words if it is ours, the root of dlt's chain otherwise."""
    chain = causes(error)
    names = {type(link).__name__ for link in chain}
    if "KeyboardInterrupt" in names or "SignalReceivedException" in names:
        return {"event": "cancelled"}
    for link in chain:
        if isinstance(link, InvalidError) or type(link) is ValueError:
            return {"event": "failed", "reason": str(link), "fixable": True, "table": ""}
        if isinstance(link, SyncFailedError):
            return {"event": "failed", "reason": str(link), "fixable": False, "table": link.table}
    step = next((str(link.step) for link in chain if hasattr(link, "step")), "")
    job = next((str(link.job_id) for link in chain if hasattr(link, "job_id")), "")
    reason = root_cause(error)
    return {
        "event": "failed",
        "reason": f"{step}: {reason}" if step else reason,
        "fixable": False,
        "table": job.split(".")[0],
    }


def _engine(job: DltJob, tell: _Events) -> DirectEngine | DltEngine:
    if job.direct:
        return DirectEngine(job, tell=tell)
    import dlt  # noqa: F401  # sets up its logger, whose lines then become events

    logger = logging.getLogger("dlt")
    logger.handlers[:] = [_LogEvents(tell)]
    logger.propagate = False
    return DltEngine(job, tell=tell)


def main(argv: list[str]) -> int:
    """Run the job on standard input; the status is 0 only if it succeeded."""
    # A core dump would hold the passwords and lie in the pipelines' folder.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(int(argv[1]), "w", encoding="utf-8")
    os.set_inheritable(out.fileno(), False)
    job = DltJob.load(_read_job())
    tell = _Events(out, job.pair.secrets)
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_watch_parent, daemon=True).start()
    try:
        result = _engine(job, tell).run()
    except BaseException as error:  # noqa: BLE001  # whatever it is, the parent must hear of it
        sys.stderr.write(scrub("".join(traceback.format_exception(error)), job.pair.secrets))
        tell(describe(error))
        return 1
    tell({"event": "done", "result": result.to_dict(), "columns": result.columns})
    return 0


if __name__ == "__main__":
    status = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread that a cancelled run left behind would hold the process.
    os._exit(status)
