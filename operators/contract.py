"""Publish a contract: judge a partition, keep the verdict, tell who waits."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.sdk import BaseHook, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.observability import stats

from airflow_ext import events
from airflow_ext.contracts import Contract, RunReference, Verdict, report
from airflow_ext.contracts.head import Promise
from airflow_ext.contracts.judge import judge
from airflow_ext.contracts.quarantine import set_rows_aside
from airflow_ext.contracts.row_rules import samples
from airflow_ext.contracts.sql import Database, QueryError
from airflow_ext.contracts.verdict import Quarantine, Status
from airflow_ext.exceptions import DeniedError, InvalidError
from airflow_ext.hooks import contract_lineage, contract_metrics
from airflow_ext.hooks.contract_database import contract_database
from airflow_ext.hooks.verdict_store import verdict_store
from airflow_ext.notifications import contract as notices

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

ON_BREACH = ("fail", "skip")
QUARANTINES = (None, "rows", "partition")


class ContractPublishOperator(BaseOperator):
    """Judge one partition of a table against its contract and publish the verdict.

    The verdict is written first. If the contract holds (``PASS``, or ``WARN`` when only rules of severity
    warning fail), the task succeeds and the contract's asset gets an event with the partition. If not
    (``BREACHED``, or ``QUARANTINED`` if the bad rows were set aside), the reasons stand in the log, waiting
    consumers learn them, and there is no event. A database or store that does not answer is an ordinary error
    of the task, which retries; then nothing is published. Each publication of a partition has a higher number
    than those before, so that a repair releases who waits for one.

    A contract that is retired, or whose life ended, publishes ``WITHDRAWN`` without looking at the table, and
    the task is skipped.

    The task's XCom is the verdict: names, counts and figures, no data.

    :param contract: The contract, or the path of its file; see :meth:`Contract.from_file` for relative ones.
    :param partition: Partition key (templated). Default: the run's partition key, else the start of its data
        interval in the contract's zone.
        Rather leave it out than pass ``"{{ ds }}"``, which is the date in UTC.
    :param conn_id: Connection of the database (templated); see the page on judging for those that work. Default:
        the contract's ``airflow.connection``.
    :param on_breach: ``fail`` fails the task without retries: judging the same rows again gives the same
        verdict. ``skip`` skips it.
    :param quarantine: ``rows`` copies the rows that break a rule into the contract's ``airflow.quarantineTable``;
        if all that is wrong are such rows, the status is ``QUARANTINED``, about which consumers decide by
        ``on_quarantine``. ``partition`` marks every partition that breaks the contract so.
    :param emit_event: Whether a contract that holds gets an event. Without, only waiting sensors learn of it.
        A backfill never wakes plain consumers.
    :param store_conn_id: Connection of the database that keeps the verdicts. Default: ``[airflow_ext]
        verdict_store_conn_id``, else Airflow's asset state.
    :param kwargs: ``outlets`` besides the contract's asset and its alias ``<asset>/unkeyed``, which
        ``partial().expand()`` does not add, and whatever every operator takes.
    :raises InvalidContractError: If the contract's file cannot be used.
    :raises ValueError: If ``on_breach`` or ``quarantine`` is another.
    """

    template_fields: Sequence[str] = ("partition", "conn_id")
    ui_color = "#d9ead3"

    def __init__(
        self,
        *,
        contract: Contract | str | os.PathLike[str],
        partition: str | None = None,
        conn_id: str | None = None,
        on_breach: Literal["fail", "skip"] = "fail",
        quarantine: Literal["rows", "partition"] | None = None,
        emit_event: bool = True,
        store_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if on_breach not in ON_BREACH:
            raise InvalidError(f"on_breach={on_breach!r}: use one of {', '.join(ON_BREACH)}")
        if quarantine not in QUARANTINES:
            raise InvalidError(f"quarantine={quarantine!r}: use None, 'rows' or 'partition'")
        # the asset must be known when the DAG is parsed, so a path is read here; the same content once
        self.contract = contract if isinstance(contract, Contract) else Contract.from_file(contract)
        if quarantine == "rows" and not any(table.quarantine_table for table in self.contract.tables):
            raise InvalidError(
                "quarantine='rows': the contract does not say where to; put airflow.quarantineTable into its "
                "customProperties"
            )
        self.partition = partition
        self.conn_id = conn_id
        self.on_breach = on_breach
        self.quarantine = quarantine
        self.emit_event = emit_event
        self.store_conn_id = store_conn_id
        self._published: Verdict | None = None
        own = events.outlets_for([self.contract.asset], alias=self._alias)
        self.outlets = [*self.outlets, *(outlet for outlet in own if outlet not in self.outlets)]

    @property
    def _alias(self) -> str:
        return f"{self.contract.asset.name}/unkeyed"

    def execute(self, context: Context) -> dict[str, Any]:
        """Judge, publish, and end as the verdict says.

        :raises AirflowFailException: If the contract is breached, or cannot be judged as it is written.
        :raises AirflowSkipException: If it is breached and ``on_breach`` is ``skip``.
        :raises DeniedError: If the connection may not read the table; nothing is published.
        :raises UnavailableError: If the database or the store does not answer.
        """
        store = verdict_store(self.store_conn_id)
        try:
            partition = self.contract.partition_for(context, self.partition)
            verdict = self._withdrawn(context, partition) or self._judge(context, partition)
            verdict = store.publish(verdict, rule=self.contract.partition, promise=Promise.of(self.contract))
        except InvalidError as exc:
            raise AirflowFailException(str(exc)) from exc.__cause__
        self._published = verdict
        contract_metrics.record(verdict)
        notices.tell(context, self.contract, verdict, store=store)
        for skipped in verdict.skipped:
            self.log.info("Not judged: %s", skipped)
        if not verdict.status.holds:
            self._refuse(verdict)
        self.log.info("%s", report.table(verdict))
        own = events.outlets_for([self.contract.asset], alias=self._alias)
        others = [outlet for outlet in self.outlets if outlet not in own]
        self.outlets = [*others, *(self._emit(context, verdict) if self.emit_event else [])]
        return verdict.to_dict()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002  the provider passes it
        """Tell OpenLineage, if its provider asks, which rules hold."""
        conn_id = self.conn_id or self.contract.conn_id
        connection = BaseHook.get_connection(conn_id) if self._published and conn_id else None
        return contract_lineage.lineage_of(self.contract, self._published, connection)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """Tell the same of a breach."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def _refuse(self, verdict: Verdict) -> NoReturn:
        if verdict.status is Status.WITHDRAWN:
            raise AirflowSkipException(
                f"Contract {verdict.contract} {verdict.version} is WITHDRAWN: {'; '.join(verdict.skipped)}"
            )
        self.log.error("%s", report.table(verdict))
        error = report.breach(verdict)
        if self.on_breach == "skip":
            raise AirflowSkipException(str(error)) from error
        raise AirflowFailException(str(error)) from error

    def _withdrawn(self, context: Context, partition: str) -> Verdict | None:
        now = datetime.now(UTC)
        life = Promise.of(self.contract).life(now, self.contract.partition)
        if life is None or life[0] is not Status.WITHDRAWN:
            return None
        return Verdict(
            contract=self.contract.id,
            version=self.contract.version,
            partition=partition,
            status=Status.WITHDRAWN,
            skipped=(life[1],),
            at=now.isoformat(timespec="milliseconds"),
            owner=self.contract.owner,
            support=self.contract.support,
            run=run_reference(context),
        )

    def _judge(self, context: Context, partition: str) -> Verdict:
        started = time.monotonic()
        run = run_reference(context)
        promised = self.contract.service_levels.available_at is not None
        on_time = promised and not self._is_repair(context, partition)
        with self._database() as database:
            verdict = judge(self.contract, partition, database, run=run, on_time=on_time)
            failed = {reason.rule for reason in verdict.reasons}
            with self._without_holding_up("Samples"):
                for sample in samples(self.contract, partition, database, failed):
                    self.log.warning("Not as promised: %s", sample)
            if verdict.status is Status.BREACHED and self.quarantine == "rows":
                publication = f"{run.dag_id} {run.run_id} {run.map_index}"
                with self._without_holding_up("Rows put aside"):
                    verdict = set_rows_aside(self.contract, verdict, database, publication=publication)
        stats.timing("airflow_ext.contracts.judge_duration", 1000 * (time.monotonic() - started))
        if verdict.status is Status.BREACHED and self.quarantine == "partition":
            return verdict.set_aside(Quarantine(self.quarantine))
        return verdict

    @contextmanager
    def _without_holding_up(self, what: str) -> Iterator[None]:
        """Let a breach be published although something beside it failed in a way that another try does not mend."""
        try:
            yield
        except (DeniedError, InvalidError, QueryError) as exc:
            self.log.warning("%s: none, because of this: %s", what, exc)

    def _is_repair(self, context: Context, partition: str) -> bool:
        """Say whether nobody waits for the partition by its time: a backfill, or one published before."""
        if getattr(context.get("dag_run"), "run_type", "") == "backfill":
            return True
        return verdict_store(self.store_conn_id).verdict(self.contract.asset.name, partition) is not None

    @contextmanager
    def _database(self) -> Iterator[Database]:
        conn_id = self.conn_id or self.contract.conn_id
        if not conn_id:
            raise InvalidError(
                "conn_id: the contract names no connection; pass conn_id= or put airflow.connection into its "
                "customProperties"
            )
        with contract_database(conn_id) as database:
            yield database

    def _emit(self, context: Context, verdict: Verdict) -> list[Any]:
        event = events.Event(
            self.contract.asset,
            {
                "contract": verdict.contract,
                "version": verdict.version,
                "partition": verdict.partition,
                "status": str(verdict.status),
                "seq": verdict.seq,
            },
        )
        return list(events.emit(context, [event], alias=self._alias, partition=verdict.partition))


def run_reference(context: Context) -> RunReference:
    """Return who is running, for a verdict."""
    ti = context["ti"]
    return RunReference(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
        url=str(getattr(ti, "log_url", "") or ""),
    )
