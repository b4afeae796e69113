"""The tables. The schema itself is made by the migrations only; a test holds the two together.

Reading goes through the plain names in ``tables``: importing ``sqlalchemy.orm`` alone would take a quarter of
the time that ``promptreg list`` has. Writing uses these classes, so that types and names are checked.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from promptreg.database.timestamps import Timestamp
from promptreg.prompts import Method, Placement, TaskType

__all__ = [
    "AliasRow",
    "Base",
    "BaseModelRow",
    "EventRow",
    "HyperparameterRow",
    "MetricRow",
    "ObjectRow",
    "PromptRow",
    "ResultRow",
    "TaskRow",
]

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
_NEWEST = text("superseded_at IS NULL")


def _string(length: int) -> TypeEngine[str]:
    """A text of at most ``length`` characters that sorts by code point on every database.

    PostgreSQL would else sort as the server's locale does, and an update of the C library could change it.
    """
    return String(length).with_variant(postgresql.VARCHAR(length, collation="C"), "postgresql")


_NAME = _string(128)
_WORD = _string(32)
_DIGEST = _string(71)
_HEX = _string(64)
_TEXT = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def _is_digest(column: str) -> CheckConstraint:
    sql = f"length({column}) = 71 AND substr({column}, 1, 7) = 'sha256:'"
    return CheckConstraint(sql, name=f"{column}_is_sha256")


def _is_positive(column: str) -> CheckConstraint:
    return CheckConstraint(f"{column} > 0", name=f"{column}_positive")


def _is_one_of(column: str, values: Iterable[StrEnum | str]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


class Base(DeclarativeBase):
    """The base of every row class."""

    metadata = MetaData(naming_convention=_NAMING)


class ObjectRow(Base):
    """An object in the store that some row names."""

    __tablename__ = "objects"
    __table_args__ = (
        _is_digest("digest"),
        CheckConstraint("size >= 0", name="size_not_negative"),
        _is_one_of("state", ("pending", "live", "doomed")),
    )

    digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    size: Mapped[int | None] = mapped_column(BigInteger, comment="bytes; null if unknown")
    state: Mapped[str] = mapped_column(
        _WORD, comment="pending: may not be stored yet; live: in use; doomed: about to be removed"
    )


class ManifestRow(Base):
    """A manifest, named by its digest as an object is; small, so it lies here and a pull need not fetch it."""

    __tablename__ = "manifests"
    __table_args__ = (_is_digest("digest"),)

    digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    document: Mapped[str] = mapped_column(Text, comment="canonical JSON, to the byte")


class BaseModelRow(Base):
    """A base model, known by its weights."""

    __tablename__ = "base_models"
    __table_args__ = (
        CheckConstraint(
            "length(fingerprint) = 69 AND substr(fingerprint, 1, 5) = 'bfp1:'",
            name="fingerprint_is_bfp1",
        ),
        _is_positive("token_dim"),
        _is_positive("vocab_size"),
        _is_positive("num_layers"),
        _is_positive("key_value_dim"),
        _is_positive("parameters"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(_string(69), unique=True)
    name: Mapped[str | None] = mapped_column(_NAME, unique=True, comment="what the team calls it")
    embedding: Mapped[str] = mapped_column(_HEX, comment="digest of the input embedding")
    body: Mapped[str] = mapped_column(_HEX, comment="digest of the rest of the backbone")
    head: Mapped[str | None] = mapped_column(_HEX, comment="digest of what stands on the backbone")
    architecture: Mapped[str] = mapped_column(_TEXT)
    model_type: Mapped[str] = mapped_column(_TEXT)
    encoder_decoder: Mapped[bool] = mapped_column(
        Boolean(create_constraint=True, name="encoder_decoder_is_boolean")
    )
    token_dim: Mapped[int] = mapped_column(comment="width of the input embedding")
    vocab_size: Mapped[int] = mapped_column(comment="height of the input embedding")
    num_layers: Mapped[int]
    key_value_dim: Mapped[int] = mapped_column(comment="width of one layer's keys")
    parameters: Mapped[int] = mapped_column(BigInteger, comment="numbers, tied ones counted once")
    dtype: Mapped[str] = mapped_column(_TEXT)
    source: Mapped[str | None] = mapped_column(_TEXT, comment="directory or hub's identifier")
    revision: Mapped[str | None] = mapped_column(_TEXT)
    tokenizer: Mapped[str | None] = mapped_column(
        _DIGEST, comment="digest of the tokenizer's files"
    )
    weight_table: Mapped[str] = mapped_column(
        _DIGEST, ForeignKey("objects.digest"), comment="the object with every parameter's record"
    )
    added_by: Mapped[str] = mapped_column(_TEXT)
    added_at: Mapped[datetime] = mapped_column(Timestamp)


class TaskRow(Base):
    """A task, and the counter of its versions."""

    __tablename__ = "tasks"
    __table_args__ = (_is_positive("next_version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(_NAME, unique=True)
    description: Mapped[str | None] = mapped_column(_TEXT)
    next_version: Mapped[int] = mapped_column(comment="the number that the next push gets")


class PromptRow(Base):
    """A prompt version. Only the columns about yanking ever change."""

    __tablename__ = "prompts"
    __table_args__ = (
        UniqueConstraint("task_id", "version"),
        UniqueConstraint("task_id", "idempotency_key"),
        UniqueConstraint("id", "task_id", "base_id"),  # what an alias refers to
        Index(None, "task_id", "id"),
        Index(None, "digest"),
        _is_positive("version"),
        _is_positive("num_virtual_tokens"),
        _is_positive("token_dim"),
        _is_one_of("method", Method),
        _is_one_of("task_type", TaskType),
        _is_one_of("placement", Placement),
        CheckConstraint("parent_id <> id", name="parent_is_another"),
        CheckConstraint(
            "(yanked_at IS NULL) = (yank_reason IS NULL)"
            " AND (yanked_at IS NULL) = (yanked_by IS NULL)",
            name="yank_is_whole",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    version: Mapped[int] = mapped_column(comment="from 1, without gaps, per task")
    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"))
    digest: Mapped[str] = mapped_column(
        _DIGEST, ForeignKey("objects.digest"), comment="the tensors"
    )
    manifest: Mapped[str] = mapped_column(_DIGEST, ForeignKey("manifests.digest"))
    canary: Mapped[str | None] = mapped_column(_DIGEST, ForeignKey("objects.digest"))
    method: Mapped[str] = mapped_column(_WORD)
    task_type: Mapped[str] = mapped_column(_WORD)
    placement: Mapped[str] = mapped_column(_WORD)
    num_virtual_tokens: Mapped[int] = mapped_column(comment="tokens")
    token_dim: Mapped[int] = mapped_column(comment="numbers a token")
    init: Mapped[str | None] = mapped_column(_TEXT)
    parent_id: Mapped[int | None] = mapped_column(
        ForeignKey("prompts.id"), comment="the version that this one was started from"
    )
    note: Mapped[str | None] = mapped_column(_TEXT)
    pushed_by: Mapped[str] = mapped_column(_TEXT)
    pushed_at: Mapped[datetime] = mapped_column(Timestamp)
    yanked_at: Mapped[datetime | None] = mapped_column(Timestamp)
    yanked_by: Mapped[str | None] = mapped_column(_TEXT)
    yank_reason: Mapped[str | None] = mapped_column(_TEXT)
    idempotency_key: Mapped[str] = mapped_column(
        _NAME, comment="a second push with the same key is the same version"
    )


class _Value:
    """The columns of a typed value; see ``scalars``."""

    kind: Mapped[str] = mapped_column(_WORD)
    number: Mapped[float | None] = mapped_column(Double)
    text: Mapped[str | None] = mapped_column(_string(200), comment="the first 200 characters")
    rest: Mapped[str | None] = mapped_column(_TEXT, comment="the characters after those")


def _value_checks() -> tuple[CheckConstraint, ...]:
    return (
        _is_one_of("kind", ("bool", "int", "float", "text")),
        CheckConstraint(
            "(number IS NOT NULL) = (kind IN ('int', 'float'))", name="number_has_a_number"
        ),
        CheckConstraint("text IS NOT NULL OR kind NOT IN ('bool', 'text')", name="text_has_a_text"),
    )


class HyperparameterRow(_Value, Base):
    """One hyperparameter of a prompt version."""

    __tablename__ = "hyperparameters"
    __table_args__ = (
        *_value_checks(),
        Index(None, "name", "number", "prompt_id"),
        Index(None, "name", "text", "prompt_id"),
        # Clustered by the key, so that the values of one version lie together.
        {"sqlite_with_rowid": False},
    )

    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"), primary_key=True)
    name: Mapped[str] = mapped_column(_NAME, primary_key=True)


class MetricRow(_Value, Base):
    """One recorded value of a metric; a newer one supersedes it, and it stays."""

    __tablename__ = "metrics"
    __table_args__ = (
        *_value_checks(),
        Index(
            "uq_metrics_newest",
            "prompt_id",
            "name",
            unique=True,
            sqlite_where=_NEWEST,
            postgresql_where=_NEWEST,
        ),
        Index(None, "name", "number", "prompt_id", sqlite_where=_NEWEST, postgresql_where=_NEWEST),
        Index(None, "name", "text", "prompt_id", sqlite_where=_NEWEST, postgresql_where=_NEWEST),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"))
    name: Mapped[str] = mapped_column(_NAME)
    recorded_by: Mapped[str] = mapped_column(_TEXT)
    recorded_at: Mapped[datetime] = mapped_column(Timestamp)
    superseded_at: Mapped[datetime | None] = mapped_column(
        Timestamp, comment="when a newer value came; null for the newest"
    )


class AliasRow(Base):
    """A movable name for a version, per task and base model."""

    __tablename__ = "aliases"
    __table_args__ = (
        # The version that it names is of the same task and base model.
        ForeignKeyConstraint(
            ["prompt_id", "task_id", "base_id"],
            ["prompts.id", "prompts.task_id", "prompts.base_id"],
        ),
        Index(None, "prompt_id"),
        Index(None, "name", "prompt_id"),
        {"sqlite_with_rowid": False},
    )

    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"), primary_key=True)
    name: Mapped[str] = mapped_column(_NAME, primary_key=True)
    prompt_id: Mapped[int]


class ResultRow(Base):
    """What a method without a soft prompt scored on a task. Rows are only ever added."""

    __tablename__ = "results"
    __table_args__ = (
        Index(None, "task_id", "id"),
        _is_digest("idempotency_key"),
        CheckConstraint("length(method) > 0", name="method_not_empty"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"))
    method: Mapped[str] = mapped_column(_WORD)
    # Shown, never searched for: the values of one result lie together.
    hyperparameters: Mapped[str] = mapped_column(_TEXT, comment="canonical JSON")
    metrics: Mapped[str] = mapped_column(_TEXT, comment="canonical JSON")
    recorded_by: Mapped[str] = mapped_column(_TEXT)
    recorded_at: Mapped[datetime] = mapped_column(Timestamp)
    idempotency_key: Mapped[str] = mapped_column(
        _DIGEST, unique=True, comment="the same result recorded again is the one that exists"
    )


class EventRow(Base):
    """Something that was done. Rows are only ever added."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(Timestamp)
    by: Mapped[str] = mapped_column(_TEXT)
    action: Mapped[str] = mapped_column(_WORD)
    subject: Mapped[str] = mapped_column(_string(256), comment="sst2@3, or a base's fingerprint")
    detail: Mapped[str | None] = mapped_column(_TEXT)
