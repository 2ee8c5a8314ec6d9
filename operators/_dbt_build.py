"""dbt commands that run nodes: kept up to date in the state store, so that a retry goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from airflow.sdk import AssetAlias
from airflow.sdk.exceptions import AirflowFailException

from airflow_ext.dbt.artifacts import keep_run, latest_of, place_of
from airflow_ext.dbt.results import NodeBoard, unpacked
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.operators._dbt_base import FLUSH_INTERVAL, DbtOperator
from airflow_ext.triggers.dbt import NODES_KEY

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_ext.dbt.flags import DbtFlags
    from airflow_ext.dbt.index import DbtIndex
    from airflow_ext.dbt.results import Outcome
    from airflow_ext.dbt.runner import DbtEnd
    from airflow_ext.dbt.units import DbtUnit

log = logging.getLogger(__name__)

LONGEST_FLUSH = 5.0
"""Seconds between two writes of node states, however slow writing is."""
STORE_KEY = "dbt_records"
TESTS = ("test", "unit_test")

OnRunning = Literal["wait", "fail", "allow"]
TestsShown = Literal["with_node", "tasks", "none"]


class DbtNodesOperator(DbtOperator):
    """A command that runs nodes; a retry runs only what failed or was not reached.

    Which nodes are done is kept in the task's state store while dbt runs, so that a retry goes on from
    there on any worker, also after the first was killed. That needs the project's manifest, and with a selection that
    it was indexed (``airflow-ext dbt index --select``); without that a retry runs everything again, and so it does
    when all nodes are done but a hook failed.

    :param test_retries: Whether a retry repeats failed tests. If not, a try that failed by tests alone is the last
        one, and nodes below failed tests stay skipped.
    :param on_running: What to do while another run of this task is running dbt: ``wait`` lets Airflow start it
        later, ``fail`` refuses at once, ``allow`` runs both. DAGs that build into the same target are kept apart by
        a pool with one slot.
    """

    command: ClassVar[str] = "build"

    def __init__(self, *, test_retries: bool = True, on_running: OnRunning = "wait", **kwargs: Any) -> None:
        if on_running not in ("wait", "fail", "allow"):
            raise ValueError(f"on_running={on_running!r}: give 'wait', 'fail' or 'allow'")
        if on_running == "wait":
            kwargs.setdefault("max_active_tis_per_dag", 1)
        super().__init__(**kwargs)
        self.test_retries = test_retries
        self.on_running = on_running
        self.tests: TestsShown = "with_node"

    def execute(self, context: Context) -> None:
        """Run the command, or go on with what an earlier try left."""
        if self.on_running == "fail":
            self._refuse_second(context)
        ti = context["ti"]
        flags = self.run_flags(context)
        board = self._board(context)
        only = board.remaining() if board.records else None
        if only is not None:
            self.log.info("Going on with the %d ids that an earlier try left", len(only))
        last = ti.try_number > ti.max_tries
        writer = _Writer(board, lambda: self._publish(context, board, last=last, ended=False))
        writer.write()
        try:
            good = self._build(context, board, flags, only=only, on_tick=writer.tick)
        except BaseException:
            # Whoever waits shall see how far a build came that broke.
            writer.write_if_possible()
            raise
        writer.write()
        self._report(board)
        if not good and not last and board.worth_retrying():
            raise self._error(board)
        context["task_state_store"].set(STORE_KEY, self._stored(board, over=True))
        if not good:
            self._end_badly(board)
        self._emit(context, board)
        self._publish(context, board, last=last, ended=True)

    def new_board(self, records: Any = None, index: DbtIndex | None = None) -> NodeBoard:
        """Return a board for this command."""
        without = TESTS if self.tests == "none" else ()
        return NodeBoard(
            index, records, command=self.command, without=without, keep_failed_tests=not self.test_retries
        )

    def _build(
        self,
        context: Context,
        board: NodeBoard,
        flags: DbtFlags,
        *,
        only: Sequence[str] | None,
        on_tick: Callable[[], None],
        whole: bool = True,
    ) -> bool:
        end = self.run_dbt(
            context,
            flags,
            only=only,
            on_node=board.add,
            on_tick=on_tick,
            before_cleanup=lambda end: self._keep_artifacts(
                context, board, end, merge=only is not None, whole=whole
            ),
        )
        return end.success

    def _keep_artifacts(
        self, context: Context, board: NodeBoard, end: DbtEnd, *, merge: bool, whole: bool
    ) -> None:
        if self.project.artifacts is None:
            return
        root = str(self.project.artifacts)
        run_id = str(context["dag_run"].run_id)
        place = place_of(root, dag_id=self.dag_id, run_id=run_id, task_id=self.task_id)
        keep_run(end.target, place, merge=merge)
        self.log.info("run_results.json and manifest.json are kept in %s", place)
        bare = self.select is None and self.exclude is None and self.selector is None
        if end.success and whole and bare and self.command == "build":
            # What others defer to must have been built as a whole.
            name = board.index.project if board.index is not None else self.project.project_dir.name
            keep_run(end.target, latest_of(root, project=name, target=self.project.target), merge=False)

    def _refuse_second(self, context: Context) -> None:
        ti = context["ti"]
        running = ti.get_ti_count(dag_id=self.dag_id, task_ids=[self.task_id], states=["running"])
        if running > 1:
            raise AirflowFailException(
                f"on_running='fail': {running - 1} other run of {self.dag_id}.{self.task_id} is running dbt; "
                "clear this task when it has ended, or use on_running='wait'"
            )

    def _board(self, context: Context) -> NodeBoard:
        try:
            index: DbtIndex | None = self.index()
        except InvalidProjectError as exc:
            self.log.info("Without an index a retry runs everything: %s", exc)
            return self.new_board()
        stored = context["task_state_store"].get(STORE_KEY) if context["ti"].try_number > 1 else None
        if not isinstance(stored, dict) or stored["over"]:
            # A finished build was cleared: that asks for a new one.
            return self.new_board(index=index)
        if index is not None and stored["manifest"] != index.key:
            self.log.info("The project's manifest has changed since the last try: everything is run")
            return self.new_board(index=index)
        board = self.new_board(unpacked(str(stored["records"])), index)
        if board.remaining():
            return board
        # dbt runs hooks only around nodes, so that with none left to run they would not be made up for.
        self.log.info("Nothing is left but dbt or one of its hooks did not end well: everything is run")
        return self.new_board(index=index)

    def index(self) -> DbtIndex:
        """Return the graph of what is selected.

        :raises InvalidProjectError: If it was never indexed.
        """
        return self.project.index(
            select=self.select,
            exclude=self.exclude,
            selector=self.selector,
            indirect_selection=self.indirect_selection,
        )

    def _stored(self, board: NodeBoard, *, over: bool) -> dict[str, Any]:
        return {
            "manifest": board.index.key if board.index is not None else "",
            "over": over,
            "records": "" if over else board.packed(),
        }

    def _publish(self, context: Context, board: NodeBoard, *, last: bool, ended: bool) -> None:  # noqa: ARG002  # for subclasses
        if not ended:
            context["task_state_store"].set(STORE_KEY, self._stored(board, over=False))

    def _report(self, board: NodeBoard) -> None:
        from airflow.sdk.observability import stats

        counts: dict[str, int] = {}
        for record in board.records.values():
            counts[record["status"]] = counts.get(record["status"], 0) + 1
        for status, count in counts.items():
            stats.incr("airflow_ext.dbt.nodes", count, tags={"status": status})
        self.log.info("dbt: %s", ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))

    def _error(self, board: NodeBoard) -> DbtFailedError:
        failed = board.failed()
        if not failed:
            return DbtFailedError("dbt ended badly without a failed node or hook: see the log above")
        return DbtFailedError(
            f"{len(failed)} failed: {', '.join(failed)}\n{board.explain(failed)}", failed=tuple(failed)
        )

    def _end_badly(self, board: NodeBoard) -> None:
        error = self._error(board)
        if not self.test_retries:
            raise AirflowFailException(str(error)) from error
        raise error

    def _emit(self, context: Context, board: NodeBoard) -> None:
        """Emit nothing: a command that stands alone fires the outlets it was given."""


class DbtBuildOperator(DbtNodesOperator):
    """Run ``dbt build``; a retry runs only what failed or was not reached.

    All arguments are those of :class:`DbtOperator` and :class:`DbtNodesOperator`.

    :raises DbtFailedError: If a node or a hook failed (the message has dbt's own) or dbt did not come to an end.
    """

    command: ClassVar[str] = "build"


class DbtGroupBuildOperator(DbtBuildOperator):
    """The build task of a :class:`DbtTaskGroup`: tells its node tasks and emits their assets' events.

    It ends green when dbt came to an end: each failed node's own task is red, and a green build can emit
    the events of the others.

    :param units: The units of the group.
    :param partition: Partition key of the events (templated).
    :param tests: How tests are shown.
    :param source_freshness: Run ``dbt source freshness`` before the build.
    :param emits: Whether nodes are assets.
    """

    template_fields: Sequence[str] = (*DbtBuildOperator.template_fields, "partition")

    def __init__(
        self,
        *,
        units: Sequence[DbtUnit],
        partition: str | None = None,
        tests: TestsShown = "with_node",
        source_freshness: bool = False,
        emits: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.partition = partition
        self.units = units
        self.tests = tests
        self.source_freshness = source_freshness
        self.emits = emits
        self.outlets = [AssetAlias(name=self.alias)] if emits else []
        self._started = 0.0

    @property
    def alias(self) -> str:
        """Name of the alias that carries the group's unkeyed events."""
        return f"dbt/{self.dag_id}.{self.task_id}"

    def run_flags(self, context: Context) -> DbtFlags:
        """Return the flags of this run, from rendered arguments."""
        from dataclasses import replace

        flags = super().run_flags(context)
        return replace(flags, exclude_resource_types=TESTS) if self.tests == "none" else flags

    def execute(self, context: Context) -> None:
        """Build, or go on with what an earlier try left."""
        self._started = time.time()
        super().execute(context)

    def build_units(
        self,
        context: Context,
        labels: Sequence[str],
        *,
        publish: Callable[[NodeBoard, Mapping[str, Outcome], bool], None],
    ) -> NodeBoard:
        """Build some units only, in one run of dbt, for a task other than this one.

        :param context: Context of the calling task.
        :param labels: Units.
        :param publish: Called while dbt runs and at its end with the board, the outcomes so far, and whether it is over.
        """
        units = [unit for unit in self.units if unit.label in set(labels)]
        board = self.new_board(index=self.index())
        wanted = {node.unique_id for unit in units for node in unit.nodes if node.runs}
        wanted.update(test for unit in units for test in unit.tests)
        # The calling task renders only what is its own.
        self.render_template_fields(context)
        flags = self.run_flags(context)
        writer = _Writer(board, lambda: publish(board, board.outcomes(units, over=False), False))
        only = [unique_id for unique_id in board.work() if unique_id in wanted]
        writer.write()
        if only:
            super()._build(context, board, flags, only=only, on_tick=writer.tick, whole=False)
        self._report(board)
        publish(board, board.outcomes(units, over=True), True)
        return board

    def _build(
        self,
        context: Context,
        board: NodeBoard,
        flags: DbtFlags,
        *,
        only: Sequence[str] | None,
        on_tick: Callable[[], None],
        whole: bool = True,
    ) -> bool:
        if self.source_freshness:
            self._check_sources(context, board, flags)
        return super()._build(context, board, flags, only=only, on_tick=on_tick, whole=whole)

    def _check_sources(self, context: Context, board: NodeBoard, flags: DbtFlags) -> None:
        from airflow_ext.dbt.flags import DbtFlags

        shown = {node.unique_id for unit in self.units for node in unit.nodes if node.kind == "source"}

        def on_node(message: Mapping[str, Any]) -> None:
            if message["id"] in shown:
                board.add(message)

        asked = DbtFlags(vars=flags.vars, threads=flags.threads)
        self.run_dbt(context, asked, command="source freshness", on_node=on_node)

    def _publish(self, context: Context, board: NodeBoard, *, last: bool, ended: bool) -> None:
        super()._publish(context, board, last=last, ended=ended)
        outcomes = board.outcomes(self.units, over=ended)
        push_nodes(context, outcomes, started=self._started, last=last, ended=ended)

    def _end_badly(self, board: NodeBoard) -> None:
        if board.uncovered_failures() or not board.failed():
            raise self._error(board)
        self.log.warning("%s", self._error(board))

    def _emit(self, context: Context, board: NodeBoard) -> None:
        from airflow_ext.operators._dbt_nodes import emit_nodes

        self.outlets = emit_nodes(context, self, board.good())


def push_nodes(
    context: Context,
    outcomes: Mapping[str, Outcome],
    *,
    started: float,
    last: bool,
    ended: bool,
    batch: Mapping[str, Any] | None = None,
) -> None:
    """Write the one XCom that node tasks read.

    :param outcomes: Settled units by label.
    :param started: When this try began, seconds since 1970.
    :param last: Whether the task may not retry any more.
    :param ended: Whether dbt is done.
    :param batch: What a cleared task tells those that were cleared with it: ``asked``, the units that it builds, and
        ``good``, what :meth:`NodeBoard.good` returned at the end; ``None`` for a whole build.
    """
    ti = cast("Any", context["ti"])
    payload: dict[str, Any] = {
        "try": ti.try_number,
        "last": last,
        "ended": ended,
        "started": started,
        "at": time.time(),
        "units": dict(outcomes),
        **(batch or {}),
    }
    ti.xcom_push(key=NODES_KEY, value=payload)


class _Writer:
    """Write node states when they changed, and not more often than writing itself allows.

    :param board: Counts its changes.
    :param publish: Writes them.
    """

    def __init__(self, board: NodeBoard, publish: Callable[[], None]) -> None:
        self._board = board
        self._publish = publish
        self._next = 0.0
        self._written = -1

    def write(self) -> None:
        """Write now."""
        begun = time.monotonic()
        changes = self._board.changes
        self._publish()
        self._written = changes
        now = time.monotonic()
        # A slow Airflow, or thousands of nodes, shall not slow dbt down.
        self._next = now + max(FLUSH_INTERVAL, min(5 * (now - begun), LONGEST_FLUSH))

    def tick(self) -> None:
        """Write if it is time."""
        if self._board.changes != self._written and time.monotonic() >= self._next:
            self.write_if_possible()

    def write_if_possible(self) -> None:
        """Write; an Airflow that does not answer for a moment is no reason to end a long build."""
        try:
            self.write()
        except Exception:
            log.warning("Node states could not be written; going on", exc_info=True)
            self._next = time.monotonic() + 10 * FLUSH_INTERVAL
