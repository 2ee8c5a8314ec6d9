from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_ext.exceptions import InvalidError
from airflow_ext.testing.airflow_client import wait_until
from airflow_ext.testing.processes import ProcessHome, processes_in

OWNER = """
import sys, time
from pathlib import Path
from airflow_ext.testing.processes import ProcessHome
with ProcessHome(Path(sys.argv[1]), grace=1) as home:
    home.spawn(["sh", "-c", "setsid sleep 300 & sleep 300"])
    print("up", flush=True)
    time.sleep(300)
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_nothing_outlives_an_owner_that_is_ended(tmp_path: Path, end: signal.Signals) -> None:
    """Also children that detached themselves end with the process that owns their home."""
    home = tmp_path / "home"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    wait_until(lambda: len(processes_in(home)) >= 2, timeout=10, what="children are up")
    os.kill(owner.pid, end)
    owner.wait(timeout=10)
    owner.stdout.close()
    wait_until(lambda: not processes_in(home), timeout=10, what="all processes ended")


def test_stopping_takes_no_longer_than_its_grace(tmp_path: Path) -> None:
    """A process that ignores SIGTERM is killed."""
    home = ProcessHome(tmp_path / "home", grace=0.3)
    deaf = "import signal,time; signal.signal(15, 1); print(1); time.sleep(300)"
    with home:
        child = home.spawn([sys.executable, "-c", deaf])
        wait_until(lambda: child.pid in processes_in(tmp_path), timeout=10, what="child is up")
        started = time.monotonic()
    assert child.returncode is not None
    assert time.monotonic() - started < 10
    assert processes_in(tmp_path) == []


def test_a_shell_of_somebody_who_looks_around_survives(tmp_path: Path) -> None:
    with ProcessHome(tmp_path / "home", grace=1):
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(tmp_path / "home")
            os.execv("/bin/sh", ["sh", "-c", "echo in; read line; exit 7"])  # noqa: S606
        assert b"in" in os.read(terminal, 100)
    os.write(terminal, b"\n")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 7


def test_a_home_has_one_owner(tmp_path: Path) -> None:
    with (
        ProcessHome(tmp_path / "home"),
        pytest.raises(InvalidError, match=f"in use by process {os.getpid()}"),
        ProcessHome(tmp_path / "home"),
    ):
        pass
    with ProcessHome(tmp_path / "home"):
        pass


def test_the_folder_this_runs_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidError, match="a folder of its own"), ProcessHome(tmp_path):
        pass
