"""The first tables of the ledger: policies, occurrences, incidents, the outbox and who watches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(mysql.TIMESTAMP(fsp=6), "mysql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "ext_sla_lease",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("holder", sa.String(length=100), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_ext_sla_lease"),
    )
    op.create_table(
        "ext_sla_mark",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_ext_sla_mark"),
    )
    op.create_table(
        "ext_sla_occurrence",
        sa.Column("id", ID, nullable=False),
        sa.Column("policy_id", ID, nullable=False),
        sa.Column("version_id", ID, nullable=False),
        sa.Column("local_date", sa.Date(), nullable=False),
        sa.Column("slot", sa.String(length=40), nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("tell_at", TIME, nullable=False),
        sa.Column("watch_from", TIME, nullable=False),
        sa.Column("window_start", TIME, nullable=False),
        sa.Column("window_end", TIME, nullable=False),
        sa.Column("other_start", TIME, nullable=False),
        sa.Column("other_end", TIME, nullable=False),
        sa.Column("bound_run", sa.String(length=250), nullable=True),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("cause", sa.String(length=20), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=True),
        sa.Column("done_at", TIME, nullable=True),
        sa.Column("next_check_at", TIME, nullable=True),
        sa.Column("judged_at", TIME, nullable=True),
        sa.Column("settled_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ext_sla_occurrence"),
        sa.UniqueConstraint(
            "policy_id", "local_date", "slot", name="uq_ext_sla_occurrence_policy_id_local_date_slot"
        ),
    )
    op.create_index("ix_ext_sla_occurrence_check", "ext_sla_occurrence", ["next_check_at"])
    op.create_index("ix_ext_sla_occurrence_open", "ext_sla_occurrence", ["state", "watch_from"])
    op.create_index("ix_ext_sla_occurrence_settled", "ext_sla_occurrence", ["settled_at"])
    op.create_table(
        "ext_sla_policy",
        sa.Column("id", ID, nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("version_id", ID, nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("since", sa.String(length=10), nullable=False),
        sa.Column("subject", sa.String(length=10), nullable=False),
        sa.Column("asset_name", sa.String(length=1500), nullable=True),
        sa.Column("asset_uri", sa.String(length=1500), nullable=True),
        sa.Column("run_types", sa.String(length=120), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("owner", sa.String(length=250), nullable=False),
        sa.Column("severity", sa.String(length=10), nullable=False),
        sa.Column("on_paused", sa.String(length=20), nullable=False),
        sa.Column("on_failure", sa.String(length=10), nullable=False),
        sa.Column("materialised_until", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("retired_at", TIME, nullable=True),
        sa.Column("retired_why", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ext_sla_policy"),
        sa.UniqueConstraint("dag_id", "name", "source", name="uq_ext_sla_policy_dag_id_name_source"),
    )
    op.create_index("ix_ext_sla_policy_rule", "ext_sla_policy", ["rule"])
    op.create_table(
        "ext_sla_replica",
        sa.Column("holder", sa.String(length=100), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("beat_at", TIME, nullable=False),
        sa.Column("tick_seconds", sa.Float(), nullable=False),
        sa.Column("last_tick_ms", sa.Float(), nullable=False),
        sa.Column("lag_seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("holder", name="pk_ext_sla_replica"),
    )
    op.create_table(
        "ext_sla_action",
        sa.Column("id", ID, nullable=False),
        sa.Column("occurrence_id", ID, nullable=False),
        sa.Column("incident_id", ID, nullable=True),
        sa.Column("action", sa.String(length=10), nullable=False),
        sa.Column("who", sa.String(length=250), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("until", TIME, nullable=True),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["occurrence_id"],
            ["ext_sla_occurrence.id"],
            name="fk_ext_sla_action_occurrence_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ext_sla_action"),
    )
    op.create_index("ix_ext_sla_action_occurrence_id", "ext_sla_action", ["occurrence_id"])
    op.create_table(
        "ext_sla_incident",
        sa.Column("id", ID, nullable=False),
        sa.Column("occurrence_id", ID, nullable=False),
        sa.Column("policy_id", ID, nullable=False),
        sa.Column("parent_id", ID, nullable=True),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("cause", sa.String(length=20), nullable=False),
        sa.Column("severity", sa.String(length=10), nullable=False),
        sa.Column("owner", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=True),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.Column("detected_late", sa.Boolean(), nullable=False),
        sa.Column("acknowledged_at", TIME, nullable=True),
        sa.Column("acknowledged_by", sa.String(length=250), nullable=False),
        sa.Column("snoozed_until", TIME, nullable=True),
        sa.Column("resolved_at", TIME, nullable=True),
        sa.Column("resolution", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(
            ["occurrence_id"],
            ["ext_sla_occurrence.id"],
            name="fk_ext_sla_incident_occurrence_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ext_sla_incident"),
        sa.UniqueConstraint("occurrence_id", name="uq_ext_sla_incident_occurrence_id"),
    )
    op.create_index("ix_ext_sla_incident_open", "ext_sla_incident", ["resolved_at", "opened_at"])
    op.create_index("ix_ext_sla_incident_policy", "ext_sla_incident", ["policy_id", "opened_at"])
    op.create_table(
        "ext_sla_policy_task",
        sa.Column("policy_id", ID, nullable=False),
        sa.Column("task_id", sa.String(length=250), nullable=False),
        sa.ForeignKeyConstraint(
            ["policy_id"], ["ext_sla_policy.id"], name="fk_ext_sla_policy_task_policy_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("policy_id", "task_id", name="pk_ext_sla_policy_task"),
    )
    op.create_table(
        "ext_sla_policy_version",
        sa.Column("id", ID, nullable=False),
        sa.Column("policy_id", ID, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["policy_id"],
            ["ext_sla_policy.id"],
            name="fk_ext_sla_policy_version_policy_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ext_sla_policy_version"),
        sa.UniqueConstraint("policy_id", "version", name="uq_ext_sla_policy_version_policy_id_version"),
    )
    op.create_table(
        "ext_sla_outbox",
        sa.Column("id", ID, nullable=False),
        sa.Column("incident_id", ID, nullable=False),
        sa.Column("dedupe_key", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("claimed_by", sa.String(length=100), nullable=True),
        sa.Column("claimed_until", TIME, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("thread_ref", sa.String(length=500), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("sent_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["ext_sla_incident.id"], name="fk_ext_sla_outbox_incident_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ext_sla_outbox"),
        sa.UniqueConstraint("dedupe_key", name="uq_ext_sla_outbox_dedupe_key"),
    )
    op.create_index("ix_ext_sla_outbox_incident", "ext_sla_outbox", ["incident_id"])
    op.create_index("ix_ext_sla_outbox_next", "ext_sla_outbox", ["state", "not_before"])


def downgrade() -> None:
    """Drop them, with all that is in them."""
    op.drop_table("ext_sla_outbox")
    op.drop_table("ext_sla_policy_version")
    op.drop_table("ext_sla_policy_task")
    op.drop_table("ext_sla_incident")
    op.drop_table("ext_sla_action")
    op.drop_table("ext_sla_replica")
    op.drop_table("ext_sla_policy")
    op.drop_table("ext_sla_occurrence")
    op.drop_table("ext_sla_mark")
    op.drop_table("ext_sla_lease")
