"""Soft prompts: trained tensors with everything needed to use them again. Pure values, no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from promptreg.bases import BaseModel
from promptreg.canaries import Canary
from promptreg.digests import Digest
from promptreg.fingerprints import Fingerprint

__all__ = [
    "TASK_EMBEDDING",
    "Method",
    "Placement",
    "PromptVersion",
    "PulledPrompt",
    "Scalar",
    "SoftPrompt",
    "TaskType",
    "Tensor",
    "Vote",
    "Yanked",
]

_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_MAPPINGS = ("tensors", "hyperparameters", "source_config")
Scalar = bool | int | float | str
"""A hyperparameter's or metric's value."""
TASK_EMBEDDING = "task_embedding"
"""[P, H] The prompt as it was at a fixed early step of its training, by which tasks are compared (SPoT).
A copy: it is no part of what was trained."""


class Method(StrEnum):
    """How a prompt was trained, and so what its tensors mean. PEFT's ``peft_type``, in small letters.

    An ensemble was not trained itself, its members were; PEFT knows none.
    """

    PROMPT_TUNING = "prompt-tuning"
    P_TUNING = "p-tuning"
    PREFIX_TUNING = "prefix-tuning"
    MULTITASK_PROMPT_TUNING = "multitask-prompt-tuning"
    CPT = "cpt"
    ENSEMBLE = "ensemble"


class TaskType(StrEnum):
    """What the base model does with the prompted input, as PEFT names it."""

    CAUSAL_LM = "CAUSAL_LM"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    SEQ_CLS = "SEQ_CLS"
    TOKEN_CLS = "TOKEN_CLS"  # noqa: S105
    QUESTION_ANS = "QUESTION_ANS"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"


class Placement(StrEnum):
    """Where the virtual tokens stand."""

    PREFIX = "prefix"
    """In front of the embedded input, before any BOS token; in an encoder-decoder, the encoder's input."""
    AFTER_BOS = "after-bos"
    """After the first token of the input."""
    KEY_VALUES = "key-values"
    """As keys and values of every layer's attention (prefix tuning)."""


class Vote(StrEnum):
    """How the members of an ensemble come to one answer."""

    MAJORITY = "majority"
    """The answer that most members give."""
    MEAN = "mean"
    """The answer with the highest probability on the average over the members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A dense tensor as bytes.

    Attributes:
        dtype: ``F32``, ``F16`` or ``BF16``.
        shape: Its shape.
        data: Its elements, little-endian, in C order.

    Raises:
        ValueError: The three do not agree.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not all(type(size) is int and size >= 0 for size in self.shape):
            raise ValueError(f"a tensor's shape is made of whole numbers, not {list(self.shape)}")
        if self.dtype not in _WIDTHS:
            raise ValueError(f"a prompt's tensor is F32, F16 or BF16, not {self.dtype}")
        wanted = math.prod(self.shape) * _WIDTHS[self.dtype]
        if len(self.data) != wanted:
            raise ValueError(
                f"{self.dtype} {list(self.shape)} is {wanted} bytes, not {len(self.data)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftPrompt:
    """Trained tensors with everything needed to use them again.

    P is the number of virtual tokens, H the base model's embedding width, L its layers, K the width of one
    layer's keys, T the tasks of a multitask prompt, R its rank.

    Attributes:
        method: What the tensors mean.
        tensors: By name. ``prompt_embeddings`` is [P, H], or [P, L * 2 * K] for prefix tuning, laid out
            [layer][key, value][head]; a multitask prompt has ``prefix_task_cols`` [T, P, R] and
            ``prefix_task_rows`` [T, R, H] too. Trained modules of the base (a classifier) keep their
            names behind ``modules_to_save.``. A prompt of prompt tuning may have a ``task_embedding`` [P, H]:
            itself, as it was early in its training. An ensemble has all tensors of its members, those of the
            first behind ``members.0.``.
        num_virtual_tokens: P; the sum over an ensemble's members.
        token_dim: H, or K for prefix tuning, as PEFT says it.
        num_layers: L where the virtual tokens are keys and values, else None.
        task_type: What the base model is used for; None if the file does not say (the base does, at push).
        placement: Where the virtual tokens stand.
        template: The text around the input, with ``{text}`` where it goes; None for the bare input.
        labels: The label words of a classification task.
        init: How the prompt was initialised, if known.
        members: The versions that an ensemble is made of, such as ``sst2@3``, in the order of their tensors.
        vote: How an ensemble's members come to one answer; None for any other prompt.
        hyperparameters: What it was trained with.
        source_format: The format that it was read from (``peft``, ``npy``, …).
        source_config: That format's own configuration, kept whole so that an export loses nothing.
        notes: What the reader left behind or found worth saying, a sentence each. They are for the person who
            reads the file now: not stored, not compared.
    """

    method: Method
    tensors: Mapping[str, Tensor] = field(repr=False)
    num_virtual_tokens: int
    token_dim: int
    num_layers: int | None = None
    task_type: TaskType | None = None
    placement: Placement = Placement.PREFIX
    template: str | None = None
    labels: tuple[str, ...] = ()
    init: str | None = None
    members: tuple[str, ...] = ()
    vote: Vote | None = None
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    source_format: str | None = None
    source_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in _MAPPINGS:
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        object.__setattr__(self, "method", Method(self.method))
        object.__setattr__(self, "placement", Placement(self.placement))
        if self.task_type is not None:
            object.__setattr__(self, "task_type", TaskType(self.task_type))
        object.__setattr__(self, "members", tuple(self.members))
        if self.vote is not None:
            object.__setattr__(self, "vote", Vote(self.vote))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping that cannot be written to cannot be pickled either: what it shows can.
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return _make_prompt, (values | {name: dict(values[name]) for name in _MAPPINGS},)

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(
            math.prod(tensor.shape)
            for name, tensor in self.tensors.items()
            if name != TASK_EMBEDDING
        )


def _make_prompt(values: dict[str, Any]) -> SoftPrompt:
    return SoftPrompt(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Yanked:
    """That a version must not be used any more.

    Attributes:
        when: When it was yanked.
        reason: Why.
    """

    when: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptVersion:
    """One registered soft prompt: immutable, never reused, never replaced.

    Attributes:
        task: The task that it is for.
        version: Its number in that task, from 1.
        base: The fingerprint of its base model.
        base_name: What the team calls that base model.
        digest: The digest of its tensors' object.
        size: The length of that object, in bytes.
        manifest: The digest of its manifest.
        canary: The digest of its canary's object, if one was recorded.
        parent: The reference of the version that it was started from.
        note: Free text.
        pushed_by: Who pushed it.
        pushed_at: When, in UTC.
        yanked: Whether it was withdrawn.
        aliases: Its aliases, sorted.
        metrics: The newest value of each metric.
    """

    task: str
    version: int
    base: Fingerprint
    base_name: str | None = None
    digest: Digest
    size: int
    manifest: Digest
    canary: Digest | None = None
    method: Method
    task_type: TaskType
    placement: Placement
    num_virtual_tokens: int
    token_dim: int
    init: str | None = None
    parent: str | None = None
    note: str | None = None
    pushed_by: str
    pushed_at: datetime
    yanked: Yanked | None = None
    aliases: tuple[str, ...] = ()
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        """What a person writes to name it: ``sst2@3``."""
        return f"{self.task}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledPrompt:
    """A prompt version with its verified tensors: all that ``attach`` needs.

    Attributes:
        version: What is registered about it.
        prompt: Its tensors and how to use them.
        base: The base model that it was trained on, with its table of weights.
        canary: What prompt and base gave when it was pushed, if that was recorded.
    """

    version: PromptVersion
    prompt: SoftPrompt
    base: BaseModel
    canary: Canary | None = None
