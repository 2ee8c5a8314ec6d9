"""Leases of a task that forks: its children have leases of their own, and leave it its own."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_ext.hooks.vault import vault_connection
from airflow_ext.secrets._vault_leases import BOOK
from airflow_ext.testing.postgres import LocalPostgres
from tests.unit.secrets.conftest import Task
from tests.unit.vault.leased import eventually, roles

FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.usefixtures("leasing")


class Store:
    """What a task keeps over its tries, for all its processes."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.file.read_text()).get(key, default) if self.file.exists() else default

    def set(self, key: str, value: Any, **_: Any) -> None:
        self.file.write_text(json.dumps({key: value}))


@contextmanager
def forked() -> Iterator[str]:
    """Give the login that a forked child gets, and let the child live meanwhile."""
    ours, theirs = FORK.Pipe()

    def look_up() -> None:
        theirs.send(Connection.get("warehouse").login)
        theirs.recv()

    child = FORK.Process(target=look_up)
    child.start()
    theirs.close()
    try:
        assert ours.poll(10), "the child hangs"
        yield ours.recv()
    finally:
        child.kill()
        child.join()
        child.close()
        ours.close()


def test_the_children_of_a_task_leave_its_lease_and_their_siblings_alone(
    postgres: LocalPostgres, task: Task, tmp_path: Path
) -> None:
    with task(store=Store(tmp_path / "store")):
        first = Connection.get("warehouse").login
        with forked() as one, forked() as two:
            assert len({first, one, two}) == 3
            assert {first, one, two} == set(roles(postgres))
        eventually(lambda: roles(postgres) == [first])
        assert Connection.get("warehouse").login == first


def test_children_of_a_task_without_a_lease_leave_each_other_alone(
    postgres: LocalPostgres, task: Task, tmp_path: Path
) -> None:
    with task(store=Store(tmp_path / "store")):
        with forked() as one, forked() as two:
            assert {one, two} == set(roles(postgres))
        eventually(lambda: not roles(postgres))


def test_a_child_uses_the_block_it_was_forked_in_whoever_held_its_lock(task: Task) -> None:
    with task(), vault_connection("warehouse") as connection:
        (session,) = BOOK._blocks.sessions()
        held, release = threading.Event(), threading.Event()

        def renew() -> None:
            with session._lock:
                held.set()
                release.wait()

        thread = threading.Thread(target=renew)
        thread.start()
        held.wait()
        try:
            with forked() as login:
                assert login == connection.login
        finally:
            release.set()
            thread.join()
