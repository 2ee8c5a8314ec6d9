"""The deadline reference against real ``dag_run`` rows; and that it never raises."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.models import import_all_models
from airflow.models.dagrun import DagRun
from airflow.serialization.definitions.deadline import SerializedReferenceModels
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunType
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from airflow_ext.sla import sla
from airflow_ext.sla.reference import SlaDeadline

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    import_all_models()  # the tables that dag_run refers to
    engine = create_engine("sqlite://")
    tables = [DagRun.metadata.tables[name] for name in ("dag_run", "log_template")]
    DagRun.metadata.create_all(engine, tables=tables)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session
        session.rollback()


def add_run(session: Session, run_type: DagRunType, *, run_after: datetime, **more: Any) -> str:
    run_id = f"{run_type}__{run_after.isoformat()}"
    state = DagRunState.QUEUED
    session.add(
        DagRun(dag_id="d", run_id=run_id, run_type=run_type, run_after=run_after, state=state, **more)
    )
    session.flush()
    return run_id


def evaluate(reference: Any, session: Session, run_id: str, grace: timedelta = timedelta(0)) -> Any:
    """Ask as Airflow does: through its wrapper around the deserialized reference."""
    stored = SlaDeadline.deserialize_reference(reference.serialize_reference())
    wrapped = SerializedReferenceModels.SerializedCustomReference(stored)
    return wrapped.evaluate_with(session=session, interval=grace, dag_id="d", run_id=run_id)


def by_clock(moment: datetime, **more: Any) -> Any:
    return sla(by=f"{moment:%H:%M:%S}", tz="UTC", callback="a.b", **more).reference


def test_by_gives_the_instant_and_airflow_adds_the_grace(session: Session) -> None:
    due = (NOW + timedelta(hours=2)).replace(microsecond=0)
    run_id = add_run(session, DagRunType.SCHEDULED, run_after=NOW)
    found = evaluate(by_clock(due), session, run_id, timedelta(minutes=5))
    assert found == due + timedelta(minutes=5)


def test_within_counts_from_the_queue(session: Session) -> None:
    run_id = add_run(session, DagRunType.MANUAL, run_after=NOW)
    found = evaluate(sla(within=timedelta(minutes=3), callback="a.b").reference, session, run_id)
    assert abs(found - datetime.now(UTC) - timedelta(minutes=3)) < timedelta(seconds=30)


@pytest.mark.parametrize(
    ("run_type", "age"),
    [
        pytest.param(DagRunType.BACKFILL_JOB, timedelta(0), id="backfill"),
        pytest.param(DagRunType.MANUAL, timedelta(0), id="manual"),
        pytest.param(DagRunType.SCHEDULED, timedelta(days=3), id="old-date"),
    ],
)
def test_runs_it_is_not_about_get_none(session: Session, run_type: DagRunType, age: timedelta) -> None:
    run_id = add_run(session, run_type, run_after=NOW - age)
    assert evaluate(by_clock(NOW + timedelta(hours=2)), session, run_id) is None


def test_a_run_without_dates_is_fine(session: Session) -> None:
    run_id = add_run(session, DagRunType.ASSET_TRIGGERED, run_after=NOW)
    assert evaluate(by_clock(NOW + timedelta(hours=2)), session, run_id) is not None


def test_a_run_that_is_not_there_gets_none(session: Session) -> None:
    assert evaluate(by_clock(NOW), session, "nowhere") is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"policy": "p", "by": "99:99", "tz": "UTC"}, id="half"),
        pytest.param(
            {
                "policy": "p",
                "by": "06:00",
                "within": None,
                "tz": "Gone/Zone",
                "days": "0",
                "run_types": "scheduled",
                "late_start": 1,
            },
            id="zone-gone",
        ),
        pytest.param(
            {
                "policy": "p",
                "by": None,
                "within": 1e18,
                "tz": "UTC",
                "days": "0",
                "run_types": "scheduled",
                "late_start": 1,
            },
            id="overflow",
        ),
    ],
)
def test_stored_data_that_cannot_be_read_gives_none_and_a_log_line(
    session: Session, data: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run_id = add_run(session, DagRunType.SCHEDULED, run_after=NOW)
    with caplog.at_level(logging.ERROR):
        assert evaluate(SlaDeadline(data), session, run_id) is None
    assert "no deadline for run" in caplog.text


def test_a_broken_session_gives_none() -> None:
    engine = create_engine("sqlite://")  # without tables
    with Session(engine) as session:
        assert evaluate(by_clock(NOW), session, "r") is None
    engine.dispose()


def test_called_as_a_later_airflow_may_call_it(session: Session) -> None:
    run_id = add_run(session, DagRunType.SCHEDULED, run_after=NOW)
    reference = by_clock(NOW + timedelta(hours=2))
    found = reference._evaluate_with(session=session, dag_id="d", run_id=run_id, dagrun=object(), more=1)
    assert found is not None
    assert found.tzinfo is not None


def test_it_writes_nothing_that_others_left_pending(session: Session) -> None:
    run_id = add_run(session, DagRunType.SCHEDULED, run_after=NOW)
    session.add(DagRun(dag_id=None, run_id=None))  # a row that could not be written
    assert evaluate(by_clock(NOW + timedelta(hours=2)), session, run_id) is not None
