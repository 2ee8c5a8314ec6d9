"""Whose turn it is, when several tasks want to build into the same target.

Airflow has no lock for tasks, but what it keeps for an asset all of them can read and write. Two keys of it are enough
for mutual exclusion (L. Lamport, "A Fast Mutual Exclusion Algorithm", 1987): who asks writes itself to both, and only
if somebody else asks at the same moment one waits and looks again. A writer that was delayed meanwhile may write over
who holds it already; so the holder looks every few seconds whether it is still in, and the other waits for longer than that.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError

from airflow_ext.dbt.labels import hashed
from airflow_ext.triggers._dbt_turn import HOLDER_KEY, TURN_POLL, DbtTurnTrigger, Holder

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_ext.dbt.project import DbtProject
    from airflow_ext.operators._dbt_build import DbtNodesOperator

RunningScope = Literal["task", "target"]

ASKED_KEY = "asked"
"""Key of the register: who asked last."""
BEAT = 5.0
"""Seconds between two looks of who builds whether it is still in the register."""
PROMPT = 2.0
"""Seconds within which asking is taken to have been disturbed by nobody whose writes were under way."""
SETTLE_TIME = PROMPT + 2 * BEAT
"""Seconds that one waits who was disturbed: by then all writes have arrived and the holder has put itself in again."""
_LONGEST_NAME = 1_500
"""Characters of an asset's name; a character of an id that is not ASCII takes up to twelve of them."""
_LOOKS_PER_LINE = 60
"""Looks between two lines of the log while a task waits on its worker."""


def register_of(operator: DbtNodesOperator, project: DbtProject, scope: RunningScope) -> Asset:
    """Return the asset in whose state store is told who builds.

    :param operator: The task.
    :param project: What it builds.
    :param scope: ``task``: one of its own; ``target``: one for all that build the project into the same target.
    """
    if scope == "task":
        parts = [operator.dag_id, operator.task_id]
    else:
        # The folder of a versioned DAG bundle is another one for each version; the project's own name is the same.
        parts = [project.project_dir.name, project.profile_conn_id or "profiles.yml"]
        named = {"target": project.target, "schema": project.schema}
        parts += [f"{word}={value}" for word, value in named.items() if value is not None]
    name = "/".join(["dbt", "turns", *(quote(part, safe="=") for part in parts)])
    return Asset(
        name=name if len(name) <= _LONGEST_NAME else hashed(name, name, limit=_LONGEST_NAME), group="dbt"
    )


class _NoRegisterError(Exception):
    """Airflow does not know the asset."""


class Turn:
    """A task's turn to build.

    :param context: Its context.
    :param register: Name of the asset.
    :param sleep: Sleeps for some seconds.
    :param clock: Seconds of a clock that only goes forward.
    """

    def __init__(
        self,
        context: Context,
        register: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from airflow.sdk.execution_time.context import AssetStateStoreAccessor

        ti: Any = context["ti"]
        self._ti = ti
        self._store = AssetStateStoreAccessor(name=register)
        self._sleep, self._clock = sleep, clock
        self._next_look: float | None = None
        self._me = Holder(
            dag_id=ti.dag_id,
            run_id=str(context["dag_run"].run_id),
            task_id=ti.task_id,
            map_index=int(getattr(ti, "map_index", -1)),
            token=uuid.uuid4().hex,
        )

    def take(self) -> Holder | None:
        """Take the turn, or return who has it.

        :raises _NoRegisterError: If Airflow does not know the register.
        """
        while (holder := self._other()) is None:
            begun = self._clock()
            self._write(ASKED_KEY)
            if self._other() is not None:
                continue
            self._write(HOLDER_KEY)
            undisturbed = self._read(ASKED_KEY) == self._me
            if not undisturbed or self._clock() - begun > PROMPT:
                self._sleep(SETTLE_TIME)
                if self._read(HOLDER_KEY) != self._me:
                    continue
            self._next_look = self._clock() + BEAT
            return None
        return holder

    def keep(self) -> None:
        """See to it that this stays in the register; call it often while dbt runs.

        Who is no longer running for Airflow, such as a task that was marked failed and is about to be ended, leaves
        it to whoever took over: in its place a third would see nobody.
        """
        if self._next_look is None or self._clock() < self._next_look:
            return
        # An Airflow that does not answer takes its time to say so, and dbt's messages wait meanwhile; one that no longer
        # knows the register is not asked again.
        self._next_look = None
        try:
            if self._read(HOLDER_KEY) != self._me and self._builds(self._me):
                self._write(HOLDER_KEY)
        except _NoRegisterError:
            raise
        except Exception:
            self._next_look = self._clock() + BEAT
            raise
        self._next_look = self._clock() + BEAT

    def give_back(self) -> None:
        """Let others build."""
        held, self._next_look = self._next_look is not None, None
        if held and self._read(HOLDER_KEY) == self._me:
            self._store.set(HOLDER_KEY, {})

    def is_shared_with(self, holder: Holder) -> bool:
        """Tell whether both are instances of one task in one run, as in a mapped task group: no other run to refuse."""
        return replace(holder, map_index=self._me.map_index).is_task_of(self._me)

    def _other(self) -> Holder | None:
        holder = self._read(HOLDER_KEY)
        # An earlier try of this task is over, whatever it left.
        if holder is None or holder.is_task_of(self._me):
            return None
        return holder if self._builds(holder) else None

    def _builds(self, holder: Holder) -> bool:
        states = self._ti.get_task_states(
            dag_id=holder.dag_id, task_ids=[holder.task_id], run_ids=[holder.run_id]
        )
        return holder.builds(states.get(holder.run_id, {}))

    def _read(self, key: str) -> Holder | None:
        return Holder.of(self._store.get(key))

    def _write(self, key: str) -> None:
        try:
            self._store.set(key, self._me.stored())
        except Exception as exc:
            if _status_of(exc) == 404:
                raise _NoRegisterError from exc
            raise


def _status_of(exc: Exception) -> Any:
    """Return with which HTTP status Airflow answered, if it did."""
    if isinstance(exc, AirflowRuntimeError):
        return (exc.error.detail or {}).get("status_code")
    # In dag.test() there is no supervisor in between, so that the client's own error comes.
    return getattr(getattr(exc, "response", None), "status_code", None)


def _has_triggerer() -> bool:
    """Tell whether a trigger could read the register: ``dag.test()`` runs triggers where nothing answers them."""
    from airflow.sdk.execution_time import task_runner

    comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return comms is None or hasattr(comms, "asend")


@contextmanager
def in_turn(
    context: Context,
    operator: DbtNodesOperator,
    *,
    defer: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Do what ``on_running`` says while somebody else builds; then hold the turn.

    :param context: Context of the task that is about to build.
    :param operator: The build task whose arguments hold; the turn is put into its ``turn``.
    :param defer: Wait in the triggerer, if there is one; otherwise, as in ``dag.test()``, on this worker.
    :param sleep: Sleeps for some seconds.
    :raises AirflowFailException: With ``fail``, if somebody builds; names who. Instances of one task in a mapped task
        group wait for each other all the same.
    :raises TaskDeferred: With ``wait``, if somebody builds and the task can wait in the triggerer.
    """
    if operator.on_running == "allow":
        yield
        return
    turn = Turn(context, operator.register.name, sleep=sleep)
    looks = 0
    try:
        while (holder := turn.take()) is not None:
            if operator.on_running == "fail" and not turn.is_shared_with(holder):
                raise AirflowFailException(
                    f"on_running='fail': {holder} is running dbt; clear this task when that has ended, or use on_running='wait'"
                )
            if looks % _LOOKS_PER_LINE == 0:
                operator.log.info(
                    "Waiting until %s has ended (on_running='wait', running_scope=%r). If it does not really run any more, "
                    "mark it failed",
                    holder,
                    operator.running_scope,
                )
            if defer and _has_triggerer():
                operator.defer(
                    trigger=DbtTurnTrigger(register=operator.register.name), method_name="execute_after_wait"
                )
            looks += 1
            sleep(TURN_POLL)
    except _NoRegisterError:
        operator.log.warning(
            "Airflow does not know the asset %s, so nothing keeps other runs from building at the same time; a DAG that "
            "it has read declares it, a mapped task cannot",
            operator.register.name,
        )
    operator.turn = turn
    try:
        yield
    finally:
        operator.turn = None
        try:
            turn.give_back()
        except Exception:
            # Whoever comes next sees by the state of this task that it is over.
            operator.log.warning("The turn could not be given back; going on", exc_info=True)
