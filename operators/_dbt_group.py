"""The build task of a dbt group: tells the group's other tasks and emits their assets' events."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import AssetAlias

from airflow_ext.dbt.flags import DbtFlags
from airflow_ext.dbt.results import NodeBoard
from airflow_ext.exceptions import DbtFailedError
from airflow_ext.hooks.dbt import SourceState
from airflow_ext.operators._dbt_build import TESTS, DbtBuildOperator, TestsShown, Writer
from airflow_ext.operators._dbt_events import emit_nodes, loose_in
from airflow_ext.triggers.dbt import NODES_KEY

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_ext.dbt.index import DbtIndex
    from airflow_ext.dbt.results import Outcome
    from airflow_ext.dbt.units import DbtUnit


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
        # On a worker Airflow fails a task with an inlet that no DAG has any more, such as that of a run which is pinned
        # to a version from before the group was renamed. The group's last task never starts on one, and has it instead.
        self.inlets = [one for one in self.inlets if one is not self.register]
        self._started = 0.0

    @property
    def alias(self) -> str:
        """Name of the alias that carries the group's unkeyed events."""
        return f"dbt/{self.dag_id}.{self.task_id}"

    def run_flags(self, context: Context) -> DbtFlags:
        """Return the flags of this run, from rendered arguments."""
        flags = super().run_flags(context)
        return replace(flags, exclude_resource_types=TESTS) if self.tests == "none" else flags

    def _execute(self, context: Context) -> None:
        self._started = time.time()
        super()._execute(context)

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
        writer = Writer(board, lambda: publish(board, board.outcomes(units, over=False), False))
        only = [unique_id for unique_id in board.work() if unique_id in wanted]
        writer.write()
        if only:
            super()._build(context, board, flags, only=only, writer=writer, whole=False)
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
        writer: Writer,
        whole: bool = True,
    ) -> bool:
        if self._judged_sources:
            self._check_sources(context, board, flags)
        return super()._build(context, board, flags, only=only, writer=writer, whole=whole)

    @property
    def _judged_sources(self) -> list[str]:
        """Ids of the shown sources whose freshness is checked."""
        if not self.source_freshness:
            return []
        return [node.unique_id for unit in self.units for node in unit.nodes if node.freshness]

    def new_board(
        self, records: Any = None, index: DbtIndex | None = None, *, ended: bool = False
    ) -> NodeBoard:
        """Return a board that waits for the freshness of sources, too."""
        board = super().new_board(records, index, ended=ended)
        board.awaited = frozenset(self._judged_sources)
        return board

    def _check_sources(self, context: Context, board: NodeBoard, flags: DbtFlags) -> None:
        judged = self._judged_sources

        def on_node(message: Mapping[str, Any]) -> None:
            if message["id"] in judged:
                # It has rows, and dbt says by a word alone how fresh they are.
                board.add({**message, "rows": None, "message": SourceState.of(message).told})

        asked = DbtFlags(
            vars=flags.vars,
            threads=flags.threads,
            select=[f"source:{name.partition('.')[2]}" for name in judged],
        )
        try:
            self.run_dbt(context, asked, command="source freshness", on_node=on_node, on_tick=self.keep_turn)
        except DbtFailedError as exc:
            self.log.exception("The freshness of sources could not be checked; the build goes on")
            for name in judged:
                board.add({"id": name, "status": "runtime error", "message": str(exc)})

    def _publish(self, context: Context, board: NodeBoard, *, last: bool, ended: bool) -> None:
        super()._publish(context, board, last=last, ended=ended)
        outcomes = board.outcomes(self.units, over=ended)
        # Also in a try that is not the last: a user may mark it failed, and then it is.
        loose = loose_in(board, outcomes) if self.emits and not ended else {}
        push_nodes(
            context,
            outcomes,
            started=self._started,
            last=last,
            ended=ended,
            more={"loose": loose} if loose else None,
        )

    def _explained_here(self, board: NodeBoard) -> list[str]:
        return board.uncovered_failures()

    def _end_badly(self, board: NodeBoard) -> None:
        if board.uncovered_failures() or not board.failed():
            raise self._error(board)
        self.log.warning("%s", self._error(board))

    def _emit(self, context: Context, board: NodeBoard) -> None:
        self.outlets = emit_nodes(context, self, board.good())


def push_nodes(
    context: Context,
    outcomes: Mapping[str, Outcome],
    *,
    started: float,
    last: bool,
    ended: bool,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the one XCom that node tasks read.

    :param outcomes: Settled units by label.
    :param started: When this try began, seconds since 1970.
    :param last: Whether the task may not retry any more.
    :param ended: Whether dbt is done.
    :param more: ``loose``, the facts for the events of what is built well in units that are not settled; of a cleared task
        also what it tells those that were cleared with it: ``asked``, the units that it builds, ``tries``, for which
        tries of their tasks as far as known, and ``green``, whether it is over and emits the events itself.
    """
    ti = cast("Any", context["ti"])
    run = getattr(context["dag_run"], "start_date", None)
    payload: dict[str, Any] = {
        "try": ti.try_number,
        # Set anew by the scheduler when a run that was over is cleared.
        "run": None if run is None else run.timestamp(),
        "last": last,
        "ended": ended,
        "started": started,
        "at": time.time(),
        "units": dict(outcomes),
        **(more or {}),
    }
    ti.xcom_push(key=NODES_KEY, value=payload)
