"""What all dbt operators share: their arguments, the profile, and one run of dbt on a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_ext.dbt.flags import KNOWN, DbtFlags
from airflow_ext.dbt.process import level_of
from airflow_ext.dbt.project import DbtProject
from airflow_ext.dbt.runner import DbtEnd, DbtRun
from airflow_ext.hooks.dbt import settings_of

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

OnWarning = Callable[["Context", list[str]], None]
Words = str | Sequence[str]

FLUSH_INTERVAL = 1.0
"""Seconds between two writes of node states while dbt runs, if writing is quick."""

_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def no_node(_: Mapping[str, Any]) -> None:
    """Take in a node's message and do nothing with it."""


@contextmanager
def surviving_lost_artifacts(operator: BaseOperator, place: str) -> Iterator[None]:
    """Keep artifacts; that it goes wrong is logged and counted.

    What was done is done: a store in trouble must not have it done again by a retry, nor cost it its events.

    :param operator: The task.
    :param place: Where they are kept.
    """
    try:
        yield
    except Exception:
        from airflow.sdk.observability import stats

        stats.incr("airflow_ext.dbt.artifacts_lost")
        operator.log.exception("What dbt left could not be kept in %s; going on", place)


class DbtOperator(BaseOperator):
    """Run one command of dbt; the operators of :mod:`airflow_ext.operators.dbt` are made from it.

    Which arguments a command takes is dbt's; one that it does not take is refused when the DAG is parsed.

    :param project: The project.
    :param select: What to run, in dbt's own syntax (templated); ``None`` means everything.
    :param exclude: What to leave out, in dbt's own syntax (templated).
    :param selector: A selector of the project's ``selectors.yml`` (templated).
    :param vars: dbt's variables (templated).
    :param full_refresh: Rebuild incremental models and seeds from nothing; a template may give ``"true"`` or ``"false"``.
    :param threads: Threads of dbt; ``None`` means the profile's number, 4 in a generated one.
    :param indirect_selection: Which tests come with selected nodes: ``eager`` (dbt's default), ``cautious``,
        ``buildable`` or ``empty``.
    :param fail_fast: Stop at the first failure.
    :param defer: Take what is not selected from the relations of ``state``.
    :param favor_state: With ``defer``: also where the own relation exists.
    :param state: Folder or object-store URL with the ``manifest.json`` of an earlier run (templated), for ``defer``
        and for ``state:`` selectors.
    :param empty: Build with no rows, to try the SQL.
    :param sample: Build a sample by time, such as ``3 days`` (templated).
    :param event_time_start: Begin of what microbatch models process, ``YYYY-MM-DD`` or ``YYYY-MM-DDTHH:MM:SS``
        in UTC (templated).
    :param event_time_end: Its end, not included (templated).
    :param use_data_interval: Take both from the run's data interval instead. A plain cron schedule has none in Airflow 3:
        use ``CronDataIntervalTimetable``.
    :param store_failures: Keep the rows that fail tests in tables.
    :param warn_error: Treat dbt's warnings as errors.
    :param args: Further words for dbt, as on its command line (templated). They are visible in the UI: no secrets.
    :param on_warning: Called on the worker with the context and dbt's warnings, when there are any. An error
        of it is logged and changes nothing.
    :raises ValueError: If an argument is not one that the command takes, or two do not go together.
    """

    command: ClassVar[str] = "build"
    ui_color = "#ff694a"
    template_fields: Sequence[str] = (
        "select",
        "exclude",
        "selector",
        "vars",
        "full_refresh",
        "state",
        "sample",
        "event_time_start",
        "event_time_end",
        "args",
    )

    def __init__(
        self,
        *,
        project: DbtProject,
        select: Words | None = None,
        exclude: Words | None = None,
        selector: str | None = None,
        vars: Mapping[str, Any] | None = None,  # noqa: A002  # dbt's word for it
        full_refresh: bool | str = False,
        threads: int | None = None,
        indirect_selection: str | None = None,
        fail_fast: bool = False,
        defer: bool = False,
        favor_state: bool = False,
        state: str | None = None,
        empty: bool = False,
        sample: str | None = None,
        event_time_start: str | None = None,
        event_time_end: str | None = None,
        use_data_interval: bool = False,
        store_failures: bool = False,
        warn_error: bool = False,
        args: Sequence[str] = (),
        on_warning: OnWarning | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(project, DbtProject):
            raise TypeError(f"project={project!r}: give DbtProject(project_dir=...)")
        if vars is not None and not isinstance(vars, Mapping):
            raise TypeError(f"vars={vars!r}: give a mapping, such as {{'day': '{{{{ ds }}}}'}}")
        if on_warning is not None and not callable(on_warning):
            raise TypeError(
                f"on_warning={on_warning!r}: give a function that takes the context and a list of texts"
            )
        self.project = project
        self.select = select
        self.exclude = exclude
        self.selector = selector
        self.vars = vars
        self.full_refresh = full_refresh
        self.threads = threads
        self.indirect_selection = indirect_selection
        self.fail_fast = fail_fast
        self.defer_to_state = defer
        self.favor_state = favor_state
        self.state = state
        self.empty = empty
        self.sample = sample
        self.event_time_start = event_time_start
        self.event_time_end = event_time_end
        self.use_data_interval = use_data_interval
        self.store_failures = store_failures
        self.warn_error = warn_error
        self.args = args
        self.on_warning = on_warning
        self._run: DbtRun | None = None
        if use_data_interval and (event_time_start is not None or event_time_end is not None):
            raise ValueError(
                "use_data_interval=True: it gives event_time_start and event_time_end, leave these out"
            )
        if use_data_interval and self.command not in KNOWN["event_time_start"]:
            raise ValueError(f"use_data_interval=True: dbt {self.command} has no use for event times")
        # A template is checked when it is rendered.
        templated = any("{{" in word or "{%" in word for word in args)
        self.flags(full_refresh=bool(full_refresh), args=() if templated else args).argv(self.command)

    def flags(self, **changes: Any) -> DbtFlags:
        """Return the flags as the arguments give them, with changes."""
        given: dict[str, Any] = {
            "select": self.select,
            "exclude": self.exclude,
            "selector": self.selector,
            "vars": self.vars,
            "full_refresh": self.full_refresh,
            "threads": self.threads,
            "indirect_selection": self.indirect_selection,
            "fail_fast": self.fail_fast,
            "defer": self.defer_to_state,
            "favor_state": self.favor_state,
            "state": self.state,
            "empty": self.empty,
            "sample": self.sample,
            "event_time_start": self.event_time_start,
            "event_time_end": self.event_time_end,
            "store_failures": self.store_failures,
            "warn_error": self.warn_error,
            "args": tuple(self.args),
        }
        return DbtFlags(**(given | changes))

    def execute(self, context: Context) -> Any:
        """Run the command."""
        return self.run_dbt(context, self.run_flags(context))

    def on_kill(self) -> None:
        """Stop dbt, which cancels its queries."""
        if self._run is not None:
            self._run.stop()

    def run_flags(self, context: Context) -> DbtFlags:
        """Return the flags of this run, from rendered arguments.

        :raises ValueError: If a rendered argument cannot be used.
        :raises AirflowFailException: If the run has no data interval that could be used.
        """
        changes: dict[str, Any] = {"full_refresh": _truth("full_refresh", self.full_refresh)}
        if self.use_data_interval:
            start, end = context.get("data_interval_start"), context.get("data_interval_end")
            if start is None or end is None or start >= end:
                raise AirflowFailException(
                    f"use_data_interval=True: this run's data interval is {start} to {end}, which is no time at all. "
                    "A plain cron schedule has none in Airflow 3: use schedule=CronDataIntervalTimetable('@daily', "
                    "timezone='UTC') or [scheduler] create_cron_data_intervals, or give event_time_start= and "
                    "event_time_end= instead"
                )
            changes["event_time_start"], changes["event_time_end"] = _utc(start), _utc(end)
        return self.flags(**changes)

    def run_dbt(
        self,
        context: Context,
        flags: DbtFlags,
        *,
        command: str | None = None,
        words: Sequence[str] = (),
        only: Sequence[str] | None = None,
        batches: Mapping[str, Any] | None = None,
        on_node: Callable[[Mapping[str, Any]], None] = no_node,
        on_tick: Callable[[], None] = lambda: None,
        before_cleanup: Callable[[DbtEnd], None] = lambda _: None,
    ) -> DbtEnd:
        """Run dbt once and tell of its warnings.

        :param flags: Its flags.
        :param command: ``None`` means the operator's own.
        :param words: Words after the command.
        :param only: Exact ids to run; ``None`` means what the flags select.
        :param batches: Of microbatch models among ``only``: which batches went well before and are left alone.
        :param before_cleanup: Called with the end while the run's folder still exists.
        :raises DbtFailedError: If dbt did not come to an end.
        """
        command = command or self.command
        with DbtRun(
            settings_of(self.project), command, flags=flags, words=words, only=only, batches=batches
        ) as run:
            self._run = run
            end = run.run(on_log=self._log_line, on_node=on_node, on_tick=on_tick, tick=FLUSH_INTERVAL / 2)
            before_cleanup(end)
        self._warn(context, list(end.warnings))
        return end

    def _log_line(self, line: str) -> None:
        self.log.log(level_of(line), "%s", line)

    def _warn(self, context: Context, warnings: list[str]) -> None:
        from airflow.sdk.observability import stats

        if not warnings:
            return
        stats.incr("airflow_ext.dbt.warnings", len(warnings))
        if self.on_warning is not None:
            try:
                self.on_warning(context, warnings)
            except Exception:
                self.log.exception("on_warning failed; going on")


def _truth(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    found = _TRUTH.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"{name}={value!r}: a template must give true or false")
    return found


def _utc(moment: Any) -> str:
    from datetime import UTC

    return str(moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"))
