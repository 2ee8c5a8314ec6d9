"""The deadline reference by which Airflow asks when a run is due.

Airflow calls it inside the creation of a run, in the scheduler or the api-server. An exception there costs
the run its deadline, turns a manual trigger into HTTP 500, and sends the scheduler of an asset-triggered DAG
into a crash loop. So whatever happens here, the answer is a time or ``None``.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.definitions.deadline import BaseDeadlineReference

from airflow_ext.sla.policy import Policy, RunFacts

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

_REFERENCE_FIELDS = (
    *("policy", "by", "within", "tz", "days", "run_types", "late_start", "since", "fresh", "every"),
    *("calendar", "exceptions", "maintenance", "task", "group", "asset_name", "asset_uri"),
)
_NOT_NEEDED = {"grace": 0.0, "owner": "", "severity": "info"}


class SlaDeadline(BaseDeadlineReference):
    """When a run of a DAG with an SLA is due; the grace is the alert's interval.

    Promises that are not about the whole run, or whose time is not known yet when it is created, give no deadline: the
    monitor keeps them.

    :param data: The policy as :meth:`airflow_ext.sla.policy.Policy.to_flat` gives it. It is not read before
        a run asks: stored data of another version must not break the DAG either.
    """

    # What Airflow 3.3 passes on; without it nothing is.
    required_kwargs: ClassVar[set[str]] = {"dag_id", "run_id"}

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = {field: data[field] for field in _REFERENCE_FIELDS if field in data}

    def serialize_reference(self) -> dict[str, Any]:
        """Return flat JSON values: the base class hashes them."""
        return {"reference_type": self.reference_name, **self.data}

    @classmethod
    def deserialize_reference(cls, reference_data: dict[str, Any]) -> SlaDeadline:
        """Take what was stored, without reading it."""
        return cls(reference_data)

    def _evaluate_with(
        self, *, session: Session, dag_id: str | None = None, run_id: str | None = None, **_: Any
    ) -> datetime | None:
        try:
            return self._due(session, dag_id=dag_id, run_id=run_id)
        except Exception:
            log.exception("SLA of DAG %s: no deadline for run %s", dag_id, run_id)
            return None

    def _due(self, session: Session, *, dag_id: str | None, run_id: str | None) -> datetime | None:
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        columns = (
            DagRun.run_type,
            DagRun.run_after,
            DagRun.queued_at,
            DagRun.logical_date,
            DagRun.data_interval_end,
        )
        # Without autoflush: rows somebody else left pending are not ours to write, nor their errors ours.
        with session.no_autoflush:
            row = session.execute(
                select(*columns).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
            ).one_or_none()
        if row is None:
            log.warning("SLA of DAG %s: run %s is not in the database, it gets no deadline", dag_id, run_id)
            return None
        facts = RunFacts(
            run_type=str(row.run_type),
            run_after=row.run_after,
            created=datetime.now(UTC),
            queued=row.queued_at,
            logical_date=row.logical_date,
            interval_end=row.data_interval_end,
        )
        policy = Policy.from_flat({**_NOT_NEEDED, **self.data})
        due = policy.due_for(facts)
        if due is None:
            log.info("SLA %s is not about run %s of DAG %s (%s)", policy.name, run_id, dag_id, facts.run_type)
            return None
        return due.at
