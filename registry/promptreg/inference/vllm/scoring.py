"""How probable each label is: which next tokens to ask vLLM about, and what their answers come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Answers", "Question", "log_probabilities", "questions"]

_MOST_TOKENS = 128  # that vLLM scores in one request (SamplingParams.logprob_token_ids)

Answers = Mapping[tuple[tuple[int, ...], int], float]
"""The log-probability of a token behind the beginning of a label, by both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What follows the text and the beginning of some labels?

    Attributes:
        prefix: The tokens with which those labels begin; empty for the first token of all.
        tokens: The tokens that may come next, whose log-probabilities are wanted.
    """

    prefix: tuple[int, ...]
    tokens: tuple[int, ...]


def questions(labels: Sequence[Sequence[int]]) -> list[Question]:
    """Return what must be asked to score every token of every label: each distinct beginning once.

    Args:
        labels: The tokens of each label.
    """
    following: dict[tuple[int, ...], dict[int, None]] = {}
    for label in labels:
        for at, token in enumerate(label):
            following.setdefault(tuple(label[:at]), {})[token] = None
    return [
        Question(prefix=prefix, tokens=tokens[start : start + _MOST_TOKENS])
        for prefix, tokens in ((prefix, tuple(found)) for prefix, found in following.items())
        for start in range(0, len(tokens), _MOST_TOKENS)
    ]


def log_probabilities(labels: Sequence[Sequence[int]], answers: Answers) -> list[float]:
    """Return the log-probability of each label: the sum over all its tokens.

    Args:
        labels: The tokens of each label.
        answers: The log-probability of each token behind the beginning of a label, by both.
    """
    return [
        sum(answers[tuple(label[:at]), token] for at, token in enumerate(label)) for label in labels
    ]
