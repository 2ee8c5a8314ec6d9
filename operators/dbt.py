"""Run dbt: one build, and a task for every node that costs no worker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import Asset, AssetAlias, BaseOperator, TaskGroup

from airflow_ext.dbt.project import DbtProject
from airflow_ext.dbt.results import NodeBoard
from airflow_ext.dbt.runner import BuildSettings, DbtBuild
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.operators._dbt_nodes import DbtDoneOperator, DbtNodeOperator, emit_nodes
from airflow_ext.triggers.dbt import NODES_KEY

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_ext.dbt.index import DbtIndex

__all__ = ["DbtBuildOperator", "DbtProject", "DbtTaskGroup"]

STORE_KEY = "dbt_records"
FLUSH_INTERVAL = 0.5
"""Seconds between two writes of node states while dbt runs."""


class DbtBuildOperator(BaseOperator):
    """Run ``dbt build`` for a whole project; a retry runs only what failed or was not reached.

    Which nodes are done is kept in the task's state store while dbt runs, so that a retry goes on from
    there on any worker, also after the first was killed. That needs the project's manifest; without one
    a retry builds everything again, and so it does when all nodes are done but a hook failed.

    :param project: The project.
    :param vars: dbt's variables (templated).
    :param full_refresh: Rebuild incremental models and seeds from nothing.
    :param threads: Threads of dbt; ``None`` means the profile's number, 4 in a generated one.
    :param partition: Partition key of the events about what was built (templated); ``None`` or blank means
        the run's own, without one the events have no key. Used by :class:`DbtTaskGroup`, whose nodes are assets.
    :raises DbtFailedError: If a node or a hook failed (the message has dbt's own) or dbt did not come to an end.
    """

    template_fields: Sequence[str] = ("vars", "partition")
    ui_color = "#ff694a"

    def __init__(
        self,
        *,
        project: DbtProject,
        vars: Mapping[str, Any] | None = None,  # noqa: A002  # dbt's word for it
        full_refresh: bool = False,
        threads: int | None = None,
        partition: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads!r}: give a number from 1, or None for the profile's")
        self.project = project
        self.vars = vars
        self.full_refresh = full_refresh
        self.threads = threads
        self.partition = partition
        self._build: DbtBuild | None = None

    def execute(self, context: Context) -> None:
        """Build, or go on with what an earlier try left."""
        ti = context["ti"]
        last = ti.try_number > ti.max_tries
        board = self._board(context)
        only = board.remaining() if board.records else None
        if only is not None:
            self.log.info("Going on with the %d ids that an earlier try left", len(only))
        started = time.time()
        seen = {"changes": 0.0, "at": 0.0}

        def publish(*, ended: bool = False) -> None:
            self._publish(context, board, started=started, last=last, ended=ended)

        def on_tick() -> None:
            now = time.monotonic()
            if board.changes == seen["changes"] or now - seen["at"] < FLUSH_INTERVAL:
                return
            seen["changes"] = board.changes
            try:
                publish()
            except Exception:
                # An Airflow that does not answer for a moment is no reason to end a long build.
                self.log.warning("Node states could not be written; going on", exc_info=True)
            seen["at"] = time.monotonic()

        publish()
        try:
            good = self._run(self._settings(self.vars), board, only=only, on_tick=on_tick)
        finally:
            # Also for a build that broke: whoever waits shall see how far it came.
            publish()
        self._report(board)
        if not good and not last:
            raise self._error(board)
        context["task_state_store"].set(STORE_KEY, self._stored(board, over=True))
        if not good:
            self._end_badly(board)
        self._emit(context, board)
        publish(ended=True)

    def on_kill(self) -> None:
        """Stop dbt, which cancels its queries."""
        if self._build is not None:
            self._build.stop()

    def build_nodes(self, context: Context, ids: Sequence[str]) -> NodeBoard:
        """Build some ids only and return what became of them.

        :param context: Context of the calling task, which may be another than this one.
        :param ids: dbt's ids, tests among them.
        """
        board = NodeBoard(self.project.index())
        # The calling task renders only what is its own.
        settings = self._settings(self.render_template(self.vars, context))
        self._run(settings, board, only=ids, on_tick=lambda: None)
        return board

    def _run(self, settings: BuildSettings, board: NodeBoard, *, only: Any, on_tick: Any) -> bool:
        with DbtBuild(settings, only=only) as build:
            self._build = build
            return build.run(on_log=self.log.info, on_node=board.add, on_tick=on_tick, tick=FLUSH_INTERVAL)

    def _settings(self, variables: Mapping[str, Any] | None) -> BuildSettings:
        from airflow_ext.dbt.profiles import profile_from_connection, profile_name

        project, profile = self.project, None
        name = profile_name(project.project_dir)
        if project.profile_conn_id is not None:
            # Read now, not when the DAG is parsed: the credentials may be leased and short-lived.
            from airflow.sdk import BaseHook

            connection = BaseHook.get_connection(project.profile_conn_id)
            profile = profile_from_connection(
                connection, name=name, target=project.target, schema=project.schema
            )
        return BuildSettings(
            project_dir=project.project_dir,
            profiles_dir=project.profiles_dir,
            profile=profile,
            target=project.target,
            vars=dict(variables or {}),
            full_refresh=self.full_refresh,
            threads=self.threads,
        )

    def _board(self, context: Context) -> NodeBoard:
        try:
            index: DbtIndex | None = self.project.index()
        except InvalidProjectError as exc:
            self.log.info("Without an index a retry builds everything: %s", exc)
            return NodeBoard(None)
        stored = context["task_state_store"].get(STORE_KEY) if context["ti"].try_number > 1 else None
        if not isinstance(stored, dict) or stored["over"]:
            # A finished build was cleared: that asks for a new one.
            return NodeBoard(index)
        if index is not None and stored["manifest"] != index.key:
            self.log.info("The project's manifest has changed since the last try: everything is built")
            return NodeBoard(index)
        board = NodeBoard(index, cast("dict[str, Any]", stored["records"]))
        if board.remaining():
            return board
        # dbt runs hooks only around nodes, so that with none left to run they would not be made up for.
        self.log.info("Nothing is left but dbt or one of its hooks did not end well: everything is built")
        return NodeBoard(index)

    def _stored(self, board: NodeBoard, *, over: bool) -> dict[str, Any]:
        return {
            "manifest": board.index.key if board.index is not None else "",
            "over": over,
            "records": {} if over else board.stored(),
        }

    def _publish(
        self,
        context: Context,
        board: NodeBoard,
        *,
        started: float,  # noqa: ARG002  # for subclasses
        last: bool,  # noqa: ARG002
        ended: bool,
    ) -> None:
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
        raise self._error(board)

    def _emit(self, context: Context, board: NodeBoard) -> None:
        """Emit nothing: a build that stands alone fires the outlets it was given."""


class DbtGroupBuildOperator(DbtBuildOperator):
    """The build task of a :class:`DbtTaskGroup`: tells its node tasks and emits their assets' events.

    It ends green when dbt came to an end: each failed node's own task is red, and a green build can emit
    the events of the others.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outlets = [AssetAlias(name=self.alias)]

    @property
    def alias(self) -> str:
        """Name of the alias that carries the group's unkeyed events."""
        return f"dbt/{self.dag_id}.{self.task_id}"

    def _publish(
        self, context: Context, board: NodeBoard, *, started: float, last: bool, ended: bool
    ) -> None:
        super()._publish(context, board, started=started, last=last, ended=ended)
        payload = {
            "try": context["ti"].try_number,
            "last": last,
            "ended": ended,
            "started": started,
            "at": time.time(),
            "nodes": board.outcomes(over=ended),
        }
        context["ti"].xcom_push(key=NODES_KEY, value=payload)

    def _end_badly(self, board: NodeBoard) -> None:
        if board.uncovered_failures() or not board.failed():
            raise self._error(board)
        self.log.warning("%s", self._error(board))

    def _emit(self, context: Context, board: NodeBoard) -> None:
        outcomes = board.outcomes(over=True)
        good = [node for node in board.built() if outcomes[node.unique_id]["state"] == "success"]
        self.outlets = emit_nodes(context, board, good, alias=self.alias, partition=self.partition)


class DbtTaskGroup(TaskGroup):
    """A dbt project as a task group: ``build`` runs dbt once, each node has a task, ``done`` is the end.

    Node tasks never occupy a worker: they wait and end in the triggerer as dbt ends the node, its tests
    counted in. Edges show lineage; the order is dbt's. Arguments of tasks, such as ``retries``, reach the
    build task through ``default_args``; node tasks never retry. A model, seed or snapshot is the
    asset ``dbt/<project>/<name>``, whose event comes when it and its tests went well; a version is part of
    the name (``<name>_v<version>``), and a node of another package is ``dbt/<project>/<package>/<name>``.

    :param group_id: Id of the group.
    :param project: The project; its manifest draws the group.
    :param vars: dbt's variables (templated).
    :param full_refresh: Rebuild incremental models and seeds from nothing.
    :param threads: Threads of dbt; ``None`` means the profile's number, 4 in a generated one.
    :param partition: Partition key of the assets' events (templated); ``None`` or blank means the run's own,
        without one the events have no key.
    :param pool: Pool of the build task, and of a node that is built alone after a user cleared it; ``None``
        means that of ``default_args``. It must not be one that counts deferred tasks: waiting nodes would
        take the slots that the build needs.
    :param kwargs: Arguments of Airflow's ``TaskGroup``, ``default_args`` among them.
    :raises InvalidProjectError: If the project has no usable manifest; names the command that makes one.
    """

    def __init__(
        self,
        group_id: str,
        *,
        project: DbtProject,
        vars: Mapping[str, Any] | None = None,  # noqa: A002  # dbt's word for it
        full_refresh: bool = False,
        threads: int | None = None,
        partition: str | None = None,
        pool: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(group_id=group_id, **kwargs)
        index = project.index()
        common = {"pool": pool} if pool is not None else {}
        with self:
            self.build = DbtGroupBuildOperator(
                task_id="build",
                project=project,
                vars=vars,
                full_refresh=full_refresh,
                threads=threads,
                partition=partition,
                **common,
            )
            nodes = {
                node.unique_id: DbtNodeOperator(
                    task_id=node.task_id,
                    build_task_id=self.build.task_id,
                    unique_id=node.unique_id,
                    outlets=[Asset(name=node.asset)] if node.runs else [],
                    **common,
                )
                for node in index.nodes
            }
            self.done = DbtDoneOperator(task_id="done", build_task_id=self.build.task_id)
        for node in index.nodes:
            nodes[node.unique_id].set_upstream([nodes[parent] for parent in node.parents] or self.build)
        leaves = [task for task in nodes.values() if not task.downstream_task_ids]
        self.done.set_upstream(leaves or self.build)
