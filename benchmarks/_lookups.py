"""Look a connection up many times, in whatever environment this is run: ``_lookups.py COUNT``.

Prints one JSON object per line it reads from standard input ("go"), so that the caller can do
something to the server in between.
"""

from __future__ import annotations

import json
import sys
import time

from airflow.sdk import Connection


def main() -> None:
    count = int(sys.argv[1])
    print("ready", flush=True)
    for _ in sys.stdin:
        found, missed, started = 0, 0, time.perf_counter()
        for _ in range(count):
            try:
                found += Connection.get("warehouse").host == "db"
            except Exception as exc:  # noqa: BLE001  # what a peer raises is what is measured
                missed += 1
                print(f"{type(exc).__name__}: {exc}"[:200], file=sys.stderr)
                if time.perf_counter() - started > 60:
                    break
        seconds = time.perf_counter() - started
        print(json.dumps({"found": found, "missed": missed, "seconds": round(seconds, 3)}), flush=True)


if __name__ == "__main__":
    main()
