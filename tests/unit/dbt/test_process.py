"""Stopping dbt for real: its queries end in PostgreSQL, its processes end here."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from airflow.sdk import Connection

from airflow_ext.dbt.process import DbtProcess, Scrubber, level_of
from airflow_ext.dbt.profiles import Profile, profile_from_connection
from airflow_ext.dbt.runner import DbtRun, RunSettings
from airflow_ext.exceptions import DbtFailedError
from airflow_ext.testing.postgres import LocalPostgres
from tests.paths import ROOT

DBT = Path(sys.executable).with_name("dbt")
KINDS = [pytest.param(None, id="this environment"), pytest.param(DBT, id="executable")]


LEVELS = {
    "1 of 9 ERROR creating sql table model main.orders": logging.ERROR,
    "12 of 40 FAIL 2 no_negative": logging.ERROR,
    "Failure in test no_negative (models/x.yml)": logging.ERROR,
    "Database Error in model orders (models/orders.sql)": logging.ERROR,
    "Completed with 1 error, 0 partial successes, and 0 warnings:": logging.ERROR,
    "3 of 9 WARN 1 accepted_values": logging.WARNING,
    "Warning in test x (models/x.yml)": logging.WARNING,
    "The selection criterion 'tag:typo' does not match any enabled nodes": logging.WARNING,
    "3 of 9 OK created sql table model main.error_log": logging.INFO,
    "Done. PASS=9 WARN=0 ERROR=0": logging.INFO,
}


def test_lines_of_dbts_log_have_the_level_that_their_words_tell() -> None:
    assert {line: level_of(line) for line in LEVELS} == LEVELS


def test_a_secret_is_struck_out_in_each_form_that_a_log_has_it_in() -> None:
    key = f"--BEGIN--\n{secrets.token_hex(16)}\n{{\n{secrets.token_hex(16)}\n"
    word = f'\u00e4"{secrets.token_hex(4)}\\'
    scrub = Scrubber({"DBT_ENV_SECRET_KEY": key, "DBT_ENV_SECRET_WORD": word, "DBT_ENV_OPEN": "seen"})
    assert scrub(f"{key} and {key!r} and {word}") == "***** and '*****' and *****"
    assert scrub(json.dumps([word])) == scrub(json.dumps([word], ensure_ascii=False)) == '["*****"]'
    lines = [scrub(line) for line in key.splitlines()]
    assert lines == ["*****", "*****", "{", "*****"]
    assert scrub("seen { by all") == "seen { by all"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    """A PostgreSQL server."""
    with LocalPostgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def sleepy(tmp_path: Path) -> Path:
    """A project of two models that sleep for a minute."""
    folder = tmp_path / "sleepy"
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text("name: sleepy\nversion: '1.0'\nprofile: sleepy\n")
    for name in ("one", "two"):
        text = f"{{{{ config(materialized='table') }}}} select pg_sleep(60)::text as {name}"
        (folder / "models" / f"{name}.sql").write_text(text)
    return folder


@pytest.fixture
def profile(server: LocalPostgres) -> Profile:
    """A profile for a schema of its own."""
    connection = Connection(
        conn_id="pg",
        conn_type="postgres",
        host="127.0.0.1",
        port=server.port,
        login=server.user,
        password=server.password,
        schema="postgres",
    )
    return profile_from_connection(connection, name="sleepy", schema=f"s{secrets.token_hex(4)}")


def until(what: Callable[[], bool], *, seconds: float) -> float:
    """Wait for something and return how long it took."""
    start = time.monotonic()
    while not what():
        assert time.monotonic() - start < seconds, f"not so after {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - start


def sleeping(server: LocalPostgres) -> int:
    asked = (
        "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()"
    )
    ((count,),) = server.execute(f"{asked} and state = 'active'")
    return int(count)


def members(group: int) -> list[int]:
    """Return the living processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("executable", KINDS)
def test_stopping_cancels_the_queries(
    server: LocalPostgres, sleepy: Path, profile: Profile, executable: Path | None
) -> None:
    ended: list[BaseException] = []
    dbt = DbtRun(RunSettings(sleepy, sleepy, profile=profile, executable=executable))

    def run() -> None:
        try:
            with dbt:
                dbt.run(on_log=lambda _: None, on_node=lambda _: None, on_tick=lambda: None)
        except DbtFailedError as exc:
            ended.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: sleeping(server) == 2, seconds=40)
    process = dbt._process
    assert process is not None
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in members(process.pid)]
    assert len(commands) >= (2 if executable else 1)
    assert not any(server.password.encode() in command for command in commands)

    start = time.monotonic()
    dbt.stop()
    until(lambda: sleeping(server) == 0, seconds=3)
    assert time.monotonic() - start < 3
    thread.join(timeout=10)
    assert str(ended[0]) == "dbt was stopped: its task was killed"
    until(lambda: not members(process.pid), seconds=2)


PARENT = """
import os, signal, sys
from pathlib import Path
# As a shell leaves it for what it runs in the background.
signal.signal(signal.SIGINT, signal.SIG_IGN)
from airflow_ext.dbt.profiles import Profile
from airflow_ext.dbt.runner import DbtRun, RunSettings
project, executable, text = Path(sys.argv[1]), sys.argv[2] or None, sys.argv[3]
env = {name: value for name, value in os.environ.items() if "AIRFLOW_EXT_DBT" in name}
profile = Profile(text=text, env=env, adapter="postgres", package="dbt-postgres")
told = []
def tick():
    if not told:
        told.append(print(dbt._process.pid, flush=True))
with DbtRun(RunSettings(project, project, profile=profile, executable=executable)) as dbt:
    dbt.run(on_log=lambda _: None, on_node=lambda _: None, on_tick=tick)
"""


@pytest.mark.parametrize("executable", KINDS)
def test_a_lost_parent_ends_dbt_and_its_queries(
    server: LocalPostgres, sleepy: Path, profile: Profile, tmp_path: Path, executable: Path | None
) -> None:
    (folders := tmp_path / "folders").mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(sleepy), str(executable or ""), profile.text],
        env={**os.environ, **profile.env, "PYTHONPATH": str(ROOT), "TMPDIR": str(folders)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        until(lambda: sleeping(server) == 2, seconds=40)
        assert len(list(folders.iterdir())) == 1
        parent.send_signal(signal.SIGKILL)
    until(lambda: sleeping(server) == 0, seconds=3)
    until(lambda: not members(group), seconds=10)
    assert not list(folders.iterdir())


STUBBORN = f"""#!{sys.executable}
import signal, subprocess, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"])
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def stubborn(tmp_path: Path) -> Path:
    """A program that does not end when asked to, and starts another."""
    path = tmp_path / "stubborn"
    path.write_text(STUBBORN)
    path.chmod(0o755)
    return path


def test_what_does_not_end_by_itself_is_killed_with_all_it_started(stubborn: Path, tmp_path: Path) -> None:
    process = DbtProcess(["build"], env={}, cwd=tmp_path, folder=tmp_path, executable=str(stubborn))
    messages = process.messages(tick=0.05)
    assert {"log": "ready"} in messages
    assert len(members(process.pid)) == 3
    start = time.monotonic()
    process.stop(grace=0.3)
    assert time.monotonic() - start < 3
    until(lambda: not members(process.pid), seconds=2)
    assert process.returncode == -signal.SIGKILL


LOSER = """
import os, sys
from pathlib import Path
from airflow_ext.dbt.process import DbtProcess
process = DbtProcess(["build"], env={}, cwd=Path("/"), folder=Path(sys.argv[2]), executable=sys.argv[1])
for message in process.messages(tick=0.05):
    if message.get("log") == "ready":
        print(process.pid, flush=True)
        os.kill(os.getpid(), 9)
"""


def test_after_a_lost_parent_what_does_not_end_by_itself_is_killed(stubborn: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    lost = subprocess.run(
        [sys.executable, "-c", LOSER, str(stubborn), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    until(lambda: not members(int(lost.stdout)), seconds=15)
    assert not folder.exists()


def test_silence_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "silent"
    path.write_text(f"#!{sys.executable}\nimport time; time.sleep(0.5); print('end')")
    path.chmod(0o755)
    process = DbtProcess(["ls"], env={}, cwd=tmp_path, folder=tmp_path, executable=str(path))
    messages = list(process.messages(tick=0.05))
    assert messages.count({}) >= 3
    assert messages[-1] == {"log": "end"}
    assert process.returncode == 0


def test_what_a_program_leaves_running_does_not_keep_the_run_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "careless"
    path.write_text(f"#!{sys.executable}\nimport subprocess; subprocess.Popen(['sleep', '600'])")
    path.chmod(0o755)
    process = DbtProcess(["ls"], env={}, cwd=tmp_path, folder=tmp_path, executable=str(path))
    assert set(map(str, process.messages(tick=0.05))) == {"{}"}
    assert process.returncode == 0
    until(lambda: not members(process.pid), seconds=2)
