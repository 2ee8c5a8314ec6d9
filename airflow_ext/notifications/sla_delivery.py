"""Calls the channels of SLA messages: any Airflow notifier, or a function, in threads that a hung server cannot use up."""

from __future__ import annotations

import asyncio
import inspect
import logging
import queue
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from airflow_ext.notifications.sla import _base_url
from airflow_ext.notifications.sla_arguments import arguments_for, is_keyed
from airflow_ext.notifications.sla_errors import describe, retry_after
from airflow_ext.notifications.sla_hooks import adapt
from airflow_ext.sla import metrics
from airflow_ext.sla.channel import Channel, load
from airflow_ext.sla.sender.model import Call, Outcome, SendReport, Settings
from airflow_ext.sla.sender.send import send_due
from airflow_ext.sla.sender.storm import Breaker
from airflow_ext.sla.trends.measure import Measurer

log = logging.getLogger(__name__)

_LOOK = 0.05
Results = queue.SimpleQueue[tuple[Outcome, threading.Thread]]


@dataclass(frozen=True)
class Bounds:
    """Bounds of one round of calls.

    :param threads: Calls at the same time.
    :param per_channel: Calls of one channel at the same time, those that hang from before among them.
    :param hanging: Calls that hang over all; with more of them, no channel is called.
    :param timeout: Seconds for one call.
    :param round: Seconds after which no further call begins.
    """

    threads: int = 8
    per_channel: int = 2
    hanging: int = 32
    timeout: float = 30.0
    round: float = 90.0


class Deliverer:
    """Calls channels, many at a time, a few of each.

    A call that takes too long is given up; its thread is left to itself, as nothing can end it, and counts against its
    channel until it ends. So a server that hangs holds up no other, and no more than a few threads.
    """

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._hanging: dict[Channel | str, list[threading.Thread]] = defaultdict(list)

    def __call__(self, calls: Sequence[Call]) -> Iterator[Outcome]:
        """Make the calls and give the outcome of each, in the order they end."""
        begin = time.monotonic()
        for outcome in self._run(list(calls), begin):
            yield replace(outcome, after=time.monotonic() - begin)

    def _run(self, waiting: list[Call], begin: float) -> Iterator[Outcome]:
        results: Results = queue.SimpleQueue()
        running: dict[int, tuple[Call, threading.Thread, float]] = {}
        while waiting or running:
            if time.monotonic() - begin > self.bounds.round or self._all_hang():
                yield from (Outcome(call.id, tried=False) for call in waiting)
                waiting = []
            for call in [call for call in waiting if self._blocked(call)]:
                waiting.remove(call)
                yield Outcome(call.id, error="TimeoutError: earlier calls of this channel still hang")
            for call in self._startable(waiting, running):
                waiting.remove(call)
                thread = threading.Thread(
                    target=self._work, args=(call, results), name="sla-call", daemon=True
                )
                running[call.id] = (call, thread, time.monotonic())
                thread.start()
            try:
                outcome, _ = results.get(timeout=_LOOK)
            except queue.Empty:
                yield from self._give_up(running)
                continue
            if running.pop(outcome.id, None) is not None:
                yield outcome

    def _startable(self, waiting: list[Call], running: dict[int, Any]) -> list[Call]:
        busy: dict[Channel | str, int] = defaultdict(int)
        for call, _, _ in running.values():
            busy[call.target] += 1
        found: list[Call] = []
        for call in waiting:
            taken = busy[call.target] + len(self._still_hanging(call.target))
            if len(running) + len(found) < self.bounds.threads and taken < self.bounds.per_channel:
                busy[call.target] += 1
                found.append(call)
        return found

    def _give_up(self, running: dict[int, tuple[Call, threading.Thread, float]]) -> Iterator[Outcome]:
        # A little more than what the call itself is given, so that one that can be cancelled ends by itself.
        limit = self.bounds.timeout + 1
        for number, (call, thread, since) in list(running.items()):
            if time.monotonic() - since > limit:
                del running[number]
                self._hanging[call.target].append(thread)
                log.warning("SLA channel %s does not answer within %g s", call.label, self.bounds.timeout)
                yield Outcome(number, error=f"TimeoutError: no answer within {self.bounds.timeout:g} s")

    def _still_hanging(self, target: Channel | str) -> list[threading.Thread]:
        if target not in self._hanging:
            return []
        alive = [thread for thread in self._hanging[target] if thread.is_alive()]
        if alive:
            self._hanging[target] = alive
        else:
            del self._hanging[target]
        return alive

    def _blocked(self, call: Call) -> bool:
        return len(self._still_hanging(call.target)) >= self.bounds.per_channel

    def _all_hang(self) -> bool:
        return sum(len(self._still_hanging(target)) for target in list(self._hanging)) >= self.bounds.hanging

    def _work(self, call: Call, results: Results) -> None:
        results.put((self._tell(call), threading.current_thread()))

    def _tell(self, call: Call) -> Outcome:
        notifier: Any = None
        try:
            if isinstance(call.target, str):
                self._wait_for(load(call.target)(call.event))
                return Outcome(call.id)
            notifier_class = load(call.target.notifier)
            arguments = arguments_for(notifier_class, call.target, call.event)
            notifier = notifier_class(**call.target.arguments, **arguments)
            thread = adapt(notifier, call.thread)
            self._notify(notifier, {"sla": call.event})
        except Exception as error:  # noqa: BLE001 - notifiers raise anything, and it must not end the thread unseen
            text = describe(error, notifier)
            log.warning("SLA message %s: %s: %s", call.event.key, call.label, text)
            return Outcome(call.id, error=text, retry_after=retry_after(error, now=datetime.now(UTC)))
        log.info("SLA message %s: told %s", call.event.key, call.label)
        return Outcome(call.id, thread=thread.thread if thread else "", keyed=is_keyed(notifier_class))

    def _notify(self, notifier: Any, context: dict[str, Any]) -> None:
        from airflow.sdk import BaseNotifier

        # The asynchronous way first: it can be cancelled when it takes too long.
        if type(notifier).async_notify is BaseNotifier.async_notify:
            notifier(context)
        else:
            notifier.context = context
            self._wait_for(notifier)

    def _wait_for(self, answer: Any) -> None:
        if not inspect.isawaitable(answer):
            return

        async def wait() -> None:
            async with asyncio.timeout(self.bounds.timeout):
                await answer

        asyncio.run(wait())


class OutboxSender:
    """The sender of the monitor: one round of :func:`airflow_ext.sla.sender.send.send_due` at each call.

    :param sessions: Gives a session on the metadata database.
    :param holder: A name no other sender has.
    """

    def __init__(
        self,
        *,
        sessions: Callable[[], AbstractContextManager[Session]],
        holder: str,
        bounds: Bounds | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._sessions, self._holder = sessions, holder
        self._deliver = Deliverer(bounds)
        self._breaker = Breaker()
        self._settings = settings or Settings()
        self._measure = Measurer(holder)
        self._dice = random.Random()  # noqa: S311  # spreads tries, no secret
        self.report = SendReport()

    def __call__(self, now: datetime) -> int:
        """Send one batch and return how many messages were taken."""
        with self._sessions() as session:
            self.report = send_due(
                session,
                now,
                self._deliver,
                holder=self._holder,
                breaker=self._breaker,
                base_url=_base_url(),
                settings=self._settings,
                dice=self._dice,
            )
            metrics.count_sent(self.report)
            self._measure(session, now)
        return self.report.taken
