"""SLAs in YAML, for DAGs whose files are somebody else's::

    slas:
      - dag: billing
        by: "06:00"
        tz: Europe/Berlin
        grace: 5 min
        owner: finance
        channels:
          - notifier: airflow.providers.smtp.notifications.smtp.SmtpNotifier
            smtp_conn_id: mail
            to: finance@example.com

Each item takes the arguments of :func:`airflow_ext.sla.sla`; durations are a number with ``s``, ``min``, ``h`` or ``d``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.channel import Channel
from airflow_ext.sla.declare import make_policies, told_to
from airflow_ext.sla.escalation import Step
from airflow_ext.sla.policy import DEFAULT_LATE_START

_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h|d)")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}
_DURATIONS = ("within", "fresh", "every", "grace", "late_start")
_NEEDED: dict[str, Any] = {
    **dict.fromkeys(("by", "within", "tz", "days", "name", "run_types")),
    "grace": timedelta(0),
    "owner": "",
    "severity": "ticket",
    "late_start": DEFAULT_LATE_START,
}
_OTHERS = (
    *(
        "since",
        "fresh",
        "every",
        "at_least",
        "calendar",
        "exceptions",
        "maintenance",
        "on_paused",
        "on_failure",
        "on_risk",
    ),
    *("budget", "task", "group", "asset", "contract", "formerly"),
)
_SIZE = 1_000_000
_VALUES = 200_000


def read_policies(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return DAG and flat definition of each SLA of a YAML file, or of all ``*.yaml`` and ``*.yml`` of a folder.

    :raises InvalidError: If a file cannot be read or used; the text names file, item and way out.
    """
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.suffix in (".yaml", ".yml"))
    else:
        files = [path]
    found = [item for file in files for item in _file(file)]
    names: set[tuple[str, str]] = set()
    for dag_id, definition in found:
        if (dag_id, definition["policy"]) in names:
            raise InvalidError(
                f"{path}: two SLAs of DAG {dag_id!r} are called {definition['policy']!r}: give name="
            )
        names.add((dag_id, definition["policy"]))
    return found


def _file(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{path} cannot be read: {type(error).__name__}") from error
    if len(text) > _SIZE:
        raise InvalidError(f"{path} is larger than {_SIZE} characters")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidError(f"{path} is no YAML: {error}") from error
    except RecursionError as error:
        raise InvalidError(f"{path} is nested too deeply: write it flat, as in the docs") from error
    _check_size(path, document)
    items = document.get("slas") if isinstance(document, Mapping) else None
    if not isinstance(items, list):
        raise InvalidError(f"{path}: expected a list under the key 'slas'")
    found = []
    for number, item in enumerate(items, start=1):
        try:
            found += _item(item)
        except (InvalidError, TypeError) as error:
            raise InvalidError(f"{path}, SLA {number}: {error}") from error
    return found


def _check_size(path: Path, document: Any) -> None:
    """Count values as often as aliases repeat them: a few lines can stand for more than any memory holds."""
    left, count = [document], 0
    while left:
        item = left.pop()
        count += 1
        if count > _VALUES:
            raise InvalidError(f"{path} holds more than {_VALUES} values, aliases counted: split it up")
        if isinstance(item, Mapping):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            left += item


def _item(item: Any) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(item, Mapping):
        raise InvalidError(f"{item!r} is no mapping")
    given = dict(item)
    dag_id = given.pop("dag", None)
    if not isinstance(dag_id, str) or not dag_id:
        raise InvalidError(f"dag={dag_id!r} must be the id of a DAG")
    told = told_to(
        channels=_channels(given.pop("channels", [])),
        callback=given.pop("callback", None),
        escalate=[_step(step) for step in given.pop("escalate", [])],
    )
    unknown = sorted(set(given) - {*_NEEDED, *_OTHERS})
    if unknown:
        raise InvalidError(f"{', '.join(unknown)}: not known; see the arguments of sla()")
    for name in _DURATIONS:
        if name in given:
            given[name] = _duration(name, given[name])
    return [(dag_id, {**policy.to_flat(), **told}) for policy in make_policies(**{**_NEEDED, **given})]


def _channels(items: Any) -> list[Channel]:
    if not isinstance(items, list):
        raise TypeError(f"channels={items!r} must be a list")
    channels = []
    for item in items:
        if not isinstance(item, Mapping) or "notifier" not in item:
            raise InvalidError(f"channels contains {item!r}: each is a mapping with notifier")
        arguments = {str(name): value for name, value in item.items() if name != "notifier"}
        channels.append(Channel(item["notifier"], **arguments))
    return channels


def _step(item: Any) -> Step:
    if not isinstance(item, Mapping) or set(item) - {"after", "channels", "owner"}:
        raise InvalidError(f"escalate contains {item!r}: each has after, channels and owner")
    return Step(
        after=_duration("after", item.get("after")),
        channels=_channels(item.get("channels", [])),
        owner=str(item.get("owner", "")),
    )


def _duration(name: str, value: Any) -> timedelta:
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise InvalidError(f"{name}={value!r}: write a number with s, min, h or d, such as {name}: 5 min")
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError as error:
        raise InvalidError(f"{name}={value!r} is longer than a duration can be") from error
