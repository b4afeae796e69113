"""The first schema: base models, tasks, prompt versions with what is known about them, objects, events.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# What this revision makes never changes, so nothing here comes from promptreg.
_TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
_MOMENT = sa.DateTime(timezone=True)
_NEWEST = sa.text("superseded_at IS NULL")


def upgrade() -> None:
    _create_objects()
    _create_manifests()
    _create_base_models()
    _create_tasks()
    _create_prompts()
    _create_hyperparameters()
    _create_metrics()
    _create_aliases()
    _create_events()


def downgrade() -> None:
    op.drop_table("events")
    op.drop_table("aliases")
    op.drop_table("metrics")
    op.drop_table("hyperparameters")
    op.drop_table("prompts")
    op.drop_table("tasks")
    op.drop_table("base_models")
    op.drop_table("manifests")
    op.drop_table("objects")


def _create_objects() -> None:
    op.create_table(
        "objects",
        sa.Column("digest", _string(71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True, comment="bytes; null if unknown"),
        sa.Column(
            "state",
            _string(32),
            nullable=False,
            comment="pending: may not be stored yet; live: in use; doomed: about to be removed",
        ),
        sa.CheckConstraint(
            "length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:'",
            name=op.f("ck_objects_digest_is_sha256"),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'live', 'doomed')", name=op.f("ck_objects_state_known")
        ),
        sa.CheckConstraint("size >= 0", name=op.f("ck_objects_size_not_negative")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_objects")),
    )


def _create_manifests() -> None:
    op.create_table(
        "manifests",
        sa.Column("digest", _string(71), nullable=False),
        sa.Column("document", _TEXT, nullable=False, comment="canonical JSON, to the byte"),
        sa.CheckConstraint(
            "length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:'",
            name=op.f("ck_manifests_digest_is_sha256"),
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_manifests")),
    )


def _create_base_models() -> None:
    op.create_table(
        "base_models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", _string(69), nullable=False),
        sa.Column("name", _string(128), nullable=True, comment="what the team calls it"),
        sa.Column(
            "embedding", _string(64), nullable=False, comment="digest of the input embedding"
        ),
        sa.Column(
            "body", _string(64), nullable=False, comment="digest of the rest of the backbone"
        ),
        sa.Column(
            "head", _string(64), nullable=True, comment="digest of what stands on the backbone"
        ),
        sa.Column("architecture", _TEXT, nullable=False),
        sa.Column("model_type", _TEXT, nullable=False),
        sa.Column(
            "encoder_decoder",
            sa.Boolean(create_constraint=True, name="encoder_decoder_is_boolean"),
            nullable=False,
        ),
        sa.Column(
            "token_dim", sa.Integer(), nullable=False, comment="width of the input embedding"
        ),
        sa.Column(
            "vocab_size", sa.Integer(), nullable=False, comment="height of the input embedding"
        ),
        sa.Column("num_layers", sa.Integer(), nullable=False),
        sa.Column(
            "key_value_dim", sa.Integer(), nullable=False, comment="width of one layer's keys"
        ),
        sa.Column(
            "parameters", sa.BigInteger(), nullable=False, comment="numbers, tied ones counted once"
        ),
        sa.Column("dtype", _TEXT, nullable=False),
        sa.Column("source", _TEXT, nullable=True, comment="directory or hub's identifier"),
        sa.Column("revision", _TEXT, nullable=True),
        sa.Column(
            "tokenizer", _string(71), nullable=True, comment="digest of the tokenizer's files"
        ),
        sa.Column(
            "weight_table",
            _string(71),
            nullable=False,
            comment="the object with every parameter's record",
        ),
        sa.Column("added_by", _TEXT, nullable=False),
        sa.Column("added_at", _MOMENT, nullable=False),
        sa.CheckConstraint(
            "length(fingerprint) = 69 AND substr(fingerprint, 1, 5) = 'bfp1:'",
            name=op.f("ck_base_models_fingerprint_is_bfp1"),
        ),
        sa.CheckConstraint("key_value_dim > 0", name=op.f("ck_base_models_key_value_dim_positive")),
        sa.CheckConstraint("num_layers > 0", name=op.f("ck_base_models_num_layers_positive")),
        sa.CheckConstraint("parameters > 0", name=op.f("ck_base_models_parameters_positive")),
        sa.CheckConstraint("token_dim > 0", name=op.f("ck_base_models_token_dim_positive")),
        sa.CheckConstraint("vocab_size > 0", name=op.f("ck_base_models_vocab_size_positive")),
        sa.ForeignKeyConstraint(
            ["weight_table"], ["objects.digest"], name=op.f("fk_base_models_weight_table_objects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_base_models")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_base_models_fingerprint")),
        sa.UniqueConstraint("name", name=op.f("uq_base_models_name")),
    )


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", _string(128), nullable=False),
        sa.Column("description", _TEXT, nullable=True),
        sa.Column(
            "next_version",
            sa.Integer(),
            nullable=False,
            comment="the number that the next push gets",
        ),
        sa.CheckConstraint("next_version > 0", name=op.f("ck_tasks_next_version_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("name", name=op.f("uq_tasks_name")),
    )


def _create_prompts() -> None:
    op.create_table(
        "prompts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column(
            "version", sa.Integer(), nullable=False, comment="from 1, without gaps, per task"
        ),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("digest", _string(71), nullable=False, comment="the tensors"),
        sa.Column("manifest", _string(71), nullable=False),
        sa.Column("canary", _string(71), nullable=True),
        sa.Column("method", _string(32), nullable=False),
        sa.Column("task_type", _string(32), nullable=False),
        sa.Column("placement", _string(32), nullable=False),
        sa.Column("num_virtual_tokens", sa.Integer(), nullable=False, comment="tokens"),
        sa.Column("token_dim", sa.Integer(), nullable=False, comment="numbers a token"),
        sa.Column("init", _TEXT, nullable=True),
        sa.Column(
            "parent_id",
            sa.Integer(),
            nullable=True,
            comment="the version that this one was started from",
        ),
        sa.Column("note", _TEXT, nullable=True),
        sa.Column("pushed_by", _TEXT, nullable=False),
        sa.Column("pushed_at", _MOMENT, nullable=False),
        sa.Column("yanked_at", _MOMENT, nullable=True),
        sa.Column("yanked_by", _TEXT, nullable=True),
        sa.Column("yank_reason", _TEXT, nullable=True),
        sa.Column(
            "idempotency_key",
            _string(128),
            nullable=False,
            comment="a second push with the same key is the same version",
        ),
        sa.CheckConstraint(
            "method IN ('prompt-tuning', 'p-tuning', 'prefix-tuning', 'multitask-prompt-tuning', 'cpt')",
            name=op.f("ck_prompts_method_known"),
        ),
        sa.CheckConstraint(
            "placement IN ('prefix', 'after-bos', 'key-values')",
            name=op.f("ck_prompts_placement_known"),
        ),
        sa.CheckConstraint(
            "task_type IN ('CAUSAL_LM', 'SEQ_2_SEQ_LM', 'SEQ_CLS', 'TOKEN_CLS', 'QUESTION_ANS',"
            " 'FEATURE_EXTRACTION')",
            name=op.f("ck_prompts_task_type_known"),
        ),
        sa.CheckConstraint(
            "(yanked_at IS NULL) = (yank_reason IS NULL) AND (yanked_at IS NULL) = (yanked_by IS NULL)",
            name=op.f("ck_prompts_yank_is_whole"),
        ),
        sa.CheckConstraint(
            "num_virtual_tokens > 0", name=op.f("ck_prompts_num_virtual_tokens_positive")
        ),
        sa.CheckConstraint("parent_id <> id", name=op.f("ck_prompts_parent_is_another")),
        sa.CheckConstraint("token_dim > 0", name=op.f("ck_prompts_token_dim_positive")),
        sa.CheckConstraint("version > 0", name=op.f("ck_prompts_version_positive")),
        sa.ForeignKeyConstraint(
            ["base_id"], ["base_models.id"], name=op.f("fk_prompts_base_id_base_models")
        ),
        sa.ForeignKeyConstraint(
            ["canary"], ["objects.digest"], name=op.f("fk_prompts_canary_objects")
        ),
        sa.ForeignKeyConstraint(
            ["digest"], ["objects.digest"], name=op.f("fk_prompts_digest_objects")
        ),
        sa.ForeignKeyConstraint(
            ["manifest"], ["manifests.digest"], name=op.f("fk_prompts_manifest_manifests")
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["prompts.id"], name=op.f("fk_prompts_parent_id_prompts")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_prompts_task_id_tasks")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompts")),
        sa.UniqueConstraint("id", "task_id", "base_id", name=op.f("uq_prompts_id_task_id_base_id")),
        sa.UniqueConstraint(
            "task_id", "idempotency_key", name=op.f("uq_prompts_task_id_idempotency_key")
        ),
        sa.UniqueConstraint("task_id", "version", name=op.f("uq_prompts_task_id_version")),
    )
    op.create_index(op.f("ix_prompts_digest"), "prompts", ["digest"])
    op.create_index(op.f("ix_prompts_task_id_id"), "prompts", ["task_id", "id"])


def _create_hyperparameters() -> None:
    op.create_table(
        "hyperparameters",
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("name", _string(128), nullable=False),
        sa.Column("kind", _string(32), nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.Column("text", _string(200), nullable=True, comment="the first 200 characters"),
        sa.Column("rest", _TEXT, nullable=True, comment="the characters after those"),
        sa.CheckConstraint(
            "(number IS NOT NULL) = (kind IN ('int', 'float'))",
            name=op.f("ck_hyperparameters_number_has_a_number"),
        ),
        sa.CheckConstraint(
            "kind IN ('bool', 'int', 'float', 'text')", name=op.f("ck_hyperparameters_kind_known")
        ),
        sa.CheckConstraint(
            "text IS NOT NULL OR kind NOT IN ('bool', 'text')",
            name=op.f("ck_hyperparameters_text_has_a_text"),
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_hyperparameters_prompt_id_prompts")
        ),
        sa.PrimaryKeyConstraint("prompt_id", "name", name=op.f("pk_hyperparameters")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_hyperparameters_name_number_prompt_id"),
        "hyperparameters",
        ["name", "number", "prompt_id"],
    )
    op.create_index(
        op.f("ix_hyperparameters_name_text_prompt_id"),
        "hyperparameters",
        ["name", "text", "prompt_id"],
    )


def _create_metrics() -> None:
    op.create_table(
        "metrics",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("name", _string(128), nullable=False),
        sa.Column("recorded_by", _TEXT, nullable=False),
        sa.Column("recorded_at", _MOMENT, nullable=False),
        sa.Column(
            "superseded_at",
            _MOMENT,
            nullable=True,
            comment="when a newer value came; null for the newest",
        ),
        sa.Column("kind", _string(32), nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.Column("text", _string(200), nullable=True, comment="the first 200 characters"),
        sa.Column("rest", _TEXT, nullable=True, comment="the characters after those"),
        sa.CheckConstraint(
            "(number IS NOT NULL) = (kind IN ('int', 'float'))",
            name=op.f("ck_metrics_number_has_a_number"),
        ),
        sa.CheckConstraint(
            "kind IN ('bool', 'int', 'float', 'text')", name=op.f("ck_metrics_kind_known")
        ),
        sa.CheckConstraint(
            "text IS NOT NULL OR kind NOT IN ('bool', 'text')",
            name=op.f("ck_metrics_text_has_a_text"),
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_metrics_prompt_id_prompts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metrics")),
    )
    op.create_index(
        op.f("ix_metrics_name_number_prompt_id"),
        "metrics",
        ["name", "number", "prompt_id"],
        sqlite_where=_NEWEST,
        postgresql_where=_NEWEST,
    )
    op.create_index(
        op.f("ix_metrics_name_text_prompt_id"),
        "metrics",
        ["name", "text", "prompt_id"],
        sqlite_where=_NEWEST,
        postgresql_where=_NEWEST,
    )
    op.create_index(
        "uq_metrics_newest",
        "metrics",
        ["prompt_id", "name"],
        unique=True,
        sqlite_where=_NEWEST,
        postgresql_where=_NEWEST,
    )


def _create_aliases() -> None:
    op.create_table(
        "aliases",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("name", _string(128), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["base_id"], ["base_models.id"], name=op.f("fk_aliases_base_id_base_models")
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id", "task_id", "base_id"],
            ["prompts.id", "prompts.task_id", "prompts.base_id"],
            name=op.f("fk_aliases_prompt_id_task_id_base_id_prompts"),
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_aliases_task_id_tasks")),
        sa.PrimaryKeyConstraint("task_id", "base_id", "name", name=op.f("pk_aliases")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_aliases_name_prompt_id"), "aliases", ["name", "prompt_id"])
    op.create_index(op.f("ix_aliases_prompt_id"), "aliases", ["prompt_id"])


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("by", _TEXT, nullable=False),
        sa.Column("action", _string(32), nullable=False),
        sa.Column(
            "subject", _string(256), nullable=False, comment="sst2@3, or a base's fingerprint"
        ),
        sa.Column("detail", _TEXT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )


def _string(length: int) -> sa.types.TypeEngine[str]:
    variant = postgresql.VARCHAR(length, collation="C")
    return sa.String(length).with_variant(variant, "postgresql")
