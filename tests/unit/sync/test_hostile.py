"""Answers of any shape: whatever a vendor, or what is in between, sends, only our own errors come of it."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_ext.exceptions import AirflowExtError
from airflow_ext.sync.airbyte import AirbyteBackend
from airflow_ext.sync.backend import RemoteBackend, SyncRequest
from airflow_ext.sync.fivetran import FivetranBackend
from airflow_ext.sync.hightouch import HightouchBackend
from airflow_ext.testing._vendor_server import LocalVendor, Reply, Request
from airflow_ext.testing.airbyte import JobScript, LocalAirbyte
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from airflow_ext.testing.hightouch import LocalHightouch, RunScript
from tests.unit.sync.remote import PG

VALUES: tuple[Any, ...] = (None, True, 7, -1.5, "", "x", "2026-13-45T99:00:00Z", [], [7], [[7]], {}, {"x": 7})
ROUNDS = 40

Place = tuple[Any, ...]


def places(body: Any, here: Place = ()) -> Iterator[Place]:
    """Yield the place of every value in a body."""
    yield here
    if isinstance(body, dict):
        for key, value in body.items():
            yield from places(value, (*here, key))
    elif isinstance(body, list):
        for number, value in enumerate(body):
            yield from places(value, (*here, number))


def bent(body: Any, dice: random.Random) -> Any:
    """Return a body with another value in one place."""
    place = dice.choice(list(places(body)))
    value = copy.deepcopy(dice.choice(VALUES))
    if not place:
        return value
    changed = copy.deepcopy(body)
    holder = changed
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    return changed


def bend(server: LocalVendor, dice: random.Random) -> None:
    """Let a server answer most requests with a value of another shape in one place."""
    straight: Callable[[Request], Reply] = server.answer

    def answer(request: Request) -> Reply:
        reply = straight(request)
        if dice.random() < 0.3 or request.path.endswith("/token"):
            return reply
        return Reply(reply.status, bent(reply.body, dice), reply.headers)

    server.answer = answer  # type: ignore[method-assign]  # the server is the wire, which is bent here


async def everything(backend: RemoteBackend, handle: dict[str, Any]) -> int:
    """Ask for all there is to ask and return how often that was refused."""
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    refused = 0

    async def wait() -> None:
        status = await backend.poll(handle)
        await backend.result(handle, await backend.explain(handle, status))

    async def follow() -> None:
        await backend.poll(await backend.next_run(handle["name"], since=since))

    async def look() -> None:
        for told in (await backend.status_many({str(number): handle for number in range(4)})).values():
            if isinstance(told, Exception):
                raise told

    steps: list[Callable[[], Any]] = [
        lambda: backend.describe(handle["name"]),
        lambda: backend.start(SyncRequest(sync=handle["name"])),
        look,
        lambda: backend.tables(handle, columns=True),
        lambda: backend.resume(handle),
        lambda: backend.cancel(handle),
        backend.check,
        wait,
        follow,
    ]
    for step in steps:
        try:
            await step()
        except (AirflowExtError, TimeoutError):
            refused += 1
    return refused


def made(vendor: str) -> tuple[LocalVendor, Callable[[], RemoteBackend]]:
    """Return a server with the sync ``shop`` and what makes its backend."""
    if vendor == "fivetran":
        fivetran = LocalFivetran()
        fivetran.connection("shop", SyncScript(seconds=0), tables=PG)
        keys = fivetran.api_key, fivetran.api_secret
        return fivetran, lambda: FivetranBackend(*keys, base_url=fivetran.url, tries=1)
    if vendor == "airbyte":
        airbyte = LocalAirbyte()
        airbyte.connection("shop", JobScript(seconds=0, rows=3))
        login: Any = {"client_id": airbyte.client_id, "client_secret": airbyte.client_secret}
        return airbyte, lambda: AirbyteBackend(airbyte.url + airbyte.base, tries=1, **login)
    hightouch = LocalHightouch()
    hightouch.sync("shop", RunScript(seconds=0, added=3))
    url = hightouch.base
    return hightouch, lambda: HightouchBackend(hightouch.api_key, base_url=hightouch.url + url, tries=1)


@pytest.mark.parametrize("vendor", ["fivetran", "airbyte", "hightouch"])
def test_answers_of_any_shape_end_in_our_errors(vendor: str) -> None:
    server, make = made(vendor)
    dice = random.Random(vendor)  # noqa: S311  # the same dice each time

    async def ask() -> int:
        backend = make()
        try:
            handle: Any = await backend.start(SyncRequest(sync="shop"))
            assert await everything(backend, dict(handle)) <= 1, "straight answers are taken"
            bend(server, dice)
            return sum([await everything(backend, dict(handle)) for _ in range(ROUNDS)])
        finally:
            await backend.aclose()

    with server:
        assert asyncio.run(ask()) > ROUNDS, "some of them are refused"
