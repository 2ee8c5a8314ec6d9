"""Runs the migrations of the ledger against Airflow's metadata database."""

from __future__ import annotations

import contextlib

from airflow import settings
from alembic import context

from airflow_ext.sla.ledger.manager import VERSION_TABLE
from airflow_ext.sla.ledger.models import metadata


def include_object(_: object, name: str | None, type_: str, *__: object) -> bool:
    """Look at our tables only."""
    return type_ != "table" or name in metadata.tables


def run_migrations_offline() -> None:
    """Print the statements."""
    context.configure(
        url=settings.SQL_ALCHEMY_CONN,
        target_metadata=metadata,
        literal_binds=True,
        version_table=VERSION_TABLE,
        render_as_batch=True,
        include_object=include_object,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    """Run them, on the connection that is handed over or one of Airflow's."""
    with contextlib.ExitStack() as stack:
        connection = context.config.attributes.get("connection")
        if connection is None:
            connection = stack.enter_context(settings.get_engine().connect())
        context.configure(
            connection=connection,
            target_metadata=metadata,
            version_table=VERSION_TABLE,
            transaction_per_migration=True,
            render_as_batch=connection.dialect.name == "sqlite",
            include_object=include_object,
        )
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
