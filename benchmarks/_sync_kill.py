"""Kill -9 of a worker or of a triggerer at twelve points of a sync: whether it ends with the one run there was.

As a program, ``python _sync_kill.py ROLE VENDOR URL LOGIN PASSWORD FOLDER TRY`` is one process of Airflow: a ``worker`` that
waits itself, one that ``defers``, the ``triggerer`` that waits for that, or the worker that is ``resumed``. The task's state
is a file in the folder, and so is what they hand to each other.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_ext.testing.airbyte import LocalAirbyte
    from airflow_ext.testing.fivetran import LocalFivetran

POINTS = 12
"""Before and after the answers to the first six requests of a process."""

SYNC_SECONDS = 6.0
LONG = 1000.0
"""A sync that a triggerer waits for ends when the triggerer has been killed, however slowly that had started."""

INTERVAL = 0.5


class FileState:
    """A task's state in a file.

    :param path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self._path.read_text())) if self._path.exists() else {}

    def _write(self, values: dict[str, Any]) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(values))
        new.replace(self._path)

    def get(self, key: str, default: Any = None) -> Any:
        """Read a key."""
        return self._read().get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Write a key."""
        self._write({**self._read(), key: value})

    def delete(self, key: str) -> None:
        """Remove a key."""
        self._write({name: value for name, value in self._read().items() if name != key})


def connect(vendor: str, url: str, login: str, password: str) -> None:
    """Give this process the connection."""
    fields = {"conn_type": f"ext-{vendor}", "host": url, "login": login, "password": password}
    os.environ["AIRFLOW_CONN_THERE"] = json.dumps(fields)


def task(*, deferrable: bool) -> Any:
    """Return the task."""
    from airflow.sdk import DAG

    from airflow_ext.operators.sync import SyncOperator, SyncWait

    with DAG("kill", schedule=None):
        return SyncOperator(
            task_id="load",
            sync_conn_id="there",
            sync="shop",
            deferrable=deferrable,
            waiting=SyncWait(poll_interval=INTERVAL),
        )


def context(folder: Path, try_number: int) -> Any:
    """Return what a running task gets."""
    from airflow.sdk.execution_time.context import OutletEventAccessors

    ti = SimpleNamespace(dag_id="kill", task_id="load", run_id="r", map_index=-1, try_number=try_number)
    return {
        "ti": ti,
        "dag_run": SimpleNamespace(partition_key=None, run_type="manual"),
        "outlet_events": OutletEventAccessors(),
        "task_state_store": FileState(folder / "state.json"),
    }


def worker(folder: Path, try_number: int) -> Any:
    """Run the task, which waits on its worker."""
    return task(deferrable=False).execute(context(folder, try_number))


def defers(folder: Path, try_number: int) -> Any:
    """Run the task until it defers, and write down for what."""
    from airflow.sdk.exceptions import TaskDeferred

    try:
        return task(deferrable=True).execute(context(folder, try_number))
    except TaskDeferred as deferred:
        kept = {"trigger": deferred.trigger.serialize()[1], "kwargs": dict(deferred.kwargs or {})}
        (folder / "deferred.json").write_text(json.dumps(kept))
    return None


def triggerer(folder: Path, try_number: int) -> Any:
    """Wait as Airflow's triggerer does, and write the event down."""
    from airflow_ext.triggers.sync import SyncTrigger

    del try_number
    kept = json.loads((folder / "deferred.json").read_text())
    trigger = SyncTrigger(**{**kept["trigger"], "resume_after": 0.0})

    async def first() -> Any:
        async for event in trigger.run():
            return event.payload
        return None

    (folder / "event.json").write_text(json.dumps(asyncio.run(first())))


def resumed(folder: Path, try_number: int) -> Any:
    """Go on with the event."""
    kept = json.loads((folder / "deferred.json").read_text())
    event = json.loads((folder / "event.json").read_text())
    return task(deferrable=True).execute_complete(context(folder, try_number), event, **kept["kwargs"])


ROLES: dict[str, Callable[[Path, int], Any]] = {
    each.__name__: each for each in (worker, defers, triggerer, resumed)
}


def kill_at(role: str, vendor: str, point: int) -> dict[str, Any]:
    """Kill a process at one point, let Airflow go on, and tell what the vendor saw.

    :param role: ``worker`` or ``triggerer``.
    :param point: 0 to 11; even ones are before the answer to a request of it, odd ones after it.
    """
    from airflow_ext.testing.airbyte import JobScript, LocalAirbyte
    from airflow_ext.testing.fivetran import LocalFivetran, SyncScript

    server: LocalAirbyte | LocalFivetran
    seconds = SYNC_SECONDS if role == "worker" else LONG
    if vendor == "fivetran":
        server = LocalFivetran()
        server.connection("shop", SyncScript(seconds=seconds))
        login = [server.api_key, server.api_secret]
    else:
        server = LocalAirbyte()
        server.connection("shop", JobScript(seconds=seconds))
        login = [server.client_id, server.client_secret]
    with server, tempfile.TemporaryDirectory() as folder:
        url = server.url + (server.base if isinstance(server, LocalAirbyte) else "")
        words = [vendor, url, *login, folder]
        if role == "worker":
            _kill(server, role, words, point)
            told = _result(_process(role, words, 2))
        else:
            _result(_process("defers", words, 1))
            server.forget_calls()
            _kill(server, role, words, point)
            server.advance(LONG)
            _result(_process(role, words, 1))
            told = _result(_process("resumed", words, 1))
        runs = (
            len(server.jobs) if isinstance(server, LocalAirbyte) else len(server.connections["shop"].history)
        )
        left = Path(f"{folder}/state.json").read_text()
    return {"ended": bool(told), "runs": runs, "forgotten": left == "{}"}


def _kill(server: LocalAirbyte | LocalFivetran, role: str, words: list[str], point: int) -> None:
    request, after = divmod(point, 2)
    if not after:
        server.hang(1.0, after=request)
    with _process(role, words, 1) as process:
        _until(process, (lambda: len(server.calls()) > request) if after else server.met)
        os.kill(process.pid, signal.SIGKILL)
    # What was on its way still takes effect at the vendor.
    _until(None, lambda: len(server.calls()) > request)


def _process(role: str, words: list[str], try_number: int) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, __file__, role, *words, str(try_number)],
        env={"AIRFLOW_HOME": words[-1], "PATH": "/usr/bin:/bin", "PYTHONPATH": root},
        cwd=words[-1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _result(process: subprocess.Popen[str]) -> Any:
    with process:
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        found = [line.removeprefix("result ") for line in process.stdout if line.startswith("result ")]
    return json.loads(found[0]) if found else None


def _until(process: subprocess.Popen[str] | None, happened: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end or (process is not None and process.poll() is not None):
            raise TimeoutError("the process did not come to the point where it is to be killed")
        time.sleep(0.002)


if __name__ == "__main__":
    part, kind, where, name, secret, home, number = sys.argv[1:]
    connect(kind, where, name, secret)
    print("result", json.dumps(ROLES[part](Path(home), int(number))), flush=True)
