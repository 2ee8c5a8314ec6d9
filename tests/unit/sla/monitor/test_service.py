"""Several monitors, a clock that jumps, a database that goes away, pruning, and Airflow's real columns."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.exc import DBAPIError

from airflow_ext.sla import sla
from airflow_ext.sla.heartbeat import VARIABLE_KEY, is_fresh
from airflow_ext.sla.ledger.models import IncidentRow, LeaseRow, OccurrenceRow, OutboxRow, ReplicaRow
from airflow_ext.sla.monitor import tables
from airflow_ext.sla.monitor.clock import JumpGuard
from airflow_ext.testing.postgres import LocalPostgres
from tests.unit.sla.world import CALLBACK, World

SIX: dict[str, Any] = {"by": "06:00", "tz": "Europe/Berlin", "callback": CALLBACK}
NOW = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    with LocalPostgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def postgres(server: LocalPostgres, request: pytest.FixtureRequest) -> Iterator[Engine]:
    name = request.node.name[:60].lower()
    server.create_database(name)
    engine = create_engine(server.url(name, driver="postgresql+psycopg2"))
    yield engine
    engine.dispose()


def test_every_kind_is_judged_on_postgresql_and_two_monitors_tell_once(postgres: Engine) -> None:
    world = World(postgres)
    for number in range(12):  # enough to be written by one statement for all
        world.add_dag(f"d{number}", [sla(**SIX), sla(**SIX, task="load", name="load")])
    more = [
        sla(within=timedelta(minutes=5), name="queue", callback=CALLBACK),
        sla(fresh=timedelta(hours=6), asset="orders", callback=CALLBACK),
        sla(every=timedelta(hours=6), name="often", callback=CALLBACK),
        sla(**SIX, asset="orders", name="data"),
    ]
    world.add_dag("more", more, schedule=None)
    world.asset_event("orders", "2026-03-01 12:00")
    world.tick_at("2026-03-01 12:00")
    world.run("more", "2026-03-02 00:00", "running", run_type="manual")
    for number in range(12):
        run_id = world.run(f"d{number}", "2026-03-02 00:00", "failed" if number < 2 else "success")
        world.task(f"d{number}", run_id, "load", "success", ended="2026-03-02 00:30")
    other = world.replica("two")
    world.tick_at("2026-03-02 02:00")
    world.tick_at("2026-03-02 05:30", monitor=other)
    world.tick_at("2026-03-02 05:31")
    told = world.told()
    causes = sorted(cause for _, _, cause in told)
    assert causes.count("failed") == 2
    keys = [row.dedupe_key for row in world.rows(OutboxRow)]
    assert len(keys) == len(set(keys))
    states = [row.state for row in world.rows(OccurrenceRow) if row.settled_at is not None]
    assert states.count("met") >= 22
    assert [row.holder for row in world.rows(LeaseRow) if row.name == "judge"] == []


def test_a_row_that_another_monitor_looks_at_is_left_to_it(postgres: Engine) -> None:
    world = World(postgres)
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    with postgres.begin() as other:
        other.execute(select(OccurrenceRow.id).with_for_update())
        assert world.tick_at("2026-03-02 06:00").judged.looked == 0
    assert world.tick_at("2026-03-02 06:01").judged.looked == 1


def test_a_connection_that_is_lost_in_the_middle_loses_nothing(postgres: Engine) -> None:
    """The server ends the session between the occurrence and its message."""
    world = World(postgres)
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    broken: list[str] = []

    @event.listens_for(postgres, "before_cursor_execute")
    def cut(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "INTO ext_sla_outbox" in statement and not broken:
            broken.append(statement)
            number = connection.connection.dbapi_connection.info.backend_pid
            with create_engine(postgres.url).begin() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({number})")

    with pytest.raises(DBAPIError):
        world.tick_at("2026-03-02 06:00")
    assert broken
    assert world.state("2026-03-02") == ("expected", "")
    assert world.rows(IncidentRow) == []
    world.tick_at("2026-03-02 06:01")
    assert world.told() == [("open", "missed", "never_started")]


def test_a_monitor_that_is_killed_in_the_middle_loses_nothing(postgres: Engine) -> None:
    """It dies between the occurrence and its message; another one judges and tells, once."""
    world = World(postgres)
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    postgres.dispose()  # no connection is shared with the fork
    child = os.fork()
    if not child:
        try:

            @event.listens_for(postgres, "before_cursor_execute")
            def kill(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
                if "INTO ext_sla_outbox" in statement:
                    os.kill(os.getpid(), signal.SIGKILL)

            world.tick_at("2026-03-02 06:00")
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert world.state("2026-03-02") == ("expected", "")
    world.tick_at("2026-03-02 06:00", monitor=world.replica("two"))
    world.tick_at("2026-03-02 06:01", monitor=world.replica("three"))
    assert world.told() == [("open", "missed", "never_started")]


def test_on_sqlite_one_judges_and_the_next_takes_over_when_its_lease_is_over(world: World) -> None:
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    other = world.replica("two")
    world.now += timedelta(seconds=10)
    assert not other.tick().duties
    world.tick_at("2026-03-02 06:00", monitor=other)
    assert world.told() == [("open", "missed", "never_started")]
    assert {row.holder for row in world.rows(LeaseRow)} == {"two"}
    assert {row.holder for row in world.rows(ReplicaRow)} == {"one", "two"}


def test_one_look_after_the_other_waits_for_no_lease(world: World) -> None:
    """As ``--once`` from cron: each is another process."""
    world.add_dag("d", sla(**SIX))
    first, second = world.replica("first"), world.replica("second")
    world.tick_at("2026-03-02 04:59:55", monitor=first)
    assert not world.tick_at("2026-03-02 04:59:56", monitor=second).duties
    first.leave()
    report = world.tick_at("2026-03-02 05:00:01", monitor=second)
    assert report.duties
    assert world.state("2026-03-02") == ("missed", "never_started")
    assert [row.holder for row in world.rows(ReplicaRow)] == ["first", "second"]


def test_the_heartbeat_is_shown(world: World) -> None:
    world.tick_at("2026-03-01 12:00")
    with world.engine.connect() as connection:
        value = str(
            next(
                iter(
                    connection.scalars(
                        select(tables.VARIABLE.c.val).where(tables.VARIABLE.c.key == VARIABLE_KEY)
                    )
                )
            )
        )
    assert is_fresh(value, now=world.now + timedelta(seconds=20))
    assert not is_fresh(value, now=world.now + timedelta(seconds=21))
    assert set(json.loads(value)) == {"at", "tick"}


def test_a_jump_of_the_clock_is_believed_when_it_lasts() -> None:
    guard = JumpGuard(jump=timedelta(seconds=60), patience=2)
    assert not guard.holds(NOW, 0)
    assert not guard.holds(NOW + timedelta(seconds=40), 10)  # drifts, does not jump
    assert guard.holds(NOW + timedelta(days=1), 20)
    assert not guard.holds(NOW + timedelta(seconds=50), 30)  # back again
    day = NOW + timedelta(days=1)
    assert [guard.holds(day + timedelta(seconds=step), 40 + step) for step in (0, 1, 2)] == [
        True,
        True,
        False,
    ]


def test_what_is_old_goes_with_all_that_hangs_on_it(database: Engine) -> None:
    world = World(database, retention=timedelta(days=10))
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    world.tick_at("2026-03-02 06:00")
    world.run("d", "2026-03-02 00:00", ended="2026-03-02 07:00")
    world.tick_at("2026-03-02 07:01")
    assert len(world.rows(OutboxRow)) == 2
    world.set_dag("d", is_paused=True)
    world.tick_at("2026-03-13 12:00")
    assert min(row.local_date.day for row in world.rows(OccurrenceRow)) > 2
    assert all(row.kind != "resolve" for row in world.rows(OutboxRow))


def test_the_columns_are_airflows() -> None:
    from airflow.models import import_all_models
    from airflow.models.base import Base

    import_all_models()
    for table in tables.airflow.tables.values():
        real = Base.metadata.tables[table.name].columns
        assert {column.name for column in table.columns} - set(real.keys()) <= {"val"}, table.name


def test_a_duty_that_breaks_keeps_none_from_being_judged(world: World, tmp_path: Path) -> None:
    world.add_dag("d", sla(**SIX))
    world.tick_at("2026-03-01 12:00")
    with world.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE serialized_dag RENAME TO elsewhere")
    world.tick_at("2026-03-02 06:00")
    assert world.told() == [("open", "missed", "never_started")]
