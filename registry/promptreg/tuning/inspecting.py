"""Which words of the vocabulary virtual tokens are near to, as the base model sees both.

P is the number of virtual tokens, H the base model's embedding width, V the size of its vocabulary, K how many
near tokens are wanted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptreg.errors import (
    AttachError,
    IncompatibleModelError,
    InvalidValueError,
    MissingDependencyError,
)
from promptreg.fingerprints import Verdict, compare
from promptreg.layouts import MODULES_PREFIX, PROMPT_EMBEDDINGS, trained_modules
from promptreg.prompts import Method, PulledPrompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from promptreg.bases import BaseModel

__all__ = ["CAVEAT", "Inspection", "Measure", "NearToken", "VirtualToken", "inspect_prompt"]

CAVEAT = (
    "such readings can mislead: a prompt can be near to words that have nothing to do with its task, "
    "and do its task all the same (Khashabi et al. 2022, Prompt Waywardness)"
)
_MOST = 100
_DIFFERING = 5
_REASONS = {
    Method.PREFIX_TUNING: (
        "it is keys and values of every layer, and words have none of their own",
        "name a prompt of virtual tokens",
    ),
    Method.MULTITASK_PROMPT_TUNING: (
        "its tokens are made anew for each of its tasks",
        "name a prompt for one task",
    ),
}


class Measure(StrEnum):
    """What makes two vectors near."""

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"


@dataclass(frozen=True, slots=True, kw_only=True)
class NearToken:
    """A token of the vocabulary, near to a virtual one.

    Attributes:
        id: Its number in the vocabulary.
        text: It, legible: ``▁`` is a space; a newline is escaped; ``<0xE2 0x80>`` are bytes that make no text.
        cosine: The cosine of the two.
        distance: Their Euclidean distance.
    """

    id: int
    text: str
    cosine: float
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualToken:
    """A virtual token beside the vocabulary.

    Attributes:
        index: Its place in the prompt, from 0.
        norm: Its length.
        percentile: How many of a hundred tokens of the vocabulary are shorter.
        nearest: The nearest tokens of the vocabulary.
    """

    index: int
    norm: float
    percentile: float
    nearest: tuple[NearToken, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A prompt beside the vocabulary of its base model.

    Attributes:
        reference: The version.
        measure: What the nearest tokens are nearest by.
        tokens: Its virtual tokens, in order.
        vocabulary: V.
        norms: The norms of the vocabulary below which 5, 50 and 95 of a hundred lie.
        closest: [P] The highest cosine that each virtual token has with any token of the vocabulary.
        by_chance: The cosine that the nearest of V unrelated directions comes to.
        notes: What was left out, and what is odd, a sentence each.
    """

    reference: str
    measure: Measure
    tokens: tuple[VirtualToken, ...]
    vocabulary: int
    norms: tuple[float, float, float]
    closest: tuple[float, ...]
    by_chance: float
    notes: tuple[str, ...] = ()

    @property
    def far(self) -> int:
        """How many virtual tokens are no nearer to any token of the vocabulary than chance would have it."""
        return sum(cosine < self.by_chance for cosine in self.closest)


def inspect_prompt(
    prompt: PulledPrompt,
    directory: Path,
    *,
    nearest: int = 5,
    measure: Measure | str = Measure.COSINE,
    at_hand: "BaseModel | None" = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Return the tokens of the vocabulary that a prompt's virtual tokens are near to.

    Both are compared as the base model reads them: what its embedding gives, scaled where it scales. Only the
    embedding is loaded. See ``CAVEAT`` before believing what is read out of a prompt.

    Args:
        prompt: What ``Registry.pull`` gives.
        directory: The directory of its base model.
        nearest: K, for each virtual token.
        measure: What makes two tokens near: ``cosine`` or ``euclidean``.
        at_hand: What ``from_files`` said of the directory, if that was asked already.
        progress: Called with how much of the vocabulary was compared.

    Raises:
        IncompatibleModelError: The base model in the directory is not the one that the prompt was trained on.
        InvalidValueError: It has no virtual tokens to be compared, or ``nearest`` or ``measure`` is none.
        BaseModelError: The directory cannot be read.
        MissingDependencyError: torch or transformers is not installed.
    """
    measure = _check(prompt, nearest, measure)
    try:
        from promptreg.models.fingerprinting import from_files
        from promptreg.tuning.vocabulary import Vocabulary
    except ImportError as error:
        raise MissingDependencyError("transformers", "torch", "inspecting a prompt") from error
    actual = at_hand or from_files(directory)
    _check_base(prompt, actual)
    vocabulary = Vocabulary.load(directory, prompt.prompt)
    found = vocabulary.compare(
        _rows(prompt), nearest=nearest, by_cosine=measure is Measure.COSINE, progress=progress
    )
    tokens = tuple(
        VirtualToken(
            index=index,
            norm=float(found.norms[index]),
            percentile=float(found.percentiles[index]),
            nearest=tuple(
                NearToken(id=each, text=vocabulary.text(each), cosine=cosine, distance=distance)
                for each, cosine, distance in near
            ),
        )
        for index, near in enumerate(found.nearest)
    )
    return Inspection(
        reference=prompt.version.ref,
        measure=measure,
        tokens=tokens,
        vocabulary=vocabulary.size,
        norms=found.quantiles,
        closest=found.closest,
        by_chance=math.sqrt(2 * math.log(vocabulary.size) / prompt.prompt.token_dim),
        notes=(*_notes(prompt), *vocabulary.notes),
    )


def _check(prompt: PulledPrompt, nearest: int, measure: Measure | str) -> Measure:
    """Return the measure of that name, if the prompt can be inspected by it."""
    ref, method = prompt.version.ref, prompt.prompt.method
    if method is Method.ENSEMBLE:
        members = ", ".join(prompt.prompt.members)
        raise InvalidValueError(
            "the prompt", ref, "it is an ensemble of several prompts", f"inspect {members}"
        )
    if method in _REASONS:
        raise InvalidValueError("the prompt", ref, *_REASONS[method])
    if not 1 <= nearest <= _MOST:
        reason = f"1 to {_MOST} tokens are shown for each virtual one"
        raise InvalidValueError(
            "the number of nearest tokens", str(nearest), reason, "ask for fewer"
        )
    try:
        return Measure(measure)
    except ValueError:
        reason, remedy = "there is no such measure", f"choose from {', '.join(Measure)}"
        raise InvalidValueError("the measure", str(measure), reason, remedy) from None


def _check_base(prompt: PulledPrompt, actual: "BaseModel") -> None:
    """Return if the base model at hand is the prompt's, by every weight."""
    expected = prompt.base
    if expected.fingerprint == actual.fingerprint:
        return
    if expected.table is None or actual.table is None:
        raise AttachError(
            f"{expected} is not {actual}, and one came without its table of weights to compare",
            "pull the prompt with Registry.pull, and let inspect_prompt fingerprint the directory",
        )
    comparison = compare(expected.table, actual.table)
    if comparison.verdict is not Verdict.EXACT:
        raise IncompatibleModelError(
            str(expected),
            str(actual),
            comparison.verdict.value,
            comparison.differing[:_DIFFERING],
            max(len(comparison.differing) - _DIFFERING, 0),
        )


def _rows(prompt: PulledPrompt) -> "NDArray[Any]":
    """Return [P, H] the virtual tokens."""
    from promptreg.artifacts.arrays import to_array

    return to_array(prompt.prompt.tensors[PROMPT_EMBEDDINGS])


def _notes(prompt: PulledPrompt) -> tuple[str, ...]:
    names = [name.removeprefix(MODULES_PREFIX) for name in trained_modules(prompt.prompt)]
    if not names:
        return ()
    return (
        f"its trained head ({', '.join(names)}) is not shown: it weighs what the base model gives, and "
        "is no token",
    )
