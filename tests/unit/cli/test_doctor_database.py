"""What ``doctor`` finds in a migrated metadata database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow import settings
from airflow.models import serialized_dag
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.serialization.serialized_objects import DagSerialization, LazyDeserializedDAG
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import delete, func, select, update

from airflow_ext.cli.doctor_database import database, dbt_groups, deadlines
from airflow_ext.cli.doctor_finding import ok
from airflow_ext.operators._dbt_nodes import DbtDoneOperator, DbtNodeOperator
from airflow_ext.sla import Channel, sla

SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
MISSPELT = SMTP.replace("Smtp", "Snmp")
START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module", autouse=True)
def _metadata(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let Airflow's sessions go to a migrated SQLite database of this module."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("engine", "Session", "NonScopedSession", "async_engine", "AsyncSession"):
            patch.setattr(settings, name, getattr(settings, name))  # as they are set below, and put back
        path = tmp_path_factory.mktemp("metadata") / "airflow.db"
        patch.setattr(settings, "SQL_ALCHEMY_CONN", f"sqlite:///{path}")
        patch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", f"sqlite+aiosqlite:///{path}")
        settings.configure_orm()
        initdb()
        with create_session() as session:
            session.add(DagBundleModel(name="dags"))
        yield
        settings.get_engine().dispose()


@pytest.fixture(autouse=True)
def _no_dags() -> Iterator[None]:
    yield
    with create_session() as session:
        for model in (DagRun, DagVersion, DagModel):  # the rest goes with them
            session.execute(delete(model))


def parse(deadline: Any) -> None:
    """Write a DAG as the dag-processor does."""
    with DAG("marts", schedule=None, start_date=START, deadline=deadline) as dag:
        BaseOperator(task_id="build")
    write(dag)


def write(dag: DAG) -> None:
    parsed = LazyDeserializedDAG.from_dag(dag)
    with create_session() as session:
        type(DagSerialization.from_dict(parsed.data)).bulk_write_to_db(
            "dags", None, [parsed], session=session
        )
        session.flush()
        SerializedDagModel.write_dag(parsed, bundle_name="dags", session=session)


def run() -> None:
    """Trigger a run, after which a changed DAG gets a new version."""
    with create_session() as session:
        dag = SerializedDagModel.get_dag("marts", session=session)
        assert dag is not None
        dag.create_dagrun(
            run_id="manual__1",
            run_after=START,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.QUEUED,
            session=session,
        )


def versions() -> int | None:
    with create_session() as session:
        return session.scalar(select(func.count()).select_from(DagVersion))


def promise(notifier: str) -> Any:
    return sla(by="06:00", tz="Europe/Berlin", channels=[Channel(notifier)])


def test_the_database_is_well() -> None:
    found = list(database())
    assert found[0] == ok("metadata database (sqlite) answers and is migrated")
    assert found[-1] == ok("no DAG has an sla()")


def test_a_notifier_that_cannot_be_imported_is_a_failure() -> None:
    parse(promise(MISSPELT))
    (found,) = deadlines()
    assert (found.status, MISSPELT in found.what) == ("fail", True)


@pytest.mark.parametrize(
    ("ran", "expected"), [pytest.param(True, 2, id="new-version"), pytest.param(False, 1, id="same-version")]
)
@pytest.mark.parametrize(
    ("corrected", "told"),
    [
        pytest.param(promise(SMTP), "SLAs of 1 DAGs; their 1 notifiers can be imported", id="corrected"),
        pytest.param(None, "no DAG has an sla()", id="removed"),
    ],
)
def test_a_fault_that_was_repaired_is_not_told(corrected: Any, told: str, ran: bool, expected: int) -> None:
    parse(
        [promise(MISSPELT), DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, HOUR, AsyncCallback(MISSPELT))]
    )
    assert [finding.status for finding in deadlines()] == ["fail", "warn"]
    if ran:
        run()
    parse(corrected)
    assert versions() == expected
    assert list(deadlines()) == [ok(told)]


def test_a_dag_that_is_gone_is_not_told() -> None:
    parse(promise(MISSPELT))
    with create_session() as session:
        session.execute(update(DagModel).values(is_stale=True))
    assert list(deadlines()) == [ok("no DAG has an sla()")]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("capacity", "expected"),
    [pytest.param("12", None, id="fits"), pytest.param("11", "max_active_runs=3 or less", id="too-many")],
)
def test_waiting_tasks_of_dbt_groups_are_held_against_the_triggerers(
    monkeypatch: pytest.MonkeyPatch, capacity: str, expected: str | None, compressed: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__TRIGGERER__CAPACITY", capacity)
    monkeypatch.setattr(serialized_dag, "_COMPRESS_SERIALIZED_DAGS", compressed)
    with DAG("marts", schedule=None, start_date=START, max_active_runs=4) as dag:
        BaseOperator(task_id="build")
        for name in ("a", "b"):
            DbtNodeOperator(task_id=name, build_task_id="build", unit=name)
        DbtDoneOperator(task_id="done", build_task_id="build")
    assert list(dbt_groups()) == []
    write(dag)
    (found,) = dbt_groups()
    if expected is None:
        assert found == ok("the waiting tasks of 1 DAGs with dbt groups fit into the triggerers (12)")
    else:
        assert (found.status, expected in found.remedy) == ("warn", True)
        assert found.what.startswith("4 runs of marts at once have 12 waiting tasks")
