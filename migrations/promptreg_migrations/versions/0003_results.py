"""Results without a prompt: what prompt design and model tuning reached on a task.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("method", _string(32), nullable=False),
        sa.Column("hyperparameters", _TEXT, nullable=False, comment="canonical JSON"),
        sa.Column("metrics", _TEXT, nullable=False, comment="canonical JSON"),
        sa.Column("recorded_by", _TEXT, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "idempotency_key",
            _string(71),
            nullable=False,
            comment="the same result recorded again is the one that exists",
        ),
        sa.CheckConstraint(
            "length(idempotency_key) = 71 AND substr(idempotency_key, 1, 7) = 'sha256:'",
            name=op.f("ck_results_idempotency_key_is_sha256"),
        ),
        sa.CheckConstraint("length(method) > 0", name=op.f("ck_results_method_not_empty")),
        sa.ForeignKeyConstraint(
            ["base_id"], ["base_models.id"], name=op.f("fk_results_base_id_base_models")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_results_task_id_tasks")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_results")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_results_idempotency_key")),
    )
    op.create_index(op.f("ix_results_task_id_id"), "results", ["task_id", "id"])


def downgrade() -> None:
    # What was recorded is never lost: revision 0002 has no place for it.
    count = op.get_bind().scalar(sa.text("SELECT count(*) FROM results"))
    if count:
        raise CommandError(f"{count} results are registered, and revision 0002 would lose them")
    op.drop_table("results")


def _string(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(postgresql.VARCHAR(length, collation="C"), "postgresql")
