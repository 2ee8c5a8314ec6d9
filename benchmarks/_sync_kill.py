"""Kill -9 of a worker at twelve points of a sync: whether the next try ends with the one run there was.

As a program, ``python _sync_kill.py URL KEY SECRET STATE TRY`` is that worker: it runs a ``SyncOperator`` whose task state
is a file, and prints its result.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

POINTS = 12
"""Before and after the answers to the first six requests of a worker."""

SYNC_SECONDS = 6.0


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


def work(vendor: str, url: str, login: str, password: str, state: Path, try_number: int) -> None:
    """Be a worker."""
    from types import SimpleNamespace

    from airflow.sdk import DAG
    from airflow.sdk.execution_time.context import OutletEventAccessors

    from airflow_ext.operators.sync import SyncOperator, SyncWait

    fields = {"conn_type": f"ext-{vendor}", "host": url, "login": login, "password": password}
    os.environ["AIRFLOW_CONN_THERE"] = json.dumps(fields)
    with DAG("kill", schedule=None):
        task = SyncOperator(
            task_id="load",
            sync_conn_id="there",
            sync="shop",
            deferrable=False,
            waiting=SyncWait(poll_interval=0.5),
        )
    ti = SimpleNamespace(dag_id="kill", task_id="load", run_id="r", map_index=-1, try_number=try_number)
    run = SimpleNamespace(partition_key=None, run_type="manual")
    context: Any = {
        "ti": ti,
        "dag_run": run,
        "outlet_events": OutletEventAccessors(),
        "task_state_store": FileState(state),
    }
    print("result", json.dumps(task.execute(context)), flush=True)


def kill_at(vendor: str, point: int) -> dict[str, Any]:
    """Kill a worker at one point, run the next try, and tell what the vendor saw.

    :param point: 0 to 11; even ones are before the answer to a request, odd ones after it.
    """
    from airflow_ext.testing.airbyte import JobScript, LocalAirbyte
    from airflow_ext.testing.fivetran import LocalFivetran, SyncScript

    request, after = divmod(point, 2)
    server: LocalAirbyte | LocalFivetran
    if vendor == "fivetran":
        server = LocalFivetran()
        server.connection("shop", SyncScript(seconds=SYNC_SECONDS))
        login = [server.api_key, server.api_secret]
    else:
        server = LocalAirbyte()
        server.connection("shop", JobScript(seconds=SYNC_SECONDS))
        login = [server.client_id, server.client_secret]
    with server, tempfile.TemporaryDirectory() as folder:
        url = server.url + (server.base if isinstance(server, LocalAirbyte) else "")
        words = [vendor, url, *login, f"{folder}/state.json"]
        if not after:
            server.hang(1.0, after=request)
        with _worker(words, folder, 1) as worker:
            if after:
                _until(lambda: len(server.calls()) > request)
            else:
                _until(server.met)
            os.kill(worker.pid, signal.SIGKILL)
        # What was on its way still takes effect at the vendor.
        _until(lambda: len(server.calls()) > request)
        with _worker(words, folder, 2) as worker:
            assert worker.stdout is not None  # noqa: S101  # it is a pipe
            ended = any(line.startswith("result ") for line in worker.stdout)
        runs = (
            len(server.jobs) if isinstance(server, LocalAirbyte) else len(server.connections["shop"].history)
        )
        left = Path(f"{folder}/state.json").read_text()
    return {"ended": ended, "runs": runs, "forgotten": left == "{}"}


def _worker(words: list[str], folder: str, try_number: int) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, __file__, *words, str(try_number)],
        env={"AIRFLOW_HOME": folder, "PATH": "/usr/bin:/bin", "PYTHONPATH": root},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _until(happened: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError("the worker did not come to the point where it is to be killed")
        time.sleep(0.002)


if __name__ == "__main__":
    kind, where, name, secret, kept, number = sys.argv[1:]
    work(kind, where, name, secret, Path(kept), int(number))
