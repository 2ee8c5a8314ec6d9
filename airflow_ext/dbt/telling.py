"""How what became of nodes is told: to people as text, and to who emits events for a build that ended badly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from airflow_ext.dbt.results import NodeRecord

if TYPE_CHECKING:
    from airflow_ext.dbt.index import DbtIndex
    from airflow_ext.dbt.results import Failure, Outcome


def describe(label: str, outcome: Outcome) -> str:
    """Return an outcome as lines for a log.

    :param label: The unit.
    :param outcome: Its outcome.
    """
    lines = outcome.get("nodes", [])
    text = [] if len(lines) == 1 else [f"{label}: {outcome['state']}, {len(lines)} nodes"]
    for unique_id, status, started, seconds, rows, tests in lines:
        # A node that went well is failed by its tests; a test or a source that warns is a success that is to be seen.
        own = len(lines) > 1 or (status == "warn" and outcome["state"] == "success")
        facts = [f"{unique_id}: {status if own else outcome['state']}"]
        if started and status != "skipped":
            facts.append(f"started {started}, took {seconds or 0:.2f} s")
        if rows is not None:
            facts.append(f"{rows} row{'' if rows == 1 else 's'}")
        if tests:
            facts.append("tests: " + ", ".join(f"{count} {status}" for status, count in tests.items()))
        text.append("; ".join(facts))
    for failure in outcome.get("failures", []):
        text.append(_told(failure))
        if failure.get("compiled"):
            text.append(f"Compiled SQL of {failure['id']}:\n{failure['compiled'].strip()}")
    text += [f"Warning: {_told(warning)}" for warning in outcome.get("warnings", [])]
    return "\n".join(text)


def records_told(index: DbtIndex, outcomes: Mapping[str, Outcome]) -> dict[str, NodeRecord]:
    """Return of told outcomes the records, as far as they say which nodes were built well.

    Of the tests of a node only the number by status is told, so which of them had which is not to be relied on.

    :param index: The graph.
    :param outcomes: Settled units by label, as :meth:`NodeBoard.outcomes` returned them.
    """
    tests = {node.unique_id: node.tests for node in index.nodes}
    records: dict[str, NodeRecord] = {}
    for outcome in outcomes.values():
        for unique_id, status, started, seconds, rows, counts in outcome["nodes"]:
            facts = {"status": status, "started": started, "seconds": seconds, "rows": rows}
            records[unique_id] = cast(
                "NodeRecord", {name: fact for name, fact in facts.items() if fact is not None}
            )
            told = [status for status, count in (counts or {}).items() for _ in range(count)]
            for test, one in zip(tests.get(unique_id, ()), told, strict=False):
                records[test] = NodeRecord(status=one)
    return records


def _told(failure: Failure) -> str:
    rows = failure.get("rows", 0)
    rows_text = f" ({rows} failing row{'' if rows == 1 else 's'})" if rows else ""
    return f"{failure['id']}{rows_text}: {failure.get('message') or failure['status']}"
