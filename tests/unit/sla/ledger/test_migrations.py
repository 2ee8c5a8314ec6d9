"""The ledger's tables as ``airflow db migrate`` makes them, and the history that leads to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, inspect
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateTable

from airflow_ext.sla.ledger.manager import VERSION_TABLE, LedgerManager
from airflow_ext.sla.ledger.models import TABLES, metadata
from airflow_ext.testing.postgres import LocalPostgres


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path}/ledger.db")
        yield engine
        engine.dispose()
        return
    with LocalPostgres(tmp_path / "postgres") as server:
        engine = create_engine(server.url(driver="postgresql+psycopg2"))
        yield engine
        engine.dispose()


def migrate(connection: Connection, revision: str) -> None:
    config = Config(LedgerManager.alembic_file)
    config.set_main_option("script_location", LedgerManager.migration_dir)
    config.attributes["connection"] = connection
    (command.downgrade if revision == "base" else command.upgrade)(config, revision)


def test_the_history_makes_what_the_models_say_and_takes_it_back(engine: Engine) -> None:
    with engine.connect() as connection:
        migrate(connection, "0001")  # as the first revision left them
        migrate(connection, "head")
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        migrate(connection, "base")
        connection.commit()
        assert set(inspect(connection).get_table_names()) <= {VERSION_TABLE}
        migrate(connection, "head")
        connection.commit()
        assert set(TABLES) <= set(inspect(connection).get_table_names())


def test_mysql_can_make_them() -> None:
    """No server to run it on here: at least the statements are complete, with microseconds."""
    texts = [str(CreateTable(table).compile(dialect=mysql.dialect())) for table in TABLES.values()]
    assert sum("TIMESTAMP(6)" in text for text in texts) >= 7


def test_airflow_db_migrate_makes_them_once(tmp_path: Path) -> None:
    env = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    engine = create_engine(f"sqlite:///{tmp_path}/airflow.db")

    def airflow(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *words], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    airflow("db", "migrate")
    assert {*TABLES, VERSION_TABLE} <= set(inspect(engine).get_table_names())
    airflow("db", "migrate")  # again: nothing to do
    with engine.connect() as connection:
        assert MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE}
        ).get_current_heads() == ("0003",)
    engine.dispose()
