"""Scores with what they leave open: the interval that the true value is in, nineteen times of twenty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Score", "accuracy", "macro_f1", "perplexity"]

_Z = 1.959963984540054  # the normal distribution's 97.5 % point
_RESAMPLES = 1000
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A measured value.

    Attributes:
        value: The value on the examples.
        low: The lower end of its 95 % confidence interval.
        high: The upper end.
        count: How many examples it was measured on.
    """

    value: float
    low: float
    high: float
    count: int


def accuracy(found: Sequence[str], wanted: Sequence[str]) -> Score:
    """Return the share of answers that are right, with Wilson's interval (1927)."""
    count = len(wanted)
    share = sum(a == b for a, b in zip(found, wanted, strict=True)) / count
    spread = 1 + _Z**2 / count
    middle = (share + _Z**2 / (2 * count)) / spread
    half = _Z / spread * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return Score(
        value=share, low=max(middle - half, 0.0), high=min(middle + half, 1.0), count=count
    )


def macro_f1(found: Sequence[str], wanted: Sequence[str]) -> Score:
    """Return the mean over the classes of their F1, each counting alike, with a bootstrap's interval.

    The classes are those that are wanted: one that is never right counts 0.
    """
    import numpy as np

    classes = sorted(set(wanted))
    index = {name: at for at, name in enumerate(classes)}
    other = len(classes)  # an answer that is none of them
    pairs = np.array(
        [
            index[want] * (other + 1) + index.get(got, other)
            for got, want in zip(found, wanted, strict=True)
        ]
    )
    value = _f1(pairs, other)
    rng = np.random.default_rng(0)
    drawn = [_f1(rng.choice(pairs, size=len(pairs)), other) for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Score(value=value, low=float(low), high=float(high), count=len(wanted))


def perplexity(losses: Sequence[float], tokens: Sequence[int]) -> Score:
    """Return the perplexity of some texts, with a bootstrap's interval over the texts.

    Args:
        losses: [N] The negative log-likelihood of each text, in nats, summed over its tokens.
        tokens: [N] How many tokens each has.
    """
    import numpy as np

    sums, counts = np.array(losses), np.array(tokens)
    rng = np.random.default_rng(0)
    rows = rng.integers(len(sums), size=(_RESAMPLES, len(sums)))
    drawn = sums[rows].sum(axis=1) / counts[rows].sum(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Score(
        value=_exp(sums.sum() / counts.sum()), low=_exp(low), high=_exp(high), count=len(sums)
    )


def _exp(value: float) -> float:
    return math.exp(value) if value < _LARGEST_EXPONENT else math.inf


def _f1(pairs: "np.ndarray[tuple[int], np.dtype[np.int64]]", classes: int) -> float:
    """Return the macro-F1 of ``pairs``, each the wanted class times (classes + 1) and the answered one."""
    import numpy as np

    table = np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)
    right = np.diag(table[:, :classes])
    together = table.sum(axis=1) + table[:, :classes].sum(axis=0)
    present = table.sum(axis=1) > 0
    return float((2 * right / np.maximum(together, 1))[present].mean())
