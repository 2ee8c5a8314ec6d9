"""A model that fails once: the run ends green, and only what was left runs again, as the warehouse counts it."""

from __future__ import annotations

from benchmarks._dbt_projects import Shape, attempts, builds, model_name
from benchmarks._dbt_stage import Stage, measure_run
from benchmarks.report import Report

SHAPE = Shape(name="transient", models=20, layers=4, audited=True, flaky=6)
TIMEOUT = 240.0


def transient_part(stage: Stage, report: Report, *, quick: bool) -> None:  # noqa: ARG001  # it is small
    """Add the bars of a transient failure with one retry."""
    report.say(f"transient: a project of {SHAPE.models} models, one of which fails at its first attempt")
    stage.project(SHAPE)
    with stage.airflow("transient") as airflow:
        airflow.client.wait_for_dags(["transient"])
        figures = measure_run(stage, airflow, "transient", "transient", timeout=TIMEOUT)
        tries = airflow.client.tasks("transient", figures.run_id)["shop.build"]["try_number"]
    models = attempts(SHAPE, stage.server)
    tests = attempts(SHAPE, stage.server, of="tried_test")
    built = builds(SHAPE, stage.server)
    if models[SHAPE.flaky or 0] < 2 or tries != 2:
        raise RuntimeError(f"the model did not fail at first: attempts {models}, {tries} tries of the build")
    report.bar(
        "a run with a transient failure and one retry ends green",
        float(figures.state == "success"),
        "==",
        1,
        unit="runs",
        peers={"wall_s": round(figures.wall, 1)},
    )
    again = {model_name(number): count for number, count in models.items() if count > 1}
    report.bar(
        "models begun more than once, the failed one included",
        len(again),
        "==",
        1,
        unit="models",
        peers=again,
    )
    wrong = {name: len(times) for name, times in built.items() if len(times) != 1}
    report.bar(
        "models not built exactly once",
        len(wrong) + SHAPE.models - len(built),
        "==",
        0,
        unit="models",
        peers=wrong,
    )
    report.bar(
        "tests not run exactly once",
        sum(count != 1 for count in tests.values()),
        "==",
        0,
        unit="tests",
        peers={"attempts": sum(tests.values())},
    )
