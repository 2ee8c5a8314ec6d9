"""How ``airflow db migrate`` makes and upgrades the tables of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.utils.db_manager import BaseDBManager

from airflow_ext.sla.ledger.models import metadata

_HERE = Path(__file__).parent
VERSION_TABLE = "ext_alembic_version"


class LedgerManager(BaseDBManager):
    """The tables ``ext_sla_*``, with an alembic history of their own beside Airflow's.

    ``airflow db reset`` drops them too; ``airflow db clean`` and ``airflow db downgrade`` leave them alone.
    """

    metadata = metadata
    version_table_name = VERSION_TABLE
    migration_dir = str(_HERE / "migrations")
    alembic_file = str(_HERE / "alembic.ini")
    supports_table_dropping = True

    def downgrade(
        self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False
    ) -> None:
        """Take the tables back to an earlier revision, ``base`` for none at all.

        :param to_revision: A revision of this history.
        :param from_revision: Where to start from, with ``show_sql_only``.
        :param show_sql_only: Print the statements instead.
        """
        from alembic import command

        revision = f"{from_revision}:{to_revision}" if from_revision else to_revision
        self._release_metadata_locks_if_needed()
        make_config: Any = self.get_alembic_config
        config = make_config()
        command.downgrade(config, revision=revision, sql=show_sql_only)
