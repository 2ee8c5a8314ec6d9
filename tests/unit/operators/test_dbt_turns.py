"""Whose turn it is to build, and what the others do meanwhile."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from airflow.sdk import DAG
from airflow.sdk.api.client import ServerResponseError
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, ErrorType, TaskDeferred
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.supervisor import InProcessSupervisorComms

from airflow_ext.operators._dbt_nodes import DbtNodeOperator
from airflow_ext.operators._dbt_turns import BEAT, SETTLE_TIME, Turn, in_turn
from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject
from airflow_ext.triggers._dbt_turn import HOLDER_KEY, Holder


class Airflow:
    """The states of tasks and the registers, as tasks see them; time passes when somebody sleeps."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str], str] = {}
        self.registers: dict[str, dict[str, Any]] = {}
        self.now = 0.0
        self.later: Callable[[], None] = lambda: None
        self.before_write: Callable[[str], None] = lambda _: None
        self.unknown: Exception | None = None

    def store(self, *, name: str) -> Any:
        def write(key: str, value: Any) -> None:
            if self.unknown is not None:
                raise self.unknown
            self.before_write(key)
            self.registers.setdefault(name, {})[key] = value

        return SimpleNamespace(get=lambda key: self.registers.get(name, {}).get(key), set=write)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.later()

    def context(self, run: str, task: str = "build") -> Context:
        def states(*, dag_id: str, task_ids: list[str], run_ids: list[str]) -> dict[str, dict[str, str]]:
            assert dag_id == "dag"
            (name,), (one,) = task_ids, run_ids
            return {one: {name: self.states[one, name]}} if (one, name) in self.states else {}

        self.states[run, task] = "running"
        ti: Any = SimpleNamespace(dag_id="dag", task_id=task, map_index=-1, get_task_states=states)
        context: Any = {"ti": ti, "dag_run": SimpleNamespace(run_id=run)}
        return context  # type: ignore[no-any-return]  # as much of one as is read

    def turn(self, run: str, task: str = "build") -> Turn:
        return Turn(self.context(run, task), "r", sleep=self.sleep, clock=lambda: self.now)

    @property
    def holder(self) -> Holder | None:
        return Holder.of(self.registers["r"].get(HOLDER_KEY))


class Stepwise:
    """A register of which every read and write is a step.

    :param store: The register.
    :param step: Comes before.
    """

    def __init__(self, store: Any, step: Callable[[], None]) -> None:
        self._store, self._step = store, step

    def get(self, key: str) -> Any:
        self._step()
        return self._store.get(key)

    def set(self, key: str, value: Any) -> None:
        self._step()
        self._store.set(key, value)


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    made = Airflow()
    monkeypatch.setattr("airflow.sdk.execution_time.context.AssetStateStoreAccessor", made.store)
    return made


def build_of(tmp_path: Any, **arguments: Any) -> DbtBuildOperator:
    with DAG("dag", schedule=None):
        return DbtBuildOperator(
            task_id="build", project=DbtProject(project_dir=tmp_path / "shop", target="prod"), **arguments
        )


def test_one_builds_and_the_next_when_it_has_ended(airflow: Airflow) -> None:
    first, second = airflow.turn("a"), airflow.turn("b", "orders")
    assert first.take() is None
    assert airflow.now == 0, "who is alone does not wait"
    assert str(second.take()) == "dag.build of run a"
    first.give_back()
    assert second.take() is None
    first.give_back()
    assert str(airflow.holder) == "dag.orders of run b", "only who has it can give it back"


@pytest.mark.parametrize("state", ["failed", "up_for_retry", "success", None])
def test_a_holder_that_airflow_does_not_have_running_holds_nobody_up(
    airflow: Airflow, state: str | None
) -> None:
    airflow.turn("a").take()
    airflow.states["a", "build"] = str(state)
    if state is None:
        del airflow.states["a", "build"]
    assert airflow.turn("b").take() is None


def test_a_retry_takes_over_what_its_first_try_left(airflow: Airflow) -> None:
    airflow.turn("a").take()
    assert airflow.turn("a").take() is None


@pytest.mark.parametrize("left", ["x", 3, {"dag_id": "dag"}, {"map_index": "1"}, []])
def test_what_else_is_in_the_register_is_nobody(airflow: Airflow, left: Any) -> None:
    airflow.registers["r"] = {HOLDER_KEY: left}
    assert airflow.turn("a").take() is None


def test_a_mapped_holder_is_known_by_its_index() -> None:
    holder = Holder("dag", "a", "build", 3, "t")
    assert holder.builds({"build_3": "running"})
    assert not holder.builds({"build_4": "running"})
    assert str(holder) == "dag.build[3] of run a"


def test_a_write_that_comes_late_takes_the_turn_from_nobody(airflow: Airflow) -> None:
    first, late = airflow.turn("a"), airflow.turn("b")
    writes = itertools.count()

    def before_write(key: str) -> None:
        # The late one has seen that nobody builds when the other comes in between.
        if key == HOLDER_KEY and next(writes) == 0:
            assert first.take() is None

    def later() -> None:
        assert str(airflow.holder) == "dag.build of run b"
        first.keep()

    airflow.before_write, airflow.later = before_write, later
    assert str(late.take()) == "dag.build of run a"
    assert airflow.now == SETTLE_TIME
    assert str(airflow.holder) == "dag.build of run a"


@pytest.mark.parametrize("state", ["failed", "running"])
def test_who_was_marked_failed_and_still_runs_does_not_hide_who_took_over(
    airflow: Airflow, state: str
) -> None:
    old, new = airflow.turn("a"), airflow.turn("b")
    old.take()
    airflow.states["a", "build"] = "failed"
    assert new.take() is None
    airflow.states["a", "build"] = state
    airflow.now += BEAT
    old.keep()
    assert str(airflow.turn("c").take()) == f"dag.build of run {'b' if state == 'failed' else 'a'}"


def test_a_register_that_does_not_answer_is_left_alone_for_a_while(airflow: Airflow) -> None:
    turn, asked = airflow.turn("a"), list[float]()
    turn.take()

    def get(_: str) -> Any:
        asked.append(airflow.now)
        airflow.now += 60.0
        raise OSError("no answer")

    turn._store = SimpleNamespace(get=get)  # type: ignore[assignment]  # one that does not answer
    airflow.now = BEAT
    with pytest.raises(OSError, match="no answer"):
        turn.keep()
    turn.keep()
    assert asked == [BEAT]


def test_who_was_slow_looks_again(airflow: Airflow) -> None:
    def before_write(key: str) -> None:
        airflow.now += 3 * (key == HOLDER_KEY)

    airflow.before_write = before_write
    turn = airflow.turn("a")
    assert turn.take() is None
    assert airflow.now == 3 + SETTLE_TIME


def test_many_at_once_build_one_after_the_other(airflow: Airflow) -> None:
    """Every read and write is a step of its own, and a seed decides whose step is next."""
    for seed in range(60):
        airflow.registers.clear()
        airflow.now = 0.0
        assert interleaved(airflow, random.Random(seed)) == ["a", "b", "c"]  # noqa: S311  # no secret


def interleaved(airflow: Airflow, dice: random.Random) -> list[str]:
    """Let three tasks ask, in an order that dice decide, and return who built; fail if two did at once."""
    steps = {run: threading.Semaphore(0) for run in "abc"}
    pause, over, building, built = threading.Semaphore(0), set[str](), set[str](), list[str]()
    wakes = dict.fromkeys(steps, 0.0)

    def step(run: str) -> None:
        pause.release()
        steps[run].acquire()

    def sleep(run: str, seconds: float) -> None:
        wakes[run] = airflow.now + seconds
        step(run)

    def life(run: str) -> None:
        steps[run].acquire()
        turn = Turn(
            airflow.context(run), "r", sleep=lambda seconds: sleep(run, seconds), clock=lambda: airflow.now
        )
        turn._store = Stepwise(turn._store, lambda: step(run))  # type: ignore[assignment]  # the same, in steps
        while turn.take() is not None:
            sleep(run, 5.0)
        building.add(run)
        assert building == {run}, "two built at once"
        for _ in range(8):
            sleep(run, BEAT / 4)
            turn.keep()
        assert building == {run}, "two built at once"
        building.remove(run)
        built.append(run)
        turn.give_back()

    def guarded(run: str) -> None:
        try:
            life(run)
        finally:
            over.add(run)
            pause.release()

    threads = [threading.Thread(target=guarded, args=(run,), daemon=True) for run in steps]
    for thread in threads:
        thread.start()
    while len(over) < len(steps):
        able = [run for run in steps if run not in over and wakes[run] <= airflow.now]
        if not able:
            airflow.now = min(wakes[run] for run in steps if run not in over)
            continue
        airflow.now += 0.01
        steps[dice.choice(able)].release()
        pause.acquire()
    for thread in threads:
        thread.join()
    return sorted(built)


def test_a_second_build_waits_in_the_triggerer(airflow: Airflow, tmp_path: Any) -> None:
    build = build_of(tmp_path)
    with in_turn(airflow.context("a"), build, defer=True):
        other = build_of(tmp_path)
        with pytest.raises(TaskDeferred) as deferred:
            other.execute(airflow.context("b"))
    assert deferred.value.method_name == "execute_after_wait"
    trigger: Any = deferred.value.trigger
    assert trigger.serialize() == (
        "airflow_ext.triggers.dbt.DbtTurnTrigger",
        {"register": "dbt/turns/dag/build"},
    )
    with in_turn(airflow.context("b"), other, defer=True):
        assert other.turn is not None


def test_a_subclass_goes_on_with_its_own_execute_and_waits_again_if_need_be(
    airflow: Airflow, tmp_path: Any
) -> None:
    class Own(DbtBuildOperator):
        def execute(self, context: Context) -> Any:
            super().execute(context)
            return "own"

        def _execute(self, context: Context) -> None:  # noqa: ARG002  # builds nothing
            assert self.turn is not None

    with DAG("dag", schedule=None):
        own = Own(task_id="build", project=DbtProject(project_dir=tmp_path / "shop"))
    for _ in range(2):
        with in_turn(airflow.context("a"), own, defer=True), pytest.raises(TaskDeferred) as deferred:
            own.resume_execution("execute_after_wait", {"event": {}}, airflow.context("b"))
        assert deferred.value.method_name == "execute_after_wait"
    assert own.resume_execution("execute_after_wait", {"event": {}}, airflow.context("b")) == "own"


def test_with_fail_a_second_build_and_a_cleared_node_are_refused(airflow: Airflow, tmp_path: Any) -> None:
    build = build_of(tmp_path, on_running="fail")
    assert build.max_active_tis_per_dag is None
    with build.dag:
        node = DbtNodeOperator(task_id="m", build_task_id="build", unit="m")
    with in_turn(airflow.context("a"), build, defer=True):
        other = build_of(tmp_path, on_running="fail")
        with pytest.raises(AirflowFailException, match=r"dag\.build of run a is running dbt; clear this"):
            other.execute(airflow.context("b"))
        told: Any = {**airflow.context("c", "m"), "dag": other.dag}
        with pytest.raises(AirflowFailException, match=r"dag\.build of run a is running dbt"):
            node.execute_complete(told, {"status": "build", "units": ["m"]})


def test_instances_in_a_mapped_group_do_not_refuse_each_other(airflow: Airflow, tmp_path: Any) -> None:
    build = build_of(tmp_path, on_running="fail")
    first, second = airflow.context("a"), airflow.context("a")
    first["ti"].map_index, second["ti"].map_index = 0, 1
    airflow.states["a", "build"] = "running"
    states = {"a": {"build_0": "running", "build_1": "running"}}
    for context in (first, second):
        cast("Any", context["ti"]).get_task_states = lambda **_: states
    with in_turn(first, build, defer=True), pytest.raises(TaskDeferred), in_turn(second, build, defer=True):
        pass


def test_a_build_waits_for_a_cleared_node_and_that_on_its_worker_for_a_build(
    airflow: Airflow, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    build, other = build_of(tmp_path), build_of(tmp_path)
    with (
        in_turn(airflow.context("a", "m"), build, defer=False),
        pytest.raises(TaskDeferred),
        in_turn(airflow.context("b"), other, defer=True),
    ):
        pass
    first = airflow.turn("b")
    first._store = airflow.store(name="dbt/turns/dag/build")
    first.take()

    def later() -> None:
        if airflow.now >= 3_600:
            first.give_back()

    airflow.later = later
    capsys.readouterr()
    with in_turn(airflow.context("a", "m"), build, defer=False, sleep=airflow.sleep):
        assert airflow.now >= 3_600
    lines = [
        line for line in capsys.readouterr().out.splitlines() if "Waiting until dag.build of run b" in line
    ]
    assert 0 < len(lines) < 20


def test_where_a_trigger_could_read_nothing_the_task_waits_itself(
    airflow: Airflow, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with ``dag.test()`` after an earlier one was interrupted, whose task stays running for Airflow."""
    first = airflow.turn("a")
    first._store = airflow.store(name="dbt/turns/dag/build")
    first.take()
    comms = InProcessSupervisorComms(supervisor=Any)  # type: ignore[arg-type]  # nothing is sent
    monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", comms, raising=False)
    airflow.later = lambda: airflow.states.update({("a", "build"): "failed"})
    with in_turn(airflow.context("b"), build_of(tmp_path), defer=True, sleep=airflow.sleep):
        assert airflow.now > 0


def test_with_allow_nobody_asks(airflow: Airflow, tmp_path: Any) -> None:
    build = build_of(tmp_path, on_running="allow")
    assert build.inlets == []
    with in_turn(airflow.context("a"), build, defer=True):
        assert build.turn is None
    assert airflow.registers == {}


@pytest.mark.parametrize("client", [False, True], ids=["task", "dag.test()"])
def test_without_the_register_it_builds_and_says_so(
    airflow: Airflow, tmp_path: Any, capsys: pytest.CaptureFixture[str], client: bool
) -> None:
    answer = httpx.Response(404, request=httpx.Request("PUT", "http://airflow/store"))
    airflow.unknown = (
        ServerResponseError("Not found", request=answer.request, response=answer)
        if client
        else AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404}))
    )
    with in_turn(airflow.context("a"), build := build_of(tmp_path), defer=True):
        build.keep_turn()
    assert "does not know the asset dbt/turns/dag/build" in capsys.readouterr().out


def test_a_register_that_does_not_answer_ends_no_build(
    airflow: Airflow, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    build = build_of(tmp_path)

    def refuse(_: str) -> None:
        raise OSError("no answer")

    with in_turn(airflow.context("a"), build, defer=True):
        airflow.before_write = refuse
    assert "could not be given back" in capsys.readouterr().out
    airflow.states["a", "build"] = "failed"
    with pytest.raises(OSError, match="no answer"), in_turn(airflow.context("b"), build, defer=True):
        pass


def test_a_register_that_is_gone_is_told_of_once(
    airflow: Airflow, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    build = build_of(tmp_path)
    with in_turn(airflow.context("a"), build, defer=True):
        assert build.turn is not None
        build.turn._clock = lambda: airflow.now
        airflow.unknown = AirflowRuntimeError(
            ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404})
        )
        airflow.registers.clear()
        for _ in range(3):
            airflow.now += 1e9
            build.keep_turn()
    assert caplog.text.count("could not be looked up") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "dbt/turns/dag/build"),
        ({"running_scope": "target"}, "dbt/turns/shop/profiles.yml/target=prod"),
    ],
)
def test_the_register_is_an_inlet_and_the_same_for_whoever_shares_it(
    tmp_path: Any, arguments: dict[str, Any], expected: str
) -> None:
    assert [asset.name for asset in build_of(tmp_path, **arguments).inlets] == [expected]


def test_long_ids_of_any_script_have_a_register_each(tmp_path: Any) -> None:
    names = set()
    for dag_id in ("\u6570" * 80, "\u6570" * 81):
        with DAG(dag_id, schedule=None):
            build = DbtBuildOperator(
                task_id="\u6570" * 100, project=DbtProject(project_dir=tmp_path / "shop")
            )
        assert build.register.name.isascii()
        names.add(build.register.name)
    assert len(names) == 2


def test_an_unknown_scope_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="running_scope='dag': give 'task' or 'target'"):
        build_of(tmp_path, running_scope="dag")
