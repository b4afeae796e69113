"""The tables as plain names, for reading without ``sqlalchemy.orm``; a test compares them with ``orm``."""

from typing import Any

from sqlalchemy import (
    ColumnClause,
    FromClause,
    String,
    TableClause,
    cast,
    column,
    literal,
    select,
    table,
)

from promptreg.database.timestamps import Timestamp

__all__ = [
    "aliases",
    "base_models",
    "events",
    "hyperparameters",
    "joined",
    "manifests",
    "metrics",
    "objects",
    "parent",
    "prompts",
    "results",
    "scalar_columns",
    "tasks",
]


def _table(name: str, columns: str, moments: str = "") -> TableClause:
    """Return the table ``name`` with ``columns`` as the driver gives them, and with ``moments``."""
    plain: list[ColumnClause[Any]] = [column(each) for each in columns.split()]
    return table(name, *plain, *(column(each, Timestamp) for each in moments.split()))


objects = _table("objects", "digest size state")
manifests = _table("manifests", "digest document")
tasks = _table("tasks", "id name")
base_models = _table(
    "base_models",
    "id fingerprint name embedding body head architecture model_type encoder_decoder token_dim "
    "vocab_size num_layers key_value_dim parameters dtype source revision tokenizer weight_table",
)
prompts = _table(
    "prompts",
    "id task_id version base_id digest manifest canary method task_type placement "
    "num_virtual_tokens token_dim init parent_id note pushed_by yank_reason idempotency_key",
    moments="pushed_at yanked_at",
)
hyperparameters = _table("hyperparameters", "prompt_id name kind number text rest")
metrics = _table(
    "metrics",
    "id prompt_id name kind number text rest recorded_by",
    moments="recorded_at superseded_at",
)
aliases = _table("aliases", "task_id base_id name prompt_id")
results = _table(
    "results",
    "id task_id base_id method hyperparameters metrics recorded_by idempotency_key",
    moments="recorded_at",
)
events = _table("events", "id by action subject detail", moments="at")

_parents = prompts.alias("parents")
_parent_tasks = tasks.alias("parent_tasks")
parent = (
    select(_parent_tasks.c.name.concat(literal("@")).concat(cast(_parents.c.version, String)))
    .join_from(_parents, _parent_tasks, _parent_tasks.c.id == _parents.c.task_id)
    .where(_parents.c.id == prompts.c.parent_id)
    .correlate(prompts)
    .scalar_subquery()
)
"""The reference of the version that one was started from."""


def scalar_columns(scalars: TableClause) -> tuple[ColumnClause[Any], ...]:
    """Return the columns of ``hyperparameters`` or ``metrics`` that make a value: whose, its name, itself."""
    columns = scalars.c
    return (
        columns.prompt_id,
        columns.name,
        columns.kind,
        columns.number,
        columns.text,
        columns.rest,
    )


def joined(versions: FromClause = prompts) -> FromClause:
    """Return ``versions`` (the prompts, or a join with them) with their tasks, base models and objects.

    Outer joins to unique keys: a database leaves out those of them that a query does not use.
    """
    return (
        versions.outerjoin(tasks, tasks.c.id == prompts.c.task_id)
        .outerjoin(base_models, base_models.c.id == prompts.c.base_id)
        .outerjoin(objects, objects.c.digest == prompts.c.digest)
    )
