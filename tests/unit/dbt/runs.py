"""Real runs of dbt, shared by the tests of what runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_ext.dbt.runner import DbtEnd, DbtRun, RunSettings

EXTRA = """
version: 2
sources:
  - name: raw
    schema: main
    tables:
      - name: raw_orders
        loaded_at_field: "timestamptz '2026-01-01 00:00:00Z'"
        freshness: {error_after: {count: 1, period: day}}
      - name: raw_payments
        loaded_at_field: now()
        freshness: {warn_after: {count: 2, period: hour}}
      - name: nowhere
        loaded_at_field: now()
        freshness: {warn_after: {count: 1, period: hour}}
models:
  - name: stg_orders
    columns:
      - name: customer_id
        data_tests:
          - unique: {config: {severity: warn}}
  - name: top_customer
    columns:
      - name: name
        data_tests:
          - accepted_values:
              name: nobody
              arguments: {values: [nobody]}
              config: {store_failures: true}
"""


@dataclass
class Done:
    """What a run told."""

    end: DbtEnd
    nodes: list[dict[str, Any]]
    log: str
    files: set[str]

    @property
    def by_name(self) -> dict[str, dict[str, Any]]:
        """The last that was told of each id, by its name."""
        return {node["id"].split(".")[2]: node for node in self.nodes}

    def states(self) -> dict[str, str]:
        return {name: node["status"] for name, node in self.by_name.items()}


def run(project: Path, command: str = "build", **values: Any) -> Done:
    """Run a command; what is no argument of DbtRun is one of the settings."""
    names = {"flags", "words", "only", "batches"}
    own = {name: values.pop(name) for name in names & set(values)}
    nodes: list[dict[str, Any]] = []
    lines: list[str] = []

    def on_node(node: Mapping[str, Any]) -> None:
        nodes.append(dict(node))

    with DbtRun(RunSettings(project, project, **values), command, **own) as dbt:
        end = dbt.run(on_log=lines.append, on_node=on_node, on_tick=lambda: None)
        files = {str(path.relative_to(end.target)) for path in end.target.rglob("*")}
    assert not end.target.exists()
    return Done(end, nodes, "\n".join(lines), files)


def query(sql: str) -> list[Any]:
    import duckdb

    with duckdb.connect(os.environ["SHOP_DUCKDB"]) as db:
        return db.execute(sql).fetchall()


def tree(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))
