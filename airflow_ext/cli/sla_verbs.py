"""``airflow-ext sla status | list | explain | ack | snooze | excuse | report | suggest``."""

from __future__ import annotations

import argparse
import getpass
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_ext.cli import sla_output
from airflow_ext.exceptions import InvalidError, UnavailableError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_SPAN = re.compile(r"(\d{1,4})(m|min|h|d)")
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days"}


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs to the group."""
    _verb(
        verbs, "status", _status, "say how things are; exit status 1 if something is late or nobody watches"
    )
    listed = _verb(verbs, "list", _list, "list open incidents")
    listed.add_argument("--all", action="store_true", help="also those that are over, of the last --days")
    listed.add_argument("--days", type=int, default=7, metavar="N", help="how far back --all goes (7)")
    _incident(_verb(verbs, "explain", _explain, "tell the story of an incident"))
    for name, func, text in (
        ("ack", _ack, "take care of an incident: nobody else is told"),
        ("snooze", _snooze, "hold up the next steps of an incident"),
        ("excuse", _excuse, "let a miss count for nothing"),
    ):
        verb = _verb(verbs, name, func, text)
        _incident(verb)
        verb.add_argument("--why", required=True, metavar="TEXT", help="the reason, kept with the incident")
        verb.add_argument("--who", default="", metavar="NAME", help="your name (the user of this machine)")
        if name == "snooze":
            verb.add_argument(
                "--for", dest="span", required=True, metavar="SPAN", help="such as 30m, 2h or 1d"
            )
    for name, func, text in (
        ("report", _report, "list promises with budget and burn"),
        ("suggest", _suggest, "suggest deadlines from history, also for a DAG without SLA"),
    ):
        verb = _verb(verbs, name, func, text)
        verb.add_argument("dag_id", nargs="?", help="only this DAG")
        if name == "suggest":
            verb.add_argument(
                "--tz", default="UTC", metavar="ZONE", help="zone of a new time of day, for a DAG without SLA"
            )


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    func: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.add_argument("--format", choices=("text", "json"), default="text", help="for people or for programs")
    verb.set_defaults(func=func)
    return verb


def _incident(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("incident", type=int, help="its number, as in the message and in list")


def parse_span(text: str) -> timedelta:
    """Read ``30m``, ``2h`` or ``1d``.

    :raises InvalidError: If it is none.
    """
    match = _SPAN.fullmatch(text)
    if match is None:
        raise InvalidError(f"--for {text!r}: write a number and m, h or d, such as 30m")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@contextmanager
def open_ledger() -> Iterator[Session]:
    """Open a session on the metadata database.

    :raises UnavailableError: If the tables are not there.
    """
    from airflow import settings
    from sqlalchemy import inspect
    from sqlalchemy.orm import Session

    from airflow_ext.sla.ledger.models import TABLES

    engine = settings.get_engine()
    if not set(TABLES) <= set(inspect(engine).get_table_names()):
        raise UnavailableError("the tables of the ledger are not there: run airflow db migrate")
    with Session(engine, expire_on_commit=False) as session:
        yield session


def _now() -> datetime:
    return datetime.now(UTC)


def _show(args: argparse.Namespace, data: Any, text: Callable[[Any], None]) -> None:
    if args.format == "json":
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        text(data)


def _status(args: argparse.Namespace) -> int:
    from airflow_ext.sla.trends import views

    with open_ledger() as session:
        data = views.status(session, now=_now())
    _show(args, data, sla_output.status)
    return 0 if data["monitors"] and not data["late"] and not data["unacknowledged"] else 1


def _list(args: argparse.Namespace) -> int:
    from airflow_ext.sla.trends import views

    if args.days < 1:
        raise InvalidError(f"--days {args.days}: at least 1")
    with open_ledger() as session:
        data = views.incidents(session, now=_now(), everything=args.all, days=args.days)
    _show(args, data, lambda found: sla_output.incidents(found, now=_now()))
    return 0


def _explain(args: argparse.Namespace) -> int:
    from airflow_ext.sla.trends import views

    with open_ledger() as session:
        data = views.explain(session, args.incident)
    if data is None:
        raise _unknown(args.incident)
    _show(args, data, sla_output.explain)
    return 0


def _ack(args: argparse.Namespace) -> int:
    from airflow_ext.sla.trends import actions

    return _act(args, actions.acknowledge, "acknowledged: nobody else is told")


def _excuse(args: argparse.Namespace) -> int:
    from airflow_ext.sla.trends import actions

    return _act(args, actions.excuse, "excused: it counts for nothing")


def _snooze(args: argparse.Namespace) -> int:
    from airflow_ext.sla.trends import actions

    until = _now() + parse_span(args.span)
    return _act(args, actions.snooze, f"snoozed until {until:%Y-%m-%d %H:%M} UTC", until=until)


def _act(args: argparse.Namespace, action: Callable[..., None], done: str, **more: Any) -> int:
    from airflow_ext.sla.ledger.models import IncidentRow

    with open_ledger() as session:
        incident = session.get(IncidentRow, args.incident)
        if incident is None:
            raise _unknown(args.incident)
        action(session, incident, who=args.who or getpass.getuser(), why=args.why, now=_now(), **more)
        session.commit()
    _show(
        args,
        {"incident": args.incident, "done": done},
        lambda _: print(f"Incident {args.incident} is {done}"),
    )
    return 0


def _report(args: argparse.Namespace) -> int:
    _show(args, _promises(args), sla_output.report)
    return 0


def _suggest(args: argparse.Namespace) -> int:
    from airflow_ext.sla.clock import parse_zone
    from airflow_ext.sla.trends import suggest, views

    zone = parse_zone(args.tz, argument="--tz")
    with open_ledger() as session:
        if args.dag_id is None or views.promises(session, dag_ids=[args.dag_id]):
            _show(args, _promises(args), sla_output.suggest)
            return 0
        found = suggest.from_runs(session, args.dag_id, zone=zone)
    if not found["runs"]:
        raise InvalidError(f"{args.dag_id!r} has neither an SLA nor a run that started by itself and ended")
    _show(args, found, sla_output.suggest_new)
    return 0


def _promises(args: argparse.Namespace) -> list[dict[str, Any]]:
    from airflow_ext.sla.trends import views

    with open_ledger() as session:
        found = views.promises(session, dag_ids=None if args.dag_id is None else [args.dag_id])
    if args.dag_id is not None and not found:
        raise InvalidError(
            f"{args.dag_id!r} has no SLA in force: airflow ext sla report lists those that have"
        )
    return found


def _unknown(number: int) -> InvalidError:
    return InvalidError(f"there is no incident {number}: airflow ext sla list --all shows their numbers")
