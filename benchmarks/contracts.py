"""Contracts between teams: judging, reading, waiting and comparing them."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType

from benchmarks._contracts_diff import diff_part
from benchmarks._contracts_judge import files_part, judge_part
from benchmarks._contracts_release import release_part
from benchmarks._contracts_waiting import waiting_part
from benchmarks.report import Report

PARTS: Mapping[str, Callable[..., None]] = {
    "judge": judge_part,
    "files": files_part,
    "waiting": waiting_part,
    "release": release_part,
    "diff": diff_part,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only ours and the floor, on a small case")
    parser.add_argument("--part", choices=PARTS, help="one part only")
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    report = Report("contracts", quick=asked.quick, part=asked.part is not None)
    for name, part in PARTS.items():
        if asked.part in (None, name):
            part(report, quick=asked.quick)
        else:
            report.skip(f"part {name}")
    return report.finish()


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
