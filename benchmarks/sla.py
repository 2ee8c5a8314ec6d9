"""SLAs on PostgreSQL: the ledger under load, storms, kills, the founding cases, and what the scheduler notices of it."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from airflow_ext.testing.processes import stop_all_in
from benchmarks._sla_cases import cases_part
from benchmarks._sla_kill import kill_part
from benchmarks._sla_ledger import ledger_part
from benchmarks._sla_loop import loop_part
from benchmarks._sla_oracle import oracle_part
from benchmarks._sla_storm import storm_part
from benchmarks.report import Report

PARTS: Mapping[str, Callable[..., None]] = {
    "ledger": ledger_part,
    "storm": storm_part,
    "loop": loop_part,
    "cases": cases_part,
    "kill": kill_part,
    "oracle": oracle_part,
}
IN_QUICK = ("ledger", "storm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only ours, on a small case")
    parser.add_argument("--part", choices=PARTS, help="one part only")
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    wanted = [asked.part] if asked.part else list(IN_QUICK if asked.quick else PARTS)
    report = Report("sla", quick=asked.quick, part=asked.part is not None)
    for name, part in PARTS.items():
        if name not in wanted:
            report.skip(f"part {name}")
            continue
        with tempfile.TemporaryDirectory() as home:
            try:
                part(Path(home), report, quick=asked.quick)
            finally:
                stop_all_in(Path(home))
    return report.finish()


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
