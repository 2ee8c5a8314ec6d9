"""A whole build on a real scheduler: as one shell command, as a group of tasks, as Cosmos' watcher does it."""

from __future__ import annotations

import math
import time
from statistics import median

from airflow_ext.testing.local_airflow import LocalAirflow
from benchmarks._dbt_projects import Shape
from benchmarks._dbt_stage import RunFigures, Stage, cpu_parts, measure_run, settle
from benchmarks.peers import peer_python
from benchmarks.report import Report

FULL = Shape(name="run", models=100)
QUICK = Shape(name="run", models=30)
ROUNDS = 5
TIMEOUT = 300.0
COSMOS_TIMEOUT = 900.0
IDLE = 4.0
"""Seconds for which an Airflow without work is looked at."""

PEER = (
    "astronomer-cosmos",
    "dbt-core<1.12",
    "dbt-postgres",
    "psycopg2-binary",
    "asyncpg",
    "apache-airflow-providers-standard",
)


def run_part(stage: Stage, report: Report, *, quick: bool) -> None:
    """Add the bars of a run.

    :param quick: A small project, one round, and no Cosmos.
    """
    shape = QUICK if quick else FULL
    report.say(f"run: making a project of {shape.models} models")
    stage.project(shape)
    found: dict[str, list[RunFigures]] = {"bash": [], "group": []}
    with stage.airflow("run") as airflow:
        airflow.client.wait_for_dags(list(found))
        report.say("run: Airflow is up; one run of each to warm it up")
        for dag_id in found:
            _good(measure_run(stage, airflow, "run", dag_id, timeout=TIMEOUT))
        idle = _idle_cpu(stage, airflow)
        for _ in range(1 if quick else ROUNDS):
            for dag_id, figures in found.items():
                settle()
                figures.append(_good(measure_run(stage, airflow, "run", dag_id, timeout=TIMEOUT)))
                report.say(f"run: {dag_id} took {_text(figures[-1])}")
    bash, group = found["bash"], found["group"]
    wall = median(one.wall for one in group)
    # Neighbours in time are compared: on a shared machine a minute is not like the one before.
    ratio = median(ours.wall / floor.wall for ours, floor in zip(group, bash, strict=True))
    walls = {name: [round(one.wall, 2) for one in figures] for name, figures in found.items()}
    if quick:
        # Starting and ending the node tasks takes the same seconds for every size, which weigh more here.
        report.skip(
            f"wall over the same build as one BashOperator, {FULL.models} models: of {shape.models} it is {ratio:.2f}, {walls}"
        )
    else:
        report.bar(
            f"wall over the same build as one BashOperator, {shape.models} models",
            ratio,
            "<=",
            1.25,
            unit="times",
            peers={"seconds": walls},
        )
        cpu = {name: [round(one.cpu, 2) for one in figures] for name, figures in found.items()}
        report.bar(
            "CPU-seconds of Airflow over those with the BashOperator",
            median(ours.cpu / floor.cpu for ours, floor in zip(group, bash, strict=True)),
            "<=",
            1.5,
            unit="times",
            peers={
                "seconds": cpu,
                **{name: figures[-1].cpu_parts for name, figures in found.items()},
                "idle per second": round(idle, 3),
            },
        )
    limit = 3 + math.ceil(shape.models / 100)
    rows = group[-1].xcom_rows
    if quick:
        report.bar(f"XCom rows of a run, {shape.models} models", rows, "<=", limit, unit="rows")
        report.skip("wall of Cosmos' watcher over ours")
        return
    report.say("run: installing Cosmos in an environment of its own")
    cosmos = _cosmos(stage, report)
    report.bar(
        f"XCom rows of a run, {shape.models} models",
        rows,
        "<=",
        limit,
        unit="rows",
        peers={"cosmos watcher": cosmos.xcom_rows},
    )
    report.bar(
        "wall of Cosmos' watcher over ours",
        cosmos.wall / wall,
        ">=",
        8,
        unit="times",
        peers={
            "cosmos seconds": round(cosmos.wall, 1),
            "cosmos CPU-s": round(cosmos.cpu, 1),
            "state": cosmos.state,
        },
    )


def _cosmos(stage: Stage, report: Report) -> RunFigures:
    python = peer_python("cosmos", PEER)
    with stage.airflow("cosmos", python=python, env={"DO_NOT_TRACK": "1"}) as airflow:
        airflow.client.wait_for_dags(["cosmos"])
        report.say("run: one run of Cosmos' watcher")
        figures = measure_run(stage, airflow, "cosmos", "cosmos", timeout=COSMOS_TIMEOUT)
    report.say(f"run: Cosmos' watcher took {_text(figures)} and ended {figures.state}")
    return figures


def _idle_cpu(stage: Stage, airflow: LocalAirflow) -> float:
    """Return the CPU-seconds per second of an Airflow that does nothing."""
    settle()
    before = cpu_parts(stage, airflow)
    time.sleep(IDLE)
    after = cpu_parts(stage, airflow)
    return sum(after[name] - before[name] for name in after if name != "postgres") / IDLE


def _good(figures: RunFigures) -> RunFigures:
    if figures.state != "success":
        raise RuntimeError(f"the run itself failed: {figures}")
    return figures


def _text(figures: RunFigures) -> str:
    return f"{figures.wall:.1f} s, {figures.cpu:.1f} CPU-s, {figures.xcom_rows} XCom rows"
