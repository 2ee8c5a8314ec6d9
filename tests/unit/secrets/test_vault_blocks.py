"""Leases of blocks of code that run at the same time: each block has its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from airflow.sdk import Connection

from airflow_ext.hooks.vault import configured_backend, vault_connection
from airflow_ext.testing.postgres import LocalPostgres
from tests.unit.secrets.conftest import Task
from tests.unit.vault.leased import eventually, roles

pytestmark = pytest.mark.usefixtures("leasing")

WAIT = 20.0
"""Seconds until a test gives up on a thread."""


def _login() -> str:
    return str(Connection.get("warehouse").login)


def test_blocks_of_two_threads_have_credentials_of_their_own(postgres: LocalPostgres, task: Task) -> None:
    backend, opened, seen = configured_backend(), threading.Barrier(2), threading.Barrier(3)
    leave = [threading.Event(), threading.Event()]
    found: dict[int, list[str]] = {0: [], 1: []}

    def work(number: int) -> None:
        session = backend.lease_block("warehouse", None)
        assert session is not None
        try:
            opened.wait(WAIT)
            found[number].append(_login())
            seen.wait(WAIT)
            assert leave[number].wait(WAIT)
            found[number].append(_login())
        finally:
            backend.close_block(session)

    with task(), ThreadPoolExecutor(2) as pool:
        both = [pool.submit(work, each) for each in (0, 1)]
        seen.wait(WAIT)
        first, second = found[0][0], found[1][0]
        assert {first, second} == set(roles(postgres))
        assert first != second
        leave[1].set()
        both[1].result(WAIT)
        eventually(lambda: roles(postgres) == [first])
        leave[0].set()
        both[0].result(WAIT)
    assert found == {0: [first, first], 1: [second, second]}


def test_threads_started_in_a_block_are_in_it_and_others_are_not(postgres: LocalPostgres, task: Task) -> None:
    with task(), ThreadPoolExecutor(1) as before:
        before.submit(lambda: None).result(WAIT)  # its thread runs from now on
        with vault_connection("warehouse") as connection, ThreadPoolExecutor(1) as inside:
            assert inside.submit(_login).result(WAIT) == connection.login
            of_task = before.submit(_login).result(WAIT)
            assert of_task != connection.login
            with vault_connection("warehouse") as inner, ThreadPoolExecutor(1) as innermost:
                assert innermost.submit(_login).result(WAIT) == inner.login
        eventually(lambda: roles(postgres) == [of_task])
        assert _login() == of_task


def test_coroutines_of_one_loop_have_blocks_of_their_own(task: Task) -> None:
    async def work(barrier: asyncio.Barrier) -> tuple[str, str]:
        with vault_connection("warehouse") as connection:
            await barrier.wait()
            found = await Connection.async_get("warehouse")
            await barrier.wait()
            return str(connection.login), str(found.login)

    async def both() -> list[tuple[str, str]]:
        barrier = asyncio.Barrier(2)
        return list(await asyncio.gather(work(barrier), work(barrier)))

    with task():
        (one, other) = asyncio.run(both())
    assert one[0] == one[1]
    assert other[0] == other[1]
    assert one != other
