"""Fifty waits with a fault of each kind in the middle of them: how they end, and that they do."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from airflow_ext.sync.watch import Limits
from airflow_ext.testing.fivetran import LocalFivetran, SyncScript
from airflow_ext.triggers.sync import SyncTrigger, parse_event

SECONDS = 30.0
"""A wait that takes longer hangs."""

Fault = Callable[[LocalFivetran, str], object]

FAULTS: dict[str, tuple[Fault, str]] = {
    "429 with Retry-After": (lambda s, p: s.fail(429, path=p, retry_after=1), "succeeded"),
    "500": (lambda s, p: s.fail(500, path=p), "succeeded"),
    "502 as a page": (lambda s, p: s.html(status=502, path=p), "succeeded"),
    "login page": (lambda s, p: s.html(path=p), "succeeded"),
    "cut in the middle": (lambda s, p: s.cut(path=p), "succeeded"),
    "broken JSON": (lambda s, p: s.page(b'{"data": {', path=p), "succeeded"),
    "JSON of another shape": (lambda s, p: s.page(b"[1]", path=p), "succeeded"),
    "401 once": (lambda s, p: s.fail(401, path=p), "succeeded"),
    "slow, 1 s": (lambda s, p: s.hang(1, path=p), "succeeded"),
    "401 for good": (lambda s, p: s.fail(401, times=10_000, path=p), "denied"),
    "deleted": (lambda s, p: setattr(_of(s, p), "deleted", True), "failed"),
    "paused": (lambda s, p: _of(s, p).pause(s.now(), paused=True), "cancelled"),
    "unknown state": (lambda s, p: setattr(_of(s, p), "sync_state", "dreaming"), "timed_out"),
}


def faults(count: int) -> dict[str, dict[str, Any]]:
    """Return by kind of fault how ``count`` waits ended and how long the longest took."""
    return {kind: asyncio.run(_kind(*FAULTS[kind], count)) for kind in FAULTS}


async def _kind(fault: Fault, expected: str, count: int) -> dict[str, Any]:
    with LocalFivetran() as server:
        fields = {"conn_type": "ext-fivetran", "host": server.url}
        secret = {"login": server.api_key, "password": server.api_secret}
        os.environ["AIRFLOW_CONN_FT"] = json.dumps(fields | secret)
        seconds = 1.0 if expected == "succeeded" else 1000.0
        for number in range(count):
            server.connection(f"s{number}", SyncScript(seconds=seconds)).trigger(server.now(), force=False)
        started = time.monotonic()
        ends = [asyncio.create_task(_wait(number)) for number in range(count)]
        await asyncio.sleep(0.3)
        for number in range(count):
            fault(server, f"/v1/connections/s{number}")
        outcomes = Counter(await asyncio.gather(*ends))
        longest = time.monotonic() - started
    return {"expected": expected, "outcomes": dict(outcomes), "longest_s": round(longest, 1)}


async def _wait(number: int) -> str:
    trigger = SyncTrigger(
        sync_conn_id="ft",
        handle={"sync": f"s{number}", "name": f"s{number}", "succeeded_at": None, "failed_at": None},
        limits=Limits(deadline=time.time() + 8, denied=2).to_dict(),
        poll_interval=0.5,
        resume_after=0.0,
    )
    try:
        async with asyncio.timeout(SECONDS):
            async for event in trigger.run():  # one poller each, so that each meets its own fault
                return str(parse_event(event.payload)[0])
    except TimeoutError:
        return "hangs"
    return "no event"


def _of(server: LocalFivetran, path: str) -> Any:
    return server.connections[path.rpartition("/")[2]]
