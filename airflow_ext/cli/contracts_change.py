"""``airflow-ext contracts lint`` and ``diff``: what a pull request that touches a contract should pass."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ext.cli.contracts_files import read_commit, read_paths
from airflow_ext.cli.contracts_output import (
    FORMATS,
    Finding,
    Printer,
    as_rows,
    count,
    write_findings,
    write_json,
)
from airflow_ext.exceptions import InvalidError

if TYPE_CHECKING:
    from airflow_ext.contracts.diff import Comparison
    from airflow_ext.contracts.grades import Change
    from airflow_ext.contracts.lint import Checked, Remark

Verbs = argparse._SubParsersAction  # noqa: SLF001  argparse has no public name for it
_LEVELS = {"breaking": "error", "notice": "warning", "safe": "note"}


def add_lint(verbs: Verbs[argparse.ArgumentParser], command: Callable[[argparse.Namespace], int]) -> None:
    """Add ``lint``."""
    parser = verbs.add_parser(
        "lint",
        help="check contract files",
        description="Check contract files against ODCS and our own rules. Reads nothing else.",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="FILE|FOLDER", help="contracts, or folders of *.odcs.yaml"
    )
    parser.add_argument("--strict", action="store_true", help="end with 1 on warnings too")
    add_format(parser)
    parser.set_defaults(func=command)


def add_diff(verbs: Verbs[argparse.ArgumentParser], command: Callable[[argparse.Namespace], int]) -> None:
    """Add ``diff``."""
    parser = verbs.add_parser(
        "diff",
        help="compare two versions of contracts and check that the version says how much changed",
        description="Grade every change for consumers and for the producer. Ends with 1 if a version does not grow "
        "as much as its changes need.",
        epilog="airflow-ext contracts diff old.yaml new.yaml, or: airflow-ext contracts diff --base origin/main contracts/",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="OLD NEW", help="two files or two folders; with --base what is there now"
    )
    parser.add_argument(
        "--base", metavar="GITREF", help="compare with this branch, tag or commit instead of OLD"
    )
    parser.add_argument(
        "--accept", action="append", default=[], metavar="KIND", help="a kind of change that needs no version"
    )
    parser.add_argument(
        "--breaking", action="store_true", help="also end with 1 if anything breaks consumers"
    )
    add_format(parser)
    parser.set_defaults(func=command)


def add_format(parser: argparse.ArgumentParser, formats: Sequence[str] = FORMATS) -> None:
    """Add ``--format``."""
    parser.add_argument("--format", choices=formats, default=formats[0], help="what to print")


def lint_command(args: argparse.Namespace) -> int:
    """Run ``lint``."""
    from airflow_ext.contracts.lint import RULES, lint, worst

    checked = lint(read_paths(args.paths))
    findings = [
        Finding(remark.rule, remark.level, _remark_text(remark), one.source, remark.line, one.source)
        for one in checked
        for remark in one.remarks
    ]
    if args.format == "json":
        write_json({"files": len(checked), "findings": as_rows(findings)})
    elif args.format == "text":
        _show_lint(checked, Printer())
    else:
        subjects = [one.source for one in checked]
        write_findings(args.format, "lint", findings, rules=RULES, subjects=subjects)
    level = worst(checked)
    return 1 if level == "error" or (args.strict and level) else 0


def _remark_text(remark: Remark) -> str:
    return f"{remark.path}: {remark.text}" if remark.path else remark.text


def _show_lint(checked: list[Checked], printer: Printer) -> None:
    counts = {"error": 0, "warning": 0}
    for one in checked:
        if not one.remarks:
            continue
        named = f"  {one.contract.id} {one.contract.version}" if one.contract else ""
        printer.line(f"{one.source}{named}", style="head")
        labels = [f"{remark.line or '-'}" for remark in one.remarks]
        for label, remark in sorted(
            zip(labels, one.remarks, strict=True), key=lambda pair: (pair[1].level, pair[1].line)
        ):
            counts[remark.level] += 1
            text = f"{_remark_text(remark)}  [{remark.rule}]"
            printer.row(f"{label:>5} {remark.level:<7}", text, width=13, style=remark.level, indent=0)
        printer.line()
    good = sum(not one.remarks for one in checked)
    summary = (
        f"{count(len(checked), 'contract')}: {count(counts['error'], 'error')}, "
        f"{count(counts['warning'], 'warning')}" + (f"; {good} without a remark" if good else "")
    )
    printer.line(summary, style="error" if counts["error"] else "warning" if counts["warning"] else "ok")


def diff_command(args: argparse.Namespace) -> int:
    """Run ``diff``."""
    from airflow_ext.contracts.diff import KINDS

    unknown = sorted(set(args.accept) - set(KINDS))
    if unknown:
        raise InvalidError(
            f"--accept {unknown[0]!r} is no kind of change; there are {', '.join(sorted(KINDS))}"
        )
    compared = list(_compare(*_sides(args), accepted=args.accept))
    findings = [finding for one in compared for finding in _findings(one)]
    if args.format == "json":
        write_json({"contracts": [_as_json(one) for one in compared], "ok": _fine(compared, args)})
    elif args.format == "text":
        _show_diff(compared, Printer())
    else:
        subjects = [one.contract for one in compared]
        write_findings(args.format, "diff", findings, rules=KINDS, subjects=subjects)
    return 0 if _fine(compared, args) else 1


def _fine(compared: list[Comparison], args: argparse.Namespace) -> bool:
    wrong = any(one.problem for one in compared)
    broken = any(c.kind not in one.accepted for one in compared for c in one.breaking)
    return not (wrong or (args.breaking and broken))


def _sides(args: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    if args.base is not None:
        now = {path: text for given in args.paths for path, text in _there(given).items()}
        return read_commit(args.base, args.paths), now
    if len(args.paths) != 2:
        raise InvalidError(f"diff takes OLD and NEW, or --base GITREF; got {count(len(args.paths), 'path')}")
    old, new = args.paths
    if Path(old).is_dir() != Path(new).is_dir():
        raise InvalidError(f"diff compares two files or two folders, not {old} with {new}")
    before, after = read_paths([old]), read_paths([new])
    if Path(old).is_dir():
        # by the path below the folder, so that the two sides can be put beside each other
        return {str(Path(new, Path(path).relative_to(old))): text for path, text in before.items()}, after
    return {new: before[old]}, after


def _there(given: str) -> dict[str, str]:
    """Return what is there now; a file that was removed is nothing, not an error."""
    path = Path(given)
    if not path.exists() and path.parent.is_dir():
        return {}
    try:
        return read_paths([given])
    except InvalidError:
        if path.is_dir():
            return {}
        raise


def _compare(old: dict[str, str], new: dict[str, str], *, accepted: Sequence[str]) -> Iterator[Comparison]:
    from airflow_ext.contracts.diff import Comparison, compare, removed
    from airflow_ext.contracts.loading import load

    before = {path: load(text, f"{path} (before)")[0] for path, text in old.items() if new.get(path) != text}
    after = {path: load(text, path) for path, text in new.items() if old.get(path) != text}
    for path, (document, places) in after.items():
        partner = _partner(path, document, before)
        if partner is None:
            yield Comparison(document["id"], "", document["version"], source=path)
            continue
        yield compare(
            before.pop(partner),
            document,
            places=places,
            source=path,
            old_source=f"{partner} (before)",
            accepted=accepted,
        )
    for path, document in before.items():
        yield removed(document, source=path, accepted=accepted)


def _partner(path: str, document: dict[str, Any], before: dict[str, dict[str, Any]]) -> str | None:
    """Return the old file of a contract: the same path, else the same id and major version."""
    if path in before:
        return path

    def major(one: dict[str, Any]) -> str:
        return str(one["version"]).partition(".")[0]

    same = [p for p, one in before.items() if one["id"] == document["id"] and major(one) == major(document)]
    return same[0] if same else None


def _findings(one: Comparison) -> Iterator[Finding]:
    if one.problem:
        yield Finding("version", "error", f"{one.contract}: {one.problem}", one.source, 0, one.contract)
    for change in one.changes:
        # what breaks consumers is allowed with a new major version: then it is to be known, not an error
        level = _LEVELS[change.consumer]
        if level == "error" and (not one.problem or change.kind in one.accepted):
            level = "warning"
        yield Finding(change.kind, level, _change_text(change), one.source, change.line, one.contract)


def _change_text(change: Change) -> str:
    if change.old and change.new:
        values = f" ({change.old} -> {change.new})"
    else:
        values = f" ({change.new})" if change.new else f" (was {change.old})" if change.old else ""
    return f"{change.where}: {change.text}{values}"


def _as_json(one: Comparison) -> dict[str, Any]:
    return {
        "contract": one.contract,
        "file": one.source,
        "old_version": one.old_version or None,
        "new_version": one.new_version or None,
        "needed": str(one.needed),
        "problem": one.problem or None,
        "changes": [
            {
                "kind": change.kind,
                "where": change.where,
                "text": change.text,
                "effect": str(change.effect),
                "consumer": str(change.consumer),
                "producer": str(change.producer),
                "bump": str(change.bump),
                "old": change.old or None,
                "new": change.new or None,
                "line": change.line or None,
                "hint": change.hint or None,
                "accepted": change.kind in one.accepted,
            }
            for change in one.changes
        ],
    }


def _show_diff(compared: list[Comparison], printer: Printer) -> None:
    for one in compared:
        _show_one(one, printer)
        printer.line()
    wrong = sum(bool(one.problem) for one in compared)
    breaking = sum(len(one.breaking) for one in compared)
    if not compared:
        printer.line("No contract changed.", style="ok")
        return
    text = f"{count(len(compared), 'contract')} changed, {count(breaking, 'change')} breaking consumers; "
    text += f"{wrong} with a wrong version" if wrong else "every version is right"
    printer.line(text, style="error" if wrong else "ok")


def _show_one(one: Comparison, printer: Printer) -> None:
    if not one.old_version:
        printer.line(f"{one.contract} {one.new_version} is new  {one.source}", style="head")
        return
    new = one.new_version or "gone"
    printer.line(f"{one.contract} {one.old_version} -> {new}  {one.source}", style="head")
    if not one.changes:
        printer.line("nothing changed but how it is written", indent=2)
    else:
        printer.line(f"  {'consumers':<9} {'producer':<9} {'needs':<6} change", style="dim")
    for change in one.changes:
        label = f"{change.consumer:<9} {change.producer:<9} {change.bump!s:<6}"
        place = f", line {change.line}" if change.line else ""
        taken = ", accepted" if change.kind in one.accepted else ""
        text = f"{_change_text(change)}  [{change.kind}{place}{taken}]"
        printer.row(label, text, width=26, style=_style(change), indent=2)
        if change.hint:
            printer.row("", change.hint, width=26, indent=2)
    if one.problem:
        printer.line(f"✗ {one.problem}", indent=2, style="error")
    elif one.new_version:
        printer.line(f"✔ these changes need {one.needed}, and the version says so", indent=2, style="ok")


def _style(change: Change) -> str:
    if change.consumer == "breaking":
        return "error"
    return "warning" if change.producer == "breaking" or change.consumer == "notice" else "dim"
