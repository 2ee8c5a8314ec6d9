"""What the SLA commands print for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from airflow_ext.cli.contracts_output import Printer
from airflow_ext.sla.wording import duration, moment

_GAP = 2
_NARROWEST = 10


def table(out: Printer, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head, within the terminal: the last column gets what is left, and is wrapped."""
    import textwrap

    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    fixed = sum(widths[:-1]) + _GAP * (len(head) - 1)
    while fixed > out.width - 2 * _NARROWEST and (most := max(widths[:-1])) > _NARROWEST:
        widths[widths.index(most)] = most - 1
        fixed -= 1
    last = max(_NARROWEST, out.width - fixed)
    for number, row in enumerate([head, *rows]):
        columns = [
            textwrap.wrap(cell, width) or [""] for cell, width in zip(row, [*widths[:-1], last], strict=True)
        ]
        for line in range(max(len(column) for column in columns)):
            cells = [column[line] if line < len(column) else "" for column in columns]
            text = (" " * _GAP).join(
                f"{cell:<{width}}" for cell, width in zip(cells, [*widths[:-1], 0], strict=True)
            )
            print(out.paint(text.rstrip(), "head" if number == 0 else ""), file=out.stream)


def status(data: dict[str, Any]) -> None:
    """Print how things are."""
    out = Printer()
    if data["monitors"]:
        out.line(f"{data['monitors']} monitor(s) at work, {data['lag_seconds']:.0f} s behind", style="ok")
    else:
        last = f", the last one was seen {data['last_beat']}" if data["last_beat"] else ""
        out.line(f"No monitor is at work{last}: start airflow ext sla monitor", style="error")
    out.line(
        f"{data['promises']} promises: {data['late']} late, {data['at_risk']} at risk, {data['over_budget']} over budget"
    )
    out.line(f"Open incidents: {data['incidents']}, not acknowledged: {data['unacknowledged']}")


def incidents(found: Sequence[dict[str, Any]], *, now: datetime) -> None:
    """Print incidents, one a line."""
    out = Printer()
    if not found:
        out.line("No incidents.", style="ok")
        return
    rows = [
        (
            str(item["id"]),
            item["severity"],
            item["dag_id"],
            item["policy"],
            item["owner"] or "-",
            _ago(item["opened"], now),
            _story(item),
        )
        for item in found
    ]
    table(out, ("ID", "SEVERITY", "DAG", "POLICY", "OWNER", "OPENED", "WHAT"), rows)


def _story(item: dict[str, Any]) -> str:
    words = [item["cause_text"] or item["kind"].replace("_", " ")]
    if item["resolved"]:
        words.append(f"over: {item['resolution']}")
    elif item["acknowledged"]:
        words.append(f"acknowledged by {item['acknowledged_by']}")
    if item["caused_by"]:
        words.append(f"caused by {item['caused_by']}")
    return "; ".join(words)


def _ago(text: str, now: datetime) -> str:
    return f"{duration(now - datetime.fromisoformat(text))} ago"


def explain(data: dict[str, Any]) -> None:
    """Print the story of one incident."""
    out = Printer()

    def when(text: str | None) -> str:
        return moment(datetime.fromisoformat(text), zone=data["zone"]) if text else ""

    out.line(f"Incident {data['id']}: {data['dag_id']} ({data['policy']}), {_story(data)}", style="head")
    seen = " (the monitor was late)" if data["detected_late"] else ""
    facts = (
        ("Promise", data["promise"]),
        ("Due", when(data["due"])),
        ("Opened", when(data["opened"]) + seen),
        ("Done", when(data["done"])),
        ("Run", data["run_id"]),
        ("Owner", data["owner"]),
        ("Severity", data["severity"]),
        ("Snoozed", when(data["snoozed_until"])),
        ("Over", f"{when(data['resolved'])}, {data['resolution']}" if data["resolved"] else ""),
        ("Forecast", data["facts"].get("forecast") if data["kind"] == "at_risk" else ""),
        ("Last good", when(data["last_good"])),
        ("Changed", "; ".join(data["changes"])),
        ("Affects", ", ".join(data["affects"])),
        ("History", data["remark"]),
    )
    for name, value in facts:
        if value:
            out.line(f"{name:<10} {value}", indent=2)
    if data["messages"]:
        out.line()
        rows = [
            (
                item["kind"],
                str(item["step"]),
                item["channel"],
                item["state"],
                str(item["tries"]),
                when(item["sent"]) or item["why"] or f"next try {when(item['next_try'])}",
            )
            for item in data["messages"]
        ]
        table(out, ("MESSAGE", "STEP", "CHANNEL", "STATE", "TRIES", "WHEN OR WHY"), rows)
    if data["actions"]:
        out.line()
        acts = [(item["action"], item["who"], when(item["at"]), item["why"]) for item in data["actions"]]
        table(out, ("ACTION", "WHO", "WHEN", "WHY"), acts)


def report(found: Sequence[dict[str, Any]]) -> None:
    """Print promises with their budget."""
    out = Printer()
    if not found:
        out.line("No SLA is in force. The monitor finds those of DAGs: airflow ext sla monitor")
        return
    rows = [
        (
            item["dag_id"],
            item["policy"],
            item["state"] or "-",
            f"{item['counted'] - item['missed']}/{item['counted']}",
            _budget(item["budget"]),
            " ".join("-" if rate is None else f"{rate:g}" for rate in item["burn"].values()),
            item["remark"],
        )
        for item in found
    ]
    table(out, ("DAG", "POLICY", "NOW", "KEPT", "BUDGET", "BURN 3/10/30", "HISTORY"), rows)


def _budget(budget: dict[str, Any] | None) -> str:
    return "-" if budget is None else f"{budget['used']} of {budget['allowed']} in {budget['in']}"


def suggest(found: Sequence[dict[str, Any]]) -> None:
    """Print what deadline the history of each promise would bear."""
    out = Printer()
    rows = [(item["dag_id"], item["policy"], item["promise"], _suggestion(item)) for item in found]
    table(out, ("DAG", "POLICY", "PROMISE", "95 % OF THE HISTORY"), rows) if rows else out.line(
        "No SLA is in force."
    )


def _suggestion(item: dict[str, Any]) -> str:
    shift = item["suggested_shift_seconds"]
    if shift is None:
        return f"not enough history ({item['counted']} settled, 10 are needed), or too many were never done"
    if not shift:
        return "would be in time with the deadline as it is"
    side = "later" if shift > 0 else "earlier"
    new = f": {item['suggested']}" if item["suggested"] else ""
    return f"would be in time with a deadline {duration(timedelta(seconds=shift))} {side}{new}"


def suggest_new(data: dict[str, Any]) -> None:
    """Print what a DAG without an SLA could promise."""
    out = Printer()
    failed = f", {data['failed']} of them failed" if data["failed"] else ""
    out.line(f"{data['dag_id']} has no SLA; its last {data['runs']} runs{failed}")
    if not data["within"]:
        out.line("not enough history: at least 10 good runs are needed", indent=2)
        return
    out.line("95 % of the good ones would have been in time with", indent=2)
    for text in (data["by"], data["within"]):
        if text:
            out.line(f"sla({text}, ...)", indent=4)
