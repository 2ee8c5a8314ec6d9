"""Cases of the Vault benchmark for any backend class, in whatever environment this is run: ``_vault_peer.py``.

Reads one JSON object per line (``{"case", "backend", "arguments", "count"}``) and answers each with one; the caller
counts the calls the server got.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import statistics
import sys
import time
from typing import Any


def warm(make: Any, count: int) -> dict[str, Any]:
    """Look one connection up again and again."""
    backend, times = make(), []
    backend.get_conn_value("warehouse")
    for _ in range(count):
        started = time.perf_counter()
        backend.get_conn_value("warehouse")
        times.append((time.perf_counter() - started) * 1000)
    return {"p50_ms": round(statistics.median(times), 4)}


def tasks(make: Any, count: int) -> dict[str, Any]:
    """Look one connection up with a new backend each time, as each task's process has."""
    for _ in range(count):
        make().get_conn_value("warehouse")
    return {}


def denied(make: Any, count: int) -> dict[str, Any]:
    """Look up what the policy denies."""
    backend = make()
    for number in range(count):
        _tried(backend, f"c{number}")
    return {}


def hang(make: Any, count: int) -> dict[str, Any]:
    """Look up in an event loop while Vault hangs: seconds of the first and of the others, and the loop's lag."""
    backend = make()

    async def run() -> dict[str, Any]:
        ended, lag = False, 0.0

        async def beat() -> None:
            nonlocal lag
            while not ended:
                before = time.perf_counter()
                await asyncio.sleep(0.005)
                lag = max(lag, time.perf_counter() - before - 0.005)

        beating = asyncio.create_task(beat())
        await asyncio.sleep(0.1)
        started = time.perf_counter()
        await _atried(backend, "warehouse")
        first = time.perf_counter() - started
        for number in range(count):
            await _atried(backend, f"c{number}")
        ended = True
        await beating
        rest = time.perf_counter() - started - first
        return {"first_s": round(first, 3), "rest_s": round(rest, 3), "lag_ms": round(lag * 1000, 1)}

    return asyncio.run(run())


def _tried(backend: Any, key: str) -> None:
    try:
        backend.get_conn_value(key)
    except Exception as error:  # noqa: BLE001  # what a peer raises is what is measured
        print(type(error).__name__, file=sys.stderr)


async def _atried(backend: Any, key: str) -> None:
    looked = getattr(backend, "aget_connection", None)
    if looked is None:  # Airflow then calls the other one, in the loop
        _tried(backend, key)
        return
    try:
        await looked(key)
    except Exception as error:  # noqa: BLE001  # the same
        print(type(error).__name__, file=sys.stderr)


CASES = {"warm": warm, "tasks": tasks, "denied": denied, "hang": hang}


def main() -> None:
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        told = json.loads(line)
        module, _, name = told["backend"].rpartition(".")
        kind, arguments = getattr(importlib.import_module(module), name), told["arguments"]
        print(json.dumps(CASES[told["case"]](lambda: kind(**arguments), told["count"])), flush=True)  # noqa: B023


if __name__ == "__main__":
    main()
