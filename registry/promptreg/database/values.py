"""What goes into the database and comes out of it, beside prompt versions and base models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from promptreg.database.scalars import check_scalars, check_text
from promptreg.digests import Digest
from promptreg.fingerprints import Fingerprint
from promptreg.names import check_alias, check_task
from promptreg.prompts import Method, Placement, PromptVersion, Scalar, TaskType

__all__ = ["Event", "Measurement", "NewVersion", "Page"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A prompt version that is to be registered; its objects are stored already.

    Attributes:
        task: The task that it is for; made if there is no such task yet.
        base: The fingerprint of its base model, which is registered already.
        digest: The digest of its tensors' object.
        size: The length of that object, in bytes.
        manifest: Its manifest.
        canary: The digest of its canary's object, if one was recorded.
        canary_size: The length of that object, in bytes.
        method: How it was trained.
        task_type: What the base model does with it.
        placement: Where the virtual tokens stand.
        num_virtual_tokens: How many there are.
        token_dim: How many numbers each has.
        init: How the prompt was initialised.
        parent: The reference of the version that it was started from.
        note: Free text.
        by: Who pushes it.
        hyperparameters: What it was trained with.
        metrics: What it scored.
        aliases: The names that are to stand for it.
        idempotency_key: Registering the same key in the same task again registers nothing.

    Raises:
        InvalidNameError: A name is outside the grammar.
        InvalidValueError: A hyperparameter, a metric or a text cannot be stored.
    """

    task: str
    base: Fingerprint
    digest: Digest
    size: int
    manifest: bytes
    canary: Digest | None = None
    canary_size: int | None = None
    method: Method
    task_type: TaskType
    placement: Placement
    num_virtual_tokens: int
    token_dim: int
    init: str | None = None
    parent: str | None = None
    note: str | None = None
    by: str
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    idempotency_key: str

    def __post_init__(self) -> None:
        for name in ("hyperparameters", "metrics"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        check_task(self.task)
        for alias in self.aliases:
            check_alias(alias)
        check_scalars("hyperparameter", self.hyperparameters)
        check_scalars("metric", self.metrics)
        for what in ("init", "note", "by"):
            check_text(f"the {what}", getattr(self, what) or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the versions that were asked for.

    Attributes:
        versions: They, in the order asked for.
        next: What to give as ``after`` for the page that follows; None if this is the last one.
    """

    versions: tuple[PromptVersion, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A value of a metric, as somebody recorded it once.

    Attributes:
        metric: The metric's name.
        value: The value.
        by: Who recorded it.
        at: When, in UTC.
        superseded_at: When another value came, in UTC; None for the newest.
    """

    metric: str
    value: Scalar
    by: str
    at: datetime
    superseded_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was done.

    Attributes:
        at: When, in UTC.
        by: Who did it.
        action: What: ``push``, ``alias``, ``yank``, ``measure``, ``record-result`` or ``add-base``.
        subject: To which: the reference of a version, a task, or the fingerprint of a base model.
        detail: The alias, the reason, the metric.
    """

    at: datetime
    by: str
    action: str
    subject: str
    detail: str | None = None
