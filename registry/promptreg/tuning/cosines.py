"""Cosines of one prompt and many, like with like. H is the base model's embedding width."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptreg.tuning.neighbours import Compared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from promptreg.database.comparing import ComparablePrompt
    from promptreg.tuning.similarity_index import SimilarityIndex

    Numbers = NDArray[np.float64]
    Rows = NDArray[np.int64]
    Vectors = NDArray[np.float32]

__all__ = ["Cosines", "compare"]

_FEWEST_TASKS = 3
"""Of fewer tasks the mean is too much their own to be what all prompts of a base model share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cosines:
    """How close each of n prompts is to one.

    Attributes:
        prompts: They, the newest first.
        scores: [3, n] The cosine, the cosine per token and the centred cosine (NaN if there is none).
        early: [n] Whether task embeddings were compared.
        unreadable: Prompts whose objects could not be read.
        embeddingless: How many were left out because they have no task embedding.
    """

    prompts: "Sequence[ComparablePrompt]"
    scores: "Numbers"
    early: "NDArray[np.bool_]"
    unreadable: "Sequence[ComparablePrompt]"
    embeddingless: int


def compare(
    own: "Mapping[Compared, Vectors]",
    index: "SimilarityIndex",
    others: "Sequence[ComparablePrompt]",
) -> Cosines:
    """Compare one prompt with those of ``others`` that the index has, like with like.

    Args:
        own: The two means [2, H] of the prompt, as it is and as it was early in its training; either or both.
        index: What the others are compared by.
        others: They, the newest first.
    """
    import numpy as np

    known = index.rows()
    readable = [each for each in others if each.digest.hex in known]
    rows = np.array([known[each.digest.hex] for each in readable], np.int64)
    numbers: dict[str, int] = {}
    tasks = np.array([numbers.setdefault(each.task, len(numbers)) for each in readable], np.int64)
    scores = np.full((3, len(rows)), np.nan)
    early = np.zeros(len(rows), bool)
    if Compared.TASK_EMBEDDINGS in own:
        early = index.embedded[rows] >= 0
        vectors = index.embeddings[index.embedded[rows[early]]]
        scores[:, early] = _scores(own[Compared.TASK_EMBEDDINGS], vectors, tasks[early])
    late = ~early
    if Compared.PROMPTS in own and late.any():
        # The mean is that of all, which is more than that of those without a task embedding.
        scores[:, late] = _scores(own[Compared.PROMPTS], index.prompts[rows], tasks)[:, late]
    kept = np.flatnonzero(~np.isnan(scores[0]))
    return Cosines(
        prompts=[readable[at] for at in kept],
        scores=scores[:, kept],
        early=early[kept],
        unreadable=[each for each in others if each.digest.hex not in known],
        embeddingless=len(rows) - len(kept),
    )


def _scores(one: "Vectors", many: "Vectors", tasks: "Rows") -> "Numbers":
    """Return [3, n] the cosines, per token and centred, of ``one`` [2, H] and ``many`` [n, 2, H]."""
    import numpy as np

    scores = np.full((3, len(many)), np.nan)
    scores[0] = _cosines(many[:, 0], one[0])
    scores[1] = many[:, 1] @ one[1]
    counts = np.bincount(tasks)
    in_all = np.count_nonzero(counts)
    if in_all >= _FEWEST_TASKS:
        weights = (1 / (counts[tasks] * in_all)).astype(many.dtype)
        centre = weights @ many[:, 0]
        scores[2] = _cosines(many[:, 0] - centre, one[0] - centre)
    return scores


def _cosines(rows: "Vectors", one: "Vectors") -> "Vectors":
    """Return [n] the cosines of each of ``rows`` [n, H] and ``one`` [H]; that of nothing is 0."""
    import numpy as np

    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows)) * np.linalg.norm(one)
    products = rows @ one
    cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    clipped: Vectors = cosines.clip(-1, 1)
    return clipped
