"""The judge against plain loops: random histories, and every time zone, by the switches of the unit tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import Report

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "unit" / "sla"
HISTORIES = 1000


def oracle_part(home: Path, report: Report, *, quick: bool) -> None:  # noqa: ARG001  # it has no small case
    """Add a bar for histories and one for zones."""
    report.say(f"oracle: {HISTORIES} random histories against a plain loop")
    good, _, took, text = _run(
        home, TESTS / "monitor" / "test_oracle.py", AIRFLOW_EXT_HISTORIES=str(HISTORIES)
    )
    report.bar(
        f"{HISTORIES:,} random histories judged as by a plain loop",
        good,
        "==",
        1,
        unit="runs that agree in all",
        peers={"seconds": took, "said": text},
    )
    report.say("oracle: one occurrence for each local date from 2020 to 2035, in every zone")
    good, failed, took, text = _run(home, TESTS / "test_expected.py", AIRFLOW_EXT_ALL_ZONES="1")
    report.bar(
        "zones and times of day with other than one occurrence for each local date, 2020 to 2035",
        failed,
        "==",
        0,
        unit="cases",
        peers={"cases that hold": good, "seconds": took, "said": text},
    )


def _run(home: Path, file: Path, **switches: str) -> tuple[int, int, float, str]:
    """Run a file of tests and return how many passed and failed, the seconds, and what was said of failures."""
    begin = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--timeout=1200"),
            f"--basetemp={home / file.stem}",  # the common one is cleaned up by whoever else runs tests
            str(file),
        ],
        cwd=ROOT,
        env={**os.environ, **switches},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    passed, failed = (
        sum(int(number) for number in re.findall(rf"(\d+) {word}", done.stdout))
        for word in ("passed", "(?:failed|error)")
    )
    said = "" if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-500:]
    return passed, max(failed, int(done.returncode != 0)), round(time.monotonic() - begin, 1), said
