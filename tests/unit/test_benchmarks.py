"""Each benchmark ends well on its small case, with one JSON object as its last line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import Report

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["vault"])
def test_the_quick_run_holds_its_bars(name: str) -> None:
    """But for those in seconds: they are for a machine that does nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["bench"] == name
    assert all(bar["pass"] for bar in told["bars"] if bar["unit"] not in ("s", "ms")), done.stdout
    assert told["skipped"]


def test_a_missed_bar_fails_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("some", quick=True)
    report.bar("calls", 3, "<=", 2, unit="calls")
    report.bar("found", 3, ">=", 2, unit="rows")
    assert report.finish() == 1
    told = json.loads(capsys.readouterr().out)
    assert [bar["pass"] for bar in told["bars"]] == [False, True]


def test_a_part_replaces_its_own_bars_in_the_kept_results(tmp_path: Path) -> None:
    whole = Report("some", quick=False, results=tmp_path)
    whole.bar("a", 1, "<=", 2, unit="s")
    whole.bar("b", 1, "<=", 2, unit="s")
    whole.finish()
    part = Report("some", quick=False, part=True, results=tmp_path)
    part.bar("b", 3, "<=", 2, unit="s")
    assert part.finish() == 1
    kept = json.loads((tmp_path / "some.json").read_text())
    assert {bar["name"]: bar["value"] for bar in kept["bars"]} == {"a": 1, "b": 3}
    assert all(bar["date"] for bar in kept["bars"])


def test_a_benchmark_without_bars_has_shown_nothing() -> None:
    assert Report("some", quick=True).finish() == 1
