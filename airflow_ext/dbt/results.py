"""What became of the nodes of a build, over all its tries.

dbt tells of models and tests one by one. People look at tasks, so tests are folded into the node they
belong to, and nodes into their unit (a node, a test or a folder): a unit is done when all of it is,
and its state is the worst of theirs.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from airflow_ext.dbt.index import DbtIndex, DbtNode
from airflow_ext.dbt.units import DbtUnit

GOOD = frozenset({"success", "pass", "warn", "reused", "no-op"})
_NOT_BUILT = frozenset({"reused", "no-op"})
"""Good statuses of what dbt 2 found unchanged, or had nothing to do for."""
BAD = frozenset({"error", "fail", "runtime error", "partial success"})

MESSAGE_LIMIT = 2_000
"""Characters kept of one message of dbt."""
SQL_LIMIT = 4_000
"""Characters kept of one compiled query."""
FAILURE_LIMIT = 20
"""Failures of one unit that are told one by one."""

_KINDS_OF: Mapping[str, frozenset[str]] = {
    "build": frozenset({"model", "seed", "snapshot", "test", "unit_test", "function"}),
    "run": frozenset({"model"}),
    "seed": frozenset({"seed"}),
    "snapshot": frozenset({"snapshot"}),
    "test": frozenset({"test", "unit_test"}),
}
_TEST_PREFIXES = ("test.", "unit_test.")
_BUILT_PREFIXES = ("model.", "seed.", "snapshot.")


class NodeRecord(TypedDict, total=False):
    """The last that dbt told of one id."""

    status: str
    seconds: float
    started: str
    message: str
    rows: int
    bytes: int
    failures: int
    compiled: str
    max_loaded_at: str
    age: float
    batches: Mapping[str, Any]


_RECORD_FIELDS = tuple(name for name in NodeRecord.__annotations__ if name not in ("status", "message"))
_FACTS = ("started", "seconds", "rows", "bytes")


class Failure(TypedDict, total=False):
    """One id that ended badly, or with a warning, as people are told.

    ``rows`` are the rows that failed a test, ``compiled`` is the query.
    """

    id: str
    status: str
    message: str
    rows: int
    compiled: str


NodeLine = list[Any]
"""``[id, status, started, seconds, rows, {test status: count}]`` of one node; what is not known is ``None``."""


class Outcome(TypedDict, total=False):
    """The settled state of one unit, as node tasks and the page read it."""

    state: Literal["success", "failed", "skipped"]
    nodes: list[NodeLine]
    failures: list[Failure]
    warnings: list[Failure]


class NodeBoard:
    """Collect records and say what they mean for each unit.

    :param index: The graph; ``None`` when only dbt's own ids are of interest.
    :param records: Records of earlier tries. What went badly is forgotten: it is about to run again, and
        must not be told as this try's result.
    :param command: dbt's command, which decides what there is to do.
    :param without: Kinds that are not run, such as ``test``.
    :param keep_failed_tests: Failed tests of earlier tries stand, and what is below them is not run.
    :param ended: dbt came to a good end in an earlier try: all records stand, there is nothing left for it to do.
    """

    def __init__(
        self,
        index: DbtIndex | None,
        records: Mapping[str, NodeRecord] | None = None,
        *,
        command: str = "build",
        without: Iterable[str] = (),
        keep_failed_tests: bool = False,
        ended: bool = False,
    ) -> None:
        self.index = index
        self.ended = ended
        self.awaited: frozenset[str] = frozenset()
        """Ids that are not settled before something was told of them: sources whose freshness is checked."""
        self.keep_failed_tests = keep_failed_tests
        self._kinds = _KINDS_OF[command] - set(without)
        self.records: dict[str, NodeRecord] = {
            unique_id: record
            for unique_id, record in (records or {}).items()
            if ended or record["status"] in GOOD or (keep_failed_tests and _is_failed_test(unique_id, record))
        }
        self.batches: dict[str, Mapping[str, Any]] = {
            unique_id: record["batches"]
            for unique_id, record in (records or {}).items()
            if record["status"] in BAD and "batches" in record
        }
        """Of microbatch models that went well in part: which batches did, so that a retry leaves them alone."""
        self.changes = 0

    def add(self, message: Mapping[str, Any]) -> None:
        """Take in a ``node`` message of the dbt process."""
        record = NodeRecord(status=str(message["status"]).lower())
        if text := str(message.get("message") or ""):
            record["message"] = _storable(text[:MESSAGE_LIMIT])
        for field in _RECORD_FIELDS:
            if message.get(field) is not None:
                record[field] = message[field]  # type: ignore[literal-required]  # the names are the record's own
        if "compiled" in record:
            record["compiled"] = _storable(record["compiled"])
        self.records[message["id"]] = record
        if "batches" in record:
            self.batches[message["id"]] = record["batches"]
        elif record["status"] in GOOD:
            self.batches.pop(message["id"], None)
        self.changes += 1

    def failed(self) -> list[str]:
        """Return the ids of everything that failed, tests included."""
        return sorted(unique_id for unique_id, record in self.records.items() if record["status"] in BAD)

    def warned(self) -> list[str]:
        """Return the ids that ended with a warning."""
        return sorted(unique_id for unique_id, record in self.records.items() if record["status"] == "warn")

    def good(self) -> dict[str, dict[str, Any]]:
        """Return the nodes that were really built and whose tests went well; tests that were skipped say nothing.

        :return: By id what is known of the build: ``started``, ``seconds``, ``rows``, ``bytes``, and ``tests`` as counts
            by status.
        """
        found = {}
        for node in self.index.nodes if self.index is not None else ():
            if not node.runs or self._state(node, node.tests, over=True) != "success":
                continue
            if any(self._is_unsaid(test) for test in node.tests):
                continue
            own = self.records.get(node.unique_id, NodeRecord())
            if own.get("status") in _NOT_BUILT:
                continue
            facts: dict[str, Any] = {name: value for name, value in own.items() if name in _FACTS}
            if tests := self._test_counts(node.tests):
                facts["tests"] = tests
            found[node.unique_id] = facts
        return found

    def work(self) -> list[str]:
        """Return the ids of everything that the whole command runs."""
        if self.index is None:
            return []
        return [unique_id for unique_id in self.index.executed() if unique_id.split(".")[0] in self._kinds]

    def remaining(self) -> list[str]:
        """Return the ids that a next try has to run: all of the work but what stands."""
        blocked = self._blocked()
        return [
            unique_id
            for unique_id in self.work()
            if unique_id not in blocked
            and self.records.get(unique_id, {}).get("status") not in GOOD
            and not self._stands(unique_id)
        ]

    def worth_retrying(self) -> bool:
        """Tell whether a next try would run anything, after this one went badly."""
        failed = self.failed()
        return (
            not self.keep_failed_tests
            or not failed
            or bool(self.remaining())
            or not all(unique_id.startswith(_TEST_PREFIXES) for unique_id in failed)
        )

    def unknown(self) -> list[str]:
        """Return the ids of what dbt built though the index does not have it, as it is older than the project."""
        known = {node.unique_id for node in self.index.nodes} if self.index is not None else None
        return (
            []
            if known is None
            else sorted(
                unique_id
                for unique_id in self.records
                if unique_id.startswith(_BUILT_PREFIXES) and unique_id not in known
            )
        )

    def uncovered_failures(self) -> list[str]:
        """Return failed ids that no node shows, such as hooks and tests of nothing."""
        if self.index is None:
            return self.failed()
        shown = {node.unique_id for node in (*self.index.nodes, *self.index.extras)}
        shown.update(test for node in self.index.nodes for test in node.tests)
        return [unique_id for unique_id in self.failed() if unique_id not in shown]

    def outcomes(self, units: Sequence[DbtUnit], *, over: bool) -> dict[str, Outcome]:
        """Return the settled units by label.

        :param units: Parents before children.
        :param over: dbt came to an end: what has no result will not get one any more.
        """
        outcomes: dict[str, Outcome] = {}
        for unit in units:
            outcome = self._outcome(unit, over=over)
            if outcome is None and (over or self._stands_alone(unit)) and not self._has_work(unit):
                # An exposure or a source without tests has no state but that of what it stands on; what stands on
                # nothing does not wait for a build that may break.
                good = all(outcomes.get(up, {}).get("state") == "success" for up in unit.parents)
                lines = [[node.unique_id, None, None, None, None, None] for node in unit.nodes]
                outcome = Outcome(state="success" if good else "skipped", nodes=lines)
            if outcome is not None:
                outcomes[unit.label] = outcome
        return outcomes

    def failures(self, ids: Iterable[str]) -> list[Failure]:
        """Return what is to be told of ids that ended badly, or with a warning."""
        told = []
        for unique_id in ids:
            record = self.records[unique_id]
            failure = Failure(id=unique_id, status=record["status"])
            if "message" in record:
                failure["message"] = record["message"]
            if "failures" in record:
                failure["rows"] = record["failures"]
            if "compiled" in record:
                failure["compiled"] = record["compiled"][:SQL_LIMIT]
            told.append(failure)
            if len(told) == FAILURE_LIMIT:
                break
        return told

    def explain(self, ids: Iterable[str]) -> str:
        """Return dbt's messages for ids, one paragraph each."""
        return "\n".join(
            f"{unique_id}: {self.records[unique_id].get('message') or self.records[unique_id]['status']}"
            for unique_id in ids
        )

    def packed(self) -> str:
        """Return the records as text for :func:`unpacked`, without what only people read."""
        columns: list[list[Any]] = [list(self.records)]
        columns.append([record["status"] for record in self.records.values()])
        # Of a test the status is enough.
        built = {
            unique_id: {} if unique_id.startswith(_TEST_PREFIXES) else record
            for unique_id, record in self.records.items()
        }
        columns += [[record.get(field) for record in built.values()] for field in _FACTS]
        content = [*columns, self.batches]
        # A task's state store takes 64 KB per value: thousands of nodes only fit by columns and compressed.
        text = json.dumps(content, separators=(",", ":"))
        return base64.b85encode(zlib.compress(text.encode(), level=6)).decode()

    def _stands(self, unique_id: str) -> bool:
        record = self.records.get(unique_id)
        return self.keep_failed_tests and record is not None and _is_failed_test(unique_id, record)

    def _blocked(self) -> set[str]:
        """Return the ids below nodes whose failed tests stand."""
        if self.index is None or not self.keep_failed_tests:
            return set()
        bad = {node.unique_id for node in self.index.nodes if any(map(self._stands, node.tests))}
        blocked: set[str] = set()
        for node in self.index.nodes:
            if blocked.union(bad).intersection(node.parents):
                blocked.add(node.unique_id)
        return blocked | {
            test for node in self.index.nodes if node.unique_id in blocked for test in node.tests
        }

    def _is_unsaid(self, test: str) -> bool:
        """Tell whether a test that the command runs came to no verdict: it was skipped, or dbt stopped before it."""
        status = self.records.get(test, {}).get("status", "skipped")
        return status == "skipped" and test.split(".")[0] in self._kinds

    def _test_counts(self, tests: Iterable[str]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for test in tests:
            if test in self.records:
                status = self.records[test]["status"]
                counts[status] = counts.get(status, 0) + 1
        return counts

    def _stands_alone(self, unit: DbtUnit) -> bool:
        return not unit.parents and self.awaited.isdisjoint(node.unique_id for node in unit.nodes)

    def _has_work(self, unit: DbtUnit) -> bool:
        return any(node.runs or node.unique_id in self.records for node in unit.nodes) or bool(unit.tests)

    def _state(
        self, node: DbtNode, tests: Sequence[str], *, over: bool
    ) -> Literal["success", "failed", "skipped"] | None:
        own = self.records.get(node.unique_id)
        status = own["status"] if own is not None else None
        results = [self.records[test]["status"] for test in tests if test in self.records]
        if status is None and (node.runs or (node.unique_id in self.awaited and not over)):
            return None
        if len(results) < len(tests) and not over and status not in BAD:
            return None
        if status in BAD or BAD.intersection(results):
            # A failing unit test comes before its model, which dbt then skips: still a failure.
            return "failed"
        if status == "skipped" or (status is None and results and set(results) == {"skipped"}):
            return "skipped"
        return None if status is None and not results else "success"

    def _outcome(self, unit: DbtUnit, *, over: bool) -> Outcome | None:
        shown = set(unit.tests)
        lines: list[NodeLine] = []
        states: list[str] = []
        told: list[str] = []
        for node in unit.nodes:
            tests = [test for test in node.tests if test in shown]
            shown.difference_update(tests)
            state = self._state(node, tests, over=over)
            if state is None:
                if not over and (node.runs or tests):
                    return None
                continue
            states.append(state)
            own = self.records.get(node.unique_id, NodeRecord(status=""))
            lines.append(
                [
                    node.unique_id,
                    own["status"] or state,
                    *(own.get(field) for field in ("started", "seconds", "rows")),
                    self._test_counts(tests) or None,
                ]
            )
            told += [name for name in (node.unique_id, *tests) if name in self.records]
        for test in unit.tests:
            if test not in shown:
                continue
            record = self.records.get(test)
            if record is None:
                if not over:
                    return None
                continue
            status = record["status"]
            states.append("failed" if status in BAD else "skipped" if status == "skipped" else "success")
            lines.append([test, status, record.get("started"), record.get("seconds"), None, None])
            told.append(test)
        if not states:
            return None
        worst = next((state for state in ("failed", "skipped") if state in states), "success")
        outcome = Outcome(state=worst, nodes=lines)  # type: ignore[typeddict-item]  # one of the three
        if bad := [name for name in told if self.records[name]["status"] in BAD]:
            outcome["failures"] = self.failures(bad)
        if warned := [name for name in told if self.records[name]["status"] == "warn"]:
            outcome["warnings"] = self.failures(warned)
        return outcome


def unpacked(text: str) -> dict[str, NodeRecord]:
    """Return the records that :meth:`NodeBoard.packed` wrote."""
    ids, statuses, *facts, batches = json.loads(zlib.decompress(base64.b85decode(text)))
    records = {unique_id: NodeRecord(status=status) for unique_id, status in zip(ids, statuses, strict=True)}
    for field, values in zip(_FACTS, facts, strict=True):
        for record, value in zip(records.values(), values, strict=True):
            if value is not None:
                record[field] = value  # type: ignore[literal-required]  # the names are the record's own
    for unique_id, told in batches.items():
        records.setdefault(unique_id, NodeRecord(status="partial success"))["batches"] = told
    return records


def _storable(text: str) -> str:
    """Return a text without what a JSON of PostgreSQL refuses, and a build shall not fail for: NUL, half characters."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _is_failed_test(unique_id: str, record: NodeRecord) -> bool:
    return unique_id.startswith(_TEST_PREFIXES) and record["status"] in BAD
