"""Contracts between teams: judging, reading, waiting and comparing them."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from airflow_ext.testing.processes import stop_all_in
from benchmarks._contracts_judge import files_part, judge_part
from benchmarks._contracts_waiting import waiting_part
from benchmarks.report import Report

WORK = Path(__file__).parents[1] / ".bench" / "contracts"

PARTS: Mapping[str, Callable[..., None]] = {
    "judge": judge_part,
    "files": files_part,
    "waiting": waiting_part,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only ours and the floor, on a small case")
    parser.add_argument("--part", choices=PARTS, help="one part only")
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    report = Report("contracts", quick=asked.quick, part=asked.part is not None)
    shutil.rmtree(WORK, ignore_errors=True)
    try:
        for name, part in PARTS.items():
            if asked.part in (None, name):
                part(WORK / name, report, quick=asked.quick)
            else:
                report.skip(f"part {name}")
    finally:
        stop_all_in(WORK)
        shutil.rmtree(WORK, ignore_errors=True)
    return report.finish()


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
