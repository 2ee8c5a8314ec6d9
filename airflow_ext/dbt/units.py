"""Units: what becomes a task of a dbt group.

A task per node shows most. But each task that is started by a trigger carries the whole serialized DAG into the
triggerer, so that the cost of a run grows with the square of their number; beyond a few hundred, folders are
shown instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import msgspec

from airflow_ext.dbt.index import DbtIndex, DbtNode
from airflow_ext.dbt.labels import LIMIT, RESERVED, clean, hashed
from airflow_ext.exceptions import InvalidProjectError

NODE_LIMIT = 300
"""Units up to which ``granularity="auto"`` shows nodes."""

Granularity = Literal["auto", "node", "folder", "project"]
Tests = Literal["with_node", "tasks", "none"]
GroupBy = Literal["folder", "tag"]
Sources = Literal["tested", "all", "none"]

_GROUP_LIMIT = 120
"""Characters of the groups of a unit; the rest is left to its label."""


class DbtUnit(msgspec.Struct, frozen=True):
    """One task of a dbt group.

    :param label: Id of the task inside the dbt group and the unit's own groups; no other unit has it.
    :param kind: ``node``, ``test``, ``folder`` or ``project``.
    :param nodes: The nodes it stands for, parents before children; none for a test.
    :param tests: Ids of the tests it stands for.
    :param parents: Labels of the units above it.
    :param group: Names of the groups that it is in, the outermost first.
    """

    label: str
    kind: Literal["node", "test", "folder", "project"]
    nodes: tuple[DbtNode, ...]
    tests: tuple[str, ...]
    parents: tuple[str, ...]
    group: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of what dbt runs for it; none for sources without tests and exposures."""
        return (*(node.unique_id for node in self.nodes if node.runs), *self.tests)

    @property
    def assets(self) -> tuple[DbtNode, ...]:
        """The nodes of it that are assets."""
        return tuple(node for node in self.nodes if node.asset)


class UnitPlan(msgspec.Struct, frozen=True):
    """The units of a graph and how they came about.

    :param units: The units, parents before children.
    :param granularity: The granularity that was taken: ``node``, ``folder`` or ``project``.
    :param reason: Why, in a few words.
    """

    units: list[DbtUnit]
    granularity: str
    reason: str


def units_of(
    index: DbtIndex,
    *,
    granularity: Granularity = "auto",
    tests: Tests = "with_node",
    group_by: GroupBy | None = None,
    sources: Sources = "tested",
    exposures: bool = False,
) -> list[DbtUnit]:
    """Return the units of a graph, parents before children.

    Edges between folders are drawn only from a folder to one that first appears after it in the order of the
    nodes: folders may read each other, tasks cannot.

    :param index: The graph.
    :param granularity: ``node``, ``folder`` (of the models' files; seeds, snapshots and sources are folders, too)
        or ``project``; ``auto`` takes nodes up to :data:`NODE_LIMIT` units, else folders, of as many levels as
        stay within it.
    :param tests: ``with_node`` counts a test as part of its node; ``tasks`` gives each test a unit of its own, below
        its nodes, as long as nodes are shown; ``none`` leaves tests out.
    :param group_by: Put nodes in groups by their ``folder`` or by their first ``tag``; ``None`` means no groups.
        Folders and projects are never grouped.
    :param sources: Which sources to show: those with tests (``tested``), ``all`` or ``none``.
    :param exposures: Show exposures, which run nothing.
    :raises InvalidProjectError: If an argument is unknown or does not go with another.
    """
    return plan_units(
        index,
        granularity=granularity,
        tests=tests,
        group_by=group_by,
        sources=sources,
        exposures=exposures,
    ).units


def plan_units(
    index: DbtIndex,
    *,
    granularity: Granularity = "auto",
    tests: Tests = "with_node",
    group_by: GroupBy | None = None,
    sources: Sources = "tested",
    exposures: bool = False,
) -> UnitPlan:
    """Return the units of a graph with the granularity that was taken; arguments as :func:`units_of`."""
    _check(granularity=granularity, tests=tests, group_by=group_by, sources=sources)
    nodes = _shown(index, tests=tests, sources=sources, exposures=exposures)
    parents = _parents(index, nodes)
    count = len(nodes) + (len(index.tests) if tests == "tasks" else 0)
    chosen, reason, depth = _choose(nodes, count, granularity)
    if chosen == "node":
        units = _node_units(index, nodes, parents, tests=tests, group_by=group_by)
    elif chosen == "folder":
        units = _folder_units(nodes, parents, depth=depth)
    else:
        units = _project_unit(index, nodes, tests=tests)
    return UnitPlan(units, chosen, reason)


def _check(*, granularity: str, tests: str, group_by: str | None, sources: str) -> None:
    given = {"granularity": granularity, "tests": tests, "sources": sources, "group_by": group_by}
    for (name, value), known in zip(given.items(), (Granularity, Tests, Sources, GroupBy), strict=True):
        if value not in get_args(known) and not (name == "group_by" and value is None):
            none = " or None" if name == "group_by" else ""
            raise InvalidProjectError(f"{name}={value!r}: give {', '.join(map(repr, get_args(known)))}{none}")
    if granularity in ("folder", "project"):
        for name, value in (("tests", tests if tests == "tasks" else None), ("group_by", group_by)):
            if value is not None:
                raise InvalidProjectError(
                    f"{name}={value!r} with granularity={granularity!r}: only where nodes are shown"
                )


def _shown(index: DbtIndex, *, tests: str, sources: str, exposures: bool) -> list[DbtNode]:
    shown = []
    for node in index.nodes:
        kept = node if tests == "with_node" else msgspec.structs.replace(node, tests=())
        if node.kind == "source":
            if sources == "all" or (sources == "tested" and tests != "none"):
                shown.append(kept)
        elif node.runs or tests == "with_node":
            # What does not run is there for its tests only.
            shown.append(kept)
    hidden = [one for one in index.extras if one.kind == "source"] if sources == "all" else []
    leaves = [one for one in index.extras if one.kind == "exposure"] if exposures else []
    return [*hidden, *shown, *leaves]


def _parents(index: DbtIndex, nodes: Iterable[DbtNode]) -> dict[str, tuple[str, ...]]:
    """Return the shown nodes above each node, seen through those that are not."""
    shown = {node.unique_id for node in nodes}
    above: dict[str, tuple[str, ...]] = {}
    sources = [node for node in index.extras if node.kind == "source"]
    exposures = [node for node in index.extras if node.kind == "exposure"]
    for node in (*sources, *index.nodes, *exposures):
        found: dict[str, None] = {}
        for parent in (*node.parents, *node.sources):
            for one in (parent,) if parent in shown else above.get(parent, ()):
                found[one] = None
        above[node.unique_id] = tuple(found)
    return above


def _choose(nodes: Sequence[DbtNode], count: int, granularity: str) -> tuple[str, str, int]:
    deepest = max((node.folder.count("/") + 1 for node in nodes), default=1)
    if granularity != "auto":
        return granularity, "as asked", deepest
    if count <= NODE_LIMIT:
        return "node", f"{count} units are within the {NODE_LIMIT} of auto", deepest
    for depth in range(deepest, 0, -1):
        folders = {_cut(node.folder, depth) for node in nodes}
        if len(folders) <= NODE_LIMIT:
            cut = f", cut to {depth} of {deepest} levels" if depth < deepest else ""
            return "folder", f"{count} units are more than the {NODE_LIMIT} of auto{cut}", depth
    return "project", f"even the top folders are more than the {NODE_LIMIT} of auto", 1


def _cut(folder: str, depth: int) -> str:
    return "/".join(folder.split("/")[:depth])


def _node_units(
    index: DbtIndex,
    nodes: Sequence[DbtNode],
    parents: Mapping[str, tuple[str, ...]],
    *,
    tests: str,
    group_by: str | None,
) -> list[DbtUnit]:
    groups = {node.unique_id: _group(node, group_by) for node in nodes}
    alone = [test for test in index.tests if tests == "tasks"]
    groups.update({test.unique_id: groups.get(test.home, ()) for test in alone})
    names = {node.unique_id: node.task_id for node in nodes}
    names.update({test.unique_id: test.task_id for test in alone})
    labels = _labels(names, groups)
    made = [
        DbtUnit(
            label=labels[node.unique_id],
            kind="node",
            nodes=(node,),
            tests=node.tests,
            parents=tuple(labels[one] for one in parents[node.unique_id]),
            group=groups[node.unique_id],
        )
        for node in nodes
    ]
    for test in alone:
        above = (found for one in test.parents for found in ((one,) if one in names else parents[one]))
        made.append(
            DbtUnit(
                label=labels[test.unique_id],
                kind="test",
                nodes=(),
                tests=(test.unique_id,),
                parents=tuple(dict.fromkeys(labels[one] for one in above)),
                group=groups[test.unique_id],
            )
        )
    return made


def _group(node: DbtNode, group_by: str | None) -> tuple[str, ...]:
    if group_by == "folder":
        names = tuple(_group_name(part) for part in node.folder.split("/"))
    elif group_by == "tag" and node.tags:
        names = (_group_name(node.tags[0]),)
    else:
        return ()
    if names[0] in RESERVED:
        names = (f"{group_by}__{names[0]}", *names[1:])
    path = "__".join(names)
    return names if len(path) <= _GROUP_LIMIT else (hashed(path, path, limit=_GROUP_LIMIT),)


def _group_name(name: str) -> str:
    # Unlike a task's, a group's own name may have no dot.
    return clean(name).replace(".", "_")


def _labels(names: Mapping[str, str], groups: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return a label for every id: its name, unless groups make that too long or somebody else's id."""
    taken = {".".join(group[:depth]) for group in groups.values() for depth in range(1, len(group) + 1)}
    # An index may be from before a name was reserved.
    taken |= RESERVED
    labels = {}
    for unique_id, name in names.items():
        room = LIMIT - sum(len(part) + 1 for part in groups[unique_id])
        label = name if len(name) <= room else hashed(name, unique_id, limit=room)
        if ".".join((*groups[unique_id], label)) in taken:
            label = hashed(name, unique_id, limit=room)
        taken.add(".".join((*groups[unique_id], label)))
        labels[unique_id] = label
    return labels


def _folder_units(
    nodes: Sequence[DbtNode], parents: Mapping[str, tuple[str, ...]], *, depth: int
) -> list[DbtUnit]:
    folders: dict[str, list[DbtNode]] = {}
    for node in nodes:
        folders.setdefault(_cut(node.folder, depth), []).append(node)
    home = {node.unique_id: folder for folder, found in folders.items() for node in found}
    position = {folder: at for at, folder in enumerate(folders)}
    labels = _folder_labels(folders)
    units = []
    for folder, found in folders.items():
        above = dict.fromkeys(home[one] for node in found for one in parents[node.unique_id])
        units.append(
            DbtUnit(
                label=labels[folder],
                kind="folder",
                nodes=tuple(found),
                tests=tuple(test for node in found for test in node.tests),
                parents=tuple(labels[one] for one in above if position[one] < position[folder]),
            )
        )
    return units


def _folder_labels(folders: Iterable[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    taken = set(RESERVED)
    for folder in sorted(folders):
        label = clean(folder.replace("/", "."))
        if label in RESERVED:
            label = f"folder__{label}"
        labels[folder] = hashed(label, folder) if label in taken else label
        taken.add(labels[folder])
    return labels


def _project_unit(index: DbtIndex, nodes: Sequence[DbtNode], *, tests: str) -> list[DbtUnit]:
    name = clean(index.project)
    name = f"project__{name}" if name in RESERVED else name
    orphans = index.orphan_tests if tests != "none" else ()
    found = tuple(test for node in nodes for test in node.tests)
    return [DbtUnit(label=name, kind="project", nodes=tuple(nodes), tests=(*found, *orphans), parents=())]
