"""What happens when nobody reacts: further steps, each with channels of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.channel import Channel, channels_from_json, channels_to_json
from airflow_ext.sla.wording import duration

_LONGEST = timedelta(days=31)


@dataclass(frozen=True, init=False)
class Step:
    """Tell others if an incident is neither acknowledged nor over some time after it was opened.

    :param after: How long after the incident was opened, at least a minute.
    :param channels: Who is told then.
    :param owner: Who that is, for the message; the policy's owner if left out.
    :raises TypeError: If an argument has the wrong type.
    :raises InvalidError: If ``after`` is out of range or nobody would be told.
    """

    after: timedelta
    channels: tuple[Channel, ...]
    owner: str

    def __init__(self, *, after: timedelta, channels: Iterable[Channel], owner: str = "") -> None:
        if not isinstance(after, timedelta):
            raise TypeError(f"Step(after={after!r}): use a timedelta, such as timedelta(minutes=30)")
        if not timedelta(minutes=1) <= after <= _LONGEST:
            raise InvalidError(f"Step(after={after!r}): between 1 min and {duration(_LONGEST)}")
        told = check_channels(channels)
        if not told:
            raise InvalidError("Step(channels=[]) would tell nobody: give channels=[Channel(...)]")
        object.__setattr__(self, "after", after)
        object.__setattr__(self, "channels", tuple(told))
        object.__setattr__(self, "owner", owner)


def check_channels(channels: Iterable[Channel]) -> list[Channel]:
    """Return channels as a list.

    :raises TypeError: If it is no list of channels.
    """
    if isinstance(channels, (str, Channel)):
        raise TypeError(f"channels={channels!r} must be a list: write channels=[Channel(...)]")
    told = list(channels)
    for channel in told:
        if not isinstance(channel, Channel):
            raise TypeError(f"channels contains {channel!r}: every item is a Channel(...)")
    return told


def check_steps(steps: Iterable[Step]) -> list[Step]:
    """Return the steps of an escalation, which come one after the other.

    :raises TypeError: If it is no list of steps.
    :raises InvalidError: If a step does not come later than the one before it.
    """
    if isinstance(steps, Step):
        raise TypeError("escalate=Step(...) must be a list: write escalate=[Step(...)]")
    found = list(steps)
    for step in found:
        if not isinstance(step, Step):
            raise TypeError(f"escalate contains {step!r}: every item is a Step(...)")
    for earlier, later in pairwise(found):
        if later.after <= earlier.after:
            raise InvalidError(
                f"escalate: a step after {duration(later.after)} stands behind one after "
                f"{duration(earlier.after)}: write them in the order they come"
            )
    return found


def steps_to_json(steps: Iterable[Step]) -> str:
    """Return steps as one string, because callback arguments must be flat."""
    return json.dumps(
        [
            {
                "after": step.after.total_seconds(),
                "channels": json.loads(channels_to_json(step.channels)),
                "owner": step.owner,
            }
            for step in steps
        ]
    )


def steps_from_json(text: str) -> list[Step]:
    """Read what :func:`steps_to_json` wrote."""
    return [
        Step(
            after=timedelta(seconds=item["after"]),
            channels=channels_from_json(json.dumps(item["channels"])),
            owner=item["owner"],
        )
        for item in json.loads(text)
    ]
