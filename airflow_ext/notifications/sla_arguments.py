"""What each kind of notifier gets told: the arguments that a channel leaves out."""

from __future__ import annotations

import inspect
from typing import Any

from airflow_ext.notifications.sla import message_arguments
from airflow_ext.sla.channel import Channel
from airflow_ext.sla.event import SlaEvent

_DOMAIN = "airflow-ext"
_PAGERDUTY = {"page": "critical", "ticket": "warning", "info": "info"}
"""Severities of the PagerDuty Events API v2: critical, error, warning and info."""
_LONGEST_SUMMARY = 1024
"""Characters of a summary that the PagerDuty Events API v2 takes."""
_PAYLOAD = (
    *(
        "key",
        "kind",
        "severity",
        "policy",
        "promise",
        "owner",
        "dag_id",
        "run_id",
        "run_type",
        "state",
        "cause",
    ),
    *("subject_name", "subject", "text", "url"),
)


def arguments_for(notifier_class: Any, channel: Channel, event: SlaEvent) -> dict[str, Any]:
    """Return the arguments that carry the message, for those the notifier has and the channel leaves out.

    Values that come from names and data are templates, which the notifier renders once, so that a brace in a name is none.
    """
    accepted = set(inspect.signature(notifier_class).parameters)
    rendered = set(notifier_class.template_fields)
    filled = message_arguments(notifier_class, channel, event)
    if "custom_headers" in filled and event.thread:
        first = f"<{event.thread}@{_DOMAIN}>"
        filled["custom_headers"] |= {"In-Reply-To": first, "References": first}
    if {"dedup_key", "action", "severity", "custom_details"} <= accepted:
        filled |= _incident_tool(event, rendered)
    elif "http_conn_id" in accepted and "json" in rendered and not {"json", "data"} & set(channel.arguments):
        filled["json"] = _payload(event)
    elif "notify_type" in accepted and "apprise_conn_id" in accepted:
        filled["notify_type"] = "success" if event.kind == "resolved" else "failure"
    return {name: value for name, value in filled.items() if name in accepted - set(channel.arguments)}


def is_keyed(notifier_class: Any) -> bool:
    """Say whether a notifier opens something that stays open under a key until it is resolved."""
    return {"dedup_key", "action"} <= set(inspect.signature(notifier_class).parameters)


def _incident_tool(event: SlaEvent, rendered: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "severity": _PAGERDUTY.get(event.severity, "error"),
        "action": "resolve" if event.kind == "resolved" else "trigger",
        "source": "{{ sla.dag_id }}" if "source" in rendered else event.dag_id,
        "class_type": event.cause or event.kind,
        "custom_details": {name: f"{{{{ sla.facts[{name!r}] }}}}" for name in event.facts},
        "links": [{"href": "{{ sla.url }}", "text": "Airflow"}],
    }
    if event.owner and "group" in rendered:
        found["group"] = "{{ sla.owner }}"
    if len(event.subject) > _LONGEST_SUMMARY:
        found["summary"] = f"{{{{ sla.subject[:{_LONGEST_SUMMARY}] }}}}"
    return found


def _payload(event: SlaEvent) -> dict[str, Any]:
    found: dict[str, Any] = {name: f"{{{{ sla.{name} }}}}" for name in _PAYLOAD}
    numbers = {
        "version": 1,
        "due": event.due.isoformat(),
        "told_at": event.told_at.isoformat(),
        "late_seconds": round(event.late.total_seconds()),
        "incident_id": event.incident_id,
        "step": event.step,
        "last_good": event.last_good.isoformat() if event.last_good else None,
        "changes": [f"{{{{ sla.changes[{number}] }}}}" for number in range(len(event.changes))],
        "others": len(event.others),
    }
    return found | numbers
