"""Tells of a contract whose state changed, through whatever Airflow notifiers are configured.

``[airflow_ext] contract_channels`` says which notifier stands for which tool of a contract's ``support``::

    {"slack": {"notifier": "airflow.providers.slack.notifications.slack.SlackNotifier",
               "slack_conn_id": "slack", "channel": "{{ notice.channel }}"},
     "email": {"notifier": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
               "smtp_conn_id": "mail", "from_email": "airflow@example.com", "to": "{{ notice.channel }}"}}

A key ``tool:channel`` is for one channel only, ``*`` for whatever has no other. Secrets stay in the connections.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from airflow_ext.contracts.notice import Notice, Recipient, notice_of, recipients, remember, told_before
from airflow_ext.contracts.ranges import asset_name
from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.channel import Channel, load

if TYPE_CHECKING:
    from airflow_ext.contracts.model import Contract
    from airflow_ext.contracts.verdict import Verdict

log = logging.getLogger(__name__)

SECTION, OPTION = "airflow_ext", "contract_channels"
TOLD = "told"
"""Key in the state of the contract's asset: the status that was told last, by partition."""
CHANNEL_SECONDS = 20.0
ALL_SECONDS = 60.0
_FILLED_IN = {
    "subject": "subject",
    "title": "subject",
    "summary": "subject",
    "html_content": "html",
    "text": "text",
    "body": "text",
    "message": "text",
    "dedup_key": "key",
}
"""Notifier arguments that get a field of the notice when the configuration leaves them out."""
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
    seconds: float = ALL_SECONDS,
) -> int:
    """Tell the channels of a contract that its state changed for a partition; never raises.

    One notice per contract, partition and status: what was told last is kept in the state of the contract's asset, so
    that neither a retry nor a republication of the same tells twice. A partition that holds from the start is no
    news. A channel that fails is logged and counted, and not tried again for this status.

    :param context: Context of the task that published.
    :param contract: The contract.
    :param verdict: What was published.
    :param earlier: The verdict of the partition before, if it is known.
    :param channels: Notifiers by tool; ``None`` reads ``[airflow_ext] contract_channels``.
    :param state: State of the contract's asset; ``None`` means that of the running Airflow.
    :param seconds: How long telling may take in all.
    :return: How many channels were told.
    """
    try:
        configured = configured_channels() if channels is None else channels
        if not configured:
            return 0
        return _tell(context, contract, verdict, earlier, configured, state or _state_of(verdict), seconds)
    except Exception as exc:  # noqa: BLE001  whatever is wrong with notices, the verdict stands
        log.warning("Contract %s: no notice was sent: %s: %s", verdict.contract, type(exc).__name__, exc)
        _count("airflow_ext.contracts.notices_failed", verdict, tool="none")
        return 0


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


def _tell(
    context: Any,
    contract: Contract,
    verdict: Verdict,
    earlier: Verdict | None,
    channels: Mapping[str, Channel],
    state: State,
    seconds: float,
) -> int:
    told = state.get(TOLD)
    before = told_before(told, verdict, earlier)
    if before == str(verdict.status):
        return 0
    notice, deadline, count = notice_of(verdict, before), time.monotonic() + seconds, 0
    for recipient in recipients(contract, verdict):
        channel = _channel_for(recipient, channels)
        if channel is None:
            log.info("No notifier is configured for %s %s", recipient.tool, recipient.channel)
            continue
        left = min(CHANNEL_SECONDS, deadline - time.monotonic())
        count += _tell_one(context, channel, notice.to(recipient), verdict, left)
    state.set(TOLD, remember(told, verdict))
    return count


def _channel_for(recipient: Recipient, channels: Mapping[str, Channel]) -> Channel | None:
    keys = (f"{recipient.tool}:{recipient.channel}".lower(), recipient.tool, "*")
    return next((channels[key] for key in keys if key in channels), None)


def _tell_one(context: Any, channel: Channel, notice: Notice, verdict: Verdict, seconds: float) -> bool:
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
        _count("airflow_ext.contracts.notices_failed", verdict, tool=notice.tool)
        return False
    log.info("Contract notice %s was sent to %s %s", notice.key, notice.tool, notice.channel)
    _count("airflow_ext.contracts.notices", verdict, tool=notice.tool)
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
    accepted = set(inspect.signature(notifier_class).parameters) - set(given)
    for name in accepted & set(_FILLED_IN):
        field = _FILLED_IN[name]
        given[name] = f"{{{{ notice.{field} }}}}" if name in templated else getattr(notice, field)
    return given


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


def _count(name: str, verdict: Verdict, *, tool: str) -> None:
    from airflow.sdk.observability import stats

    stats.incr(name, tags={"contract": verdict.contract, "status": str(verdict.status), "tool": tool})
