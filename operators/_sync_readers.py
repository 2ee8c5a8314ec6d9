"""Who builds on a table that a sync writes, as far as the DAG's author has said."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_ext.contracts import Contract
from airflow_ext.dbt.index import DbtNode
from airflow_ext.dbt.project import DbtProject

Reader = Contract | DbtProject

MODELS_NAMED = 5


def touched(table: str, readers: Sequence[Reader]) -> list[str]:
    """Return a line for each contract and dbt source that is about a table.

    :param table: ``schema.table`` in the destination, or only its name.
    :raises InvalidProjectError: If a dbt project has no usable manifest.
    """
    lines: list[str] = []
    for reader in readers:
        if isinstance(reader, Contract):
            if any(_same(table, promised.physical_name.split(".")) for promised in reader.tables):
                owner = f" of {reader.owner}" if reader.owner else ""
                lines.append(f"contract {reader.id} {reader.version}{owner}")
        else:
            lines += _sources(table, reader)
    return lines


def _sources(table: str, project: DbtProject) -> list[str]:
    index = project.index()
    nodes = (*index.nodes, *index.extras)
    return [
        f"dbt source {'.'.join(node.unique_id.split('.')[2:])}{_models(node, nodes)}"
        for node in nodes
        if node.kind == "source" and _same(table, [part for part in node.relation if part])
    ]


def _models(source: DbtNode, nodes: Sequence[DbtNode]) -> str:
    names = [node.name for node in nodes if source.unique_id in (*node.parents, *node.sources)]
    if not names:
        return ""
    more = f" and {len(names) - MODELS_NAMED} more" if len(names) > MODELS_NAMED else ""
    return f", read by {', '.join(names[:MODELS_NAMED])}{more}"


def _same(table: str, parts: Sequence[str]) -> bool:
    """Compare two names of a table by what both of them say, from the end."""
    mine = [part.lower() for part in table.split(".")]
    theirs = [part.strip('"`').lower() for part in parts]
    shorter = min(len(mine), len(theirs))
    return shorter > 0 and mine[-shorter:] == theirs[-shorter:]
