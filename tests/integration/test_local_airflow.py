from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_ext.testing.airflow_client import AirflowClient, wait_until
from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.processes import ProcessHome, processes_in


def test_a_dag_runs_and_its_log_and_xcom_can_be_read(client: AirflowClient) -> None:
    client.wait_for_dags(["hello"])
    run = client.trigger("hello")
    client.wait_for_run("hello", run, state="success")
    assert client.states("hello", run) == {"say": "success"}
    assert client.xcom("hello", run, "say") == "hello"
    assert "Returned value was" in client.log("hello", run, "say")


def test_a_wait_that_is_not_met_says_what_it_saw(client: AirflowClient) -> None:
    client.wait_for_dags(["hello"])
    run = client.trigger("hello")
    client.wait_for_run("hello", run)
    with pytest.raises(TimeoutError, match="say: success"):
        client.wait_for_task("hello", run, "say", states={"failed"}, timeout=0)


def test_a_wrong_state_is_an_error_with_the_tasks(client: AirflowClient) -> None:
    client.wait_for_dags(["hello"])
    run = client.trigger("hello")
    with pytest.raises(AssertionError, match="success, not failed"):
        client.wait_for_run("hello", run, state="failed")


def test_plugin_and_provider_are_loaded(airflow: LocalAirflow) -> None:
    assert "airflow-ext" in airflow.command("providers", "list").stdout
    assert "airflow_ext" in airflow.command("plugins").stdout


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_nothing_outlives_an_owner_that_is_ended(tmp_path: Path, end: signal.Signals) -> None:
    """Also children that detached themselves end with the process that owns their home."""
    home = tmp_path / "home"
    program = (
        "import sys, time; from pathlib import Path; from airflow_ext.testing.processes import ProcessHome\n"
        "with ProcessHome(Path(sys.argv[1]), grace=1) as home:\n"
        "    home.spawn(['sh', '-c', 'setsid sleep 300 & sleep 300'])\n"
        "    print('up', flush=True); time.sleep(300)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(home)], stdout=subprocess.PIPE)
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
    with home:
        child = home.spawn(
            [sys.executable, "-c", "import signal,time; signal.signal(15, 1); print(1); time.sleep(300)"]
        )
        wait_until(lambda: child.pid in processes_in(tmp_path), timeout=10, what="child is up")
        started = time.monotonic()
    assert child.returncode is not None
    assert time.monotonic() - started < 10
    assert processes_in(tmp_path) == []
