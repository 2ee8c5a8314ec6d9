"""One triggerer's loop with many tasks that wait for Fivetran syncs; prints what it cost as JSON.

Run as ``python _sync_wait.py SIDE URL KEY SECRET COUNT INTERVAL SECONDS``; SIDE is ``ours``, on Airflow's own stream
manager, or ``peer``, the Fivetran provider's trigger in its own environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

SAMPLE = 0.01


def rss_mb() -> float:
    """Return the memory of this process."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123  # it is no file
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def lags(into: list[float]) -> None:
    """Measure how late the loop is."""
    while True:
        due = time.perf_counter() + SAMPLE
        await asyncio.sleep(SAMPLE)
        into.append(max(0.0, time.perf_counter() - due))


def ours(url: str, key: str, secret: str, interval: float) -> Callable[[int], Coroutine[Any, Any, None]]:
    """Return what waits for one sync, with our trigger."""
    import structlog
    from airflow.triggers.shared_stream import SharedStreamManager

    from airflow_ext.triggers.sync import SyncTrigger

    fields = {"conn_type": "ext-fivetran", "host": url, "login": key, "password": secret}
    os.environ["AIRFLOW_CONN_FT"] = json.dumps(fields)
    streams = SharedStreamManager(log=structlog.get_logger())

    async def wait(number: int) -> None:
        handle = {"sync": f"s{number}", "name": f"s{number}", "succeeded_at": None, "failed_at": None}
        trigger = SyncTrigger(sync_conn_id="ft", handle=handle, limits={}, poll_interval=interval)
        stream_key = trigger.shared_stream_key()
        assert stream_key is not None  # noqa: S101  # ours always has one
        stream = streams.subscribe(trigger_id=number, trigger=trigger, key=stream_key)
        try:
            async for _ in trigger.filter_shared_stream(stream):
                return
        finally:
            await streams.unsubscribe(number, stream_key)

    return wait


def peer(url: str, key: str, secret: str, interval: float) -> Callable[[int], Coroutine[Any, Any, None]]:
    """Return what waits for one sync, with the Fivetran provider's trigger."""
    import pendulum
    from fivetran_provider_async.hooks import FivetranHook  # type: ignore[import-not-found]  # in its own environment
    from fivetran_provider_async.triggers import FivetranTrigger  # type: ignore[import-not-found]

    fields = {"conn_type": "fivetran", "login": key, "password": secret}
    os.environ["AIRFLOW_CONN_FT"] = json.dumps(fields)
    # Its address is fixed in the class.
    FivetranHook.api_protocol, _, FivetranHook.api_host = url.partition("://")

    async def wait(number: int) -> None:
        trigger = FivetranTrigger(
            task_id="t",
            poke_interval=interval,
            fivetran_conn_id="ft",
            connector_id=f"s{number}",
            previous_completed_at=pendulum.now("UTC"),
            reschedule_wait_time=0,
        )
        async for _ in trigger.run():
            return

    return wait


async def measure(
    side: str, url: str, key: str, secret: str, count: int, interval: float, seconds: float
) -> None:
    """Let ``count`` tasks wait for a while and print what that cost."""
    wait = (ours if side == "ours" else peer)(url, key, secret, interval)
    late: list[float] = []
    idle = rss_mb()
    warm = asyncio.create_task(wait(0))  # imports and the like are nobody's lag
    await asyncio.sleep(1)
    sampler = asyncio.create_task(lags(late))
    cpu = time.process_time()
    print("go", flush=True)
    tasks = [asyncio.create_task(wait(number)) for number in range(1, count)]
    await asyncio.sleep(seconds)
    cpu = time.process_time() - cpu
    told = {
        "waiting": sum(not task.done() for task in [warm, *tasks]),
        "cpu_percent": round(100 * cpu / seconds, 2),
        "lag_p99_ms": round(1000 * sorted(late)[int(len(late) * 0.99)], 2),
        "lag_max_ms": round(1000 * max(late), 2),
        "rss_mb": round(rss_mb(), 1),
        "grown_mb": round(rss_mb() - idle, 1),
    }
    for task in [warm, *tasks, sampler]:
        task.cancel()
    await asyncio.gather(warm, *tasks, sampler, return_exceptions=True)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    name, where, login, password, how_many, every, how_long = sys.argv[1:]
    asyncio.run(measure(name, where, login, password, int(how_many), float(every), float(how_long)))
