"""What a run of dbt tells, completed by what it leaves in its target folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from airflow_ext.dbt.artifacts import MANIFEST, RUN_RESULTS, SOURCES
from airflow_ext.dbt.child import counted, utc
from airflow_ext.dbt.results import BAD

GOOD = frozenset({"success", "pass", "warn", "skipped", "reused", "no-op"})
"""Statuses that need no explanation; all others are bad."""

COMPILED_LIMIT = 20_000
"""Characters kept of a node's SQL."""

FAILED_BATCHES = "failed batches: "
BATCHES = 10
"""Failed batches that are named."""

WARNINGS = 200
WARNING_LIMIT = 1_000

_NO_ADAPTER = re.compile(r"Could not find adapter type (?P<type>[\w-]+)")
_TESTS = ("test.", "unit_test.")
_TEXTS = frozenset({"message", "error", "compiled_code"})
"""Fields of a result that people read."""


class _Node(msgspec.Struct):
    path: str = ""
    original_file_path: str = ""
    package_name: str = ""
    relation_name: str | None = None


class _Manifest(msgspec.Struct):
    nodes: dict[str, _Node] = {}
    unit_tests: dict[str, _Node] = {}


class RunReader:
    """Take in the messages of one run.

    :param target: The run's target folder.
    :param command: The command.
    :param on_node: Gets each node once it is known, and again if the results have more of it.
    :param scrub: Takes secrets out of a text; messages are given without, files are not.
    """

    def __init__(
        self,
        target: Path,
        *,
        command: str,
        on_node: Callable[[Mapping[str, Any]], None],
        scrub: Callable[[str], str] = str,
    ) -> None:
        self.target = target
        self.command = command
        self._on_node = on_node
        self._scrub = scrub
        self._told: dict[str, dict[str, Any]] = {}
        self._output: list[str] = []
        self._warnings: dict[str, None] = {}
        self._errors: list[str] = []
        self._broken = False
        self._end: Mapping[str, Any] | None = None
        self._nodes: dict[str, _Node] | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What dbt warned of, each once."""
        return tuple(self._warnings)

    @property
    def result(self) -> list[str] | None:
        """What the command printed because that is its purpose."""
        return self._output if self.command in ("ls", "show") else None

    def take(self, message: Mapping[str, Any]) -> None:
        """Take in a message of the process other than a log line."""
        if "node" in message:
            self._tell(self._completed(dict(message["node"])))
        elif "warning" in message:
            self._warn(message["warning"])
        elif "output" in message:
            self._output.append(message["output"])
        elif "error" in message:
            self._errors.append(message["error"])
        elif "problem" in message:
            self._errors = [message["problem"]]
            self._broken = True
        elif "end" in message:
            self._end = message["end"]
            self._output = message["end"].get("listed", self._output)

    def clean(self) -> None:
        """Take secrets out of what people read of dbt's results, which are kept; call it when dbt has ended."""
        for path in (self.target / RUN_RESULTS, self.target / SOURCES):
            try:
                content = path.read_text(encoding="utf-8", errors="replace")
                if self._scrub(content) == content:
                    continue
                results = msgspec.json.decode(content)
                for result in results["results"]:
                    texts = {name: told for name in _TEXTS if isinstance(told := result.get(name), str)}
                    result.update((name, self._scrub(text)) for name, text in texts.items())
            except (FileNotFoundError, msgspec.DecodeError, KeyError, TypeError, AttributeError):
                continue
            path.write_bytes(msgspec.json.encode(results))

    def end(self, status: int | None) -> tuple[bool | None, str]:
        """Return whether all went well, and what kept dbt from coming to an end.

        :param status: Exit status of another environment's dbt, which says no more than that; ``None`` if dbt
            tells its end itself.
        :return: ``None`` in the first place if nothing is known.
        """
        if status is None:
            return (None, "") if self._end is None else (self._end["success"], self._end["problem"])
        statuses = [result["status"] for result in self._results()]
        statuses += [record["status"] for record in self._told.values()]
        if status == 0 and not self._broken:
            # A wrapper may lose dbt's status, for instance in a pipe.
            return BAD.isdisjoint(statuses), ""
        # Nodes that failed explain a 1, and then dbt has come to its end.
        if status == 1 and statuses and (not self._errors or any(each not in GOOD for each in statuses)):
            return False, ""
        problem = "\n".join(dict.fromkeys(self._errors[-5:]))
        return (False, problem) if problem else (None, "")

    def settle(self) -> None:
        """Tell what the results have beyond what was told: nodes that dbt skipped at its end, hooks, and more."""
        freshness = self.command == "source freshness"
        for result in self._results():
            told = self._told.get(result["id"])
            record = self._completed({**result, **(told or {})})
            if record != told:
                self._tell(record)
        for record in self._told.values():
            if freshness:
                self._on_node(record)
            if record["status"] == "warn":
                reason = record.get("message") or f"newest data from {record.get('max_loaded_at', 'unknown')}"
                self._warn(f"{record['id']}: {reason if freshness or 'message' in record else 'warn'}")

    def _tell(self, record: dict[str, Any]) -> None:
        self._told[record["id"]] = record
        # How fresh a source is stands only in the results.
        if self.command != "source freshness":
            self._on_node(record)

    def _warn(self, text: str) -> None:
        if len(self._warnings) < WARNINGS:
            self._warnings.setdefault(text[:WARNING_LIMIT])

    def _results(self) -> Iterator[dict[str, Any]]:
        name = SOURCES if self.command == "source freshness" else RUN_RESULTS
        try:
            results = json.loads((self.target / name).read_bytes())["results"]
        except (FileNotFoundError, ValueError, KeyError):
            return
        for result in results:
            yield _source(result) if name == SOURCES else _result(result)

    def _completed(self, record: dict[str, Any]) -> dict[str, Any]:
        unique_id, bad = record["id"], record["status"] not in GOOD
        test = unique_id.startswith(_TESTS)
        if "message" in record:
            record["message"] = self._without_places(record["message"])
        # The relation of a test is where its failing rows are stored, and only if they are.
        record.pop("relation" if test else "failures", None)
        if not bad and "failures" not in record:
            return record
        node = self._node(unique_id)
        if node is None:
            return record
        if test and node.relation_name:
            record["relation"] = node.relation_name
        failed = [str(start) for start, *_ in (record.get("batches") or {}).get("failed", ())]
        if failed and FAILED_BATCHES not in record.get("message", ""):
            shown = ", ".join(failed[:BATCHES]) + (" and more" if len(failed) > BATCHES else "")
            record["message"] = f"{record.get('message', '')}\n{FAILED_BATCHES}{shown}".strip()
        if bad and (sql := self._compiled(unique_id, node, failed)):
            record["compiled"] = sql
        return record

    def _without_places(self, message: str) -> str:
        # dbt names files of the target folder, which is gone when the message is read.
        place = f"compiled code at {self.target}"
        return "\n".join(line for line in message.split("\n") if not line.strip().startswith(place))

    def _node(self, unique_id: str) -> _Node | None:
        if not self._nodes:
            try:
                content = (self.target / MANIFEST).read_bytes()
                manifest = msgspec.json.decode(content, type=_Manifest)
            except (OSError, msgspec.DecodeError):
                return None
            self._nodes = {**manifest.nodes, **manifest.unit_tests}
        return self._nodes.get(unique_id)

    def _compiled(self, unique_id: str, node: _Node, failed_batches: Sequence[str]) -> str:
        place = self.target / "compiled" / node.package_name / node.original_file_path
        path = Path(node.path)
        candidates = [place if path.name == place.name else place / path]
        if unique_id.startswith("unit_test."):
            candidates = [place / "models" / f"{unique_id.rpartition('.')[2]}.sql"]
        # A microbatch has a file for each batch, named after its start; until the results are there it is not known
        # which of them failed.
        batches = sorted((place.parent / place.stem).glob(f"{place.stem}_*{place.suffix}"))
        start = re.sub(r"\D", "", failed_batches[0]) if failed_batches else None
        candidates += [path for path in batches if start is None or start.startswith(_batch(path, place))][:1]
        for candidate in candidates:
            # The manifest may be of packages that nobody has read: its paths lead nowhere else.
            if candidate.is_file() and candidate.resolve().is_relative_to(self.target.resolve()):
                return _cut(self._scrub(candidate.read_text(encoding="utf-8", errors="replace").strip()))
        return ""


def _batch(path: Path, of: Path) -> str:
    return re.sub(r"\D", "", path.stem.removeprefix(f"{of.stem}_"))


def told_well(problem: str) -> str:
    """Return what kept dbt from its end, with the way out where dbt does not name it.

    :param problem: dbt's words.
    """
    if missing := _NO_ADAPTER.search(problem):
        adapter = missing["type"]
        return f'{problem.strip()}\nThe profile is of type {adapter!r}; where dbt runs: pip install "dbt-{adapter}"'
    if "Couldn't find model '" in problem:
        return (
            f"{problem.strip()}\nThe project has changed since its manifest, or the run to go on from, was made: make the "
            "manifest anew with airflow-ext dbt index; an earlier run that names what is gone cannot be gone on with"
        )
    if "Could not find profile named" in problem:
        return f"{problem.strip()}\nGive DbtProject(profile_conn_id=...), or profiles_dir= with your profiles.yml"
    return problem


def _cut(text: str) -> str:
    if len(text) <= COMPILED_LIMIT:
        return text
    return f"{text[:COMPILED_LIMIT]}\n-- cut here; {len(text)} characters in all"


def _result(result: Mapping[str, Any]) -> dict[str, Any]:
    timing = [step for step in result.get("timing") or () if step.get("started_at")]
    batches = result.get("batch_results") or {}
    record = {
        "id": result["unique_id"],
        "status": str(result["status"]).lower(),
        "seconds": round(float(result.get("execution_time") or 0), 3),
        "started": utc(timing[0]["started_at"]) if timing else None,
        "ended": utc(timing[-1].get("completed_at")) if timing else None,
        "message": result.get("message"),
        "relation": result.get("relation_name"),
        "failures": result.get("failures"),
        "batches": batches if batches.get("successful") and batches.get("failed") else None,
    }
    record = {field: value for field, value in record.items() if value or field == "seconds"}
    return record | counted(result.get("adapter_response") or {})


def _source(result: Mapping[str, Any]) -> dict[str, Any]:
    record = {
        **_result(result),
        "message": result.get("error"),
        "max_loaded_at": result.get("max_loaded_at"),
        "age": result.get("max_loaded_at_time_ago_in_s"),
        "criteria": result.get("criteria"),
    }
    return {field: value for field, value in record.items() if value is not None}
