"""What a DAG file of a big project costs: CPU, memory, and size of the serialized DAG."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._dbt_projects import Shape, generate
from benchmarks._dbt_run import PEER
from benchmarks._dbt_stage import QUIET, Stage
from benchmarks.peers import peer_python
from benchmarks.report import Report

SHAPE = Shape(name="parse", models=1_000)
ROUNDS = 3
BIG = 20_000_000
"""Bytes of the manifest whose index is made anew."""

TIMEOUT = 300.0
_CHILD = Path(__file__).with_name("_dbt_parse_child.py")


def parse_part(stage: Stage, report: Report, *, quick: bool) -> None:
    """Add the bars of a DAG file's parse.

    :param quick: Nothing of Cosmos.
    """
    report.say(f"parse: making a project of {SHAPE.models} models")
    project = generate(SHAPE, stage.projects)
    home = stage.work / "parse-home"
    _measured("ours", project, home=home)  # puts the index into its cache
    ours = _medians("ours", project, home=home)
    slim = _medians("ours-without-assets", project, home=home)
    report.say(f"parse: ours {ours}, without assets {slim}")
    cosmos, watcher = {}, {}
    if quick:
        report.skip("CPU of a parse over Cosmos' in manifest mode")
    else:
        report.say("parse: installing Cosmos in an environment of its own")
        python = peer_python("cosmos", PEER)
        cosmos = _medians("cosmos", project, home=stage.work / "cosmos-home", python=python)
        watcher = _medians(
            "cosmos",
            project,
            home=stage.work / "cosmos-home",
            python=python,
            env={"BENCH_COSMOS_MODE": "watcher"},
        )
        report.say(f"parse: Cosmos {cosmos}, its watcher {watcher}")

    def peers(field: str) -> dict[str, float]:
        if not cosmos:
            return {}
        return {"cosmos local": round(cosmos[field], 3), "cosmos watcher": round(watcher[field], 3)}

    of = f"DAG of {SHAPE.models:,} models, warm index"
    report.bar(f"CPU to build a {of}", ours["cpu"], "<=", 0.2, unit="CPU-s", peers=peers("cpu"))
    if cosmos:
        least = min(cosmos["cpu"], watcher["cpu"])
        report.bar(
            "CPU of a parse over Cosmos' in manifest mode", ours["cpu"] / least, "<=", 1 / 7, unit="times"
        )
    kilobytes = peers("serialized_kb")
    report.bar("serialized DAG without assets", slim["serialized_kb"], "<=", 700, unit="KB", peers=kilobytes)
    report.bar(
        "serialized DAG with one asset per node",
        ours["serialized_kb"],
        "<=",
        1_150,
        unit="KB",
        peers=kilobytes,
    )
    report.bar("memory over an empty DAG", ours["memory_mb"], "<=", 40, unit="MB", peers=peers("memory_mb"))
    pad(project / "target" / "manifest.json", BIG)
    cold = [
        _measured("index", project, home=stage.work / f"cold-home-{number}")["seconds"]
        for number in range(ROUNDS)
    ]
    report.bar(f"cold index of a {BIG // 1_000_000} MB manifest", median(cold), "<=", 1, unit="s")


def pad(manifest: Path, size: int) -> None:
    """Make a manifest bigger with what makes real ones big: SQL and descriptions.

    :param size: Bytes that it has at least afterwards.
    """
    content = json.loads(manifest.read_bytes())
    models = [node for node in content["nodes"].values() if node["resource_type"] == "model"]
    line = '    , coalesce(a."amount", 0) * \'1.0\'::numeric as "net" -- \\ the \t rest of it\n'
    missing = max(0, size - len(json.dumps(content)))
    times = missing // len(models) // (len(json.dumps(line)) - 2) + 1  # without its quotes
    for model in models:
        model["raw_code"] += line * times
        model["description"] = "Says what it is. " * 5
    manifest.write_text(json.dumps(content), encoding="utf-8")
    if manifest.stat().st_size < size:
        raise RuntimeError(f"{manifest} has {manifest.stat().st_size} bytes after padding, not {size}")


def _medians(what: str, project: Path, **more: Any) -> dict[str, float]:
    rounds = [_measured(what, project, **more) for _ in range(ROUNDS)]
    return {field: round(median(one[field] for one in rounds), 3) for field in rounds[0]}


def _measured(
    what: str,
    project: Path,
    *,
    home: Path,
    python: str | Path = sys.executable,
    env: dict[str, str] | None = None,
) -> dict[str, float]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [str(python), "-P", str(_CHILD), what, str(project)],
        env={
            **inherited,
            **QUIET,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "DO_NOT_TRACK": "1",
            **(env or {}),
        },
        cwd=project,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{what} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told
