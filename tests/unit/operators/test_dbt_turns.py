"""What a build or a cleared node does while another run's build runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_ext.operators import _dbt_turns
from airflow_ext.operators._dbt_nodes import DbtNodeOperator
from airflow_ext.operators._dbt_turns import YIELD_TIME, await_turn, refuse_second
from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject


class Airflow:
    """Answers what a task may ask about the build task of all runs; time passes when somebody sleeps."""

    def __init__(self, **runs: str) -> None:
        self.runs = runs
        self.slept = 0.0
        self.later: Callable[[float], None] = lambda _: None

    def get_ti_count(
        self, *, dag_id: str, task_ids: list[str], states: list[str], run_ids: list[str] | None = None
    ) -> int:
        assert (dag_id, task_ids) == ("dag", ["build"])
        return sum(state in states for run, state in self.runs.items() if run_ids is None or run in run_ids)

    def get_task_states(self, *, dag_id: str, task_ids: list[str]) -> dict[str, dict[str, str]]:
        assert (dag_id, task_ids) == ("dag", ["build"])
        return {run: {"build": state} for run, state in self.runs.items()}

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.later(self.slept)

    def context(self, run: str) -> Any:
        return {"ti": self, "dag_run": SimpleNamespace(run_id=run)}


@pytest.fixture
def build(tmp_path: Any) -> DbtBuildOperator:
    with DAG("dag", schedule=None):
        return DbtBuildOperator(task_id="build", project=DbtProject(project_dir=tmp_path), on_running="fail")


def test_a_second_run_is_refused_and_told_which_is_the_first(build: DbtBuildOperator) -> None:
    airflow = Airflow(a="running", b="running", c="success")
    with pytest.raises(AirflowFailException, match=r"dag\.build is running dbt in a; clear this"):
        refuse_second(airflow.context("b"), build, sleep=airflow.sleep)
    assert airflow.slept == 0


def test_a_first_run_that_began_long_ago_stays_first_whatever_its_id(build: DbtBuildOperator) -> None:
    airflow = Airflow(a="running", z="running")
    with pytest.raises(AirflowFailException, match="in z;"):
        refuse_second(airflow.context("a"), build, sleep=airflow.sleep)
    assert airflow.slept == YIELD_TIME


def test_of_two_that_start_together_one_builds(build: DbtBuildOperator) -> None:
    airflow = Airflow(a="running", z="running")
    with pytest.raises(AirflowFailException):
        refuse_second(airflow.context("z"), build, sleep=airflow.sleep)

    def later(_: float) -> None:
        airflow.runs["z"] = "failed"

    airflow.later = later
    refuse_second(airflow.context("a"), build, sleep=airflow.sleep)
    assert 0 < airflow.slept < YIELD_TIME


def test_a_run_alone_is_not_asked_about_further(build: DbtBuildOperator) -> None:
    airflow = Airflow(a="running", b="success")
    airflow.get_task_states = None  # type: ignore[assignment,method-assign]
    refuse_second(airflow.context("a"), build, sleep=airflow.sleep)
    assert airflow.slept == 0


def test_a_cleared_node_is_refused_while_another_run_builds(build: DbtBuildOperator) -> None:
    airflow = Airflow(a="success", b="running")
    with pytest.raises(AirflowFailException, match="running dbt in b;"):
        await_turn(airflow.context("a"), build, sleep=airflow.sleep)


@pytest.mark.parametrize(("on_running", "waits"), [("wait", True), ("allow", False)])
def test_a_cleared_node_waits_until_the_other_build_is_over(
    build: DbtBuildOperator, on_running: Any, waits: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    build.on_running = on_running
    airflow = Airflow(a="success", b="running")

    def later(slept: float) -> None:
        if slept >= 3_600:
            airflow.runs["b"] = "success"

    airflow.later = later
    await_turn(airflow.context("a"), build, sleep=airflow.sleep)
    assert (airflow.slept >= 3_600) is waits
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "Waiting until the build of b is over" in line
    ]
    assert 0 < len(lines) < 20 if waits else not lines


def test_build_and_cleared_nodes_ask_whose_turn_it_is(
    build: DbtBuildOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dbt_turns, "YIELD_TIME", 0.0)
    airflow = Airflow(a="running", b="running")
    with pytest.raises(AirflowFailException, match="running dbt in a"):
        build.execute(airflow.context("b"))
    with build.dag:
        node = DbtNodeOperator(task_id="m", build_task_id="build", unit="m")
    with pytest.raises(AirflowFailException, match="running dbt in a, b"):
        node.execute_complete(airflow.context("c") | {"dag": build.dag}, {"status": "build", "units": ["m"]})
