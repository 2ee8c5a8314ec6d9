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
from sqlalchemy import Engine, create_engine, delete, func, insert, select, text, update
from sqlalchemy.orm import Session

from airflow_ext.cli import doctor_sla
from airflow_ext.cli.doctor_database import database, dbt_groups, deadlines
from airflow_ext.cli.doctor_finding import ok
from airflow_ext.operators._dbt_nodes import DbtDoneOperator, DbtNodeOperator
from airflow_ext.sla import Channel, Step, sla
from airflow_ext.sla.ledger.models import IncidentRow, OccurrenceRow, OutboxRow, ReplicaRow, metadata
from airflow_ext.sla.monitor.leases import show_heartbeat
from airflow_ext.sla.monitor.tables import VARIABLE
from tests.unit.cli.metadata import sqlite_metadata

SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
MISSPELT = SMTP.replace("Smtp", "Snmp")
START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module", autouse=True)
def _metadata(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let Airflow's sessions go to a migrated SQLite database of this module."""
    with sqlite_metadata(tmp_path_factory.mktemp("metadata")):
        initdb()
        with create_session() as session:
            session.add(DagBundleModel(name="dags"))
        yield


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
        pytest.param(
            promise(SMTP),
            "SLAs of 1 DAGs; their 1 notifiers can be imported and have their connections",
            id="corrected",
        ),
        pytest.param(None, "no DAG has an sla()", id="removed"),
    ],
)
def test_a_fault_that_was_repaired_is_not_told(
    corrected: Any, told: str, ran: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", "smtp://mail.example.com")
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


def test_a_channel_without_its_connection_is_a_failure_also_that_of_a_later_step() -> None:
    steps = [Step(after=HOUR, channels=[Channel(SMTP, smtp_conn_id="boss", to="boss@example.com")])]
    mail = Channel(SMTP, smtp_conn_id="{{ var.value.mail }}", to="ops@example.com")
    parse(sla(by="06:00", tz="UTC", channels=[mail], callback="nowhere.tell", escalate=steps))
    no_function, no_connection = deadlines()
    assert (no_function.status, "nowhere.tell" in no_function.what) == ("fail", True)
    assert no_connection.what == "SmtpNotifier of an sla() needs connection 'boss', which is nowhere"


@pytest.fixture
def tables() -> Iterator[Engine]:
    """The ledger of this database, emptied afterwards."""
    yield settings.get_engine()
    with settings.get_engine().begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))
        connection.execute(delete(VARIABLE))


def test_the_ledger_is_well_or_the_way_out_is_named(tables: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(doctor_sla.ledger()) == [ok("the ledger is at its newest revision: 0 occurrences")]
    assert list(doctor_sla.monitors()) == [
        ok("no SLA monitor is alive, and no promise was ever given to one")
    ]
    with tables.begin() as connection:
        connection.execute(text("update ext_alembic_version set version_num = '0000'"))
    (found,) = doctor_sla.ledger()
    assert (found.status, "at revision 0000" in found.what) == ("fail", True)
    with tables.begin() as connection:
        connection.execute(text("update ext_alembic_version set version_num = '0001'"))
    monkeypatch.setattr(settings, "engine", create_engine("sqlite://"))
    (found,) = doctor_sla.ledger()
    assert (found.status, found.remedy) == ("warn", "Run: airflow db migrate.")
    assert list(doctor_sla.monitors()) == []


def test_monitors_are_seen_alive_slow_and_dead(tables: Engine) -> None:
    with settings.get_engine().begin() as connection:
        connection.execute(insert(VARIABLE).values(key="x", val="y", is_encrypted=False))

    def monitors(**changes: Any) -> list[tuple[str, str]]:
        now = datetime.now(UTC)
        row = {"holder": "box:1:ab", "started_at": now, "beat_at": now, "tick_seconds": 10, **changes}
        with Session(tables) as session:
            session.query(ReplicaRow).delete()
            session.add(ReplicaRow(**row))
            show_heartbeat(session, now=row["beat_at"], tick=timedelta(seconds=10))
            session.commit()
        return [(finding.status, finding.what) for finding in doctor_sla.monitors()]

    ((status, what),) = monitors()
    assert (status, what.startswith("1 SLA monitors are at work (box:1), last heartbeat")) == ("ok", True)
    assert monitors(lag_seconds=600) == [("warn", "SLA monitor box:1:ab judges 10 min late")]
    ((status, what),) = monitors(beat_at=datetime.now(UTC) - HOUR)
    assert (status, what) == ("fail", "the last SLA monitor was seen 1 h ago; none is alive")


def test_messages_that_do_not_go_out_are_told(tables: Engine) -> None:
    old = datetime.now(UTC) - HOUR
    with Session(tables) as session:
        occurrence = OccurrenceRow(
            policy_id=1,
            version_id=1,
            local_date=old.date(),
            slot="0600",
            **dict.fromkeys(("due_at", "tell_at", "watch_from", "window_start", "window_end"), old),
            **dict.fromkeys(("other_start", "other_end", "created_at"), old),
        )
        session.add(occurrence)
        session.flush()
        incident = IncidentRow(
            occurrence_id=occurrence.id,
            policy_id=1,
            key="k",
            kind="missed",
            cause="late",
            severity="page",
            opened_at=old,
        )
        session.add(incident)
        session.flush()
        for number, state in enumerate(("pending", "failed")):
            session.add(
                OutboxRow(
                    incident_id=incident.id,
                    dedupe_key=f"k:{number}",
                    kind="open",
                    channel=number,
                    state=state,
                    last_error="SlackApiError: no_service",
                    not_before=old,
                    created_at=old,
                )
            )
        session.commit()
    _, waiting, lost = doctor_sla.monitors()
    assert "1 SLA messages wait, the oldest since 1 h" in waiting.what
    assert "SlackApiError: no_service" in waiting.what
    assert lost.what == "1 SLA messages of the last day were given up after all their tries"


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
