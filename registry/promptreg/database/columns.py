"""What can be asked about a prompt version, in a filter or as a sort key, and where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from sqlalchemy import ColumnElement, func

from promptreg.database.tables import base_models, objects, parent, prompts, tasks

__all__ = ["COLUMNS", "SCALARS", "Column", "Kind", "scalar_key"]


class Kind(Enum):
    """What a column holds, and so how it can be compared."""

    NUMBER = auto()
    TEXT = auto()
    DIGEST = auto()
    """A text that its beginning may stand for."""
    MOMENT = auto()
    TRUTH = auto()
    """Whether there is a value at all."""


@dataclass(frozen=True, slots=True)
class Column:
    """One word that stands for something every version has, or may have.

    Attributes:
        kind: What it holds.
        expression: It, in SQL.
        nullable: Whether a version may lack it.
        other: What is compared, too: a base model has a name and a fingerprint.
    """

    kind: Kind
    expression: ColumnElement[Any]
    nullable: bool = False
    other: ColumnElement[Any] | None = None


COLUMNS: Mapping[str, Column] = {
    "task": Column(Kind.TEXT, tasks.c.name),
    "version": Column(Kind.NUMBER, prompts.c.version),
    "base": Column(
        Kind.DIGEST,
        func.coalesce(base_models.c.name, base_models.c.fingerprint),
        other=base_models.c.fingerprint,
    ),
    "method": Column(Kind.TEXT, prompts.c.method),
    "task_type": Column(Kind.TEXT, prompts.c.task_type),
    "placement": Column(Kind.TEXT, prompts.c.placement),
    "tokens": Column(Kind.NUMBER, prompts.c.num_virtual_tokens),
    "num_virtual_tokens": Column(Kind.NUMBER, prompts.c.num_virtual_tokens),
    "token_dim": Column(Kind.NUMBER, prompts.c.token_dim),
    "size": Column(Kind.NUMBER, objects.c.size, nullable=True),
    "init": Column(Kind.TEXT, prompts.c.init, nullable=True),
    "parent": Column(Kind.TEXT, parent, nullable=True),
    "note": Column(Kind.TEXT, prompts.c.note, nullable=True),
    "pushed_by": Column(Kind.TEXT, prompts.c.pushed_by),
    "pushed_at": Column(Kind.MOMENT, prompts.c.pushed_at),
    "yanked": Column(Kind.TRUTH, prompts.c.yanked_at, nullable=True),
    "yanked_at": Column(Kind.MOMENT, prompts.c.yanked_at, nullable=True),
    "yank_reason": Column(Kind.TEXT, prompts.c.yank_reason, nullable=True),
    "digest": Column(Kind.DIGEST, prompts.c.digest),
    "manifest": Column(Kind.DIGEST, prompts.c.manifest),
    "canary": Column(Kind.DIGEST, prompts.c.canary, nullable=True),
}

SCALARS = ("hp.NAME", "metric.NAME")
"""The words that a name completes."""

_SCALARS = {"hp": "hyperparameters", "hyperparameter": "hyperparameters", "metric": "metrics"}


def scalar_key(key: str) -> tuple[str, str] | None:
    """Return the table and the name of ``hp.NAME`` or ``metric.NAME``, None if ``key`` is neither.

    >>> scalar_key("hp.optimizer/lr")
    ('hyperparameters', 'optimizer/lr')
    """
    kind, dot, name = key.partition(".")
    return (_SCALARS[kind], name) if dot and name and kind in _SCALARS else None
