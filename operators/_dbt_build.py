"""dbt commands that run nodes: kept up to date in the state store, so that a retry goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk.exceptions import AirflowFailException

from airflow_ext.dbt.artifacts import MANIFEST, keep_run, latest_of, place_of
from airflow_ext.dbt.results import NodeBoard, unpacked
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.hooks.dbt_lineage import emit_lineage
from airflow_ext.operators._dbt_base import FLUSH_INTERVAL, DbtOperator, surviving_lost_artifacts
from airflow_ext.operators._dbt_turns import RunningScope, Turn, in_turn, register_of

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_ext.dbt.flags import DbtFlags
    from airflow_ext.dbt.index import DbtIndex
    from airflow_ext.dbt.results import NodeRecord
    from airflow_ext.dbt.runner import DbtEnd

log = logging.getLogger(__name__)

LONGEST_FLUSH = 5.0
"""Seconds between two writes of node states, however slow writing is."""
STORE_KEY = "dbt_records"
TESTS = ("test", "unit_test")

OnRunning = Literal["wait", "fail", "allow"]
TestsShown = Literal["with_node", "tasks", "none"]


class DbtNodesOperator(DbtOperator):
    """A command that runs nodes; a retry runs only what failed or was not reached, of a microbatch model the batches.

    Which nodes are done is kept in the task's state store while dbt runs, so that a retry goes on from
    there on any worker, also after the first was killed. That needs the project's manifest, and with a selection that
    it was indexed (``airflow-ext dbt index --select``); without that a retry runs everything again, and so it does
    when all nodes are done but a hook failed.

    :param test_retries: Whether a retry repeats failed tests. If not, a try that failed by tests alone is the last
        one, and nodes below failed tests stay skipped.
    :param on_running: What to do while another run is running dbt: ``wait`` starts when that has ended, ``fail`` refuses at
        once, ``allow`` runs both.
    :param running_scope: Which runs count: those of this ``task``, of a group its cleared nodes included; or of whatever
        builds this project into the same ``target`` in any DAG that says so as well. The target is the same if
        the name of the project's folder, the connection, ``target`` and ``schema`` are.
    """

    command: ClassVar[str] = "build"

    def __init__(
        self,
        *,
        test_retries: bool = True,
        on_running: OnRunning = "wait",
        running_scope: RunningScope = "task",
        **kwargs: Any,
    ) -> None:
        if on_running not in ("wait", "fail", "allow"):
            raise ValueError(f"on_running={on_running!r}: give 'wait', 'fail' or 'allow'")
        if running_scope not in ("task", "target"):
            raise ValueError(f"running_scope={running_scope!r}: give 'task' or 'target'")
        if on_running == "wait":
            kwargs.setdefault("max_active_tis_per_dag", 1)
        super().__init__(**kwargs)
        self.test_retries = test_retries
        self.on_running = on_running
        self.running_scope = running_scope
        self.register = register_of(self, self.project, running_scope)
        self.turn: Turn | None = None
        if on_running != "allow":
            self.inlets = [*self.inlets, self.register]
        self.tests: TestsShown = "with_node"

    def execute(self, context: Context) -> None:
        """Run the command when it is this task's turn, or go on with what an earlier try left."""
        with in_turn(context, self, defer=True):
            self._execute(context)

    def execute_after_wait(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:  # noqa: ARG002  # of who waited
        """Execute, subclasses' parts included, when others have ended; more may have come in between."""
        return self.execute(context)

    def _execute(self, context: Context) -> None:
        ti = context["ti"]
        flags = self.run_flags(context)
        board = self._board(context)
        only = board.remaining() if board.records else None
        last = ti.try_number > ti.max_tries
        writer = Writer(board, lambda: self._publish(context, board, last=last, ended=False))
        writer.write()
        if board.ended:
            self.log.info("dbt came to its end in an earlier try, which broke after that")
            good = True
        else:
            if only is not None:
                self.log.info("Going on with the %d ids that an earlier try left", len(only))
            try:
                good = self._build(context, board, flags, only=only, writer=writer)
            except BaseException:
                # Whoever waits shall see how far a build came that broke.
                writer.write_if_possible()
                raise
        writer.write()
        self._report(board)
        for failure in board.failures(self._explained_here(board)):
            if "compiled" in failure:
                self.log.error("Compiled SQL of %s:\n%s", failure["id"], failure["compiled"].strip())
        if not good and not last and board.worth_retrying():
            raise self._error(board)
        if not good:
            self._end_badly(board)
        self._emit(context, board)
        self._publish(context, board, last=last, ended=True)

    def new_board(
        self, records: Any = None, index: DbtIndex | None = None, *, ended: bool = False
    ) -> NodeBoard:
        """Return a board for this command."""
        return NodeBoard(
            index,
            records,
            command=self.command,
            without=TESTS if self.tests == "none" else (),
            keep_failed_tests=not self.test_retries,
            ended=ended,
        )

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
        begun, earlier = time.time(), dict(board.records)

        def at_end(end: DbtEnd) -> None:
            # Whoever waits for the nodes need not wait for other servers, and a try that dies now leaves nothing to do.
            board.ended = end.success and whole
            writer.write_if_possible()
            work = set(board.work())
            told = {name: one for name, one in earlier.items() if name in work} if only is not None else None
            self._keep_artifacts(context, board, end, earlier=told, whole=whole)
            if board.index is not None:
                ran = {name: one for name, one in board.records.items() if earlier.get(name) is not one}
                emit_lineage(
                    context,
                    self.project,
                    board.index,
                    ran,
                    started=begun,
                    command=self.command,
                    manifest=end.target / MANIFEST,
                )

        end = self.run_dbt(
            context,
            flags,
            only=only,
            batches=dict(board.batches),
            on_node=board.add,
            on_tick=lambda: self._tick(writer),
            before_cleanup=at_end,
        )
        return end.success

    def _tick(self, writer: Writer) -> None:
        writer.tick()
        self.keep_turn()

    def keep_turn(self) -> None:
        """Call it often while dbt runs, so that others know."""
        if self.turn is not None:
            try:
                self.turn.keep()
            except Exception:
                log.warning("Whose turn it is could not be looked up; going on", exc_info=True)

    def _keep_artifacts(
        self,
        context: Context,
        board: NodeBoard,
        end: DbtEnd,
        *,
        earlier: Mapping[str, NodeRecord] | None,
        whole: bool,
    ) -> None:
        if self.project.artifacts is None:
            return
        root, ti = str(self.project.artifacts), context["ti"]
        place = place_of(
            root,
            dag_id=self.dag_id,
            run_id=str(context["dag_run"].run_id),
            task_id=self.task_id,
            map_index=getattr(ti, "map_index", -1),
        )
        with surviving_lost_artifacts(self, place):
            keep_run(end.target, place, earlier=earlier)
            self.log.info("run_results.json and manifest.json are kept in %s", place)
            if end.success and whole and self._is_whole(board):
                # What others defer to must have been built as a whole.
                name = board.index.project if board.index is not None else self.project.project_dir.name
                latest = latest_of(root, project=name, target=self.project.target)
                keep_run(end.target, latest, results=place)
                self.log.info("They are now what latest_of() names: %s", latest)

    def _is_whole(self, board: NodeBoard) -> bool:
        """Tell whether all of the project was built with all of its rows."""
        parts = (self.select, self.exclude, self.selector, self.sample, self.event_time_start)
        reduced = self.empty or self.defer_to_state or self.use_data_interval or self.tests == "none"
        default = board.index.default_selector if board.index is not None else ""
        return self.command == "build" and all(part is None for part in parts) and not reduced and not default

    def _board(self, context: Context) -> NodeBoard:
        try:
            index: DbtIndex | None = self.index()
        except InvalidProjectError as exc:
            self.log.info("Without an index a retry runs everything: %s", exc)
            return self.new_board()
        ti = context["ti"]
        stored = context["task_state_store"].get(STORE_KEY) if ti.try_number > 1 else None
        if not isinstance(stored, dict) or stored.get("max_tries") != ti.max_tries:
            # Clearing a task gives it more tries than it had: that asks for a new build, a retry does not.
            return self.new_board(index=index)
        if index is not None and stored["manifest"] != index.key:
            self.log.info("The project's manifest has changed since the last try: everything is run")
            return self.new_board(index=index)
        board = self.new_board(unpacked(str(stored["records"])), index, ended=bool(stored["ended"]))
        if board.ended or board.remaining():
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

    def _stored(self, context: Context, board: NodeBoard) -> dict[str, Any]:
        return {
            "manifest": board.index.key if board.index is not None else "",
            "max_tries": context["ti"].max_tries,
            "ended": board.ended,
            "records": board.packed(),
        }

    def _publish(self, context: Context, board: NodeBoard, *, last: bool, ended: bool) -> None:  # noqa: ARG002  # for subclasses
        if not ended:
            context["task_state_store"].set(STORE_KEY, self._stored(context, board))

    def _report(self, board: NodeBoard) -> None:
        from airflow.sdk.observability import stats

        counts: dict[str, int] = {}
        for record in board.records.values():
            counts[record["status"]] = counts.get(record["status"], 0) + 1
        for status, count in counts.items():
            stats.incr("airflow_ext.dbt.nodes", count, tags={"status": status})
        told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        self.log.info("dbt: %s", told or "nothing was run")
        if unknown := board.unknown():
            self.log.warning(
                "The manifest is older than the project and does not have %s, which dbt built: make it anew with "
                "airflow-ext dbt index",
                ", ".join(unknown[:10]) + (" and more" if len(unknown) > 10 else ""),
            )

    def _explained_here(self, board: NodeBoard) -> list[str]:
        """Return the failed ids whose SQL belongs into this task's log, as no other task shows it."""
        return board.failed()

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


class Writer:
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
