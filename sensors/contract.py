"""Wait for a promise about data, not for somebody's task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import Asset, BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from airflow_ext.contracts import ContractRange, Status, report
from airflow_ext.contracts.partition import DEFAULT_FORMAT, DEFAULT_TIMEZONE, PartitionRule
from airflow_ext.contracts.waiting import Seen, look_in_store
from airflow_ext.exceptions import InvalidError, StoreUnavailableError
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.triggers.contract import OUTAGE_SECONDS, ContractTrigger, parse_event

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

ON_BREACH = ("fail", "wait", "skip")
MIN_RESCHEDULE = 10
"""Seconds. The scheduler may hear only five to six seconds later that a worker has put a task to sleep; a task
that runs again by then is taken for one that died.
"""
_NET_SECONDS = 120
"""The trigger ends by itself in time and says what it saw; the scheduler's timeout is the net below."""


class ContractSensor(BaseSensorOperator):
    """Wait until a contract holds for a partition.

    Waits for the verdict that :class:`ContractPublishOperator` publishes, in whatever DAG, on whatever
    schedule. Of several major versions in the range the highest that holds counts. The XCom is the verdict.

    ========================  ============================================================================
    ``PASS``, ``WARN``        The task succeeds.
    ``BREACHED``              As ``on_breach`` says. The message names the contract, the failed rules with
                              expected and actual, owner, support channel and the run that published it.
    ``NOT_PUBLISHED``         Waits.
    ``VERSION_MISMATCH``      A version outside the range is published for the partition: fails at once.
    ``PARTITION_MISMATCH``    The publisher writes partition keys otherwise, or derives them in another
                              zone: fails at once.
    ``STORE_UNAVAILABLE``     Verdicts could not be read for ten minutes: an error that retries. In
                              ``mode="reschedule"`` each look is a process of its own, so it waits on until
                              ``timeout``.
    ========================  ============================================================================

    :param contract: Contract id and version range with an upper end, such as ``"daily_delays>=1,<2"``.
    :param partition: Partition key (templated). Default: the run's partition key, else the start of its
        data interval.
    :param partition_format: ``strftime`` format of the contract's partition keys; used when ``partition``
        is not given, and to check it.
    :param timezone: IANA zone of the contract's partition keys (its ``airflow.timezone``), used when
        ``partition`` is not given. Rather give this than ``partition="{{ ds }}"``: ``ds`` is the date in UTC,
        for a DAG that starts at midnight in Berlin the day before.
    :param on_breach: ``fail`` at once without retries, ``skip``, or ``wait`` until a repaired partition is
        published.
    :param poll_interval: Seconds between two looks. In a triggerer all sensors of one interval look together;
        in ``mode="reschedule"`` at least 10.
    :param deferrable: Wait in the triggerer. If false, ``mode`` decides how a worker waits.
    :param kwargs: ``inlets`` besides the contract's assets, which ``partial().expand()`` does not add;
        ``timeout`` in seconds (default ``[sensors] default_timeout``), ``mode``, ``soft_fail``
        and whatever every sensor takes.
    :raises ValueError: If the range has no upper end or nothing can satisfy it, or an argument is none of
        those allowed.
    """

    template_fields: Sequence[str] = ("partition",)
    ui_color = "#d0e0e3"

    def __init__(
        self,
        *,
        contract: str,
        partition: str | None = None,
        partition_format: str = DEFAULT_FORMAT,
        timezone: str = DEFAULT_TIMEZONE,
        on_breach: Literal["fail", "wait", "skip"] = "fail",
        poll_interval: float = 30,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poll_interval, **kwargs)
        if on_breach not in ON_BREACH:
            raise InvalidError(f"on_breach={on_breach!r}: use one of {', '.join(ON_BREACH)}")
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
        self.wanted = ContractRange.parse(contract)
        self.contract = contract
        self.rule = PartitionRule(partition_format, timezone)
        self.partition = partition
        self.partition_format = partition_format
        self.timezone = timezone
        self.on_breach = on_breach
        self.poll_interval = poll_interval
        self.deferrable = deferrable
        # an asset has state only while a DAG names it; this also tells who consumes what
        own = [Asset(name=name) for name in self.wanted.assets]
        self.inlets = [*self.inlets, *(asset for asset in own if asset not in self.inlets)]
        self._failing_since: float | None = None
        self._last_seen = Seen(Status.NOT_PUBLISHED)

    def execute(self, context: Context) -> Any:
        """Look once, then wait.

        :raises AirflowFailException: If waiting on makes no sense.
        :raises AirflowSensorTimeout: If the time is over; says what was seen last.
        """
        partition = self._partition(context)
        if not self.deferrable:
            try:
                return super().execute(context)
            except AirflowSensorTimeout as exc:
                raise self._timeout(partition, self._last_seen) from exc
        try:
            seen = look_in_store(self.wanted, partition, verdict_store(), self._zone_that_matters(context))
        except StoreUnavailableError as exc:
            self.log.warning("%s; the trigger goes on trying", exc)
            seen = Seen(Status.STORE_UNAVAILABLE)
        if seen.ends(self.on_breach):
            try:
                return self._finish(partition, seen)
            except AirflowFailException as exc:
                # Airflow applies these to a poke and to a resumed sensor, not to this first look
                if self.soft_fail or self.never_fail:
                    raise AirflowSkipException(str(exc)) from exc
                raise
        self.log.info("%s for partition %s: %s, waiting", self.wanted, partition, seen.status)
        self.defer(
            trigger=ContractTrigger(
                contract=self.contract,
                partition=partition,
                on_breach=self.on_breach,
                poll_interval=self.poll_interval,
                deadline=time.time() + self.timeout,
                # what a success does beside the state needs a worker
                end_task=self.do_xcom_push and not self.outlets,
                timezone=self._zone_that_matters(context),
            ),
            method_name="execute_complete",
            kwargs={"partition": partition},
            timeout=timedelta(seconds=self.timeout + _NET_SECONDS),
        )
        return None  # never reached: deferring raises

    def execute_complete(self, context: Context, event: Any, partition: str) -> Any:  # noqa: ARG002  Airflow passes it
        """End as the trigger saw it."""
        seen, timed_out = parse_event(event)
        if timed_out:
            raise self._timeout(partition, seen)
        if seen.status is Status.STORE_UNAVAILABLE:
            raise StoreUnavailableError(
                f"Contract {self.wanted}, partition {partition}: STORE_UNAVAILABLE for {OUTAGE_SECONDS:g} s: "
                f"{seen.detail}",
                service="verdict store",
            )
        return self._finish(partition, seen)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        partition = self._partition(context)
        try:
            self._last_seen = look_in_store(
                self.wanted, partition, verdict_store(), self._zone_that_matters(context)
            )
            self._failing_since = None
        except StoreUnavailableError as exc:
            now = time.monotonic()
            self._failing_since = now if self._failing_since is None else self._failing_since
            if now - self._failing_since >= OUTAGE_SECONDS:
                raise
            self._last_seen = Seen(Status.STORE_UNAVAILABLE, detail=str(exc))
        if not self._last_seen.ends(self.on_breach):
            self.log.info("%s for partition %s: %s", self.wanted, partition, self._last_seen.status)
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._finish(partition, self._last_seen))

    def _partition(self, context: Context) -> str:
        try:
            return self.rule.key_for(context, self.partition)
        except InvalidError as exc:
            raise AirflowFailException(str(exc)) from exc

    def _zone_that_matters(self, context: Context) -> str | None:
        return self.timezone if self.rule.derives(context, self.partition) else None

    def _finish(self, partition: str, seen: Seen) -> dict[str, Any]:
        if seen.status.holds and seen.verdict is not None:
            self.log.info("%s", report.table(seen.verdict))
            return seen.verdict.to_dict()
        error = report.not_met(self.wanted, partition, seen)
        if seen.status is Status.BREACHED and self.on_breach == "skip":
            raise AirflowSkipException(str(error)) from error
        raise AirflowFailException(str(error)) from error

    def _timeout(self, partition: str, seen: Seen) -> AirflowSensorTimeout:
        error = report.not_met(self.wanted, partition, seen)
        return AirflowSensorTimeout(f"Gave up after {self.timeout:g} s. {error}")
