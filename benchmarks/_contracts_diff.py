"""How our grades of changes agree with ``datacontract breaking``, from either side's view.

Every pair of :mod:`benchmarks._contracts_pairs` is graded by both. Where they differ, one of the kinds of change in it
must be in the table of intended differences of ``docs/contracts-change.md``, which is read here.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from airflow_ext.contracts.diff import Comparison, compare_texts
from airflow_ext.contracts.grades import Grade
from benchmarks._contracts_pairs import PAIRS, documents
from benchmarks.peers import peer_python
from benchmarks.report import Report

PAGE = Path(__file__).parents[1] / "docs" / "contracts-change.md"
HEADING = "## Where it differs from `datacontract breaking`"
REQUIREMENT = "datacontract-cli>=1.2.8,<1.3"
CHECKED_BY_COMMAND = ("column removed", "column added", "INTEGER to BIGINT", "team renamed")
_PEER = """
import json, sys
from datacontract.data_contract import DataContract
from datacontract.model.breaking import Perspective
found = {}
for name, (old, new) in json.load(sys.stdin).items():
    found[name] = {
        perspective.value: DataContract(data_contract_str=old).breaking(
            DataContract(data_contract_str=new), perspective=perspective
        ).is_breaking
        for perspective in Perspective
    }
print("FOUND" + json.dumps(found))
"""
Grades = tuple[bool, bool]
"""Whether a change breaks consumers, and whether it breaks the producer."""


def intended() -> dict[str, str]:
    """Return the kinds of change that are graded otherwise on purpose, each with the reason."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(HEADING)
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", section.partition("\n## ")[0], re.MULTILINE)
    return dict(rows)


def texts() -> dict[str, tuple[str, str]]:
    """Return both versions of each pair as YAML."""
    found = {}
    for name in PAIRS:
        old, new = (yaml.safe_dump(document, sort_keys=False) for document in documents(name))
        found[name] = (old, new)
    return found


def ours(comparison: Comparison) -> Grades:
    """Return what we say."""
    changes = comparison.changes
    return (
        any(change.consumer is Grade.BREAKING for change in changes),
        any(change.producer is Grade.BREAKING for change in changes),
    )


def theirs(pairs: Mapping[str, tuple[str, str]], python: Path) -> dict[str, Grades]:
    """Return what the peer says, asked in one process of its environment.

    :param python: Interpreter of the peer's environment.
    """
    done = subprocess.run(
        [str(python), "-c", _PEER],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    answers = json.loads(line.removeprefix("FOUND"))
    return {name: (said["consumer"], said["producer"]) for name, said in answers.items()}


def by_command(old: str, new: str, python: Path) -> bool:
    """Return whether the peer's own command ends with 1 for consumers."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("old.yaml", "new.yaml")]
        for path, text in zip(paths, (old, new), strict=True):
            path.write_text(text, encoding="utf-8")
        command = [str(python.with_name("datacontract")), "breaking", *map(str, paths)]
        return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 1


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Compare all pairs and return the figures: pairs, agreements, intended and unintended differences.

    :param say: Shows progress.
    """
    python = peer_python("datacontract", [REQUIREMENT], airflow=False)
    pairs, reasons = texts(), intended()
    said = theirs(pairs, python)
    for name in CHECKED_BY_COMMAND:
        if by_command(*pairs[name], python) is not said[name][0]:
            raise AssertionError(f"{name}: the command and its library differ")
    differing: dict[str, Any] = {}
    unintended: list[str] = []
    for name, (old, new) in pairs.items():
        compared = compare_texts(old, new)
        if (mine := ours(compared)) == said[name]:
            continue
        kinds = sorted({change.kind for change in compared.changes})
        differing[name] = {"ours": mine, "datacontract": said[name], "kinds": kinds}
        if not set(kinds) & set(reasons):
            unintended.append(name)
        say(
            f"{'  ' if set(kinds) & set(reasons) else '! '}{name}: ours {mine}, datacontract {said[name]}, {kinds}"
        )
    say(f"{len(pairs)} pairs, {len(pairs) - len(differing)} agree, {len(unintended)} differ without a reason")
    return {
        "pairs": len(pairs),
        "agree": len(pairs) - len(differing),
        "intended": len(differing) - len(unintended),
        "unintended": unintended,
        "differing": differing,
    }


def diff_part(report: Report, *, quick: bool) -> None:
    """Add the bars of grading changes.

    :param quick: Nothing: the other program has an environment of its own.
    """
    if quick:
        report.skip("changes graded as datacontract breaking grades them")
        return
    found = measure(report.say)
    report.bar(
        "changes graded unlike datacontract breaking, without a written reason",
        len(found["unintended"]),
        "==",
        0,
        unit="pairs",
        peers={name: found[name] for name in ("pairs", "agree", "intended")},
    )
