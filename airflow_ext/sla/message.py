"""The words of a notice: what was promised, how late it is, who answers for it, where to look."""

from __future__ import annotations

from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING

from airflow_ext.sla.wording import duration, moment

if TYPE_CHECKING:
    from airflow_ext.sla.event import SlaEvent


def subject(event: SlaEvent) -> str:
    """Return one line: severity, DAG, what is wrong, when it was due."""
    due = moment(event.due, zone=event.zone, day=False)
    return f"[{event.severity}] SLA missed: {event.dag_id} {_short_state(event)}, was due {due}"


def text(event: SlaEvent) -> str:
    """Return the message as aligned plain text."""
    rows = lines(event)
    width = max(len(name) for name, _ in rows) + 2
    body = "\n".join(f"{name:<{width}}{value}" for name, value in rows)
    return f"{headline(event)}\n\n{body}\n"


def html(event: SlaEvent) -> str:
    """Return the message as a small HTML table that needs no style sheet."""
    cells = []
    for name, value in lines(event):
        shown = f'<a href="{escape(value)}">{escape(value)}</a>' if name == "Link" else escape(value)
        cells.append(
            '<tr><td style="padding:2px 16px 2px 0;color:#666;vertical-align:top">'
            f'{escape(name)}</td><td style="padding:2px 0">{shown}</td></tr>'
        )
    return (
        '<div style="font-family:sans-serif;font-size:15px">'
        f'<p style="font-size:17px"><b>{escape(headline(event))}</b></p>'
        f"<table>{''.join(cells)}</table></div>"
    )


def headline(event: SlaEvent) -> str:
    """Return one sentence that says what happened."""
    return f"{event.dag_id} missed its SLA: {_long_state(event)}"


def lines(event: SlaEvent) -> list[tuple[str, str]]:
    """Return the facts as pairs of name and value, in the order they help."""
    rows = [
        ("Promise", event.promise),
        ("Due", moment(event.due, zone=event.zone)),
        ("Late", _lateness(event)),
        ("State", _state_with_time(event)),
        ("Run", f"{event.run_id} ({event.run_type})"),
    ]
    if event.logical_date is not None:
        rows.append(("Date", moment(event.logical_date, zone=event.zone)))
    rows += [
        ("Owner", event.owner or "nobody is named; set owner= on the sla()"),
        ("Severity", event.severity),
        ("Policy", event.policy),
        ("Link", event.url),
    ]
    return rows


def _short_state(event: SlaEvent) -> str:
    if event.state == "failed":
        return "failed"
    if event.state == "success":
        return f"finished {duration(event.late)} late"
    return "has not started" if event.started is None else "is still running"


def _long_state(event: SlaEvent) -> str:
    if event.state == "failed":
        side = "before" if event.late < timedelta(0) else "after"
        return f"the run failed {duration(event.late)} {side} it was due."
    if event.state == "success":
        return f"the run finished {duration(event.late)} late."
    if event.started is None:
        return f"the run is {duration(event.late)} late and has not started."
    return f"the run is {duration(event.late)} late and still running."


def _lateness(event: SlaEvent) -> str:
    if event.state == "failed":
        return "not done, the run failed"
    return duration(event.late) if event.ended else f"{duration(event.late)} so far"


def _state_with_time(event: SlaEvent) -> str:
    if event.ended is not None:
        return f"{event.state} at {moment(event.ended, zone=event.zone)}"
    if event.started is not None:
        return f"{event.state} since {moment(event.started, zone=event.zone)}"
    return event.state
