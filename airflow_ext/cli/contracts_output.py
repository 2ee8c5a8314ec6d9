"""What the contract commands print: text for people, JSON, JUnit and SARIF for tools."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from airflow_ext import __version__

FORMATS = ("text", "json", "junit", "sarif")
_COLOURS = {"error": "1;31", "warning": "33", "note": "36", "ok": "32", "head": "1", "dim": "2"}
_MAX_WIDTH = 120
PIPE_WIDTH = 110
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True)
class Finding:
    """One line for a tool.

    :param rule: Stable name of what it is.
    :param level: ``error``, ``warning`` or ``note``.
    :param message: What it is, one line.
    :param file: The file it is about, empty for none.
    :param line: Line in it, 0 for none.
    :param subject: What it belongs to, such as the contract's id.
    """

    rule: str
    level: str
    message: str
    file: str = ""
    line: int = 0
    subject: str = ""


class Printer:
    """Write lines for people: wrapped to the terminal, coloured only there.

    :param stream: Where to, standard output if ``None``.
    """

    def __init__(self, stream: Any = None) -> None:
        self.stream = stream or sys.stdout
        terminal = bool(self.stream.isatty())
        self.colours = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        columns = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns
        self.width = max(40, min(columns, _MAX_WIDTH)) if terminal or "COLUMNS" in os.environ else PIPE_WIDTH

    def paint(self, text: str, style: str) -> str:
        """Return ``text`` in a style, if colours are wanted."""
        return f"\033[{_COLOURS[style]}m{text}\033[0m" if self.colours and text else text

    def line(self, text: str = "", *, indent: int = 0, style: str = "") -> None:
        """Write one paragraph, wrapped; further lines are indented by two more."""
        text = printable(text)
        if not text:
            print(file=self.stream)
            return
        wrapped = textwrap.wrap(
            text,
            width=self.width,
            initial_indent=" " * indent,
            subsequent_indent=" " * (indent + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for one in wrapped or [" " * indent + text]:
            print(self.paint(one, style) if style else one, file=self.stream)

    def row(self, label: str, text: str, *, width: int, style: str = "", indent: int = 2) -> None:
        """Write a label of a fixed width and a wrapped text beside it."""
        column = indent + width + 2
        lines = textwrap.wrap(
            printable(text),
            width=max(self.width - column, 24),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
        first = " " * indent + self.paint(f"{label:<{width}}", style or "dim") + "  " + lines[0]
        print(first.rstrip(), file=self.stream)
        for one in lines[1:]:
            print(" " * column + one, file=self.stream)


def printable(text: str) -> str:
    """Return text that cannot steer a terminal."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def write_json(value: Any) -> None:
    """Print a JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def write_findings(
    style: str,
    command: str,
    findings: Sequence[Finding],
    *,
    rules: Mapping[str, str],
    subjects: Iterable[str],
) -> None:
    """Print findings as ``junit`` or ``sarif``.

    :param command: Which command found them.
    :param rules: What each rule is about.
    :param subjects: Everything that was looked at: what has no error is a passed test.
    """
    if style == "sarif":
        write_json(sarif(command, findings, rules))
    else:
        print(junit(command, findings, subjects))


def sarif(command: str, findings: Sequence[Finding], rules: Mapping[str, str]) -> dict[str, Any]:
    """Return findings as a SARIF 2.1.0 log, which GitHub shows at the lines of a pull request."""
    used = sorted({finding.rule for finding in findings})
    driver = {
        "name": f"airflow-ext contracts {command}",
        "version": __version__,
        "rules": [{"id": rule, "shortDescription": {"text": rules.get(rule, rule)}} for rule in used],
    }
    results = [
        {
            "ruleId": finding.rule,
            "ruleIndex": used.index(finding.rule),
            "level": finding.level,
            "message": {"text": finding.message},
            **({"locations": [_location(finding)]} if finding.file else {}),
        }
        for finding in findings
    ]
    return {
        "$schema": _SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "utf16CodeUnits", "results": results}],
    }


def _location(finding: Finding) -> dict[str, Any]:
    path = Path(finding.file)
    relative = os.path.relpath(path) if path.is_absolute() else finding.file
    physical: dict[str, Any] = {"artifactLocation": {"uri": Path(relative).as_posix()}}
    if finding.line:
        physical["region"] = {"startLine": finding.line}
    return {"physicalLocation": physical}


def junit(command: str, findings: Sequence[Finding], subjects: Iterable[str]) -> str:
    """Return findings as a JUnit report: one test per subject, failed if it has an error."""
    by_subject: dict[str, list[Finding]] = {subject: [] for subject in subjects}
    for finding in findings:
        by_subject.setdefault(finding.subject, []).append(finding)
    name = f"airflow-ext contracts {command}"
    failed = sum(any(f.level == "error" for f in found) for found in by_subject.values())
    suite = ElementTree.Element(
        "testsuite", {"name": name, "tests": str(len(by_subject)), "failures": str(failed), "errors": "0"}
    )
    for subject, found in by_subject.items():
        case = ElementTree.SubElement(suite, "testcase", {"classname": name, "name": _plain(subject)})
        errors = [finding for finding in found if finding.level == "error"]
        rest = [finding for finding in found if finding.level != "error"]
        if errors:
            failure = ElementTree.SubElement(
                case, "failure", {"message": _plain(errors[0].message), "type": errors[0].rule}
            )
            failure.text = "\n".join(_said(finding) for finding in errors)
        if rest:
            ElementTree.SubElement(case, "system-out").text = "\n".join(_said(finding) for finding in rest)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True)


def _said(finding: Finding) -> str:
    place = (
        f"{finding.file}:{finding.line}: " if finding.line else f"{finding.file}: " if finding.file else ""
    )
    return _plain(f"{finding.level}: {place}{finding.message} [{finding.rule}]")


def _plain(text: str) -> str:
    """Drop what XML cannot hold."""
    return "".join(char for char in text if char in "\t\n\r" or " " <= char < "\ud800" or char > "\udfff")


def as_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return findings as plain values."""
    return [asdict(finding) for finding in findings]
