"""Indexes for a tick that finds nothing: what is settled is in none of those it reads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLE = "ext_sla_occurrence"
CHECK, OPEN, SETTLED = (f"ix_{TABLE}_{name}" for name in ("check", "open", "settled"))
SUBJECT = "ix_ext_sla_policy_subject"


def upgrade() -> None:
    """Make them partial where the database can."""
    _drop()
    for name, columns, condition in (
        (CHECK, ["next_check_at"], "next_check_at IS NOT NULL"),
        (OPEN, ["policy_id", "watch_from"], "settled_at IS NULL"),
        (SETTLED, ["settled_at"], "settled_at IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, TABLE, columns, postgresql_where=where, sqlite_where=where)
    op.create_index(SUBJECT, "ext_sla_policy", ["subject"])


def downgrade() -> None:
    """Make them as they were."""
    op.drop_index(SUBJECT, "ext_sla_policy")
    _drop()
    op.create_index(CHECK, TABLE, ["next_check_at"])
    op.create_index(OPEN, TABLE, ["state", "watch_from"])
    op.create_index(SETTLED, TABLE, ["settled_at"])


def _drop() -> None:
    for name in (CHECK, OPEN, SETTLED):
        op.drop_index(name, TABLE)
