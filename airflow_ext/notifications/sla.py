"""Tells a missed SLA: the callback that Airflow runs in the triggerer.

Airflow calls it at least once per missed deadline, again if the triggerer dies meanwhile, and never again
after an exception. Hence the tries in here, and hence notices that carry one stable id: a mail's Message-ID
and an incident's ``dedup_key`` let the other side drop the second copy.

The callback returns ``None``: a dict or a list as result would end the triggerer.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from airflow_ext.exceptions import UnavailableError
from airflow_ext.notifications._message import accepted_arguments, message_fields
from airflow_ext.sla.channel import Channel, channels_from_json, load
from airflow_ext.sla.event import SlaEvent
from airflow_ext.sla.heartbeat import VARIABLE_KEY, is_fresh
from airflow_ext.sla.policy import Policy

log = logging.getLogger(__name__)

WAITS = (0.0, 2.0, 10.0)
"""Seconds before each try."""
TRY_TIMEOUT = 30.0
"""Seconds one channel may take for one try."""
TOLD_KEY = "airflow_ext_sla_told"
"""Airflow Variable with the keys that were told last, for the other triggerers."""
TOLD_KEPT = 500
_told: dict[str, None] = {}

Teller = Callable[[], Awaitable[None]]


async def tell_missed_sla(
    *,
    channels: str,
    callback: str | None = None,
    context: Any = None,
    deadline: Any = None,
    **fields: Any,
) -> None:
    """Tell every channel of a policy that a run missed it.

    Silent while the monitor is at work, which tells it too; if the run did end in time after all, as Airflow may look at a
    deadline late; and if the same occurrence was told before.

    :param channels: As :func:`airflow_ext.sla.channel.channels_to_json` gives them.
    :param callback: Path of a function that gets the event too.
    :param context: What Airflow knows of the run: a plain dict in 3.3, a task-like context later.
    :param deadline: Id and time of the deadline, where Airflow gives them beside the context.
    :param fields: The policy, as :meth:`airflow_ext.sla.policy.Policy.to_flat` gives it.
    :raises UnavailableError: If a channel could not be told; the others were.
    """
    event = make_event(
        policy=Policy.from_flat(fields),
        context=context,
        deadline=deadline,
        base_url=_base_url(),
        now=datetime.now(UTC),
    )
    if event.state == "success" and event.ended is not None and event.late <= _grace(fields):
        log.info("SLA %s was met after all", event.key)
        return
    if is_fresh(_variable(VARIABLE_KEY), now=event.told_at):
        log.info("SLA %s is left to the monitor, which is at work", event.key)
        return
    if was_told(event.key):
        log.info("SLA %s was told before", event.key)
        return
    log.warning("%s", event.subject)
    _count("airflow_ext.sla.missed", dag_id=event.dag_id, policy=event.policy, severity=event.severity)
    tellers: dict[str, Teller] = {
        f"{number}. {channel.label}": _notifier_teller(channel, event, context)
        for number, channel in enumerate(channels_from_json(channels), start=1)
    }
    if callback is not None:
        tellers[callback] = _function_teller(callback, event)
    failed = await tell_all(tellers, event=event, waits=WAITS)
    if len(failed) < len(tellers):
        note_told(event.key)
    if failed:
        raise UnavailableError(
            f"{event.key}: {len(failed)} of {len(tellers)} channels could not be told: "
            + ", ".join(f"{name} ({reason})" for name, reason in failed.items())
        )


async def tell_all(
    tellers: Mapping[str, Teller],
    *,
    event: SlaEvent,
    waits: tuple[float, ...],
    timeout: float = TRY_TIMEOUT,  # noqa: ASYNC109 - it bounds each of many awaits, not this one
) -> dict[str, str]:
    """Try every channel, then those that failed again; return what failed to the end, with the error's name.

    One after the other and in this task: a hanging server must not hold up the next channel for long, and
    Airflow's connection lookups do not work from other tasks of the triggerer's loop.

    :param waits: Seconds before each round of tries.
    :param timeout: Seconds for one try of one channel.
    """
    failed = dict.fromkeys(tellers, "")
    for wait in waits:
        if not failed:
            break
        await asyncio.sleep(wait)
        for name in list(failed):
            try:
                async with asyncio.timeout(timeout):
                    await tellers[name]()
            except Exception as error:  # noqa: BLE001 - notifiers raise anything; the next channel must be told
                failed[name] = type(error).__name__
                # Airflow's log masks what it has read from connections, also in this text.
                log.warning("SLA %s: telling %s failed: %s: %s", event.key, name, failed[name], error)
            else:
                del failed[name]
                log.info("SLA %s: told %s", event.key, name)
                _count("airflow_ext.sla.told", dag_id=event.dag_id, channel=name)
    for name in failed:
        _count("airflow_ext.sla.not_told", dag_id=event.dag_id, channel=name)
    return failed


def make_event(*, policy: Policy, context: Any, deadline: Any, base_url: str, now: datetime) -> SlaEvent:
    """Return the event for a missed deadline.

    :param base_url: Address of the Airflow UI.
    :param now: When it is told.
    """
    run = _field(context, "dag_run")
    deadline = _field(context, "deadline") or deadline
    # Airflow moves this about between versions; a notice with a rough due time is better than none.
    told = _time(_field(deadline, "deadline_time")) or now
    due = told - policy.grace
    dag_id = str(_field(run, "dag_id"))
    run_id = str(_field(run, "dag_run_id") or _field(run, "run_id"))
    return SlaEvent(
        key=policy.occurrence_key(dag_id=dag_id, run_id=run_id, due=due),
        policy=policy.name,
        promise=policy.promise,
        severity=policy.severity,
        owner=policy.owner,
        dag_id=dag_id,
        run_id=run_id,
        run_type=_word(_field(run, "run_type")),
        due=due,
        zone=policy.tz,
        told_at=now,
        state=_word(_field(run, "state")),
        logical_date=_time(_field(run, "logical_date")),
        started=_time(_field(run, "start_date")),
        ended=_time(_field(run, "end_date")),
        url=f"{base_url.rstrip('/')}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}",
        deadline_id=str(_field(deadline, "id") or ""),
    )


def was_told(key: str) -> bool:
    """Say whether an occurrence was told before: by this triggerer, or by another as far as it could write it down."""
    return key in _told or key in _read_told()


def note_told(key: str) -> None:
    """Remember that an occurrence was told: by several runs that owe one time of day, or if Airflow calls again."""
    _told[key] = None
    while len(_told) > TOLD_KEPT:
        del _told[next(iter(_told))]
    keys = [*(each for each in _read_told() if each != key), key][-TOLD_KEPT:]
    try:
        from airflow.sdk import Variable

        Variable.set(TOLD_KEY, json.dumps(keys), description="SLAs that were told without the monitor")
    except Exception as error:  # noqa: BLE001 - told twice is better than a callback that fails after telling
        log.warning("SLA %s: cannot remember that it was told: %s", key, type(error).__name__)


def _read_told() -> list[str]:
    try:
        return [str(key) for key in json.loads(_variable(TOLD_KEY) or "[]")]
    except (ValueError, TypeError):
        return []


def _variable(key: str) -> str | None:
    """Return an Airflow Variable, or ``None``: a lookup that fails must not keep anybody from being told."""
    try:
        from airflow.sdk import Variable

        value: str | None = Variable.get(key, default=None)
    except Exception as error:  # noqa: BLE001 - see above
        log.warning("Variable %s cannot be read: %s", key, type(error).__name__)
        return None
    return value


def _notifier_teller(channel: Channel, event: SlaEvent, context: Any) -> Teller:
    async def tell() -> None:
        from airflow.sdk import BaseNotifier

        # In a thread: a first import takes seconds, and this loop is that of all triggers.
        notifier_class = await asyncio.to_thread(load, channel.notifier)
        notifier = notifier_class(**channel.arguments, **message_arguments(notifier_class, channel, event))
        rendered_with = {**(context if isinstance(context, dict) else {}), "sla": event}
        if notifier_class.async_notify is BaseNotifier.async_notify:
            await asyncio.to_thread(notifier, rendered_with)
        else:
            notifier.context = rendered_with
            await notifier

    return tell


def message_arguments(notifier_class: Any, channel: Channel, event: SlaEvent) -> dict[str, Any]:
    """Return the arguments that carry the message, for those the notifier has and the channel leaves out.

    As templates where the notifier renders them, so that a brace in a DAG's name is no template.
    """
    filled = message_fields(notifier_class, given=channel.arguments, name="sla", source=event)
    accepted = accepted_arguments(notifier_class) - set(channel.arguments)
    if "custom_headers" in accepted and event.deadline_id:
        filled["custom_headers"] = {"Message-ID": f"<{event.deadline_id}@airflow-ext>"}
    return filled


def _function_teller(path: str, event: SlaEvent) -> Teller:
    async def tell() -> None:
        function = await asyncio.to_thread(load, path)
        if inspect.iscoroutinefunction(function):
            await function(event)
        else:
            await asyncio.to_thread(function, event)

    return tell


def _field(source: Any, name: str) -> Any:
    if isinstance(source, Mapping):
        return source.get(name)
    return getattr(source, name, None)


def _time(value: Any) -> datetime | None:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.astimezone(UTC) if isinstance(value, datetime) else None


def _word(value: Any) -> str:
    return str(getattr(value, "value", value) or "")


def _grace(fields: Mapping[str, Any]) -> timedelta:
    return timedelta(seconds=float(fields["grace"]))


def _base_url() -> str:
    from airflow.sdk.configuration import conf

    return conf.get("api", "base_url", fallback="") or "http://localhost:8080"


def _count(name: str, **tags: str) -> None:
    from airflow.sdk.observability import stats

    stats.incr(name, tags=tags)
