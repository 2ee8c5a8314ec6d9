"""Read the few fields of a dbt manifest that draw a graph.

A manifest of a big project is tens of megabytes, most of it SQL and documentation. Only declared fields
are decoded here; the rest is skipped by the decoder without becoming Python objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from urllib.parse import quote

import msgspec

from airflow_ext.dbt.index import INDEX_VERSION, DbtIndex, DbtNode, DbtTest
from airflow_ext.dbt.labels import labels_of
from airflow_ext.exceptions import InvalidProjectError

SCHEMA_VERSIONS = range(12, 21)
"""Manifest schemas that are understood: dbt 1.8 to 2."""

RUNS = frozenset({"model", "seed", "snapshot", "function"})
DATASETS = frozenset({"model", "seed", "snapshot"})
TESTS = frozenset({"test", "unit_test"})
_FLAT = {kind: f"{kind}s" for kind in ("seed", "snapshot", "function", "source", "exposure")}
"""Folder of the kinds that people keep in one place."""


class _Config(msgspec.Struct):
    materialized: str | None = None


class _DependsOn(msgspec.Struct):
    nodes: list[str] = []


class _Time(msgspec.Struct):
    count: int | str | None = None


class _Freshness(msgspec.Struct):
    warn_after: _Time | None = None
    error_after: _Time | None = None


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
    fqn: list[str] = []
    tags: list[str] = []
    database: str | None = None
    schema: str | None = None
    alias: str | None = None
    identifier: str | None = None
    model: str | None = None
    url: str | None = None
    freshness: _Freshness | None = None


class _Link(msgspec.Struct):
    depends_on: _DependsOn = msgspec.field(default_factory=_DependsOn)


class _Metadata(msgspec.Struct):
    dbt_schema_version: str = ""
    dbt_version: str = ""
    project_name: str | None = None
    adapter_type: str | None = None


class _Selector(msgspec.Struct):
    name: str = ""
    default: bool | str | None = False


class _Manifest(msgspec.Struct):
    metadata: _Metadata
    nodes: dict[str, _Resource]
    sources: dict[str, _Resource] = {}
    unit_tests: dict[str, _Resource] = {}
    functions: dict[str, _Resource] = {}
    exposures: dict[str, _Resource] = {}
    metrics: dict[str, _Link] = {}
    semantic_models: dict[str, _Link] = {}
    saved_queries: dict[str, _Link] = {}
    selectors: dict[str, _Selector] = {}


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
    project = manifest.metadata.project_name or "dbt"
    graph = _Graph(dict(_resources(manifest)), project=project, source=source)
    return DbtIndex(
        version=INDEX_VERSION,
        key=key,
        project=project,
        dbt_version=manifest.metadata.dbt_version,
        adapter=manifest.metadata.adapter_type or "",
        nodes=tuple(graph.nodes(graph.shown)),
        orphan_tests=tuple(one for one, home in graph.homes.items() if not home),
        tests=tuple(graph.tests()),
        extras=tuple(graph.nodes(graph.extras)),
        default_selector=next((one.name for one in manifest.selectors.values() if one.default is True), ""),
    )


def _resources(manifest: _Manifest) -> Iterator[tuple[str, _Resource]]:
    yield from manifest.nodes.items()
    yield from manifest.sources.items()
    yield from manifest.unit_tests.items()
    yield from manifest.functions.items()
    yield from manifest.exposures.items()
    for group in (manifest.metrics, manifest.semantic_models, manifest.saved_queries):
        # Shown never, but an exposure may reach its models through them.
        for unique_id, link in group.items():
            yield unique_id, _Resource(unique_id, unique_id, "", "link", depends_on=link.depends_on)


class _Graph:
    """Who is shown, under which name, and what lies above whom."""

    def __init__(self, resources: dict[str, _Resource], *, project: str, source: str) -> None:
        self.resources, self.project = resources, project
        order = _topological(resources, source=source)
        position = {unique_id: at for at, unique_id in enumerate(order)}
        self.homes = {
            unique_id: _home_of_test(resources[unique_id], resources, position)
            for unique_id in order
            if resources[unique_id].resource_type in TESTS
        }
        self.tests_at: dict[str, list[str]] = {}
        for test, home in self.homes.items():
            if home:
                self.tests_at.setdefault(home, []).append(test)
        self.shown = {one: None for one in order if _runs(resources[one]) or one in self.tests_at}
        self.extras = {
            one: None
            for one in order
            if resources[one].resource_type in ("source", "exposure") and one not in self.shown
        }
        self._labels = self._make_labels()
        self._nearest: dict[str, list[str]] = {}
        for unique_id in order:
            if unique_id not in self.homes:
                self._nearest[unique_id] = self._above(unique_id)

    def nodes(self, ids: Iterable[str]) -> Iterator[DbtNode]:
        """Yield nodes of the index."""
        for unique_id in ids:
            resource, above = self.resources[unique_id], self._nearest[unique_id]
            yield DbtNode(
                unique_id=unique_id,
                name=resource.name,
                kind=resource.resource_type,
                runs=_runs(resource),
                task_id=self._labels[unique_id],
                parents=tuple(one for one in above if one in self.shown),
                tests=tuple(self.tests_at.get(unique_id, ())),
                asset=_asset_name(resource, self.project) if _is_dataset(resource) else "",
                tags=tuple(resource.tags),
                folder=_folder(resource, self.project),
                relation=_relation(resource),
                sources=tuple(one for one in above if one not in self.shown),
                freshness=_has_freshness(resource),
                url=resource.url or "",
            )

    def tests(self) -> Iterator[DbtTest]:
        """Yield all tests of the index."""
        for unique_id, home in self.homes.items():
            above = [one for one in self._above(unique_id) if one in self.shown]
            # A test written at a node need not read it.
            parents = _unique([*above, home]) if home else above
            yield DbtTest(unique_id, self._labels[unique_id], tuple(parents), home)

    def _above(self, unique_id: str) -> list[str]:
        """Return the next nodes above one, seen through what is never shown."""
        return _unique(
            found
            for parent in self.resources[unique_id].depends_on.nodes
            if parent in self.resources
            for found in (
                [parent] if parent in self.shown or parent in self.extras else self._nearest.get(parent, [])
            )
        )

    def _make_labels(self) -> dict[str, str]:
        ranked: list[list[tuple[str, str, str]]] = [[], [], [], []]
        for unique_id in (*self.shown, *self.extras, *self.homes):
            resource = self.resources[unique_id]
            if unique_id in self.homes:
                rank = 3
            elif resource.resource_type in RUNS:
                rank = 0 if resource.package_name == self.project else 1
            else:
                rank = 2
            prefix = f"{resource.resource_type}__{resource.package_name}"
            ranked[rank].append((unique_id, _plain_name(resource), prefix))
        return labels_of(ranked)


_ASCII = "".join(map(chr, range(0x20, 0x7F)))


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


def _is_dataset(resource: _Resource) -> bool:
    return _runs(resource) and resource.resource_type in DATASETS


def _home_of_test(test: _Resource, resources: dict[str, _Resource], position: dict[str, int]) -> str:
    """Return the node that shows a test: the one it is written at, else its last parent to be built."""
    if test.attached_node in resources:
        return test.attached_node or ""
    parents = [parent for parent in test.depends_on.nodes if parent in resources]
    return max(parents, key=position.__getitem__, default="")


def _plain_name(resource: _Resource) -> str:
    name = _versioned_name(resource)
    if resource.resource_type == "source":
        return f"source__{resource.source_name}__{name}"
    if resource.resource_type == "exposure":
        return f"exposure__{name}"
    if resource.resource_type == "unit_test" and resource.model:
        return f"{resource.model}__{name}"
    return name


def _asset_name(resource: _Resource, project: str) -> str:
    """Return a name that depends on nothing but the node: other DAGs refer to it. Airflow takes only ASCII."""
    package = "" if resource.package_name == project else f"{resource.package_name}/"
    return quote(f"dbt/{project}/{package}{_versioned_name(resource)}", safe=_ASCII)


def _versioned_name(resource: _Resource) -> str:
    return resource.name if resource.version is None else f"{resource.name}_v{resource.version}"


def _folder(resource: _Resource, project: str) -> str:
    folders = [_FLAT[resource.resource_type]] if resource.resource_type in _FLAT else _model_folders(resource)
    package = [] if resource.package_name == project else [resource.package_name]
    return "/".join([*package, *(folders or ["models"])])


def _model_folders(resource: _Resource) -> list[str]:
    # dbt: package, folders, name, and the version if there is one.
    return resource.fqn[1 : -1 if resource.version is None else -2]


def _relation(resource: _Resource) -> tuple[str, str, str]:
    identifier = resource.alias or resource.identifier or resource.name
    return resource.database or "", resource.schema or "", identifier


def _has_freshness(resource: _Resource) -> bool:
    rule = resource.freshness
    limits = (rule.warn_after, rule.error_after) if rule is not None else ()
    return any(limit is not None and limit.count is not None for limit in limits)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
