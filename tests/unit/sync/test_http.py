"""What an answer of a vendor means, and what no message shows."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest

from airflow_ext.exceptions import InvalidError, InvalidSyncError, SyncDeniedError, SyncUnavailableError
from airflow_ext.sync.airbyte import AirbyteBackend
from airflow_ext.sync.backend import SyncRequest
from airflow_ext.sync.fivetran import FivetranBackend
from airflow_ext.sync.http import check_base_url
from airflow_ext.testing.airbyte import JobScript, LocalAirbyte
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript


def asked(server: LocalFivetran, *, tries: int = 3, slept: list[float] | None = None) -> Any:
    """Ask a local server for a connection."""

    async def sleep(seconds: float) -> None:
        if slept is not None:
            slept.append(seconds)

    async def ask() -> Any:
        backend = FivetranBackend(server.api_key, server.api_secret, base_url=server.url, tries=tries)
        backend.http._sleep = sleep
        try:
            return await backend.describe("shop")
        finally:
            await backend.aclose()

    return asyncio.run(ask())


@pytest.fixture
def server() -> Any:
    with LocalFivetran() as running:
        running.connection("shop")
        yield running


def test_retry_after_is_slept_through_and_then_it_works(server: LocalFivetran) -> None:
    server.fail(429, times=2, retry_after=7)
    slept: list[float] = []
    assert asked(server, slept=slept).id == "shop"
    assert slept == [7, 7]


def test_a_long_retry_after_is_told_instead(server: LocalFivetran) -> None:
    server.limit(1)
    asked(server)
    with pytest.raises(SyncUnavailableError, match="TooManyRequests: Max 20000") as caught:
        asked(server)
    assert 3500 < caught.value.retry_after <= 3600
    assert len(server.calls()) == 2


@pytest.mark.parametrize(
    ("fault", "error", "told", "calls"),
    [
        pytest.param(lambda s: s.fail(500, times=9), SyncUnavailableError, "with 500", 3, id="500"),
        pytest.param(lambda s: s.fail(403, times=9), SyncDeniedError, "with 403", 1, id="403"),
        pytest.param(lambda s: s.fail(401, times=9), SyncDeniedError, "AuthFailed", 1, id="401"),
        pytest.param(lambda s: s.html(times=9), SyncUnavailableError, "text/html.*proxy", 3, id="HTML"),
        pytest.param(lambda s: s.html(status=502, times=9), SyncUnavailableError, "502", 3, id="HTML 502"),
        pytest.param(lambda s: s.cut(times=9), SyncUnavailableError, "did not answer", 3, id="cut"),
        pytest.param(
            lambda s: s.page(b"[" * 100_000, times=9), SyncUnavailableError, "not JSON", 3, id="deep JSON"
        ),
        pytest.param(
            lambda s: s.redirect("https://elsewhere.example/x?key=1", times=9),
            InvalidSyncError,
            "elsewhere.example; redirects are not",
            1,
            id="redirect",
        ),
    ],
)
def test_each_fault_has_its_reaction(
    server: LocalFivetran, fault: Any, error: type[Exception], told: str, calls: int
) -> None:
    fault(server)
    with pytest.raises(error, match=told) as caught:
        asked(server)
    assert len(server.calls()) == calls
    assert server.api_secret not in f"{caught.value!r}{caught.value.__cause__!r}"


def test_an_answer_without_end_is_not_read_to_its_end(server: LocalFivetran) -> None:
    server.huge()
    with pytest.raises(SyncUnavailableError, match="more than 33554432 bytes"):
        asked(server, tries=1)


def test_a_vendor_that_repeats_the_secret_does_not_get_it_shown(server: LocalFivetran) -> None:
    body = f'{{"code": "Bad", "message": "key {server.api_secret} is wrong"}}'.encode()
    server.page(body, status=400)
    with pytest.raises(InvalidSyncError, match=r"\(Bad: key \*\*\* is wrong\)"):
        asked(server)


def test_a_timeout_is_kept_to(server: LocalFivetran) -> None:
    """A peer takes a timeout, never uses it, and waits as long as the server does."""
    server.hang(30)

    async def ask() -> None:
        backend = FivetranBackend(server.api_key, server.api_secret, base_url=server.url, tries=1)
        try:
            await backend.http.call("GET", "/v1/account/info", seconds=0.1)
        finally:
            await backend.aclose()

    with pytest.raises(SyncUnavailableError, match="no answer in time"):
        asyncio.run(asyncio.wait_for(ask(), 20))


def test_nobody_there(server: LocalFivetran) -> None:
    server.stop()
    with pytest.raises(SyncUnavailableError, match="did not answer GET /v1/connections/shop"):
        asked(server)


@pytest.mark.parametrize(
    ("url", "base"),
    [("api.example.com", "https://api.example.com"), ("http://127.0.0.1:80/x/", "http://127.0.0.1:80/x")],
)
def test_a_base_url_is_taken_as_people_write_it(url: str, base: str) -> None:
    assert check_base_url(url, where="here") == base


@pytest.mark.parametrize(
    "url", ["ftp://x", "https://", "https://me:secret@x", "https://x?y", "https://x:port"]
)
def test_what_is_no_base_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidError, match="here: ") as caught:
        check_base_url(url, where="here")
    assert "secret" not in str(caught.value)


def test_a_name_is_looked_up_and_must_be_one(server: LocalFivetran) -> None:
    server.connection("a_1", schema="twice")
    server.connection("a_2", schema="twice")
    server.connection("b?x=1&y", schema="odd name")

    async def ids() -> list[str]:
        backend = FivetranBackend(server.api_key, server.api_secret, base_url=server.url)
        found = [(await backend.describe(name)).id for name in ("shop", "odd name", "b?x=1&y")]
        with pytest.raises(InvalidSyncError, match="a_1, a_2"):
            await backend.describe("twice")
        await backend.aclose()
        return found

    assert asyncio.run(ids()) == ["shop", "b?x=1&y", "b?x=1&y"]


def test_a_lost_answer_to_a_start_is_looked_for_and_not_asked_again() -> None:
    with LocalFivetran() as fivetran, LocalAirbyte() as airbyte:
        fivetran.connection("shop", SyncScript(seconds=60))
        airbyte.connection("shop", JobScript(seconds=60))
        fivetran.cut(path="*/sync", method="POST")
        airbyte.cut(path="*/jobs", method="POST")

        async def start(backend: FivetranBackend | AirbyteBackend) -> None:
            handle = await backend.start(SyncRequest(sync="shop"))
            assert not handle.get("adopted")
            await backend.aclose()

        asyncio.run(start(FivetranBackend(fivetran.api_key, fivetran.api_secret, base_url=fivetran.url)))
        base = airbyte.url + airbyte.base
        login: dict[str, Any] = {"client_id": airbyte.client_id, "client_secret": airbyte.client_secret}
        asyncio.run(start(AirbyteBackend(base, **login)))
        assert len(fivetran.calls(method="POST", path="*/sync")) == 1
        assert len(airbyte.jobs) == 1


@pytest.mark.parametrize("plain", [False, True], ids=["Cloud", "self-managed"])
def test_a_409_of_airbyte_means_that_a_job_runs(plain: bool) -> None:
    """A peer's task fails on it."""
    with LocalAirbyte(plain_409=plain) as airbyte:
        connection = airbyte.connection("shop", JobScript(seconds=60))
        stale = b'{"data": []}'
        airbyte.page(stale, path="*/jobs", method="GET")  # it started after we had looked
        airbyte.start_job(connection.id)

        async def start() -> Any:
            login: dict[str, Any] = {"client_id": airbyte.client_id, "client_secret": airbyte.client_secret}
            backend = AirbyteBackend(airbyte.url + airbyte.base, **login)
            try:
                return await backend.start(SyncRequest(sync=connection.id))
            finally:
                await backend.aclose()

        handle = asyncio.run(start())
        assert (handle["job"], handle["adopted"]) == (1, True)


def test_a_token_of_airbyte_is_kept_renewed_in_time_and_after_a_401() -> None:
    now = [0.0]
    with LocalAirbyte() as airbyte:
        airbyte.connection("shop")

        async def ask() -> None:
            backend = AirbyteBackend(
                airbyte.url + airbyte.base,
                client_id=airbyte.client_id,
                client_secret=airbyte.client_secret,
                clock=lambda: now[0],
            )

            def logins() -> int:
                return len(airbyte.calls(path="*/token"))

            await asyncio.gather(*[backend.describe("shop") for _ in range(5)])
            assert logins() == 1
            now[0] = 149
            await backend.describe("shop")
            assert logins() == 1
            now[0] = 151
            await backend.describe("shop")
            assert logins() == 2
            airbyte.expire_tokens()
            await backend.describe("shop")
            assert logins() == 3
            await backend.aclose()

        asyncio.run(ask())


def test_a_wrong_secret_of_airbyte_is_denied_and_not_shown() -> None:
    secret = secrets.token_urlsafe(16)
    with LocalAirbyte() as airbyte:

        async def ask() -> None:
            backend = AirbyteBackend(airbyte.url + airbyte.base, client_id="me", client_secret=secret)
            try:
                await backend.check()
            finally:
                await backend.aclose()

        with pytest.raises(SyncDeniedError) as caught:
            asyncio.run(ask())
        assert secret not in str(caught.value)


def test_without_a_sync_history_there_are_still_ends() -> None:
    with LocalFivetran(history=False) as fivetran:
        fivetran.connection("shop", SyncScript(seconds=0, outcome="fail"))

        async def run() -> Any:
            backend = FivetranBackend(fivetran.api_key, fivetran.api_secret, base_url=fivetran.url)
            handle = await backend.start(SyncRequest(sync="shop"))
            status = await backend.explain(handle, await backend.poll(handle))
            await backend.aclose()
            return status

        status = asyncio.run(run())
        assert (str(status.status), status.run_id) == ("failed", "")
        assert "does not tell why" in status.reason
