"""What every benchmark prints: one JSON object as its last line, and how it ends."""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
}


class Report:
    """Collect the bars of one benchmark.

    :param bench: Its name, which is that of its module.
    :param quick: Whether only the small case was run; a quick run keeps no results.
    :param part: Whether only a part was run; its bars replace those of the same names in the results that are kept.
    :param results: Folder of the results.
    """

    def __init__(self, bench: str, *, quick: bool, part: bool = False, results: Path = RESULTS) -> None:
        self.bench = bench
        self.quick = quick
        self._part = part
        self._results = results
        self._bars: list[dict[str, Any]] = []
        self._skipped: list[str] = []
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """Show progress on standard error, with the seconds since the start."""
        print(f"[{time.monotonic() - self._started:6.1f} s] {text}", file=sys.stderr, flush=True)

    def bar(
        self,
        name: str,
        value: float,
        op: str,
        limit: float,
        *,
        unit: str,
        peers: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a measured value and the limit it is held to.

        :param op: ``<=``, ``>=`` or ``==``.
        :param unit: Unit of value and limit.
        :param peers: The same figure of others, by their names, and whatever explains the value.
        """
        good = _COMPARE[op](value, limit)
        self._bars.append(
            {
                "name": name,
                "value": round(value, 4),
                "op": op,
                "limit": limit,
                "unit": unit,
                "pass": good,
                "peers": dict(peers or {}),
            }
        )
        self.say(
            f"{'ok  ' if good else 'MISS'} {name}: {value:.4g} {unit} ({op} {limit:g}) {dict(peers or {}) or ''}"
        )

    def skip(self, name: str) -> None:
        """Name a bar that this run does not show."""
        self._skipped.append(name)

    def finish(self) -> int:
        """Print the result, keep that of a full run, and return the exit status."""
        result = {
            "bench": self.bench,
            "bars": self._bars,
            "skipped": self._skipped,
            "machine": {
                "cores": os.cpu_count(),
                "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
                "python": platform.python_version(),
                "date": datetime.now(UTC).date().isoformat(),
            },
        }
        if not self.quick:
            self._keep(result)
        print(json.dumps(result), flush=True)
        return 0 if self._bars and all(bar["pass"] for bar in self._bars) else 1

    def _keep(self, result: Mapping[str, Any]) -> None:
        """Write the results file; each bar has its own date, since parts may be run on different days."""
        self._results.mkdir(exist_ok=True)
        path = self._results / f"{self.bench}.json"
        dated = [{**bar, "date": result["machine"]["date"]} for bar in self._bars]
        names = {bar["name"] for bar in dated}
        earlier = json.loads(path.read_bytes())["bars"] if self._part and path.exists() else []
        kept = {**result, "bars": [bar for bar in earlier if bar["name"] not in names] + dated}
        if self._part:
            kept["skipped"] = []
        path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def quick_asked(description: str) -> bool:
    """Read the command line of a benchmark and tell whether ``--quick`` was given."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="only ours and the floor, on a small case")
    return bool(parser.parse_args().quick)
