"""Kill -9 of worker, triggerer and scheduler all over a run: it ends as dbt ends, and nothing is built for nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.processes import processes_in
from benchmarks._dbt_projects import Shape, builds, empty_counts, model_name
from benchmarks._dbt_stage import Stage, busy_workers, children_of, measure_run
from benchmarks.report import Report

SHAPE = Shape(name="kill", models=20, layers=5, audited=True, seconds=0.5)
POINTS = (0, 1, 3, 5, 7, 10, 13, 15, 17, 19)
"""How many models are built when the kill comes, whatever time that takes; 0 means at once."""

TIMEOUT = 150.0
MARGIN = 1.5
"""Seconds before the kill at which a model must have been committed, so that it was told a second before: half a
second lies between two writes of node states."""

QUICKLY = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "6",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "8",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "6",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
}
"""Airflow notices a dead worker, scheduler or triggerer within 6 to 8 seconds instead of 30 to 300."""


@dataclass(frozen=True)
class Case:
    """How one run with a kill ended.

    :param good: Whether the run and each of its tasks succeeded, and each model was built.
    :param again: Models that were built again though their first build had been told.
    :param wall: Seconds from the trigger to the end.
    :param text: What else is to be said.
    """

    good: bool
    again: list[str]
    wall: float
    text: str


def kill_part(stage: Stage, report: Report, *, quick: bool) -> None:  # noqa: ARG001  # there is no small matrix
    """Add two bars per component."""
    report.say(f"kill: a project of {SHAPE.models} models of {SHAPE.seconds} s")
    project = stage.project(SHAPE)
    with stage.airflow("kill", env=QUICKLY) as airflow:
        airflow.client.wait_for_dags(["kill"])
        measure_run(stage, airflow, "kill", "kill", timeout=TIMEOUT)
        plain = measure_run(stage, airflow, "kill", "kill", timeout=TIMEOUT)
        if plain.state != "success":
            raise RuntimeError(f"the run fails without a kill: {plain}")
        report.say(f"kill: a run takes {plain.wall:.1f} s")

        def kill_worker(number: int) -> None:
            _kill_worker(airflow, project, whole=bool(number % 2))

        def kill_component(name: str) -> Callable[[int], None]:
            def kill(_number: int) -> None:
                airflow.kill_component(name)
                airflow.start_component(name)

            return kill

        matrix: dict[str, Callable[[int], None]] = {
            "worker": kill_worker,
            "triggerer": kill_component("triggerer"),
            "scheduler": kill_component("scheduler"),
        }
        for name, kill in matrix.items():
            cases = []
            for number, models in enumerate(POINTS):
                case = _case(stage, airflow, after=models, kill=partial(kill, number), of=name)
                report.say(f"kill: {name} with {models} models built: {case.text}")
                cases.append(case)
            _bars(report, name, cases)


def _bars(report: Report, name: str, cases: list[Case]) -> None:
    report.bar(
        f"runs that end as dbt does though the {name} was killed -9, of {len(POINTS)}",
        sum(case.good for case in cases),
        "==",
        len(POINTS),
        unit="runs",
        peers={
            "wall_s": [round(case.wall, 1) for case in cases],
            "not good": [case.text for case in cases if not case.good],
        },
    )
    report.bar(
        f"models built twice without reason though the {name} was killed -9",
        sum(len(case.again) for case in cases),
        "==",
        0,
        unit="models",
        peers={"models": [case.again for case in cases if case.again]},
    )


def _case(stage: Stage, airflow: LocalAirflow, *, after: int, kill: Callable[[], None], of: str) -> Case:
    client = airflow.client
    empty_counts(SHAPE, stage.server)
    begun = time.monotonic()
    run_id = client.trigger("kill")
    if of == "worker":
        client.wait_for_task("kill", run_id, "shop.build", states={"running"}, timeout=60)
    _wait_for_builds(stage, after)
    killed = time.time()
    kill()
    airflow.wait_until_healthy()
    try:
        run = client.wait_for_run("kill", run_id, timeout=TIMEOUT)
    except TimeoutError as error:
        run = {"state": "no end"}
        _give_up(airflow, run_id)
        problem = str(error)[:1500]
    else:
        problem = ""
    wall = time.monotonic() - begun
    tasks = client.tasks("kill", run_id)
    bad = {name: task["state"] for name, task in tasks.items() if task["state"] != "success"}
    built = builds(SHAPE, stage.server)
    missing = [model_name(number) for number in range(SHAPE.models) if model_name(number) not in built]
    again = [name for name, times in built.items() if _without_reason(times, killed, of=of)]
    tries = tasks["shop.build"]["try_number"]
    return Case(
        good=run["state"] == "success" and not bad and not missing,
        again=again,
        wall=wall,
        text=(
            f"{run['state']} in {wall:.1f} s with {tries} tries of the build; "
            f"{sum(len(times) for times in built.values())} builds of {len(built)} models"
            f"{f'; not success: {bad}' if bad else ''}{f'; again: {again}' if again else ''}"
            f"{f'; {problem}' if problem else ''}"
        ),
    )


def _wait_for_builds(stage: Stage, models: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while len(builds(SHAPE, stage.server)) < models:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{models} models are not built within {TIMEOUT:.0f} s")
        time.sleep(0.05)


def _without_reason(times: list[float], killed: float, *, of: str) -> bool:
    if of == "triggerer":
        return len(times) > 1
    return any(at < killed - MARGIN for at in times) and any(at > killed for at in times)


def _give_up(airflow: LocalAirflow, run_id: str) -> None:
    """End a run that hangs, so that it does not disturb the next ones."""
    airflow.client.request("PATCH", f"/dags/kill/dagRuns/{run_id}", json={"state": "failed"})
    time.sleep(5)


def _kill_worker(airflow: LocalAirflow, project: Path, *, whole: bool) -> None:
    """Kill the process of the build task and its dbt.

    :param whole: Kill the executor's worker above them, too, so that nobody sees the task die.
    """
    workers = busy_workers(airflow)
    victims = [pid for worker in workers for pid in children_of(worker)] + processes_in(project)
    if not victims:
        raise RuntimeError("no worker is busy: the build had ended before it was to be killed")
    for pid in [*(workers if whole else []), *victims]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
