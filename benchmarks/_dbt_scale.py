"""Many nodes: does the run complete, and do scheduler and triggerer stay responsive?"""

from __future__ import annotations

from benchmarks._dbt_projects import Shape
from benchmarks._dbt_stage import LOOPS, Stage, Watch, measure_run
from benchmarks.report import Report

SHAPES = {
    "300 nodes at node granularity": Shape(name="scale_300", models=300),
    # Views without tests: the warehouse is not what is measured.
    "5,000 nodes at auto": Shape(
        name="scale_5000", models=5_000, layers=20, tests=False, folders=50, materialized="view"
    ),
}
TIMEOUT = 1_500.0


def scale_part(stage: Stage, report: Report, *, quick: bool) -> None:  # noqa: ARG001  # it has no small case
    """Add a bar per size: the run completes; its peers are the figures of the components."""
    for what, shape in SHAPES.items():
        report.say(f"scale: making a project of {what}")
        stage.project(shape)
    with stage.airflow("scale", env=LOOPS) as airflow:
        airflow.client.wait_for_dags([shape.name for shape in SHAPES.values()], timeout=180)
        for what, shape in SHAPES.items():
            report.say(f"scale: a run of {what}")
            watch = Watch(airflow)
            figures = measure_run(stage, airflow, "scale", shape.name, timeout=TIMEOUT, watch=watch)
            tasks = airflow.client.tasks(shape.name, figures.run_id)
            good = figures.state == "success" and {task["state"] for task in tasks.values()} == {"success"}
            report.bar(
                f"a run of {what} completes",
                float(good),
                "==",
                1,
                unit="runs",
                peers={
                    "tasks": len(tasks),
                    "wall_s": round(figures.wall, 1),
                    "build_s": _build_seconds(tasks),
                    "cpu_s": figures.cpu_parts,
                    "xcom_rows": figures.xcom_rows,
                    **watch.figures(),
                },
            )


def _build_seconds(tasks: dict[str, dict[str, object]]) -> float:
    return round(float(str(tasks["shop.build"]["duration"])), 1)
