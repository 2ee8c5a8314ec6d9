"""The events of a group's nodes: who emits them is a task that ends green."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

from airflow_ext.dbt.telling import records_told

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from airflow_ext.dbt.index import DbtNode
    from airflow_ext.dbt.project import DbtProject
    from airflow_ext.dbt.results import NodeBoard, Outcome
    from airflow_ext.operators._dbt_group import DbtGroupBuildOperator


def emit_nodes(
    context: Context, builder: DbtGroupBuildOperator, good: Mapping[str, Mapping[str, Any]]
) -> list[Any]:
    """Emit the events of what was built well and return the outlets to set.

    :param context: Context of the calling task.
    :param builder: The group's build task, with its arguments rendered.
    :param good: Facts for the events by id of the node.
    """
    from airflow_ext.events import Event, emit, partition_of

    if not builder.emits:
        return []
    nodes = [node for unit in builder.units for node in unit.assets if node.unique_id in good]
    events = [
        Event(asset=asset_of(builder.project, node), extra=dict(good[node.unique_id])) for node in nodes
    ]
    return list(
        emit(context, events, alias=builder.alias, partition=partition_of(context, builder.partition))
    )


def loose_in(board: NodeBoard, outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, Any]]:
    """Return the facts of what is built well in units that are not settled, such as folders in which dbt still is.

    :param board: The board of the running build.
    :param outcomes: Its settled units by label.
    """
    settled = {line[0] for one in outcomes.values() for line in one["nodes"]}
    return {unique_id: facts for unique_id, facts in board.good().items() if unique_id not in settled}


def good_in(
    builder: DbtGroupBuildOperator, payload: Mapping[str, Any], *, without: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return the facts of what is built well as the XCom of a task that failed tells it.

    :param builder: The group's build task.
    :param payload: The XCom.
    :param without: Labels of units that are left out.
    """
    index = builder.index()
    told = builder.new_board(records_told(index, payload["units"]), index, ended=True)
    left_out = {node.unique_id for unit in builder.units if unit.label in without for node in unit.nodes}
    good = {**told.good(), **payload.get("loose", {})}
    return {unique_id: facts for unique_id, facts in good.items() if unique_id not in left_out}


def asset_of(project: DbtProject, node: DbtNode) -> Asset:
    """Return the asset of a node."""
    name, uri = project.asset(node)
    return Asset(name=name) if uri is None else Asset(name=name, uri=uri)
