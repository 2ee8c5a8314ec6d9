"""Whether what a build tells is of the present try of a node's task, or from before a user cleared it.

Clocks of scheduler, triggerer and workers differ, so identity comes first: the start of the run, which the scheduler
sets anew when a run that was over is cleared, and what the trigger itself saw. Times are compared only for
what was cleared while its run went on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow_ext.triggers._dbt_reader import ENDED, FINISHED, BuildView

SKEW = 10.0
"""Seconds that the clocks of Airflow's parts may differ where nothing but time tells before from after."""

PROMPT = 5.0
"""Seconds after a task was cleared in which no new run of dbt can have told anything."""


class Freshness:
    """What the trigger of one try of a unit's task saw of its build.

    :param unit: Label of the unit.
    :param run: When the run started, as the scheduler set it, seconds since 1970; ``None`` if unknown.
    :param since: When this try began, seconds since 1970; ``None`` for the first one, to which everything belongs.
    """

    def __init__(self, unit: str, *, run: float | None, since: float | None) -> None:
        self._unit = unit
        self._run = run
        self._since = since
        self._old: Mapping[str, Any] | None = None
        self._looked = False
        self._saw_active = False

    def outcome(self, view: BuildView, *, now: float) -> Mapping[str, Any] | None:
        """Return the unit's outcome unless it was told before this try began.

        What is old is recognised when it is first seen and stays so, also if a retry of the build takes it over.

        :param view: What was read.
        :param now: Seconds since 1970, of the triggerer.
        """
        if view.state not in FINISHED and view.state != "missing":
            self._saw_active = True
        if not view.payload:
            return None
        outcome: Mapping[str, Any] | None = view.payload["units"].get(self._unit)
        if not self._looked:
            self._looked = True
            if outcome is not None and self._is_old(view.payload, outcome, now):
                self._old = outcome
        return None if outcome == self._old else outcome

    def cleared_alone(self, view: BuildView) -> bool:
        """Tell whether the build is over and has nothing for this try: a user cleared the task without it.

        Ask after :meth:`outcome` of the same view.
        """
        if self._since is None or view.state not in ENDED:
            return False
        if self._old is not None:
            return view.payload.get("units", {}).get(self._unit) in (None, self._old)
        if view.payload.get("units", {}).get(self._unit) is not None:
            return False
        if self._of_an_earlier_run(view.payload):
            return True
        return not self._saw_active and float(view.payload.get("at", 0.0)) < self._since

    def _is_old(self, payload: Mapping[str, Any], outcome: Mapping[str, Any], now: float) -> bool:
        if self._since is None:
            return False
        if self._of_an_earlier_run(payload) or now < self._since + PROMPT:
            return True
        told = min(float(payload["at"]), _end_of(outcome, default=payload["at"]))
        return told < self._since - SKEW

    def _of_an_earlier_run(self, payload: Mapping[str, Any]) -> bool:
        run = payload.get("run")
        return run is not None and self._run is not None and run < self._run


def _end_of(outcome: Mapping[str, Any], *, default: float) -> float:
    """Return when dbt ended the last of a unit's nodes; its tests may have ended later."""
    ends = []
    for line in outcome.get("nodes", ()):
        try:
            ends.append(datetime.fromisoformat(line[2]).timestamp() + float(line[3] or 0.0))
        except (TypeError, ValueError, IndexError):
            return default
    return max(ends, default=default)
