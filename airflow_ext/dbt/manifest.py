"""Read the few fields of a dbt manifest that draw a graph.

A manifest of a big project is tens of megabytes, most of it SQL and documentation. Only declared fields
are decoded here; the rest is skipped by the decoder without becoming Python objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import msgspec

from airflow_ext.dbt.index import INDEX_VERSION, DbtIndex, DbtNode
from airflow_ext.exceptions import InvalidProjectError

SCHEMA_VERSIONS = range(12, 21)
"""Manifest schemas that are understood: dbt 1.8 to 2."""

RUNS = frozenset({"model", "seed", "snapshot"})
RESERVED = frozenset({"build", "done"})
"""Task ids that :class:`~airflow_ext.operators.dbt.DbtTaskGroup` uses itself."""


class _Config(msgspec.Struct):
    materialized: str | None = None


class _DependsOn(msgspec.Struct):
    nodes: list[str] = []


class _Resource(msgspec.Struct):
    unique_id: str
    name: str
    package_name: str
    resource_type: str = "unit_test"
    source_name: str | None = None
    version: str | int | float | None = None
    attached_node: str | None = None
    config: _Config = msgspec.field(default_factory=_Config)
    depends_on: _DependsOn = msgspec.field(default_factory=_DependsOn)


class _Metadata(msgspec.Struct):
    dbt_schema_version: str = ""
    dbt_version: str = ""
    project_name: str | None = None
    adapter_type: str | None = None


class _Manifest(msgspec.Struct):
    metadata: _Metadata
    nodes: dict[str, _Resource]
    sources: dict[str, _Resource] = {}
    unit_tests: dict[str, _Resource] = {}


def read_index(content: bytes, *, key: str, source: str) -> DbtIndex:
    """Turn the bytes of a ``manifest.json`` into an index.

    :param content: The file.
    :param key: Hash of the content, kept in the index.
    :param source: Where it was read from, for messages.
    :raises InvalidProjectError: If it is not a manifest of a known version or its graph has a cycle.
    """
    try:
        manifest = msgspec.json.decode(content, type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidProjectError(f"{source} is not a whole dbt manifest: {exc}", source=source) from exc
    version = re.search(r"/manifest/v(\d+)", manifest.metadata.dbt_schema_version)
    if version is None or int(version.group(1)) not in SCHEMA_VERSIONS:
        raise InvalidProjectError(
            f"{source} has schema {manifest.metadata.dbt_schema_version!r}; understood are manifests "
            f"v{SCHEMA_VERSIONS.start} to v{SCHEMA_VERSIONS.stop - 1}, which dbt 1.8 and later write",
            source=source,
        )
    resources = {**manifest.nodes, **manifest.sources, **manifest.unit_tests}
    project = manifest.metadata.project_name or "dbt"
    nodes, orphans = _nodes(resources, project=project, source=source)
    return DbtIndex(
        version=INDEX_VERSION,
        key=key,
        project=project,
        dbt_version=manifest.metadata.dbt_version,
        adapter=manifest.metadata.adapter_type or "",
        nodes=tuple(nodes),
        orphan_tests=tuple(orphans),
    )


def _is_test(resource: _Resource) -> bool:
    return resource.resource_type in ("test", "unit_test")


def _nodes(resources: dict[str, _Resource], *, project: str, source: str) -> tuple[list[DbtNode], list[str]]:
    order = _topological(resources, source=source)
    position = {unique_id: at for at, unique_id in enumerate(order)}
    tests: dict[str, list[str]] = {}
    orphans: list[str] = []
    for unique_id in order:
        if not _is_test(resources[unique_id]):
            continue
        home = _home_of_test(resources[unique_id], resources, position)
        if home is None:
            orphans.append(unique_id)
        else:
            tests.setdefault(home, []).append(unique_id)
    shown = [unique_id for unique_id in order if _runs(resources[unique_id]) or unique_id in tests]
    task_ids = _task_ids([resources[unique_id] for unique_id in shown])
    nearest: dict[str, list[str]] = {}
    nodes = []
    for unique_id in order:
        resource = resources[unique_id]
        if _is_test(resource):
            continue
        parents = _unique(
            found
            for parent in resource.depends_on.nodes
            if parent in resources
            for found in ([parent] if parent in task_ids else nearest[parent])
        )
        nearest[unique_id] = parents
        if unique_id in task_ids:
            nodes.append(
                DbtNode(
                    unique_id=unique_id,
                    name=resource.name,
                    kind=resource.resource_type,
                    runs=_runs(resource),
                    task_id=task_ids[unique_id],
                    parents=tuple(parents),
                    tests=tuple(tests.get(unique_id, ())),
                    asset=_asset_name(resource, project) if _runs(resource) else "",
                )
            )
    return nodes, orphans


def _topological(resources: dict[str, _Resource], *, source: str) -> list[str]:
    graph = {
        unique_id: [parent for parent in resource.depends_on.nodes if parent in resources]
        for unique_id, resource in sorted(resources.items())
    }
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as exc:
        raise InvalidProjectError(f"{source} has a cycle: {' -> '.join(exc.args[1])}", source=source) from exc


def _runs(resource: _Resource) -> bool:
    return resource.resource_type in RUNS and resource.config.materialized != "ephemeral"


def _home_of_test(test: _Resource, resources: dict[str, _Resource], position: dict[str, int]) -> str | None:
    """Return the node that shows a test: the one it is written at, else its last parent to be built."""
    if test.attached_node in resources:
        return test.attached_node
    parents = [parent for parent in test.depends_on.nodes if parent in resources]
    return max(parents, key=position.__getitem__, default=None)


def _task_ids(resources: list[_Resource]) -> dict[str, str]:
    names = {resource.unique_id: _plain_name(resource) for resource in resources}
    counts: dict[str, int] = {}
    for name in names.values():
        counts[name] = counts.get(name, 0) + 1
    for resource in resources:
        name = names[resource.unique_id]
        if counts[name] > 1 or name in RESERVED:
            names[resource.unique_id] = f"{resource.resource_type}__{resource.package_name}__{name}"
    return names


def _plain_name(resource: _Resource) -> str:
    name = _versioned_name(resource)
    if resource.resource_type == "source":
        name = f"source__{resource.source_name}__{name}"
    # Airflow allows letters of any script, digits, dots, dashes and underscores in a task id.
    return re.sub(r"[^\w.-]", "_", name)


def _asset_name(resource: _Resource, project: str) -> str:
    """Return a name that depends on nothing but the node: other DAGs refer to it."""
    package = "" if resource.package_name == project else f"{resource.package_name}/"
    return f"dbt/{project}/{package}{_versioned_name(resource)}"


def _versioned_name(resource: _Resource) -> str:
    return resource.name if resource.version is None else f"{resource.name}_v{resource.version}"


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
