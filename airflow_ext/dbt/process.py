"""The dbt process of one run, seen from its parent."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_CHILD = Path(__file__).with_name("child.py")

QUIET = {
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "DBT_VERSION_CHECK": "false",
    "DBT_USE_COLORS": "false",
    "DBT_LOG_LEVEL_FILE": "none",
    "PYTHONUNBUFFERED": "1",
}
"""No telemetry, no question to a server about newer versions, log lines fit for a task log."""


_TIME = re.compile(r"^\d\d:\d\d:\d\d\s*")
"""Time of day before dbt's log lines; a task log has its own."""


class DbtProcess:
    """Start dbt in a new interpreter and hand on what it says.

    :param args: dbt's arguments, beginning with the command.
    :param env: Variables for dbt in addition to this process' own; the place for secrets.
    :param cwd: Folder to run in.
    """

    def __init__(self, args: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
        read_fd, write_fd = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD), str(write_fd), *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write_fd,),
                env={**os.environ, **QUIET, **env},
                cwd=cwd,
                start_new_session=True,
            )
        finally:
            os.close(write_fd)
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read_events, args=(os.fdopen(read_fd, "rb"),), daemon=True),
            threading.Thread(target=self._read_log, args=(self._process.stdout,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def messages(self, *, tick: float) -> Iterator[dict[str, Any]]:
        """Yield ``{"log": line}``, ``{"node": record}`` and ``{"end": ...}`` until dbt has ended.

        An empty message comes after ``tick`` seconds of silence.

        :param tick: Seconds.
        """
        open_channels = len(self._readers)
        while open_channels:
            try:
                message = self._messages.get(timeout=tick)
            except queue.Empty:
                yield {}
                continue
            if message is None:
                open_channels -= 1
            else:
                yield message
        self._process.wait()
        self._close()

    @property
    def returncode(self) -> int | None:
        """The exit status of dbt, ``None`` while it runs."""
        return self._process.poll()

    def stop(self, *, grace: float = 2.5) -> None:
        """Interrupt dbt, which cancels its queries, and kill what is left of it.

        :param grace: Seconds dbt has to cancel; a killed task has five in all.
        """
        if self._process.poll() is None:
            self._signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace)
        self._signal(signal.SIGKILL)
        # With a timeout, because a signal handler may have interrupted a wait of the same thread, which then
        # still holds the lock that a plain wait would ask for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._close()

    def _close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        for reader in self._readers:
            reader.join(timeout=5)

    def _signal(self, number: int) -> None:
        # The child leads a session of its own, so its number is also that of its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read_events(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                # Only a killed child leaves a broken last line.
                with contextlib.suppress(ValueError):
                    self._messages.put(json.loads(line))
        self._messages.put(None)

    def _read_log(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = _TIME.sub("", line.decode(errors="replace").rstrip())
                if text:
                    self._messages.put({"log": text})
        self._messages.put(None)
