"""Run dbt: one build, and a task for every node that costs no worker."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator, TaskGroup

from airflow_ext.dbt.project import DbtProject
from airflow_ext.dbt.selection import depends_on_a_run
from airflow_ext.dbt.units import DbtUnit, Granularity, GroupBy, Sources, Tests, units_of
from airflow_ext.operators._dbt_base import Words
from airflow_ext.operators._dbt_build import DbtBuildOperator
from airflow_ext.operators._dbt_commands import (
    DbtCloneOperator,
    DbtCompileOperator,
    DbtRetryOperator,
    DbtRunOperationOperator,
    DbtRunOperator,
    DbtSeedOperator,
    DbtSnapshotOperator,
    DbtTestOperator,
)
from airflow_ext.operators._dbt_events import asset_of
from airflow_ext.operators._dbt_group import DbtGroupBuildOperator
from airflow_ext.operators._dbt_nodes import DbtAnnounceOperator, DbtDoneOperator, DbtNodeOperator
from airflow_ext.operators._dbt_outputs import (
    DbtDocsGenerateOperator,
    DbtLsOperator,
    DbtSourceFreshnessOperator,
)

__all__ = [
    "DbtBuildOperator",
    "DbtCloneOperator",
    "DbtCompileOperator",
    "DbtDocsGenerateOperator",
    "DbtLsOperator",
    "DbtProject",
    "DbtRetryOperator",
    "DbtRunOperationOperator",
    "DbtRunOperator",
    "DbtSeedOperator",
    "DbtSnapshotOperator",
    "DbtSourceFreshnessOperator",
    "DbtTaskGroup",
    "DbtTestOperator",
]

_OF_THE_BUILD = frozenset(
    {
        "vars",
        "full_refresh",
        "threads",
        "fail_fast",
        "defer",
        "favor_state",
        "state",
        "empty",
        "sample",
        "event_time_start",
        "event_time_end",
        "use_data_interval",
        "store_failures",
        "warn_error",
        "args",
        "on_warning",
        "on_running",
        "running_scope",
        "test_retries",
        "partition",
        "source_freshness",
    }
)


_OF_TASK_GROUPS = frozenset(inspect.signature(TaskGroup.__init__).parameters)


class DbtTaskGroup(TaskGroup):
    """A dbt project as a task group: ``build`` runs dbt once, each node has a task, ``announce`` emits events that a
    failed task could not, ``done`` is the end.

    Node tasks never occupy a worker: they wait and end in the triggerer as dbt ends the node, its tests
    counted in. Edges show lineage; the order is dbt's. Arguments of tasks, such as ``retries``, reach the
    build task through ``default_args``; node tasks never retry. A model, seed or snapshot is the
    asset ``dbt/<project>/<name>``, whose event comes when it and its tests went well; a version is part of
    the name (``<name>_v<version>``), and a node of another package is ``dbt/<project>/<package>/<name>``.

    :param group_id: Id of the group.
    :param project: The project, required; its manifest draws the group.
    :param select: What to build, in dbt's own syntax; ``None`` means everything. A selection must have been
        indexed: ``airflow-ext dbt index DIR --select ...``.
    :param exclude: What to leave out, likewise.
    :param selector: A selector of the project's ``selectors.yml``, likewise.
    :param indirect_selection: Which tests come with selected nodes, likewise.
    :param granularity: A task per ``node``, per ``folder`` of the project, or one for the ``project``; ``auto``
        means nodes up to 300 tasks, else folders.
    :param tests: ``with_node`` counts tests to their node, ``tasks`` gives each a task of its own, ``none`` runs none.
    :param group_by: Put node tasks in groups by ``folder`` or by first ``tag``.
    :param sources: Show sources that are ``tested``, ``all`` or ``none``.
    :param exposures: Show exposures; they are green when what they read is.
    :param assets: Whether models, seeds and snapshots are assets, with events. Costs 0.3 KB of the serialized DAG each.
    :param pool: Pool of the build task, and of nodes that are built without it after a user cleared them; ``None``
        means that of ``default_args``. It must not be one that counts deferred tasks: waiting nodes would
        take the slots that the build needs.
    :param kwargs: Arguments of :class:`DbtBuildOperator` (``vars``, ``full_refresh``, ``threads``, ``fail_fast``, ``defer``,
        ``favor_state``, ``state``, ``empty``, ``sample``, ``event_time_start``, ``event_time_end``, ``use_data_interval``,
        ``store_failures``, ``warn_error``, ``args``, ``on_warning``, ``on_running``, ``running_scope``, ``test_retries``), ``partition``
        (key of the assets' events, templated; ``None`` or blank means the run's own, without one the events have no key),
        ``source_freshness`` (check the freshness of sources first; a stale source is a failed task, the build goes on), and
        those of Airflow's ``TaskGroup``, ``default_args`` among them.
    :raises InvalidProjectError: If the project has no usable manifest or selection; names the command that makes one.
    """

    def __init__(
        self,
        group_id: str,
        *,
        project: DbtProject | None = None,
        select: Words | None = None,
        exclude: Words | None = None,
        selector: str | None = None,
        indirect_selection: str | None = None,
        granularity: Granularity = "auto",
        tests: Tests = "with_node",
        group_by: GroupBy | None = None,
        sources: Sources | None = None,
        exposures: bool = False,
        assets: bool = True,
        pool: str | None = None,
        **kwargs: Any,
    ) -> None:
        build = {name: kwargs.pop(name) for name in _OF_THE_BUILD.intersection(kwargs)}
        project = _checked(group_id, project, kwargs)
        super().__init__(group_id=group_id, **kwargs)
        if next(self.iter_mapped_task_groups(), None) is not None:
            raise ValueError(
                f"DbtTaskGroup({group_id!r}) stands in a mapped task group: what is drawn must be known when the DAG is "
                "parsed; use DbtBuildOperator there"
            )
        selection: dict[str, Any] = {
            "select": select,
            "exclude": exclude,
            "selector": selector,
            "indirect_selection": indirect_selection,
        }
        for name, value in selection.items():
            if "{{" in str(value) or "{%" in str(value):
                raise ValueError(
                    f"{name}={value!r}: it draws the group, so it cannot be a template; use DbtBuildOperator"
                )
            if depends_on_a_run(value):
                raise ValueError(
                    f"{name}={value!r}: what it selects depends on a run, so it cannot draw a group; use DbtBuildOperator"
                )
        units = units_of(
            project.index(**selection),
            granularity=granularity,
            tests=tests,
            group_by=group_by,
            sources=sources or ("all" if build.get("source_freshness") else "tested"),
            exposures=exposures,
        )
        common: dict[str, Any] = {"pool": pool} if pool is not None else {}
        with self:
            self.build = DbtGroupBuildOperator(
                task_id="build",
                project=project,
                units=units,
                tests=tests,
                emits=assets,
                **selection,
                **build,
                **common,
            )
            tasks = self._draw(units, project=project, assets=assets, common=common)
            build_task_id = self.build.task_id
            announce = (
                DbtAnnounceOperator(task_id="announce", build_task_id=build_task_id, **common)
                if assets
                else None
            )
            self.done = DbtDoneOperator(
                task_id="done",
                build_task_id=build_task_id,
                announce_task_id=announce.task_id if announce is not None else None,
            )
            if self.build.on_running != "allow":
                self.done.inlets = [*self.done.inlets, self.build.register]
        for unit in units:
            _link([tasks[parent] for parent in unit.parents] or [self.build], tasks[unit.label])
        leaves = [task for task in tasks.values() if not task.downstream_task_ids]
        above: list[BaseOperator] = [*leaves] or [self.build]
        if announce is not None:
            _link(above, announce)
            above = [announce]
        _link(above, self.done)

    def _draw(
        self, units: Sequence[DbtUnit], *, project: DbtProject, assets: bool, common: dict[str, Any]
    ) -> dict[str, DbtNodeOperator]:
        groups: dict[tuple[str, ...], TaskGroup] = {(): self}
        tasks = {}
        for unit in units:
            for depth in range(1, len(unit.group) + 1):
                path = unit.group[:depth]
                if path not in groups:
                    groups[path] = TaskGroup(path[-1], parent_group=groups[path[:-1]])
            tasks[unit.label] = DbtNodeOperator(
                task_id=unit.label,
                task_group=groups[unit.group],
                build_task_id=self.build.task_id,
                unit=unit.label,
                outlets=[asset_of(project, node) for node in unit.assets] if assets else [],
                **common,
            )
        return tasks


def _checked(group_id: str, project: DbtProject | None, others: Mapping[str, Any]) -> DbtProject:
    """Return the project; arguments that there are not come first, as those of another package bring no project."""
    if unknown := sorted(set(others) - _OF_TASK_GROUPS):
        known = [*inspect.signature(DbtTaskGroup.__init__).parameters, *_OF_THE_BUILD, *_OF_TASK_GROUPS]
        near = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.75) for name in unknown}
        meant = [f"{found[0]} for {name}" for name, found in near.items() if found]
        raise TypeError(
            f"DbtTaskGroup({group_id!r}) takes no {', '.join(unknown)}"
            + (f" (did you mean {', '.join(meant)}?)" if meant else "")
            + ": arguments of tasks, such as retries, go into default_args={...}; docs/from-cosmos.md has what to write "
            "for each argument of Cosmos"
        )
    if not isinstance(project, DbtProject):
        raise TypeError(
            f"project={project!r} of DbtTaskGroup({group_id!r}): give DbtProject(project_dir=...)"
        )
    return project


def _link(above: Sequence[BaseOperator], below: BaseOperator) -> None:
    """Draw the edges between tasks of one DAG.

    ``set_upstream`` makes sure first that it is one DAG, which takes time with each task that this has: half of
    what 1,000 nodes cost.
    """
    for task in above:
        task.downstream_task_ids.add(below.task_id)
        below.upstream_task_ids.add(task.task_id)
