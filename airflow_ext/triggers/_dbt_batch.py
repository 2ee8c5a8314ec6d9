"""Unit tasks that were cleared without their build: one of them builds for all, in one run of dbt.

Everybody decides alone, from the states that all of them read: the first of the cleared tasks that wait, in the
order of their ids, is the one that builds. That holds with several triggerers, too. The one that builds tells in
its XCom for whom, and how it goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ext.triggers._dbt_reader import ENDED, FINISHED, read_nodes, read_states

SETTLE_TIME = 30.0
"""Seconds that cleared tasks have to be deferred again; later, those that are not are built without being asked."""

TICK = 5.0

_MOVING = frozenset({"scheduled", "queued", "running", "restarting"})


@dataclass(frozen=True)
class UnitTask:
    """One unit task of a group.

    :param label: Its unit.
    :param parents: Ids of the unit tasks above it.
    """

    label: str
    parents: frozenset[str]


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
        self._to_read: set[str] | None = None
        self._chosen = ("", 0.0)

    async def __call__(self) -> ClearedView:
        """Read once."""
        states = await read_states(*self._run, sorted(self.tasks))
        running = {name for name, state in states.items() if state == "running"}
        if self._to_read is None:
            # This triggerer may have taken over: somebody may have built and ended already.
            self._to_read = {name for name, state in states.items() if state in ENDED}
        # Once more after the end: what was told last counts.
        for name in running | self._to_read:
            told = await read_nodes(*self._run, name)
            if "asked" in told:
                self._batches[name] = told
        self._to_read = running
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
    since: float,
    now: float,
) -> Decision:
    """Return what a cleared task is to do.

    :param me: Its id.
    :param tasks: The unit tasks of the group by id.
    :param view: What was read.
    :param since: When it was cleared, seconds since 1970.
    :param now: Seconds since 1970.
    """
    told = _told(me, tasks[me].label, view, since=since)
    if told is not None:
        return told
    states = view.states
    active = {name for name in tasks if states.get(name, "none") not in FINISHED}
    for parent in sorted(tasks[me].parents - active):
        if states.get(parent) != "success":
            return Decision("skip", by=parent)
    waiting = {name for name in active if states.get(name) == "deferred"}
    if any(states.get(name) in _MOVING for name in active - {me}):
        return Decision("wait")
    if active - waiting - {me} and now < since + SETTLE_TIME:
        return Decision("wait")
    eligible = active - _blocked(active, tasks, states)
    first = min(eligible & (waiting | {me}), default="")
    if first != me or not view.choose(me, states):
        return Decision("wait")
    return Decision("build", units=tuple(tasks[name].label for name in sorted(eligible)))


def _told(me: str, label: str, view: ClearedView, *, since: float) -> Decision | None:
    """Return what follows from somebody building for this task, ``None`` if nobody did."""
    batches = [
        (told["started"], name)
        for name, told in view.batches.items()
        if name != me and told["started"] >= since and label in told["asked"]
    ]
    if not batches:
        return None
    _, by = max(batches)
    told = view.batches[by]
    outcome = told["units"].get(label)
    if outcome is not None and outcome["state"] != "success":
        return Decision("settle", outcome=outcome, by=by)
    state = view.states.get(by, "none")
    if state not in FINISHED:
        return Decision("wait")
    if outcome is None or not told["ended"]:
        return None
    if state == "success":
        return Decision("settle", outcome=outcome, by=by)
    good = [one for one in told["asked"] if told["units"].get(one, {}).get("state") == "success"]
    return Decision("emit" if good[0] == label else "settle", outcome=outcome, by=by)


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
