"""The words of a notice: what was promised, how late it is, who answers for it, where to look."""

from __future__ import annotations

from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING

from airflow_ext.sla.judge import CAUSES
from airflow_ext.sla.wording import duration, moment

if TYPE_CHECKING:
    from airflow_ext.sla.event import SlaEvent

_MOST_NAMES = 20
_ENDINGS = {"excused": "is excused", "withdrawn": "is not promised any more"}


def subject(event: SlaEvent) -> str:
    """Return one line: severity, DAG, what is wrong, when it was due."""
    due = moment(event.due, zone=event.zone, day=False)
    if event.others:
        return f"[{event.severity}] {_digest(event)}"
    if event.kind == "resolved":
        return f"[{event.severity}] SLA over: {_about(event)} {_ending(event)}, was due {due}"
    if event.kind == "failed_before_due":
        return f"[{event.severity}] SLA at risk: {_about(event)} failed, is due {due}"
    if event.kind == "at_risk":
        return f"[{event.severity}] SLA at risk: {_about(event)} is likely to be late, is due {due}"
    return f"[{event.severity}] SLA missed: {_about(event)} {_short_state(event)}, was due {due}"


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
    if event.others:
        return f"{_digest(event)}. The first of them:"
    if event.kind == "resolved" and event.state == "success":
        return f"{_about(event)} is all right again: it {_ending(event)}."
    if event.kind == "resolved":
        return f"{_about(event)} {_ending(event)}{f' by {event.note}' if event.note else ''}."
    if event.kind == "failed_before_due":
        left = duration(event.due - event.told_at)
        return f"{_about(event)} is about to miss its SLA: the run failed, {left} are left."
    if event.kind == "at_risk":
        left = duration(event.due - event.told_at)
        return f"{_about(event)} is likely to miss its SLA: {CAUSES.get(event.cause, '')}, {left} are left."
    return f"{_about(event)} missed its SLA: {_long_state(event)}"


def lines(event: SlaEvent) -> list[tuple[str, str]]:
    """Return the facts as pairs of name and value, in the order they help."""
    rows = [
        ("Promise", event.promise),
        ("Due", moment(event.due, zone=event.zone)),
        ("Late", _lateness(event)),
    ]
    if event.kind in ("resolved", "at_risk"):
        rows = [row for row in rows if row[0] != "Late"]
    if event.cause in CAUSES and event.cause:
        rows.append(("Cause", f"{CAUSES[event.cause]} ({event.cause})"))
    if event.note:
        rows.append(("Excused", event.note))
    if event.forecast:
        rows.append(("Forecast", event.forecast))
    if event.state:
        rows.append(("State", _state_with_time(event)))
    if event.run_id:
        rows.append(("Run", f"{event.run_id} ({event.run_type})" if event.run_type else event.run_id))
    if event.detected_late is not None:
        rows.append(
            ("Seen", f"{duration(event.detected_late)} after it should have been: the monitor was late")
        )
    if event.logical_date is not None:
        rows.append(("Date", moment(event.logical_date, zone=event.zone)))
    if event.kind != "resolved":
        rows += _background(event)
    rows += [
        ("Owner", event.owner or "nobody is named; set owner= on the sla()"),
        ("Severity", event.severity),
        ("Policy", event.policy),
        ("Link", event.url),
    ]
    if event.others:
        rows.append(("Others", _shown(event.others)))
    elif event.incident_id is not None and event.kind != "resolved":
        rows.append(("Answer", f"airflow ext sla ack {event.incident_id} --why ..."))
    return rows


def _background(event: SlaEvent) -> list[tuple[str, str]]:
    rows = []
    if event.step:
        rows.append(("Step", f"{event.step} of the escalation: nobody has acknowledged it"))
    if event.last_good is None and event.incident_id is not None:
        rows.append(("Last good", "none is known"))
    elif event.last_good is not None:
        rows.append(("Last good", moment(event.last_good, zone=event.zone)))
        rows.append(("Changed", "; ".join(event.changes) or "nothing that Airflow knows of"))
    if event.affected:
        rows.append(("Affects", _shown(event.affected)))
    return rows


def _shown(names: tuple[str, ...]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _digest(event: SlaEvent) -> str:
    count = len(event.others) + 1
    whose = f" of {event.owner}" if event.owner else ""
    if event.kind == "resolved":
        return f"{count} missed SLAs{whose} are over, {_about(event)} among them"
    return f"{count} SLAs{whose} are missed or at risk, {_about(event)} among them"


def _about(event: SlaEvent) -> str:
    return f"{event.subject_name} of {event.dag_id}" if event.subject_name else event.dag_id


def _ending(event: SlaEvent) -> str:
    if event.state != "success":
        return _ENDINGS.get(event.cause, f"is over ({event.cause})" if event.cause else "is over")
    side = "late" if event.late > timedelta(0) else "in time"
    return f"finished {duration(event.late)} late" if side == "late" else "finished in time"


def _no_run(event: SlaEvent) -> str:
    """Return the state where there is no run to speak of."""
    words = {
        "paused": "was not run, the DAG is paused",
        "import_error": "was not run, the DAG file does not import",
        "dag_gone": "was not run, the DAG is gone",
        "scheduler_dead": "was not run, no scheduler is alive",
        "no_event": "was not published" if event.subject_name.startswith("contract ") else "was not updated",
        "breached": "was published, but does not hold",
        "stale": "is too old",
        "too_few": "was done too rarely",
    }
    return words.get(event.cause, "has not started")


def _short_state(event: SlaEvent) -> str:
    if not event.state and event.cause:
        return _no_run(event)
    if event.state == "failed":
        return "failed"
    if event.state == "success":
        return f"finished {duration(event.late)} late"
    return "has not started" if event.started is None else "is still running"


def _long_state(event: SlaEvent) -> str:
    if not event.state and event.cause:
        return f"{duration(event.late)} after it was due, it {_no_run(event)}."
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
