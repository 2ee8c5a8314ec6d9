"""What became of the nodes of a build, over all its tries.

dbt tells of models and tests one by one. People look at nodes, so tests are folded into the node they
belong to: a node is done when it and its tests are, and its state is the worst of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

from airflow_ext.dbt.index import DbtIndex, DbtNode

GOOD = frozenset({"success", "pass", "warn", "reused", "no-op"})
BAD = frozenset({"error", "fail", "runtime error", "partial success"})

MESSAGE_LIMIT = 2_000
"""Characters kept of one message of dbt."""


class NodeRecord(TypedDict, total=False):
    """The last that dbt told of one id."""

    status: str
    seconds: float
    started: str
    message: str
    rows: int
    failures: int


class Outcome(TypedDict, total=False):
    """The settled state of one node with its tests, as node tasks read it."""

    state: Literal["success", "failed", "skipped"]
    message: str
    started: str
    seconds: float
    rows: int
    tests: dict[str, int]


class NodeBoard:
    """Collect records and say what they mean for each node.

    :param index: The graph; ``None`` when only dbt's own ids are of interest.
    :param records: Records of earlier tries. What went badly is forgotten: it is about to run again, and
        must not be told as this try's result.
    """

    def __init__(self, index: DbtIndex | None, records: Mapping[str, NodeRecord] | None = None) -> None:
        self.index = index
        self.records: dict[str, NodeRecord] = {
            unique_id: record for unique_id, record in (records or {}).items() if record["status"] in GOOD
        }
        self.changes = 0

    def add(self, message: Mapping[str, Any]) -> None:
        """Take in a ``node`` message of the child process."""
        record = NodeRecord(status=str(message["status"]).lower())
        if text := str(message.get("message") or ""):
            record["message"] = text[:MESSAGE_LIMIT]
        for field in ("seconds", "started", "rows", "failures"):
            if message.get(field) is not None:
                record[field] = message[field]
        self.records[message["id"]] = record
        self.changes += 1

    def failed(self) -> list[str]:
        """Return the ids of everything that failed, tests included."""
        return sorted(unique_id for unique_id, record in self.records.items() if record["status"] in BAD)

    def built(self) -> list[DbtNode]:
        """Return the nodes that were really built, tests not considered."""
        if self.index is None:
            return []
        return [
            node
            for node in self.index.nodes
            if node.runs and self.records.get(node.unique_id, {}).get("status") in GOOD
        ]

    def remaining(self) -> list[str]:
        """Return the ids that a next try has to run: all of a whole build but those that went well."""
        if self.index is None:
            return []
        return [
            unique_id
            for unique_id in self.index.executed()
            if self.records.get(unique_id, {}).get("status") not in GOOD
        ]

    def uncovered_failures(self) -> list[str]:
        """Return failed ids that no node shows, such as hooks and tests of nothing."""
        if self.index is None:
            return self.failed()
        shown = {node.unique_id for node in self.index.nodes}
        shown.update(test for node in self.index.nodes for test in node.tests)
        return [unique_id for unique_id in self.failed() if unique_id not in shown]

    def outcomes(self, *, over: bool) -> dict[str, Outcome]:
        """Return the settled nodes by id.

        :param over: dbt came to an end: a test without a result will not get one any more.
        """
        outcomes = {}
        for node in self.index.nodes if self.index is not None else ():
            outcome = self._outcome(node, over=over)
            if outcome is not None:
                outcomes[node.unique_id] = outcome
        return outcomes

    def explain(self, ids: Iterable[str]) -> str:
        """Return dbt's messages for ids, one paragraph each."""
        return "\n".join(
            f"{unique_id}: {self.records[unique_id].get('message') or self.records[unique_id]['status']}"
            for unique_id in ids
        )

    def stored(self) -> dict[str, Any]:
        """Return the records without messages and, for tests, without more than the status."""
        return {
            unique_id: {
                field: value
                for field, value in record.items()
                if field == "status"
                or (field != "message" and not unique_id.startswith(("test.", "unit_test.")))
            }
            for unique_id, record in self.records.items()
        }

    def _outcome(self, node: DbtNode, *, over: bool) -> Outcome | None:
        own = self.records.get(node.unique_id)
        status = own["status"] if own is not None else None
        tests = {test: self.records[test]["status"] for test in node.tests if test in self.records}
        bad_tests = [test for test, result in tests.items() if result in BAD]
        if node.runs and status is None:
            return None
        if len(tests) < len(node.tests) and not over and status not in BAD:
            return None
        outcome = Outcome(state="success")
        if status in BAD or bad_tests:
            # A failing unit test comes before its model, which dbt then skips: still a failure.
            outcome["state"] = "failed"
            outcome["message"] = self.explain([*([node.unique_id] if status in BAD else []), *bad_tests])
        elif status == "skipped" or (not node.runs and tests and set(tests.values()) == {"skipped"}):
            outcome["state"] = "skipped"
        elif not node.runs and not tests:
            return None
        if own is not None:
            for field in ("started", "seconds", "rows"):
                if field in own:
                    outcome[field] = own[field]
        if tests:
            counts = outcome.setdefault("tests", {})
            for result in tests.values():
                counts[result] = counts.get(result, 0) + 1
        return outcome


def describe(unique_id: str, outcome: Outcome) -> str:
    """Return an outcome as lines for a log.

    :param unique_id: The node.
    :param outcome: Its outcome.
    """
    facts = [f"{unique_id}: {outcome['state']}"]
    if "started" in outcome:
        facts.append(f"started {outcome['started']}, took {outcome.get('seconds', 0):.2f} s")
    if "rows" in outcome:
        facts.append(f"{outcome['rows']} rows")
    if outcome.get("tests"):
        facts.append("tests: " + ", ".join(f"{count} {state}" for state, count in outcome["tests"].items()))
    text = "; ".join(facts)
    return f"{text}\n{outcome['message']}" if outcome.get("message") else text
