"""Start programs so that none of them outlives its owner, however the owner ends.

Every program runs in a session of its own with its working folder inside one *home*. Stopping means:
ask every process whose working folder lies in that home to end, wait, then kill. The working folder is
what double-forked children (executor workers, task runners, PostgreSQL's backends) keep, where process
groups, parents and even the environment seen from outside change. Processes with a terminal are left
alone: they are somebody's shell or editor that happens to be there, ours have none.

A small *keeper* process holds the read end of a pipe from the owner. When the owner is gone, also by
SIGKILL, the pipe closes and the keeper stops what is left.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from airflow_ext.exceptions import InvalidError

GRACE = 10.0
"""Seconds between asking a process to end and killing it."""


def processes_in(home: Path) -> list[int]:
    """Return the ids of the processes without a terminal whose working folder is ``home`` or lies below it."""
    root = str(home.resolve())
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            folder = str((entry / "cwd").readlink()).removesuffix(" (deleted)")
            # After the name in parentheses: state, parent, group, session, terminal, ...
            state, *_, terminal = (entry / "stat").read_text().rpartition(")")[2].split()[:5]
        except OSError:  # gone meanwhile, or another user's
            continue
        if (folder == root or folder.startswith(root + "/")) and terminal == "0" and state != "Z":
            found.append(int(entry.name))
    return found


def stop_all_in(home: Path, *, grace: float = GRACE) -> int:
    """End every process :func:`processes_in` finds, except the caller.

    :param home: The folder that marks the processes.
    :param grace: Seconds they get between SIGTERM and SIGKILL.
    :returns: How many had to be killed.
    """
    mine = os.getpid()

    def alive() -> list[int]:
        return [pid for pid in processes_in(home) if pid != mine]

    def send(signal_number: signal.Signals) -> None:
        for pid in alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal_number)

    send(signal.SIGTERM)
    deadline = time.monotonic() + grace
    while alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    killed = len(alive())
    for _ in range(100):  # a process may fork while it is being killed
        if not alive():
            break
        send(signal.SIGKILL)
        time.sleep(0.05)
    return killed


class ProcessHome:
    """A folder whose processes are started together and end together.

    Use as a context manager.

    :param home: A folder of its own, created when missing: what runs there without a terminal is ended.
    :param grace: Seconds between SIGTERM and SIGKILL at the end.
    :raises InvalidError: On entering, if the home holds the caller's own working folder or is in use.
    """

    def __init__(self, home: Path, *, grace: float = GRACE) -> None:
        self.home = home.resolve()
        self.grace = grace
        self._children: list[subprocess.Popen[bytes]] = []
        self._keeper: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> ProcessHome:
        if Path.cwd().is_relative_to(self.home):
            raise InvalidError(
                f"home={str(self.home)!r} holds the folder this runs in, where other processes may work too: "
                "give a folder of its own, such as a new one below it"
            )
        self.home.mkdir(parents=True, exist_ok=True)
        self._take()
        stop_all_in(self.home, grace=self.grace)  # what an earlier owner may have left
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "airflow_ext.testing.processes", str(self.home), str(self.grace)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take(self) -> None:
        lock = (self.home / ".owner").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read() or "unknown"
            lock.close()
            raise InvalidError(f"{self.home} is in use by process {owner}: end that first") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def spawn(
        self,
        command: Sequence[str | Path],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[bytes] | None = None,
        stdin: int | None = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a program in this home.

        :param command: Program and arguments.
        :param log: File its output is appended to; ``None`` leaves output to ``stdout``.
        :param env: Its whole environment; ``None`` inherits ours.
        :param stdout: As in :class:`subprocess.Popen`, when there is no ``log``.
        :param stdin: As in :class:`subprocess.Popen`.
        """
        output: int | IO[bytes] | None = stdout
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("ab")
        try:
            child = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.home,
                env=None if env is None else dict(env),
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT if log is not None else None,
                start_new_session=True,
            )
        finally:
            if log is not None and not isinstance(output, int) and output is not None:
                output.close()
        self._children.append(child)
        return child

    def stop(self) -> None:
        """End everything in this home and the keeper; may be called twice."""
        stop_all_in(self.home, grace=self.grace)
        for child in self._children:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)
        self._children.clear()
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            self._keeper.wait(timeout=self.grace + 10)
            self._keeper = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _keep(home: Path, grace: float) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()  # returns when the owner is gone
    stop_all_in(home, grace=grace)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), float(sys.argv[2]))
