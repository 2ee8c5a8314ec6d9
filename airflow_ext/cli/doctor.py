"""``airflow-ext doctor``: looks at an installation and says what is wrong and what to do about it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO

from airflow_ext.cli import doctor_config, doctor_database, doctor_install, doctor_sla
from airflow_ext.cli.backend_told import REMEDY, backend_problem, of_backend
from airflow_ext.cli.doctor_finding import Finding, fail

Check = Callable[[], Iterable[Finding]]

CHECKS: Mapping[str, tuple[Check, ...]] = {
    "Installation": (
        doctor_install.versions,
        doctor_install.extras,
        doctor_install.provider,
        doctor_install.plugin,
        doctor_install.connection_types,
    ),
    "Configuration": (
        doctor_config.addresses,
        doctor_config.triggerer_limits,
        doctor_config.secrets_backend,
    ),
    "Metadata database": (doctor_database.database,),
    "SLAs": (doctor_sla.ledger, doctor_sla.monitors),
}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_INDENT = 8
PIPE_WIDTH = 110
"""Columns when the output is no terminal."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``doctor`` to a command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="look at this installation: what is wrong, and what to do about it",
        description="Look at this installation. Reads only; shows no secret. Ends with 1 if anything fails.",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(func=_command)


def examine(checks: Mapping[str, Iterable[Check]] = CHECKS) -> dict[str, list[Finding]]:
    """Run every check and return its findings by area.

    A check that breaks is a finding too, so that the others are still seen.
    """
    return {area: [finding for check in group for finding in _run(check)] for area, group in checks.items()}


def has_failed(found: Mapping[str, Iterable[Finding]]) -> bool:
    """Return whether anything does not work."""
    return any(finding.status == "fail" for findings in found.values() for finding in findings)


def show(found: Mapping[str, list[Finding]], *, file: IO[str]) -> None:
    """Print findings for people, coloured on a terminal unless ``NO_COLOR`` is set."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file, highlight=False)
    width = console.width if file.isatty() else PIPE_WIDTH
    for area, findings in found.items():
        console.print(Text(area, style="bold"))
        for finding in findings:
            for number, line in enumerate(_wrap(finding.what, width)):
                status = finding.status if number == 0 else ""
                text = Text.assemble((f"  {status:<6}", _STYLES[finding.status]), line)
                console.print(text, soft_wrap=True)
            for line in _wrap(finding.remedy, width):
                console.print(Text.assemble(" " * _INDENT, (line, "cyan")), soft_wrap=True)
        console.print()
    console.print(Text(summary(found), style="bold"))


def summary(found: Mapping[str, Iterable[Finding]]) -> str:
    """Return the counts as one line."""
    counts = Counter(finding.status for findings in found.values() for finding in findings)
    warnings, failures = counts["warn"], counts["fail"]
    return f"{counts['ok']} ok, {warnings} warning{'s' * (warnings != 1)}, {failures} failure{'s' * (failures != 1)}"


def as_json(found: Mapping[str, Iterable[Finding]]) -> str:
    """Return findings as a JSON object: ``ok`` and a list ``findings``."""
    rows = [
        {"area": area, **dataclasses.asdict(finding)}
        for area, findings in found.items()
        for finding in findings
    ]
    return json.dumps({"ok": not has_failed(found), "findings": rows}, indent=2)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width=max(width - _INDENT, _INDENT), break_long_words=False, break_on_hyphens=False
    )


def _run(check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - the other checks must still be seen
        told = of_backend(error)
        if told is not None:
            yield fail(told, REMEDY)
            return
        reason = (str(error).splitlines() or [""])[0]
        yield fail(
            f"the check {check.__name__!r} broke: {type(error).__name__}: {reason}",
            "The findings above may say why; if not, report it with this line.",
        )


def _examine_all() -> dict[str, list[Finding]]:
    problem = backend_problem()
    if problem is None:
        return examine()
    # Nothing else of Airflow could be looked at; each check would only say the same.
    light = (doctor_install.versions, doctor_install.extras)
    return {**examine({"Installation": light}), "Configuration": [fail(problem, REMEDY)]}


def _command(args: argparse.Namespace) -> int:
    # Airflow logs to stdout, into the middle of what is printed here; errors still come through.
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            found = _examine_all()
    finally:
        logging.disable(logging.NOTSET)
    if args.json:
        print(as_json(found))
    else:
        show(found, file=sys.stdout)
    return 1 if has_failed(found) else 0
