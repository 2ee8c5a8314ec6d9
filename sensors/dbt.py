"""Wait until dbt's sources are fresh."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from airflow_ext.dbt.artifacts import MANIFEST
from airflow_ext.dbt.flags import DbtFlags
from airflow_ext.dbt.runner import DbtEnd, DbtRun
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.hooks.dbt import SourceState, objects_of, settings_of, summary_of, told_worst_first

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk.definitions.context import Context

    from airflow_ext.dbt.project import DbtProject

ON_STALE = ("wait", "fail", "skip")
MIN_RESCHEDULE = 10
"""Seconds. The scheduler may hear only five to six seconds later that a worker has put a task to sleep; a task
that runs again by then is taken for one that died.
"""
TOLD = 20
"""Sources that a message names one by one."""


class _Manifest(msgspec.Struct):
    sources: dict[str, msgspec.Raw] = {}


class DbtSourceFreshnessSensor(BaseSensorOperator):
    """Wait until the selected sources are fresh by dbt's own ``source freshness``.

    Each look is a run of dbt on a worker, some 4 seconds of CPU time, so leave minutes between two. While it waits the
    log names the sources that are not fresh with their age and their rule, and so does the error when the time is
    over. The XCom is that of :class:`DbtSourceFreshnessOperator`.

    :param project: The project.
    :param select: Which sources, in dbt's own syntax, such as ``source:raw`` or ``+customers`` (templated); ``None`` means
        all that have a freshness rule.
    :param exclude: What to leave out, in dbt's own syntax (templated).
    :param selector: A selector of the project's ``selectors.yml`` (templated).
    :param vars: dbt's variables (templated).
    :param threads: Threads of dbt; ``None`` means the profile's number, 4 in a generated one.
    :param on_stale: ``wait`` until the sources are fresh, ``fail`` at once without retries, or ``skip``.
    :param warn_is_stale: Whether a source past its ``warn_after`` is stale too, and not only one past its ``error_after``.
    :param ignore_errors: Take sources that cannot be judged, such as a table that is missing, for stale.
    :param poke_interval: Seconds between two looks; in ``mode="reschedule"`` at least 10.
    :param mode: ``reschedule`` frees the worker between two looks, ``poke`` keeps it.
    :param kwargs: ``timeout`` in seconds (default ``[sensors] default_timeout``), ``soft_fail`` and whatever every sensor takes.
    :raises ValueError: If an argument is none of those allowed, or two do not go together.
    :raises DbtFailedError: If a source cannot be judged (the message has dbt's own), or dbt did not come to an end.
    :raises InvalidProjectError: If nothing is selected, or a source that ``select``, ``exclude`` or ``selector`` leave in has
        no freshness rule; names it.
    """

    template_fields: Sequence[str] = ("select", "exclude", "selector", "vars")
    ui_color = "#ff694a"

    def __init__(
        self,
        *,
        project: DbtProject,
        select: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        selector: str | None = None,
        vars: Mapping[str, Any] | None = None,  # noqa: A002  # dbt's word for it
        threads: int | None = None,
        on_stale: Literal["wait", "fail", "skip"] = "wait",
        warn_is_stale: bool = False,
        ignore_errors: bool = False,
        poke_interval: float | timedelta = 300,
        mode: str = "reschedule",
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, mode=mode, **kwargs)
        if on_stale not in ON_STALE:
            raise ValueError(f"on_stale={on_stale!r}: give one of {', '.join(ON_STALE)}")
        if self.mode == "reschedule" and self.poke_interval < MIN_RESCHEDULE:
            raise ValueError(
                f"poke_interval={poke_interval!r}: in mode='reschedule' at least {MIN_RESCHEDULE} seconds"
            )
        self.project = project
        self.select = select
        self.exclude = exclude
        self.selector = selector
        self.vars = vars
        self.threads = threads
        self.on_stale = on_stale
        self.warn_is_stale = warn_is_stale
        self.ignore_errors = ignore_errors
        self._run: DbtRun | None = None
        self._rules_checked = False
        self._last = ""
        self._flags().argv("source freshness")

    def execute(self, context: Context) -> Any:
        """Wait.

        :raises AirflowSensorTimeout: If the time is over; names the sources that are not fresh.
        """
        try:
            return super().execute(context)
        except AirflowSensorTimeout as exc:
            raise AirflowSensorTimeout(f"Gave up after {self.timeout:g} s. {self._last}") from exc

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        found = self._look(first=not context.get("task_reschedule_count"))
        ordered = told_worst_first(found)
        broken = [state for state in ordered if state.status == "runtime error"]
        if broken and not self.ignore_errors:
            raise DbtFailedError(
                _told(f"{len(broken)} sources could not be judged", broken),
                failed=tuple(state.unique_id for state in broken),
            )
        fresh = ("pass",) if self.warn_is_stale else ("pass", "warn")
        stale = [state for state in ordered if state.status not in fresh]
        if not stale:
            return PokeReturnValue(is_done=True, xcom_value=summary_of(found))
        self._last = _told(f"{len(stale)} of {len(found)} sources are not fresh", stale)
        if self.on_stale == "fail":
            raise AirflowFailException(self._last)
        if self.on_stale == "skip":
            raise AirflowSkipException(self._last)
        self.log.info("%s", self._last)
        return PokeReturnValue(is_done=False)

    def on_kill(self) -> None:
        """Stop dbt, which cancels its queries."""
        if self._run is not None:
            self._run.stop()

    def _flags(self, **more: Any) -> DbtFlags:
        return DbtFlags(
            select=self.select,
            exclude=self.exclude,
            selector=self.selector,
            vars=self.vars,
            threads=more.pop("threads", self.threads),
            **more,
        )

    def _look(self, *, first: bool) -> list[SourceState]:
        found: dict[str, SourceState] = {}
        unseen: set[str] = set()

        def on_node(message: Mapping[str, Any]) -> None:
            found[message["id"]] = SourceState.of(message)

        def at_end(end: DbtEnd) -> None:
            unseen.update(_sources(end.target).difference(found))

        self._dbt("source freshness", self._flags(), on_node=on_node, at_end=at_end)
        chosen = any(each is not None for each in (self.select, self.exclude, self.selector))
        if not found or (chosen and first and unseen and not self._rules_checked):
            # dbt leaves sources without a rule out, so it is asked what was meant.
            self._check_rules(set(found), self._selected())
        self._rules_checked = True
        return list(found.values())

    def _selected(self) -> set[str]:
        words = ("--output", "json", "--output-keys", "unique_id")
        flags = self._flags(threads=None, resource_types=("source",), args=words)
        listed = objects_of(self._dbt("ls", flags).result or [])
        return {one["unique_id"] for one in listed if "unique_id" in one}

    def _check_rules(self, found: set[str], selected: set[str]) -> None:
        given = {"select": self.select, "exclude": self.exclude, "selector": self.selector}
        asked = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
        asked = asked or "select=None"
        if not selected:
            raise InvalidProjectError(
                f"{asked}: there is no such source in {self.project.project_dir.name}",
                source=str(self.project.project_dir),
            )
        if without := sorted(selected - found):
            raise InvalidProjectError(
                f"{asked}: dbt cannot tell how fresh {_first(without)} are: give them a freshness rule "
                "(warn_after or error_after) or leave them out",
                source=str(self.project.project_dir),
            )

    def _dbt(
        self,
        command: str,
        flags: DbtFlags,
        *,
        on_node: Callable[[Mapping[str, Any]], None] = lambda _: None,
        at_end: Callable[[DbtEnd], None] = lambda _: None,
    ) -> DbtEnd:
        with DbtRun(settings_of(self.project), command, flags=flags) as run:
            self._run = run
            end = run.run(on_log=self.log.info, on_node=on_node, on_tick=lambda: None)
            at_end(end)
        return end


def _sources(target: Path) -> set[str]:
    return set(msgspec.json.decode((target / MANIFEST).read_bytes(), type=_Manifest).sources)


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return f"{', '.join(names[:TOLD])}{more}"


def _told(head: str, states: Sequence[SourceState]) -> str:
    lines = [head, *map(str, states[:TOLD])]
    return "\n".join([*lines, f"and {len(states) - TOLD} more"] if len(states) > TOLD else lines)
