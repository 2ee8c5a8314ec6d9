"""Unit tasks that were cleared without their build: one of them builds for all, in one run of dbt.

Everybody decides alone, from the states that all of them read: the first of the cleared tasks that wait, in the
order of their ids, is the one that builds. That holds with several triggerers, too. The one that builds tells in
its XCom for whom, for which of their tries, and how it goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ext.triggers._dbt_fresh import SKEW
from airflow_ext.triggers._dbt_reader import ENDED, FINISHED, read_nodes, read_states

SETTLE_TIME = 30.0
"""Seconds that cleared tasks wait for others to be deferred again, so that one run of dbt builds all."""

TICK = 5.0

_MOVING = frozenset({"scheduled", "queued", "running", "restarting"})
_BUILDING = frozenset({"running", "restarting"})


@dataclass(frozen=True)
class UnitTask:
    """One unit task of a group.

    :param label: Its unit.
    :param parents: Ids of the unit tasks above it.
    """

    label: str
    parents: frozenset[str]


@dataclass(frozen=True)
class Try:
    """One try of a cleared task.

    :param number: Number of the try.
    :param since: When it began, seconds since 1970.
    :param run: When its run started, as the scheduler set it; ``None`` if unknown.
    """

    number: int
    since: float
    run: float | None = None


@dataclass(frozen=True)
class ClearedView:
    """What was read of the unit tasks of a group of which some were cleared without the build.

    :param states: States of all of them by task id.
    :param batches: By task id the XComs of those that build for others, or did.
    :param choose: :meth:`ClearedReading.choose` of who read it.
    :param tick: Changes every few seconds: some decisions only need time to pass.
    """

    states: Mapping[str, str]
    batches: Mapping[str, Mapping[str, Any]]
    choose: Callable[[str, Mapping[str, str]], bool] = field(compare=False)
    tick: int = 0


@dataclass(frozen=True)
class Decision:
    """What a cleared task is to do.

    :param action: ``wait``, ``build``, ``emit``, ``settle`` or ``skip``.
    :param units: For ``build``: labels of the units to build.
    :param outcome: For ``settle``.
    :param by: Who built it, or for ``skip`` what it stands below.
    """

    action: str
    units: tuple[str, ...] = ()
    outcome: Mapping[str, Any] | None = None
    by: str = ""


TRIES: dict[tuple[str, str, str], int] = {}
"""The present try of each cleared task that waits in this process, by DAG, run and task: who builds for them says
in its XCom for which tries."""


class ClearedReading:
    """Reads the unit tasks of a group and keeps what was told.

    :param dag_id: DAG.
    :param run_id: Run.
    :param tasks: The unit tasks by id.
    """

    def __init__(self, dag_id: str, run_id: str, tasks: Mapping[str, UnitTask]) -> None:
        self.tasks = tasks
        self._run = (dag_id, run_id)
        self._batches: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()
        self._unread: set[str] = set()
        self._chosen = ("", 0.0)

    async def __call__(self) -> ClearedView:
        """Read once."""
        states = await read_states(*self._run, sorted(self.tasks))
        ended = {name for name, state in states.items() if state in ENDED}
        # Whoever ended since the last good read counts as well: what was told last, or before this triggerer took over.
        self._unread |= ended - self._ended
        self._ended = ended
        running = {name for name, state in states.items() if state == "running"}
        for name in sorted(running | self._unread):
            told = await read_nodes(*self._run, name)
            if "asked" in told:
                self._batches[name] = told
            self._unread.discard(name)
        return ClearedView(states, dict(self._batches), self.choose, int(time.monotonic() // TICK))

    def choose(self, name: str, states: Mapping[str, str]) -> bool:
        """Tell whether a task may build, and remember that it does until its state shows it."""
        chosen, at = self._chosen
        fresh = time.monotonic() < at + SETTLE_TIME
        if chosen and chosen != name and states.get(chosen) == "deferred" and fresh:
            return False
        self._chosen = (name, time.monotonic())
        return True


def decide(
    me: str,
    tasks: Mapping[str, UnitTask],
    view: ClearedView,
    *,
    mine: Try,
    waited: float,
) -> Decision:
    """Return what a cleared task is to do.

    :param me: Its id.
    :param tasks: The unit tasks of the group by id.
    :param view: What was read.
    :param mine: Its try.
    :param waited: Seconds that it has been waiting for others.
    """
    told = _told(me, tasks, view, mine)
    if told is not None:
        return told
    states = view.states
    active = {name for name in tasks if states.get(name, "none") not in FINISHED}
    for parent in sorted(tasks[me].parents - active):
        if states.get(parent) != "success":
            return Decision("skip", by=parent)
    waiting = {me} | {name for name in active if states.get(name) == "deferred"}
    if any(states.get(name) in _MOVING for name in active - {me}):
        return Decision("wait")
    if active - waiting and waited < SETTLE_TIME:
        return Decision("wait")
    # Who is not deferred yet builds later, and who is below such a task with it.
    late = _below(active - waiting, waiting, tasks)
    eligible = waiting - late - _blocked(active, tasks, states)
    if min(eligible, default="") != me or not view.choose(me, states):
        return Decision("wait")
    return Decision("build", units=tuple(tasks[name].label for name in sorted(eligible)))


def _told(me: str, tasks: Mapping[str, UnitTask], view: ClearedView, mine: Try) -> Decision | None:
    """Return what follows from somebody building for this task, ``None`` if nobody did."""
    label = tasks[me].label
    batches = {
        name: told
        for name, told in view.batches.items()
        if name != me and label in told["asked"] and _is_for(label, told, mine)
    }
    over = []
    for name, told in batches.items():
        outcome = told["units"].get(label)
        if outcome is not None and outcome["state"] != "success":
            return Decision("settle", outcome=outcome, by=name)
        if view.states.get(name, "none") in _BUILDING:
            return Decision("wait")
        if outcome is not None:
            over.append((told["started"], name))
    if not over:
        return None
    _, by = max(over)
    told = batches[by]
    # What was built well before its builder ended badly was built; somebody has to emit the events in its stead.
    good = [
        one
        for one in told["asked"]
        if one != tasks[by].label and told["units"].get(one, {}).get("state") == "success"
    ]
    emits = view.states.get(by) != "success" and good[:1] == [label]
    return Decision("emit" if emits else "settle", outcome=told["units"][label], by=by)


def _is_for(label: str, told: Mapping[str, Any], mine: Try) -> bool:
    """Tell whether a batch was started for the present try of a task, or for a later one."""
    number = told.get("tries", {}).get(label)
    if number is not None:
        return bool(number >= mine.number)
    run = told.get("run")
    if run is not None and mine.run is not None and run < mine.run:
        return False
    return bool(told["started"] >= mine.since - SKEW)


def _below(above: set[str], among: set[str], tasks: Mapping[str, UnitTask]) -> set[str]:
    """Return which of some tasks are below others, by however many of them."""
    found: set[str] = set()
    while more := {name for name in among - found if not tasks[name].parents.isdisjoint(above | found)}:
        found |= more
    return found


def _blocked(active: set[str], tasks: Mapping[str, UnitTask], states: Mapping[str, str]) -> set[str]:
    """Return the active tasks below a task that did not succeed."""
    blocked: set[str] = set()
    more = True
    while more:
        found = {
            name
            for name in active - blocked
            if any(
                parent in blocked or (parent not in active and states.get(parent) != "success")
                for parent in tasks[name].parents
            )
        }
        blocked |= found
        more = bool(found)
    return blocked
