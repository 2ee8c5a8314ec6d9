"""What the sender hands to whoever calls the channels, and what comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from airflow_ext.sla.channel import Channel
from airflow_ext.sla.event import SlaEvent


@dataclass(frozen=True)
class Call:
    """One call of one channel, for one message or for a digest of several.

    :param id: Stands for the call within one round.
    :param target: The channel, or the path of a function that gets the event.
    :param thread: What the channel gave when it was first told of this incident; empty if it gave nothing.
    """

    id: int
    target: Channel | str
    event: SlaEvent
    thread: str = ""

    @property
    def label(self) -> str:
        """Name for logs and metrics."""
        return self.target if isinstance(self.target, str) else self.target.label


@dataclass(frozen=True)
class Outcome:
    """What became of a call.

    :param id: That of the call.
    :param error: Class and masked text of what went wrong; empty if the channel was told.
    :param retry_after: Seconds the channel asked to be left alone for.
    :param thread: What to answer with in the same thread; empty if the channel has none.
    :param keyed: Whether the channel keeps an alert open by key until it is resolved.
    :param tried: Whether the channel was called at all; if not, this is no try.
    :param after: Seconds since the round began.
    """

    id: int
    error: str = ""
    retry_after: float | None = None
    thread: str = ""
    keyed: bool = False
    tried: bool = True
    after: float = 0.0


Deliver = Callable[[Sequence[Call]], Iterable[Outcome]]
"""Calls channels and gives the outcome of each call as it becomes known, all of them within some bound."""


@dataclass(frozen=True)
class Settings:
    """Bounds of the sender.

    :param batch: Messages taken in one round.
    :param claim: After this, messages of a sender that died are taken by another; longer than a round lasts.
    :param tries: Tries of one message before it is given up.
    :param first_wait: Wait after the first failure; it doubles with each.
    :param longest_wait: The most it grows to.
    :param longest_ask: The most that a channel's own Retry-After is followed for.
    :param window: The time over which calls are counted.
    :param owner_calls: Calls of one channel for one owner within the window; more becomes a digest.
    :param channel_calls: Calls of one channel for all owners within the window; more becomes one digest.
    """

    batch: int = 5000
    claim: timedelta = timedelta(minutes=3)
    tries: int = 12
    first_wait: timedelta = timedelta(seconds=5)
    longest_wait: timedelta = timedelta(minutes=30)
    longest_ask: timedelta = timedelta(hours=6)
    window: timedelta = timedelta(minutes=1)
    owner_calls: int = 5
    channel_calls: int = 20


@dataclass
class SendReport:
    """What one round did; all counts are of messages, except ``calls``.

    :param taken: Taken from the outbox.
    :param escalated: Written to the outbox because nobody reacted.
    :param calls: Calls of channels.
    :param digested: Told as part of a digest.
    :param failed: Failed and to be tried again.
    :param given_up: Failed for good.
    :param suppressed: Not told, by reason.
    :param postponed: Put off without a try: rate, snooze, order.
    :param channels: Calls by what became of them (``sent``, ``failed``) and the channel's name.
    """

    taken: int = 0
    escalated: int = 0
    calls: int = 0
    sent: int = 0
    digested: int = 0
    failed: int = 0
    given_up: int = 0
    suppressed: Counter[str] = field(default_factory=Counter)
    postponed: int = 0
    channels: Counter[tuple[str, str]] = field(default_factory=Counter)
