"""Wait for a promise about data, not for somebody's task."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.sdk import Asset, BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from airflow_ext.contracts import ContractRange, Status, report
from airflow_ext.contracts.intervals import asked
from airflow_ext.contracts.lateness import Late, overdue
from airflow_ext.contracts.partition import DEFAULT_FORMAT, DEFAULT_TIMEZONE, PartitionRule
from airflow_ext.contracts.registry import missing
from airflow_ext.contracts.store import Key, VerdictStore
from airflow_ext.contracts.terms import GO, LAST_GOOD, WAIT, Terms, Wanted
from airflow_ext.contracts.waiting import Decision, Seen, decide, last_good, read_known
from airflow_ext.exceptions import InvalidContractError, InvalidError, StoreUnavailableError
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.notifications import contract as notices
from airflow_ext.sensors._contract_schedule import ContractSchedule
from airflow_ext.triggers.contract import OUTAGE_SECONDS, ContractTrigger, parse_event

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

__all__ = ["ContractSchedule", "ContractSensor"]

Action = Literal["fail", "skip", "wait", "proceed", "use_last_good"]
MIN_RESCHEDULE = 10
"""Seconds. The scheduler may hear only five to six seconds later that a worker has put a task to sleep; a task
that runs again by then is taken for one that died.
"""
_NET_SECONDS = 120
"""The trigger ends by itself in time and says what it saw; the scheduler's timeout is the net below."""


class ContractSensor(BaseSensorOperator):
    """Wait until a contract holds for a partition, or for all partitions of an interval.

    Waits for the verdict that :class:`ContractPublishOperator` publishes, in whatever DAG, on whatever
    schedule. Of several major versions in the range the highest that holds counts. The XCom is the verdict, for
    an interval the partitions that hold.

    ========================  ============================================================================
    ``PASS``, ``WARN``        The task succeeds. A breach only of columns not in ``uses`` is a warning.
    ``DEPRECATED``            It holds, but the contract is deprecated or its support ended: succeeds, warns.
    ``BREACHED``              As ``on_breach`` says. The message names the contract, the failed rules with
                              expected and actual, owner, support channel and the run that published it.
    ``QUARANTINED``           A breach of which the bad rows were set aside: as ``on_quarantine`` says.
    ``LATE``                  Due and not published: as ``on_late`` says.
    ``NOT_PUBLISHED``         Waits; as ``on_unknown`` says once nothing at all was ever published under this
                              contract in ``unknown_after``.
    ``VERSION_MISMATCH``      A version outside the range is published for the partition: fails at once.
    ``PARTITION_MISMATCH``    The publisher writes partition keys otherwise, or derives them in another
                              zone: fails at once.
    ``WITHDRAWN``             The contract is retired and the partition is not there: fails at once.
    ``UNKNOWN_CONTRACT``      The folder of contracts has none with this id: as ``on_unknown`` says.
    ``STORE_UNAVAILABLE``     Verdicts could not be read for ten minutes: an error that retries. In
                              ``mode="reschedule"`` each look is a process of its own, so it waits on until
                              ``timeout``.
    ========================  ============================================================================

    The actions: ``fail`` at once without retries; ``skip``; ``wait`` for a repair; ``proceed`` with a warning;
    ``use_last_good``: succeed with the verdict of the newest partition before this one that holds.

    :param contract: Contract id and version range with an upper end, such as ``"daily_delays>=1,<2"``.
    :param partition: Partition key (templated), or ``latest`` for the newest that holds. Default: the run's
        partition key, else the start of its data interval, else the partitions of the contract's events that
        started the run.
    :param interval: Wait for all partitions inside this (templated): ``run`` for the run's data interval or
        partition key, a span such as ``2013-01-05``, or ``<start>/<end>`` in ISO 8601. Excludes ``partition``.
    :param at_least: How many partitions of the interval suffice; default all.
    :param uses: Columns that are read; default all.
    :param partition_format: ``strftime`` format of the contract's partition keys; used when ``partition``
        is not given, and to check it.
    :param timezone: IANA zone of the contract's partition keys (its ``airflow.timezone``), used when
        ``partition`` is not given. Rather give this than ``partition="{{ ds }}"``: ``ds`` is the date in UTC,
        for a DAG that starts at midnight in Berlin the day before.
    :param on_breach: What to do about a breach; ``wait`` goes on until a repaired partition is published.
    :param on_quarantine: What to do about a breach of which the bad rows were set aside; ``proceed`` goes on, also
        with those rows: they are copied. Where the whole partition was set aside, ``proceed`` means ``on_breach``.
    :param on_late: What to do about a partition that is due and not there.
    :param on_unknown: What to do about a contract that nobody has, or of which nothing was ever published.
    :param unknown_after: Seconds or timedelta of waiting after which a contract that never published anything
        counts as unknown; default never.
    :param use_last_good: Short for ``use_last_good`` wherever an action is ``fail``, and at the end of time.
    :param max_staleness: How old the last good partition may be (seconds or timedelta): from its end to the end
        of the one wanted; for ``latest`` from its end to now. Default: no limit.
    :param available_by: When a partition is due: a time of day at or after its end such as ``"06:00"`` in the
        zone of its keys, or a timedelta after its end. Default: as the contract says.
    :param grace: Lateness that is forgiven (seconds or timedelta), with ``available_by`` only.
    :param contracts: Folder of all contract files, as the worker sees it, to know at once that a contract or version
        does not exist. Default: ``[airflow_ext] contracts_folder``, else nobody is asked.
    :param store_conn_id: Connection of the database that keeps the verdicts. Default: ``[airflow_ext]
        verdict_store_conn_id``, else Airflow's asset state.
    :param poll_interval: Seconds between two looks. In a triggerer all sensors of one interval look together, a little
        more often, so that they have gone on by its end; in ``mode="reschedule"`` at least 10.
    :param deferrable: Wait in the triggerer. If false, ``mode`` decides how a worker waits.
    :param kwargs: ``inlets`` besides the contract's assets, which ``partial().expand()`` does not add;
        ``timeout`` in seconds (default ``[sensors] default_timeout``), ``mode``, ``soft_fail``
        and whatever every sensor takes.
    :raises ValueError: If the range has no upper end or nothing can satisfy it, or an argument is none of
        those allowed.
    """

    template_fields: Sequence[str] = ("partition", "interval")
    ui_color = "#d0e0e3"

    def __init__(
        self,
        *,
        contract: str,
        partition: str | None = None,
        interval: str | None = None,
        at_least: int | None = None,
        uses: Sequence[str] = (),
        partition_format: str = DEFAULT_FORMAT,
        timezone: str = DEFAULT_TIMEZONE,
        on_breach: Action = "fail",
        on_quarantine: Action = "fail",
        on_late: Action = "wait",
        on_unknown: Action = "fail",
        unknown_after: timedelta | float | None = None,
        use_last_good: bool = False,
        max_staleness: timedelta | float | None = None,
        available_by: str | timedelta | None = None,
        grace: timedelta | float = 0,
        contracts: str | os.PathLike[str] | None = None,
        store_conn_id: str | None = None,
        poll_interval: float = 30,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poll_interval, **kwargs)
        if (
            isinstance(poll_interval, bool)
            or not isinstance(poll_interval, int | float)
            or poll_interval <= 0
        ):
            raise InvalidError(f"poll_interval={poll_interval!r}: expected a number of seconds above 0")
        if not deferrable and self.mode == "reschedule" and poll_interval < MIN_RESCHEDULE:
            raise InvalidError(
                f"poll_interval={poll_interval!r}: in mode='reschedule' at least {MIN_RESCHEDULE} seconds; use "
                "deferrable=True to look more often"
            )
        self.terms = Terms.of(
            uses=uses,
            on_breach=on_breach,
            on_quarantine=on_quarantine,
            on_late=on_late,
            on_unknown=on_unknown,
            unknown_after=unknown_after,
            use_last_good=use_last_good,
            max_staleness=max_staleness,
            at_least=at_least,
            available_by=available_by,
            grace=grace,
        )
        _check_together(partition, interval, self.terms)
        self.wanted = ContractRange.parse(contract)
        self.contract = contract
        self.rule = PartitionRule(partition_format, timezone)
        self.partition = partition
        self.interval = interval
        self.at_least = at_least
        self.uses = uses
        self.partition_format = partition_format
        self.timezone = timezone
        self.on_breach = on_breach
        self.on_quarantine = on_quarantine
        self.on_late = on_late
        self.on_unknown = on_unknown
        self.unknown_after = unknown_after
        self.use_last_good = use_last_good
        self.max_staleness = max_staleness
        self.available_by = available_by
        self.grace = grace
        self.contracts = contracts
        self.store_conn_id = store_conn_id
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        # an asset has state only while a DAG names it; this also tells who consumes what
        own = [Asset(name=name) for name in self.wanted.assets]
        self.inlets = [*self.inlets, *(asset for asset in own if asset not in self.inlets)]
        self._waiting: Wanted | None = None
        self._exists = False
        self._failing_since: float | None = None
        self._last_seen = Seen(Status.NOT_PUBLISHED)
        self._late: list[Late] = []
        self._told: set[Key] = set()

    def execute(self, context: Context) -> Any:
        """Look once, then wait.

        :raises AirflowFailException: If waiting on makes no sense.
        :raises AirflowSensorTimeout: If the time is over; says what was seen last.
        """
        wanted = self._wanted(context)
        if not self.deferrable:
            self._waiting = wanted
            try:
                return super().execute(context)
            except AirflowSensorTimeout as exc:
                return self._give_up(wanted, self._last_seen, exc)
        try:
            decision = self._look_at(wanted)
        except StoreUnavailableError as exc:
            self.log.warning("%s; the trigger goes on trying", exc)
            decision = Decision(WAIT, Seen(Status.STORE_UNAVAILABLE))
        if decision.action != WAIT:
            self._tell_late(context, decision)
            try:
                return self._finish(wanted, decision)
            except AirflowFailException as exc:
                # Airflow applies these to a poke and to a resumed sensor, not to this first look
                if self.soft_fail or self.never_fail:
                    raise AirflowSkipException(str(exc)) from exc.__cause__
                raise
        self._tell(wanted, decision.seen)
        return self._defer(context, wanted, time.time() + self.timeout)

    def _defer(self, context: Context, wanted: Wanted, deadline: float) -> NoReturn:
        self.defer(
            trigger=ContractTrigger(
                wanted=wanted.to_dict(),
                poll_interval=self.poll_interval,
                deadline=deadline,
                # what a success does beside the state needs a worker
                end_task=not self.outlets,
                push_xcom=self.do_xcom_push,
                store_conn_id=self.store_conn_id,
                tell_late=not _is_backfill(context),
            ),
            method_name="execute_complete",
            kwargs={"wanted": wanted.to_dict(), "deadline": deadline},
            timeout=timedelta(seconds=max(deadline - time.time(), 0) + _NET_SECONDS),
        )

    def execute_complete(
        self,
        context: Context,
        event: Any,
        wanted: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> Any:
        """End as the trigger saw it, unless a last look finds better, or that it holds no longer.

        :param wanted: What it waited for; ``None`` takes the event's.
        :param deadline: When to give up, in seconds since the epoch; ``None`` takes the event's.
        """
        decision, timed_out = parse_event(event)
        asked_for = Wanted.from_dict(event["wanted"] if wanted is None else wanted)
        deadline = deadline or event.get("deadline")
        try:
            now = self._look(asked_for)
            self._tell_late(context, now)
        except StoreUnavailableError as exc:
            self.log.warning("%s; what the trigger saw counts", exc)
            if decision.seen.status is Status.STORE_UNAVAILABLE and not timed_out:
                raise StoreUnavailableError(
                    f"Contract {self.wanted}, partition {asked_for.what}: STORE_UNAVAILABLE for "
                    f"{OUTAGE_SECONDS:g} s: {decision.seen.detail}",
                    service="verdict store",
                ) from exc
            now = decision
        if now.action == WAIT and not timed_out:
            if decision.action == GO:
                # it held when the trigger looked and does not now: to go on would be to use what is broken
                self._tell(asked_for, now.seen)
                self._defer(context, asked_for, deadline or time.time() + self.timeout)
            now = decision
        if now.action == WAIT or (now.seen.status is Status.STORE_UNAVAILABLE and timed_out):
            return self._give_up(asked_for, now.seen, None)
        if now.seen.status is Status.STORE_UNAVAILABLE:
            raise StoreUnavailableError(
                f"Contract {self.wanted}, partition {asked_for.what}: the store did not answer for "
                f"{OUTAGE_SECONDS:g} s and does again: {now.seen.detail}",
                service="verdict store",
            )
        return self._finish(asked_for, now)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        wanted = self._waiting or self._wanted(context)
        try:
            decision = self._look_at(wanted)
            self._failing_since = None
        except StoreUnavailableError as exc:
            now = time.monotonic()
            self._failing_since = now if self._failing_since is None else self._failing_since
            if now - self._failing_since >= OUTAGE_SECONDS:
                raise
            decision = Decision(WAIT, Seen(Status.STORE_UNAVAILABLE, detail=str(exc)))
        self._last_seen = decision.seen
        self._tell_late(context, decision)
        if decision.action == WAIT:
            self._tell(wanted, decision.seen)
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._finish(wanted, decision))

    def _look_at(self, wanted: Wanted) -> Decision:
        decision = self._look(wanted)
        if decision.action != WAIT or self._exists:
            return decision
        folder = self.contracts or conf.get("airflow_ext", "contracts_folder", fallback="")
        if folder:
            try:
                if (seen := missing(self.wanted, os.fspath(folder))) is not None:
                    return Decision(self.terms.action(seen.status), seen)
            except InvalidContractError as exc:
                self.log.warning("Whether %s exists is not known: %s", self.wanted.id, exc)
        self._exists = True
        return decision

    def _look(self, wanted: Wanted) -> Decision:
        known, now = read_known(wanted, self._store()), time.time()
        self._late = overdue(wanted, known, now)[0]
        return decide(wanted, known, now)

    def _tell_late(self, context: Context, decision: Decision) -> None:
        """Tell of what is late, unless nobody would have missed it then."""
        news = [each for each in self._late if each.key not in self._told]
        if decision.action == GO or not news or _is_backfill(context) or not notices.somebody_listens():
            return
        self._told |= {each.key for each in news}
        ti = context["ti"]
        notices.tell_late(news, self._store(), seen_by=f"DAG {ti.dag_id}, task {ti.task_id}")

    def _store(self) -> VerdictStore:
        return verdict_store(self.store_conn_id)

    def _wanted(self, context: Context) -> Wanted:
        try:
            found = asked(
                self.rule,
                context,
                contract=self.wanted.id,
                partition=self.partition,
                interval=self.interval,
            )
        except InvalidError as exc:
            raise AirflowFailException(str(exc)) from exc.__cause__
        since = context["ti"].get_first_reschedule_date(context) if self.reschedule else None
        return Wanted(
            contract=self.contract,
            partitions=found.partitions,
            several=found.several,
            timezone=self.timezone if found.derived else None,
            since=since.timestamp() if since is not None else time.time(),
            rule=self.rule,
            terms=self.terms,
        )

    def _tell(self, wanted: Wanted, seen: Seen) -> None:
        detail = f" ({seen.detail})" if seen.detail else ""
        self.log.info("%s, partition %s: %s%s, waiting", self.wanted, wanted.what, seen.status, detail)

    def _finish(self, wanted: Wanted, decision: Decision) -> dict[str, Any]:
        seen = decision.seen
        if decision.action == GO:
            if seen.verdict is not None:
                self.log.info("%s", report.table(seen.verdict))
            if seen.status is not Status.PASS or seen.detail:
                level = self.log.info if seen.status in (Status.PASS, Status.WARN) else self.log.warning
                level("%s, partition %s: %s %s", self.wanted, wanted.what, seen.status, seen.detail)
            return seen.answer(wanted)
        error = report.not_met(self.wanted, wanted.what, seen)
        if decision.action == LAST_GOOD:
            if (answer := self._last_good(wanted, str(error))) is not None:
                return answer
            raise AirflowFailException(
                f"{error}\n  and there is no good partition to fall back on"
            ) from error
        if decision.action == "skip":
            raise AirflowSkipException(str(error)) from error
        raise AirflowFailException(str(error)) from error

    def _last_good(self, wanted: Wanted, reason: str) -> dict[str, Any] | None:
        found = last_good(wanted, self._store())
        if found is None:
            return None
        self.log.warning("%s\n  going on with partition %s", reason, found.partition)
        return {**found.to_dict(), "instead_of": wanted.what}

    def _give_up(self, wanted: Wanted, seen: Seen, cause: Exception | None) -> dict[str, Any]:
        error = report.not_met(self.wanted, wanted.what, seen)
        text = f"Gave up after {self.timeout:g} s. {error}"
        if self.use_last_good and seen.status is not Status.STORE_UNAVAILABLE:
            if (answer := self._last_good(wanted, text)) is not None:
                return answer
            text = f"{text}\n  and there is no good partition to fall back on"
        raise AirflowSensorTimeout(text) from cause or error


def _is_backfill(context: Context) -> bool:
    return bool(getattr(context.get("dag_run"), "run_type", "") == "backfill")


def _check_together(partition: str | None, interval: str | None, terms: Terms) -> None:
    if partition is not None and interval is not None:
        raise InvalidError(f"partition={partition!r} and interval={interval!r}: give one of them")
    if interval is None and terms.at_least is not None:
        raise InvalidError(
            f"at_least={terms.at_least!r} is about the partitions of an interval: give interval="
        )
    if interval is not None and terms.falls_back:
        raise InvalidError("use_last_good is about one partition; of an interval, at_least can do with fewer")
