"""What DAG authors write: ``DAG(deadline=sla(...))``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.channel import Channel, channels_to_json, check_path
from airflow_ext.sla.policy import DEFAULT_LATE_START, Policy

if TYPE_CHECKING:
    from airflow.sdk.definitions.deadline import DeadlineAlert

CALLBACK_PATH = "airflow_ext.notifications.sla.tell_missed_sla"


def sla(
    *,
    by: str | None = None,
    tz: str | None = None,
    days: str | Iterable[str] | None = None,
    within: timedelta | None = None,
    grace: timedelta = timedelta(0),
    owner: str = "",
    severity: str = "ticket",
    channels: Iterable[Channel] = (),
    callback: str | None = None,
    name: str | None = None,
    run_types: Iterable[str] | None = None,
    late_start: timedelta = DEFAULT_LATE_START,
) -> DeadlineAlert:
    """Promise when each run of a DAG is done, and say who hears of it if it is not.

    Give the result, or a list of such results, to ``DAG(deadline=...)``.

    :param by: Time of day, ``"HH:MM"`` or ``"HH:MM:SS"``, by the clocks of ``tz``. A scheduled run owes the
        first such time after the time its schedule names, so a run of 22:00 owes the next morning. On the
        days clocks change, a time that does not exist moves forward and of a time that comes twice the first counts.
    :param tz: Time zone of ``by`` and of the times in the message, such as ``"Europe/Berlin"``. Needed with
        ``by``; UTC with ``within`` if left out.
    :param days: Local dates on which ``by`` is promised: ``"mon-fri"`` or a list of weekdays; every day if left out.
    :param within: Longest time from the moment the run is queued to its end. One of ``by`` and ``within`` is needed.
    :param grace: How long after it is due somebody is told; a run that ends within it is on time.
    :param owner: Who answers for the promise; part of the message.
    :param severity: ``page``, ``ticket`` or ``info``; part of the message, for the channel to act on.
    :param channels: Where it is told, all of them.
    :param callback: Full path of a function, plain or async, that is called with an
        :class:`~airflow_ext.sla.event.SlaEvent`; it must be importable where the triggerer runs.
    :param name: Name of the policy, unique within the DAG; made from the promise if left out.
    :param run_types: Which runs the promise is about, in Airflow's words. If left out, ``by`` is about
        scheduled, asset-triggered and operator-triggered runs, ``within`` also about manual ones and
        materializations; backfills never count unless named here.
    :param late_start: How long after a due time a run may be created and still be told as late at once.
        A run created later than that is a repair and gets no deadline.
    :raises TypeError: If an argument has the wrong type.
    :raises InvalidError: If a value is wrong, or nobody would be told.
    """
    from airflow.sdk.definitions.callback import AsyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert

    from airflow_ext.sla.reference import SlaDeadline

    policy = Policy.make(
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
    )
    told = _check_channels(channels)
    if callback is not None:
        check_path("callback", callback)
    if not told and callback is None:
        raise InvalidError(
            "sla() would tell nobody: give channels=[Channel(...)], or callback= with the path of a function"
        )
    flat = policy.to_flat()
    return DeadlineAlert(
        reference=SlaDeadline(flat),
        interval=policy.grace,
        callback=AsyncCallback(
            CALLBACK_PATH, kwargs={**flat, "channels": channels_to_json(told), "callback": callback}
        ),
        name=policy.name,
    )


def _check_channels(channels: Iterable[Channel]) -> list[Channel]:
    if isinstance(channels, (str, Channel)):
        raise TypeError(f"channels={channels!r} must be a list: write channels=[Channel(...)]")
    told = list(channels)
    for channel in told:
        if not isinstance(channel, Channel):
            raise TypeError(f"channels contains {channel!r}: every item is a Channel(...)")
    return told
