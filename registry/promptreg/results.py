"""Results without a prompt: what prompt design or model tuning reached on a task, beside the soft prompts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from promptreg.digests import Digest
from promptreg.documents import render_document
from promptreg.errors import InvalidNameError, InvalidValueError
from promptreg.fingerprints import Fingerprint
from promptreg.prompts import Method, Scalar

__all__ = ["MODEL_TUNING", "PROMPT_DESIGN", "Result", "check_method", "result_digest"]

PROMPT_DESIGN = "prompt-design"
"""A written prompt on the frozen base model; the hyperparameter ``shots`` says how many examples are in it."""
MODEL_TUNING = "model-tuning"
"""All weights of the base model were trained."""

_METHOD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
_LONGEST_METHOD = 32
_VARYING = frozenset({"train_seconds"})
"""The metrics that differ from run to run even where nothing else does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a method without a soft prompt scored on a task: nothing is stored of it but this.

    Attributes:
        task: The task that it is for.
        base: The fingerprint of its base model, as it was before any tuning.
        base_name: What the team calls that base model.
        method: ``prompt-design``, ``model-tuning`` or another name.
        hyperparameters: How it was done.
        metrics: What it scored.
        recorded_by: Who recorded it.
        recorded_at: When, in UTC.
    """

    task: str
    base: Fingerprint
    base_name: str | None = None
    method: str
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    recorded_by: str
    recorded_at: datetime

    @property
    def digest(self) -> Digest:
        """What tells it from other results, whoever recorded it and when."""
        return result_digest(self.task, self.base, self.method, self.hyperparameters, self.metrics)


def result_digest(
    task: str,
    base: Fingerprint,
    method: str,
    hyperparameters: Mapping[str, Scalar],
    metrics: Mapping[str, Scalar],
) -> Digest:
    """Return what tells a result from others: two are the same if all but the time they took is."""
    document = {
        "task": task,
        "base": str(base),
        "method": method,
        "hyperparameters": dict(hyperparameters),
        "metrics": {name: value for name, value in metrics.items() if name not in _VARYING},
    }
    return Digest.of(render_document(document))


def check_method(method: str) -> None:
    """Return if ``method`` can name how a result without a prompt came to be.

    Raises:
        InvalidNameError: It is outside the grammar.
        InvalidValueError: It is a method that makes soft prompts.
    """
    if len(method) > _LONGEST_METHOD or not _METHOD.fullmatch(method):
        rule = f"at most {_LONGEST_METHOD} small letters, digits and '-', the last not at an end"
        raise InvalidNameError("method", method, rule)
    if method in {*Method}:
        raise InvalidValueError(
            "the method",
            method,
            "it makes a soft prompt, and a result here has none",
            "push the prompt with its metrics instead",
        )
