"""Manifests written by hand, as small as a test needs them."""

from __future__ import annotations

import json
from typing import Any

from airflow_ext.dbt.index import DbtIndex
from airflow_ext.dbt.manifest import read_index

V12 = "https://schemas.getdbt.com/dbt/manifest/v12.json"


def resource(kind: str, name: str, *parents: str, **more: Any) -> dict[str, Any]:
    """A model, test or the like of package ``p``, made from the ids ``parents``."""
    package = more.get("package_name", "p")
    return {
        "unique_id": f"{kind}.{package}.{name}",
        "name": name,
        "package_name": package,
        "resource_type": kind,
        "depends_on": {"nodes": list(parents)},
        **more,
    }


def model(name: str, *parents: str, folder: str = "", **more: Any) -> dict[str, Any]:
    """A model in a folder, made from the models ``parents``."""
    package = more.get("package_name", "p")
    fqn = [package, *folder.split("/"), name] if folder else [package, name]
    return resource("model", name, *(f"model.p.{one}" for one in parents), fqn=fqn, **more)


def source(name: str, **more: Any) -> dict[str, Any]:
    """A table of the source ``raw``."""
    return resource("source", name, source_name="raw", **more) | {"unique_id": f"source.p.raw.{name}"}


def manifest(*resources: dict[str, Any], schema: str = V12, **more: Any) -> bytes:
    """The content of a manifest."""
    groups: dict[str, Any] = {
        name: {} for name in ("nodes", "sources", "exposures", "functions", "unit_tests")
    }
    homes = {name.removesuffix("s"): name for name in groups}
    for one in resources:
        groups[homes.get(one["resource_type"], "nodes")][one["unique_id"]] = one
    metadata = {"dbt_schema_version": schema, "dbt_version": "1.11", "project_name": "p"}
    return json.dumps({"metadata": metadata, **groups, **more}).encode()


def read(*resources: dict[str, Any], schema: str = V12, **more: Any) -> DbtIndex:
    """The index of a manifest with these resources."""
    return read_index(manifest(*resources, schema=schema, **more), key="k", source="manifest.json")
