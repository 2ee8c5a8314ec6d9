"""dbt on Airflow: what showing every model costs, what it survives, and how far it scales.

The parts run on a real Airflow with PostgreSQL as metadata and as warehouse; Cosmos has an environment of its own.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.processes import stop_all_in
from benchmarks._dbt_kill import kill_part
from benchmarks._dbt_parse import parse_part
from benchmarks._dbt_run import run_part
from benchmarks._dbt_scale import scale_part
from benchmarks._dbt_stage import Stage
from benchmarks._dbt_transient import transient_part
from benchmarks.report import Report

WORK = Path(__file__).parents[1] / ".bench" / "dbt"

PARTS: Mapping[str, Callable[..., None]] = {
    "run": run_part,
    "parse": parse_part,
    "transient": transient_part,
    "scale": scale_part,
    "kill": kill_part,
}
IN_QUICK = ("run",)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only ours and the floor, on a small case")
    parser.add_argument("--part", choices=PARTS, help="one part only")
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    wanted = [asked.part] if asked.part else list(IN_QUICK if asked.quick else PARTS)
    report = Report("dbt", quick=asked.quick, part=asked.part is not None)
    shutil.rmtree(WORK, ignore_errors=True)
    try:
        with LocalPostgres(WORK / "postgres", settings={"max_connections": "300"}) as server:
            stage = Stage(WORK, server)
            for name, part in PARTS.items():
                if name in wanted:
                    part(stage, report, quick=asked.quick)
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
