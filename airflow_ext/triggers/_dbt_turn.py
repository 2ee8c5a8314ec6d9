"""Wait in the triggerer until nobody builds with dbt what a task wants to build.

Who builds is told in the state store of an asset that only is there for this, its register. What counts is
whether Airflow has that task running: a worker that died holds nobody up for longer than Airflow takes to notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, fields
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_ext.triggers._dbt_reader import ASK_TIMEOUT, SharedReader, read_states

HOLDER_KEY = "holder"
"""Key of the register: the :class:`Holder`, or something else when nobody builds."""
TURN_POLL = 5.0
"""Seconds between two looks at the register."""
BUILDING = frozenset({"running", "restarting"})


@dataclass(frozen=True)
class Holder:
    """The task that builds, as the register has it.

    :param dag_id: Its DAG.
    :param run_id: Its run.
    :param task_id: The task.
    :param map_index: -1 if it is not mapped.
    :param token: Of this one try; random.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    token: str

    def __str__(self) -> str:
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{mapped} of run {self.run_id}"

    @classmethod
    def of(cls, stored: Any) -> Holder | None:
        """Return who is in the register, ``None`` if nobody is; every task of Airflow can write there."""
        kinds = {field.name: int if field.name == "map_index" else str for field in fields(cls)}
        if not isinstance(stored, dict) or not all(
            isinstance(stored.get(name), kinds[name]) for name in kinds
        ):
            return None
        return cls(**{name: stored[name] for name in kinds})

    def stored(self) -> dict[str, Any]:
        """Return what :meth:`of` reads."""
        return asdict(self)

    def is_task_of(self, other: Holder) -> bool:
        """Tell whether both are tries of one task."""
        return self._task == other._task

    def builds(self, states: Mapping[str, Any]) -> bool:
        """Tell from the states of its run whether it still builds.

        :param states: By task id; a mapped task has its index behind the id.
        """
        name = self.task_id if self.map_index < 0 else f"{self.task_id}_{self.map_index}"
        return str(states.get(name)) in BUILDING

    @property
    def _task(self) -> tuple[str, str, str, int]:
        return (self.dag_id, self.run_id, self.task_id, self.map_index)


class DbtTurnTrigger(BaseTrigger):
    """Fire when nobody builds any more.

    :param register: Name of the asset that is the register.
    """

    def __init__(self, *, register: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's triggers are not typed
        self.register = register

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        return "airflow_ext.triggers.dbt.DbtTurnTrigger", {"register": self.register}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait until nobody is in the register; all who wait for the same share one reader."""
        key = ("turn", self.register)
        async with aclosing(SharedReader.views(key, self._read, interval=TURN_POLL)) as views:
            async for holders in views:
                if not holders:
                    break
                self.log.info("Waiting until %s has ended", *holders)
        yield TriggerEvent({"register": self.register})

    async def _read(self) -> tuple[Holder, ...]:
        from airflow.sdk.execution_time.context import AssetStateStoreAccessor

        stored = AssetStateStoreAccessor(name=self.register).aget(HOLDER_KEY)
        holder = Holder.of(await asyncio.wait_for(stored, timeout=ASK_TIMEOUT))
        if holder is None:
            return ()
        states = await read_states(holder.dag_id, holder.run_id, [holder.task_id])
        return (holder,) if holder.builds(states) else ()
