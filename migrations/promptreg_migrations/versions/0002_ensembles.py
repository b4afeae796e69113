"""Ensembles: one more method that a prompt version may have.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BEFORE = ("prompt-tuning", "p-tuning", "prefix-tuning", "multitask-prompt-tuning", "cpt")
_AFTER = (*_BEFORE, "ensemble")


def upgrade() -> None:
    _allow(_AFTER)


def downgrade() -> None:
    # Fails, and so changes nothing, where an ensemble is registered: versions are never lost.
    _allow(_BEFORE)


def _allow(methods: tuple[str, ...]) -> None:
    known = ", ".join(f"'{method}'" for method in methods)
    with op.batch_alter_table("prompts") as prompts:
        prompts.drop_constraint(op.f("ck_prompts_method_known"), type_="check")
        prompts.create_check_constraint(op.f("ck_prompts_method_known"), f"method IN ({known})")
