"""Verdicts as people read them: in a task's log and in a failing task's message."""

from __future__ import annotations

import textwrap

from airflow_ext.contracts.ranges import ContractRange
from airflow_ext.contracts.verdict import Status, Verdict
from airflow_ext.contracts.waiting import Seen
from airflow_ext.exceptions import ContractNotMetError

_WIDTHS = {"severity": 8, "rule": 36, "expected": 36, "actual": 48}


def table(verdict: Verdict) -> str:
    """Return the reasons of a verdict as a table, with a line about the whole above it."""
    counts = verdict.counts
    rows = "unknown number of rows" if verdict.rows is None else f"{verdict.rows:,} rows"
    head = (
        f"Contract {verdict.contract} {verdict.version}, partition {verdict.partition}: {verdict.status} "
        f"({rows}; {counts.get('rules', 0)} checks, {counts.get('failed', 0)} failed, "
        f"{counts.get('warnings', 0)} warned, {counts.get('skipped', 0)} not judged)"
    )
    if not verdict.reasons:
        return head
    cells = [("severity", "rule", "expected", "actual")]
    cells += [(reason.severity, reason.rule, reason.expected, reason.actual) for reason in verdict.reasons]
    widths = [
        min(limit, max(len(row[column]) for row in cells)) for column, limit in enumerate(_WIDTHS.values())
    ]
    lines = [head]
    for number, row in enumerate(cells):
        wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
        for line in range(max(map(len, wrapped))):
            parts = [cell[line] if line < len(cell) else "" for cell in wrapped]
            lines.append("  " + "  ".join(f"{p:<{w}}" for p, w in zip(parts, widths, strict=True)).rstrip())
        if number == 0:
            lines.append("  " + "  ".join("-" * width for width in widths))
    hidden = counts.get("failed", 0) + counts.get("warnings", 0) - len(verdict.reasons)
    if hidden > 0:
        lines.append(f"  ... and {hidden} more")
    return "\n".join(lines)


def breach(verdict: Verdict) -> ContractNotMetError:
    """Return the error of a publisher whose data breaks its contract."""
    return _error(
        f"Contract {verdict.contract} {verdict.version} is {verdict.status} for partition {verdict.partition}",
        verdict,
        verdict.status,
    )


def not_met(wanted: ContractRange, partition: str, seen: Seen) -> ContractNotMetError:
    """Return the error of a consumer that cannot go on."""
    verdict = seen.verdict
    if verdict is None:
        detail = f": {seen.detail}" if seen.detail else ""
        people = [f"owner: {seen.owner}"] if seen.owner else []
        people += [f"support: {seen.support}"] if seen.support else []
        told = f"\n  {'; '.join(people)}" if people else ""
        return ContractNotMetError(
            f"Contract {wanted}, partition {partition}: {seen.status}{detail}{told}",
            contract=wanted.id,
            version=str(wanted),
            partition=partition,
            status=str(seen.status),
        )
    if seen.status is Status.VERSION_MISMATCH:
        text = f"Contract {wanted}, partition {partition}: VERSION_MISMATCH, {seen.detail}"
    else:
        text = (
            f"Contract {verdict.contract} {verdict.version} does not hold for partition {partition}: "
            f"{seen.status} (asked for {wanted}){f'; {seen.detail}' if seen.detail else ''}"
        )
    return _error(text, verdict, seen.status)


def _error(text: str, verdict: Verdict, status: Status) -> ContractNotMetError:
    url = f" {verdict.run.url}" if verdict.run.url else ""
    lines = [
        text,
        f"  owner: {verdict.owner or 'not named'}; support: {verdict.support or 'none named'}",
        f"  published by: {verdict.run} at {verdict.at} (verdict {verdict.seq}){url}",
    ]
    failed = [reason for reason in verdict.reasons if reason.severity == "error"]
    if verdict.quarantine is not None:
        aside = verdict.quarantine
        rows = (
            "all rows"
            if aside.what == "partition"
            else f"{aside.rows if aside.rows is not None else 'bad'} rows"
        )
        lines.append(f"  set aside: {rows}{f' in {aside.table}' if aside.table else ''}")
    if failed:
        lines.append("  failed rules:")
        lines += [f"    {reason}" for reason in failed]
        if (hidden := verdict.counts.get("failed", 0) - len(failed)) > 0:
            lines.append(f"    ... and {hidden} more")
    return ContractNotMetError(
        "\n".join(lines),
        contract=verdict.contract,
        version=verdict.version,
        partition=verdict.partition,
        status=str(status),
        reasons=tuple(map(str, failed)),
    )
