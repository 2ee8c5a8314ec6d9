"""Another backend behind our cache; its service is a local server with the wire of AWS Secrets Manager."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.sdk import Connection
from airflow.sdk._shared.secrets_masker import redact
from airflow.sdk.configuration import clear_secrets_backends_cache
from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

from airflow_ext.secrets.cached import CachedBackend, forget_sources
from tests.unit.secrets.secrets_manager import SecretsManager
from tests.unit.vault.conftest import Clock
from tests.unit.vault.leased import eventually

PLAIN = "tests.unit.secrets.secrets_manager.PlainBackend"
AMAZON = "airflow.providers.amazon.aws.secrets.secrets_manager.SecretsManagerBackend"
Make = Callable[..., CachedBackend]


@pytest.fixture
def service() -> Iterator[SecretsManager]:
    with SecretsManager() as server:
        yield server
        forget_sources()


@pytest.fixture
def password(service: SecretsManager) -> str:
    found = secrets.token_urlsafe(18)
    service.secrets["airflow/connections/warehouse"] = f"postgres://etl:{found}@db/app"
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(service: SecretsManager, clock: Clock) -> Make:
    def made(**arguments: Any) -> CachedBackend:
        given: dict[str, Any] = {"backend": PLAIN, "backend_kwargs": {"url": service.url}, "clock": clock}
        return CachedBackend(**(given | arguments))

    return made


def test_a_thousand_lookups_are_one_call_and_a_miss_is_remembered(
    service: SecretsManager, make: Make, password: str
) -> None:
    backend = make()
    assert {backend.get_connection("warehouse").password for _ in range(1000)} == {password}
    assert [backend.get_connection("other") for _ in range(1000)] == [None] * 1000
    assert service.asked == ["airflow/connections/warehouse", "airflow/connections/other"]
    assert make().get_connection("warehouse").host == "db"  # made anew, as Airflow does for options
    assert len(service.asked) == 2
    assert password not in str(redact(f"the password is {password}"))


@pytest.mark.parametrize("trouble", [(400, "ThrottlingException"), (503, "ServiceUnavailable")])
def test_what_is_known_is_served_while_the_service_fails(
    service: SecretsManager,
    make: Make,
    clock: Clock,
    password: str,
    caplog: pytest.LogCaptureFixture,
    trouble: tuple[int, str],
) -> None:
    backend = make()
    backend.get_connection("warehouse")
    clock.advance(61)
    service.trouble = trouble
    assert {backend.get_connection("warehouse").password for _ in range(100)} == {password}
    assert len(service.asked) == 2
    assert f"PlainBackend failed ({trouble[1]}); serving connection/warehouse as read 61 s ago" in caplog.text
    with pytest.raises(
        AirflowSecretsBackendAccessDenied, match="connection 'unknown' is not known from before"
    ) as told:
        backend.get_connection("unknown")
    assert "somebody else" not in f"{told.value} {told.value.__cause__} {caplog.text}"
    clock.advance(3600)
    with pytest.raises(AirflowSecretsBackendAccessDenied):
        backend.get_connection("warehouse")


def test_a_denial_is_told_and_the_value_forgotten(
    service: SecretsManager, make: Make, clock: Clock, password: str
) -> None:
    backend = make()
    assert backend.get_connection("warehouse").password == password
    clock.advance(61)
    service.trouble = (400, "AccessDeniedException")
    with pytest.raises(
        AirflowSecretsBackendAccessDenied, match=r"denied connection 'warehouse' \(AccessDenied"
    ):
        backend.get_connection("warehouse")
    service.trouble = (503, "ServiceUnavailable")
    clock.advance(31)
    with pytest.raises(AirflowSecretsBackendAccessDenied, match="not known from before"):
        backend.get_connection("warehouse")
    assert make(on_error="fall_through").get_connection("warehouse") is None


def test_a_service_that_hangs_is_not_waited_for_and_not_by_the_event_loop(
    service: SecretsManager, make: Make, password: str
) -> None:
    service.slow = 1.0
    backend = make(timeout=0.1, on_error="fall_through", breaker_failures=1)

    async def lag() -> float:
        worst, lookup = 0.0, asyncio.create_task(backend.aget_connection("warehouse"))
        while not lookup.done():
            started = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - started)
        assert await lookup is None
        return worst

    assert asyncio.run(lag()) < 0.5
    assert [backend.get_connection("warehouse") for _ in range(20)] == [None] * 20
    eventually(lambda: len(service.asked) == 1)


def test_variables_options_teams_and_patterns(service: SecretsManager, make: Make) -> None:
    service.secrets |= {
        "airflow/variables/red--key": "of red",
        "airflow/config/dsn": "a long text",
        "airflow/variables/key": "1",
    }
    backend = make(exclude=["aws_default"])
    assert backend.get_variable("key") == "1"
    assert backend.get_variable("key", team_name="red") == "of red"
    assert backend.get_config("dsn") == "a long text"
    assert backend.get_connection("aws_default", team_name="red") is None
    assert len(service.asked) == 3


def test_tasks_of_a_worker_share_what_they_read(service: SecretsManager, make: Make, password: str) -> None:
    backend = make(shared_cache=True)
    backend._source.reader.share()
    if backend._source.reader.shared is None:
        pytest.skip("no file system in memory")
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if backend.get_connection("warehouse").password == password else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    ("value", "told"),
    [('{"conn_type": "postgres", "port": "x"', "JSONDecodeError"), ("postgres://u:p@h:port-0815/x", "Error")],
)
def test_a_malformed_connection_shows_no_value(
    service: SecretsManager, make: Make, value: str, told: str
) -> None:
    service.secrets["airflow/connections/bad"] = value
    with pytest.raises(AirflowSecretsBackendAccessDenied, match=told) as error:
        str(make().get_connection("bad").host)
    assert "0815" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"backend": "nowhere.Backend"}, "cannot be imported"),
        ({"backend": "json.loads"}, "no secrets backend"),
        ({"backend_kwargs": "[1]"}, "backend_kwargs is no object"),
        ({"soft_ttl": "soon"}, "soft_ttl='soon'"),
        ({"on_error": "cry"}, "on_error='cry'"),
    ],
)
def test_wrong_arguments_are_named(make: Make, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(**arguments)


def test_airflow_looks_up_through_it_and_accesses_are_audited(
    service: SecretsManager, password: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kwargs = {"backend": PLAIN, "backend_kwargs": {"url": service.url}}
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "airflow_ext.secrets.cached.CachedBackend")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))
    clear_secrets_backends_cache()
    caplog.set_level("INFO")
    try:
        assert Connection.get("warehouse").password == password
    finally:
        clear_secrets_backends_cache()
    assert '"path": "PlainBackend", "source": "backend"' in caplog.text
    assert password not in caplog.text


def test_the_amazon_backend_is_served_from_memory_too(
    service: SecretsManager, clock: Clock, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("airflow.providers.amazon.aws.secrets.secrets_manager", reason="no amazon provider")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets.token_hex(8))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    kwargs = {
        "connections_prefix": "airflow/connections",
        "region_name": "eu-central-1",
        "endpoint_url": service.url,
    }
    backend = CachedBackend(backend=AMAZON, backend_kwargs=kwargs, clock=clock)
    assert {backend.get_connection("warehouse").password for _ in range(100)} == {password}
    assert backend.get_connection("other") is None
    clock.advance(61)
    service.trouble = (400, "ThrottlingException")
    assert backend.get_connection("warehouse").password == password
    assert len(service.asked) == 3
