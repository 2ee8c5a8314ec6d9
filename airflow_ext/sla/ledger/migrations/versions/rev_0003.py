"""An index for looking ahead: of what is expected, the part whose window has begun."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME, TABLE = "ix_ext_sla_occurrence_ahead", "ext_sla_occurrence"


def upgrade() -> None:
    """Make it, partial where the database can."""
    where = sa.text("settled_at IS NULL")
    op.create_index(NAME, TABLE, ["watch_from"], postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    """Drop it."""
    op.drop_index(NAME, TABLE)
