"""Tells of a contract whose state changed, through whatever Airflow notifiers are configured.

``[airflow_ext] contract_channels`` says which notifier stands for which tool of a contract's ``support``::

    {"slack": {"notifier": "airflow.providers.slack.notifications.slack.SlackNotifier",
               "slack_conn_id": "slack", "channel": "{{ notice.channel }}"},
     "email": {"notifier": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
               "smtp_conn_id": "mail", "from_email": "airflow@example.com", "to": "{{ notice.channel }}"}}

A key ``tool:channel`` is for one channel only, ``*`` for whatever has no other. Secrets stay in the connections.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from airflow_ext.contracts.claims import Claim
from airflow_ext.contracts.notice import Notice, late_notice, notice_of, recipients, remember, told_before
from airflow_ext.contracts.ranges import asset_name
from airflow_ext.contracts.recipients import Recipient
from airflow_ext.contracts.verdict import Status
from airflow_ext.exceptions import DeniedError, InvalidError
from airflow_ext.notifications._message import message_fields
from airflow_ext.sla.channel import Channel, load

if TYPE_CHECKING:
    from airflow_ext.contracts.lateness import Late
    from airflow_ext.contracts.model import Contract
    from airflow_ext.contracts.store import Key, VerdictStore
    from airflow_ext.contracts.verdict import Verdict

log = logging.getLogger(__name__)

SECTION, OPTION = "airflow_ext", "contract_channels"
TOLD = "told"
"""Key in the state of the contract's asset: the status that was told last, by partition."""
CHANNEL_SECONDS = 20.0
ALL_SECONDS = 60.0
_FIELD = re.compile(r"\{\{\s*notice\.(\w+)\s*\}\}")


class State(Protocol):
    """The part of an asset's state that is used."""

    def get(self, key: str, default: Any = None) -> Any:
        """Read a key."""

    def set(self, key: str, value: Any) -> None:
        """Write a key."""


def tell(
    context: Any,
    contract: Contract,
    verdict: Verdict,
    earlier: Verdict | None = None,
    *,
    channels: Mapping[str, Channel] | None = None,
    state: State | None = None,
    store: VerdictStore | None = None,
    seconds: float = ALL_SECONDS,
) -> int:
    """Tell the channels of a contract that its state changed for a partition; never raises.

    One notice per contract, partition and status: what was told last is kept in the state of the contract's asset, so
    that neither a retry nor a republication of the same tells twice. A partition that holds from the start is no
    news, unless a waiter has told that it was late. A channel that fails is logged and counted, and not tried again
    for this status.

    :param context: Context of the task that published.
    :param contract: The contract.
    :param verdict: What was published.
    :param earlier: The verdict of the partition before, if it is known.
    :param channels: Notifiers by tool; ``None`` reads ``[airflow_ext] contract_channels``.
    :param state: State of the contract's asset; ``None`` means that of the running Airflow.
    :param store: Store of verdicts, which knows whether lateness was told; ``None`` asks nobody.
    :param seconds: How long telling may take in all.
    :return: How many channels were told.
    """
    try:
        configured = configured_channels() if channels is None else channels
        if not configured:
            return 0
        state = state or _state_of(verdict)
        told = state.get(TOLD)
        before = told_before(told, verdict, earlier)
        remembered = isinstance(told, Mapping) and verdict.partition in told
        if not remembered and earlier is None and store is not None:
            was_late = store.late_claimed(asset_name(verdict.contract, verdict.major), verdict.partition)
            before = str(Status.LATE) if was_late else before
        if before == str(verdict.status):
            return 0
        count = _deliver(
            context, notice_of(verdict, before), recipients(contract, verdict), configured, seconds
        )
        state.set(TOLD, remember(told, verdict))
    except Exception as exc:  # noqa: BLE001  whatever is wrong with notices, the verdict stands
        log.warning("Contract %s: no notice was sent: %s: %s", verdict.contract, type(exc).__name__, exc)
        _count("airflow_ext.contracts.notices_failed", verdict.contract, str(verdict.status), "none")
        return 0
    return count


def tell_late(
    late: Sequence[Late],
    store: VerdictStore,
    *,
    seen_by: str,
    channels: Mapping[str, Channel] | None = None,
    now: float | None = None,
    seconds: float = ALL_SECONDS,
) -> dict[Key, Claim]:
    """Tell the channels of contracts that partitions are late; never raises, works in a task and in a thread of a triggerer.

    However many wait for a partition, in however many processes, one of them tells: the store decides who, see
    :mod:`airflow_ext.contracts.claims`. Without a notifier for any of a contract's channels nothing is claimed, so that
    another Airflow that shares the store may tell.

    :param late: Partitions, as :func:`airflow_ext.contracts.lateness.overdue` gives them.
    :param store: Store of verdicts.
    :param seen_by: Who waits, for a reader.
    :param channels: Notifiers by tool; ``None`` reads ``[airflow_ext] contract_channels``.
    :param now: Seconds since the epoch; ``None`` is the clock's.
    :param seconds: How long telling of one partition may take.
    :return: Who tells, by asset and partition; without those for which the store did not answer.
    """
    token, outcome = secrets.token_hex(16), {}
    moment = time.time() if now is None else now
    try:
        configured = configured_channels() if channels is None else channels
        able = {
            each.key: each for each in late if any(_channel_for(one, configured) for one in each.recipients)
        }
        outcome = {each.key: Claim.TOLD for each in late if each.key not in able}
        claims = store.claim_late(list(able), token=token, now=moment) if able else {}
        for key, claim in claims.items():
            if claim is Claim.MINE and store.verdict(*key) is None:
                said = datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
                notice = late_notice(able[key], seen_by=seen_by, now=said)
                _deliver({}, notice, able[key].recipients, configured, seconds)
                store.note_late_told(*key, token=token, now=moment)
            outcome[key] = claim
    except Exception as exc:  # noqa: BLE001  whatever is wrong with notices, waiting goes on
        names = ", ".join(sorted({each.contract for each in late}))
        log.warning("Contract %s: that it is late was not told: %s: %s", names, type(exc).__name__, exc)
        _count("airflow_ext.contracts.notices_failed", names, str(Status.LATE), "none")
        # time does not help: this is settled, as far as we can
        if isinstance(exc, DeniedError | InvalidError):
            return {each.key: Claim.TOLD for each in late}
    return outcome


def somebody_listens() -> bool:
    """Say whether any notifier is configured."""
    from airflow.sdk.configuration import conf

    return bool((conf.get(SECTION, OPTION, fallback="") or "").strip())


def configured_channels() -> dict[str, Channel]:
    """Return the notifiers that the configuration names, by tool.

    :raises InvalidError: If the configuration cannot be used.
    """
    from airflow.sdk.configuration import conf

    text = conf.get(SECTION, OPTION, fallback="") or ""
    return channels_from(text) if text.strip() else {}


def channels_from(text: str) -> dict[str, Channel]:
    """Read ``[airflow_ext] contract_channels``.

    :raises InvalidError: If it is no JSON object of notifiers.
    """
    where = f"[{SECTION}] {OPTION}"
    try:
        given = json.loads(text)
    except ValueError as exc:
        raise InvalidError(f"{where} is not JSON: {exc}") from None
    if not isinstance(given, dict):
        raise InvalidError(f'{where} is no JSON object such as {{"slack": {{"notifier": "package.Class"}}}}')
    found = {}
    for tool, item in given.items():
        if not isinstance(item, dict) or not isinstance(item.get("notifier"), str):
            raise InvalidError(f"{where}: {tool!r} names no notifier")
        arguments = {name: value for name, value in item.items() if name != "notifier"}
        try:
            found[tool.lower()] = Channel(item["notifier"], **arguments)
        except (InvalidError, TypeError) as exc:
            raise InvalidError(f"{where}: {tool!r}: {exc}") from None
    return found


def _deliver(
    context: Any,
    notice: Notice,
    told: Sequence[Recipient],
    channels: Mapping[str, Channel],
    seconds: float,
) -> int:
    deadline, count = time.monotonic() + seconds, 0
    for recipient in told:
        channel = _channel_for(recipient, channels)
        if channel is None:
            log.info("No notifier is configured for %s %s", recipient.tool, recipient.channel)
            continue
        left = min(CHANNEL_SECONDS, deadline - time.monotonic())
        count += _tell_one(context, channel, notice.to(recipient), left)
    return count


def _channel_for(recipient: Recipient, channels: Mapping[str, Channel]) -> Channel | None:
    keys = (f"{recipient.tool}:{recipient.channel}".lower(), recipient.tool, "*")
    return next((channels[key] for key in keys if key in channels), None)


def _tell_one(context: Any, channel: Channel, notice: Notice, seconds: float) -> bool:
    """Tell one channel in a thread of its own, so that a server that does not answer holds nobody up."""
    problem: list[str] = []

    def work() -> None:
        try:
            _send(context, channel, notice)
        except BaseException as exc:  # noqa: BLE001  notifiers raise anything
            problem.append(type(exc).__name__)
            # Airflow's log masks what it has read from connections, also in this text
            log.warning("Contract notice %s: telling %s failed: %s", notice.key, channel.label, exc)

    if seconds <= 0:
        problem.append("the time for it is over")
    else:
        thread = threading.Thread(target=work, name="contract-notice", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            problem.append(f"no end within {seconds:.0f} s")
    if problem:
        log.warning("Contract notice %s was not sent to %s: %s", notice.key, notice.channel, problem[0])
        _count("airflow_ext.contracts.notices_failed", notice.contract, notice.status, notice.tool)
        return False
    log.info("Contract notice %s was sent to %s %s", notice.key, notice.tool, notice.channel)
    _count("airflow_ext.contracts.notices", notice.contract, notice.status, notice.tool)
    return True


def _send(context: Any, channel: Channel, notice: Notice) -> None:
    notifier_class = load(channel.notifier)
    notifier = notifier_class(**arguments_for(notifier_class, channel, notice))
    notifier({**dict(context or {}), "notice": notice})


def arguments_for(notifier_class: Any, channel: Channel, notice: Notice) -> dict[str, Any]:
    """Return a notifier's arguments: those configured, and the message where they leave it out.

    What the notifier renders stays a template, so that a brace in a contract is none; the rest is filled in here.
    """
    templated = set(notifier_class.template_fields)
    given = {
        name: value if name in templated else _filled(value, notice)
        for name, value in channel.arguments.items()
    }
    return given | message_fields(notifier_class, given=given, name="notice", source=notice)


def _filled(value: Any, notice: Notice) -> Any:
    if isinstance(value, str):
        return _FIELD.sub(lambda match: str(getattr(notice, match[1], "")), value)
    if isinstance(value, list):
        return [_filled(item, notice) for item in value]
    return {key: _filled(item, notice) for key, item in value.items()} if isinstance(value, dict) else value


def _state_of(verdict: Verdict) -> State:
    from airflow.sdk.execution_time.context import AssetStateStoreAccessor

    state: State = AssetStateStoreAccessor(name=asset_name(verdict.contract, verdict.major))
    return state


def _count(name: str, contract: str, status: str, tool: str) -> None:
    from airflow.sdk.observability import stats

    stats.incr(name, tags={"contract": contract, "status": status, "tool": tool})
