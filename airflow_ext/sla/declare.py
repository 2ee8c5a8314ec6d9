"""What DAG authors write: ``DAG(deadline=sla(...))``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.channel import Channel, channels_to_json, check_path
from airflow_ext.sla.checks import check_subject
from airflow_ext.sla.contract_promises import Promised, find, promises
from airflow_ext.sla.escalation import Step, check_channels, check_steps, steps_to_json
from airflow_ext.sla.policy import DEFAULT_LATE_START, Policy, shortened

if TYPE_CHECKING:
    from airflow.sdk.definitions.deadline import DeadlineAlert

    from airflow_ext.contracts.model import Contract

CALLBACK_PATH = "airflow_ext.notifications.sla.tell_missed_sla"
ALSO = "also"
"""Callback argument with further policies of the same ``sla()``, as JSON: Airflow takes flat values only."""
_KINDS = ("by", "within", "fresh", "every")


def sla(
    *,
    by: str | None = None,
    tz: str | None = None,
    days: str | Iterable[str] | None = None,
    within: timedelta | None = None,
    since: str | None = None,
    fresh: timedelta | None = None,
    every: timedelta | None = None,
    at_least: int = 1,
    calendar: str | None = None,
    exceptions: Iterable[str] = (),
    maintenance: Iterable[str] = (),
    grace: timedelta = timedelta(0),
    owner: str = "",
    severity: str = "ticket",
    channels: Iterable[Channel] = (),
    callback: str | None = None,
    escalate: Iterable[Step] = (),
    name: str | None = None,
    run_types: Iterable[str] | None = None,
    late_start: timedelta = DEFAULT_LATE_START,
    on_paused: str = "alert",
    on_failure: str = "tell",
    on_risk: str = "quiet",
    budget: str | None = None,
    task: str | None = None,
    group: str | None = None,
    asset: Any = None,
    contract: Any = None,
    formerly: str | None = None,
) -> DeadlineAlert:
    """Promise when a DAG, a task, a group of tasks or an asset is done, and say who hears of it if it is not.

    Give the result, or a list of such results, to ``DAG(deadline=...)``. Exactly one of ``by``, ``within``,
    ``fresh`` and ``every`` says what is promised, or a ``contract`` does by its ``slaProperties``; at most one of ``task``, ``group``, ``asset`` and ``contract`` about
    what, else it is the whole run. The monitor (``airflow ext sla monitor``) keeps all of them. Without it only
    ``by`` and ``within`` of whole runs are kept, as a deadline of Airflow.

    :param by: Time of day, ``"HH:MM"`` or ``"HH:MM:SS"``, by the clocks of ``tz``. A scheduled run owes the
        first such time after the time its schedule names, so a run of 22:00 owes the next morning. On the
        days clocks change, a time that does not exist moves forward and of a time that comes twice the first counts.
    :param tz: Time zone of ``by``, of local dates and of the times in the message, such as ``"Europe/Berlin"``.
        Needed with ``by``; UTC if left out.
    :param days: Local dates on which it is promised: ``"mon-fri"`` or a list of weekdays; every day if left out.
    :param within: Longest time to the end of the run, counted from ``since``.
    :param since: ``queue`` (the moment a run is queued; default), ``start`` (the moment it starts) or ``schedule`` (the time its
        schedule names, whether a run comes or not; default for assets).
    :param fresh: The greatest age: the last good end or asset event may never be older.
    :param every: Length of windows from midnight on, in each of which it is done at least ``at_least`` times.
    :param at_least: How often, with ``every``.
    :param calendar: Only on working days of a country, a part of one or a market: ``"DE"``, ``"US-CA"``, ``"XECB"``.
        Needs the extra ``calendars``.
    :param exceptions: Local dates that are excused: ``"2026-12-24"`` or ``"2026-12-24..2027-01-01"``.
    :param maintenance: Windows in which whatever is due is excused: ``"2026-12-05T22:00/2026-12-06T04:00"``, by the
        clocks of ``tz``.
    :param grace: How long after it is due somebody is told; what ends within it is on time.
    :param owner: Who answers for the promise; part of the message.
    :param severity: ``page``, ``ticket`` or ``info``; part of the message, for the channel to act on.
    :param channels: Where it is told, all of them.
    :param callback: Full path of a function, plain or async, that is called with an
        :class:`~airflow_ext.sla.event.SlaEvent`; it must be importable where it is told.
    :param escalate: Who is told later if nobody reacts, in the order of ``after``; needs the monitor.
    :param name: Name of the policy, unique within the DAG; made from the promise if left out.
    :param run_types: Which runs count, in Airflow's words. If left out, ``by`` is about
        scheduled, asset-triggered and operator-triggered runs, the others also about manual ones and
        materializations; backfills never count unless named here.
    :param late_start: How long after a due time a run may be created and still be told as late at once.
        A run created later than that is a repair and gets no deadline.
    :param on_paused: When it is due and the DAG is paused: ``alert``, ``excuse``, or ``excuse_after_ack`` (until somebody
        has acknowledged it once).
    :param on_failure: When the run fails before it is due: ``tell`` at once, or ``wait`` whether it is repaired in time.
    :param on_risk: When a run is likely to be late, judged by how long the last good ones took (at least ten): ``tell``
        before it is due, or stay ``quiet`` and show it as at risk.
    :param budget: How many misses are tolerable, such as ``"3 in 30"`` occurrences; for trends.
    :param task: Id of a task of this DAG; skipped counts as done, all mapped instances have to be.
    :param group: Id of a task group of this DAG: all its tasks.
    :param asset: An asset, or its name: an event of it counts, unless a backfill made it.
    :param contract: A :class:`~airflow_ext.contracts.Contract`, or a range of one major version: it counts when it is found
        to hold. Without ``by``, ``within``, ``fresh`` and ``every``, each of its ``timeOfAvailability``, ``latency``,
        ``freshness`` and ``frequency`` becomes a policy of its own, named after ``name`` and the property; owner, zone
        and ``airflow.grace`` are the contract's where nothing else is given. A range is looked up in ``[airflow_ext]
        contracts_folder``.
    :param formerly: Id this DAG had before, so that history goes on under the new one.
    :raises TypeError: If an argument has the wrong type.
    :raises InvalidError: If a value is wrong, or nobody would be told.
    :raises MissingExtraError: If ``calendar`` is given and the library of holidays is not installed.
    """
    from airflow.sdk.definitions.callback import AsyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert

    from airflow_ext.sla.reference import SlaDeadline

    policies = make_policies(
        by=by,
        within=within,
        tz=tz,
        days=days,
        grace=grace,
        owner=owner,
        severity=severity,
        name=name,
        run_types=run_types,
        late_start=late_start,
        since=since,
        fresh=fresh,
        every=every,
        at_least=at_least,
        calendar=calendar,
        exceptions=exceptions,
        maintenance=maintenance,
        on_paused=on_paused,
        on_failure=on_failure,
        on_risk=on_risk,
        budget=budget,
        task=task,
        group=group,
        asset=asset,
        contract=contract,
        formerly=formerly,
    )
    first, *others = policies
    told = told_to(channels=channels, callback=callback, escalate=escalate)
    more = {ALSO: json.dumps([policy.to_flat() for policy in others])} if others else {}
    return DeadlineAlert(
        reference=SlaDeadline(first.to_flat()),
        interval=first.grace,
        callback=AsyncCallback(CALLBACK_PATH, kwargs={**first.to_flat(), **told, **more}),
        name=first.name,
    )


def make_policies(**given: Any) -> list[Policy]:
    """Return the policies of one ``sla()``: one, or one for each promise that its contract makes.

    :param given: The arguments of :meth:`Policy.make`.
    :raises TypeError: If an argument has the wrong type.
    :raises InvalidError: If a value is wrong, or the contract is not there or promises nothing.
    """
    if given.get("contract") is None:
        return [Policy.make(**given)]
    check_subject({name: given.get(name) for name in ("task", "group", "asset", "contract")})
    known = find(given["contract"], _contracts_folder())
    rule = known.partition if known is not None else None
    if any(given.get(kind) is not None for kind in _KINDS):
        return [Policy.make(**given, partitions=rule)]
    if known is None:
        raise InvalidError(
            f"contract={given['contract']!r}: its promises stand in its file, and nobody knows where that is: set "
            "[airflow_ext] contracts_folder, give contract=Contract.from_file(...), or say by=, within=, fresh= or "
            "every= here"
        )
    if given.get("tz") is not None:
        raise InvalidError(
            f"tz={given['tz']!r} goes with by=; the contract has a zone of its own: leave it out"
        )
    return [_of_contract(known, item, given) for item in promises(known)]


def _of_contract(contract: Contract, item: Promised, given: Mapping[str, Any]) -> Policy:
    arguments = {**given, **item.arguments, "partitions": contract.partition}
    if given.get("grace"):
        arguments["grace"] = given["grace"]
    if "within" in item.arguments:
        arguments |= {"days": None, "calendar": None}
    arguments["owner"] = given.get("owner") or contract.owner
    about = given.get("name") or f"contract-{contract.id}-v{contract.major}".replace(":", "-")
    return Policy.make(**{**arguments, "name": shortened(f"{about}-{item.word}")})


def _contracts_folder() -> str:
    from airflow.sdk.configuration import conf

    folder: str = conf.get("airflow_ext", "contracts_folder", fallback="")
    return folder


def definitions(kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the flat definitions that stand in the callback arguments of one ``sla()``.

    :raises ValueError: If they cannot be read.
    """
    shared = {name: value for name, value in kwargs.items() if name != ALSO}
    told = {name: shared[name] for name in ("channels", "callback", "escalate") if name in shared}
    others = json.loads(kwargs.get(ALSO) or "[]")
    return [shared, *({**other, **told} for other in others)]


def told_to(
    *, channels: Iterable[Channel], callback: str | None, escalate: Iterable[Step] = ()
) -> dict[str, str | None]:
    """Check who is told, and return it as flat values: ``channels``, ``callback`` and, if there are steps, ``escalate``.

    :raises TypeError: If an argument has the wrong type.
    :raises InvalidError: If nobody would be told.
    """
    told, steps = check_channels(channels), check_steps(escalate)
    if callback is not None:
        check_path("callback", callback)
    if not told and callback is None:
        raise InvalidError(
            "sla() would tell nobody: give channels=[Channel(...)], or callback= with the path of a function"
        )
    flat: dict[str, str | None] = {"channels": channels_to_json(told), "callback": callback}
    return {**flat, "escalate": steps_to_json(steps)} if steps else flat
