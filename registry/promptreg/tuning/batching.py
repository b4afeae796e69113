"""Which examples each step learns from, and how the rows of a step go through the base model.

Both are functions of a seed and a step alone: a run that goes on after it was killed needs no more than its
step to draw what it would have drawn.
"""

from collections.abc import Hashable, Sequence

__all__ = ["Order", "pack"]

_BUCKET = 8  # batches of examples that are sorted by length together
_SPREAD = 0.75  # how much shorter than its longest row a row of a pass may be, once the pass is large enough


class Order:
    """The order in which a run sees its examples: shuffled anew each epoch, rows of like length together."""

    def __init__(self, widths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self._widths = widths
        self._size = min(batch_size, len(widths))
        self._seed = seed
        self._epoch = -1
        self._batches: list[list[int]] = []

    def batch(self, step: int) -> list[int]:
        """Return which examples step ``step``, from 0, learns from."""
        epoch, place = divmod(step, len(self._widths) // self._size)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffle(epoch)
        return self._batches[place]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        import numpy as np

        rng = np.random.default_rng([self._seed, epoch])
        shuffled = rng.permutation(len(self._widths)).tolist()
        # What fills no batch waits for another epoch: chance chooses it, before anything is sorted by length.
        shuffled = shuffled[: len(shuffled) // self._size * self._size]
        bucket = self._size * _BUCKET
        batches = []
        for start in range(0, len(shuffled), bucket):
            near = sorted(shuffled[start : start + bucket], key=lambda at: self._widths[at])
            batches += [near[at : at + self._size] for at in range(0, len(near), self._size)]
        return [batches[at] for at in rng.permutation(len(batches)).tolist()]


def pack(widths: Sequence[int], budget: int, *, kinds: Sequence[Hashable] = ()) -> list[list[int]]:
    """Return the rows of a step in passes of at most ``budget`` columns, padding among them.

    A row wider than that has a pass of its own. Rows of like width are together, the widest first: so little
    goes into padding, and memory runs out at once if it does.

    Args:
        widths: How many columns each row takes.
        budget: How many columns one pass may have in all its rows.
        kinds: What rows of one pass must have in common, for each row; nothing if empty.
    """
    if kinds:
        alike: dict[Hashable, list[int]] = {}
        for row, kind in enumerate(kinds):
            alike.setdefault(kind, []).append(row)
        return [
            [rows[at] for at in group]
            for rows in alike.values()
            for group in pack([widths[row] for row in rows], budget)
        ]
    passes: list[list[int]] = []
    widest = 0
    for row in sorted(range(len(widths)), key=lambda at: (-widths[at], at)):
        full = not passes or (len(passes[-1]) + 1) * widest > budget
        waste = (
            bool(passes)
            and len(passes[-1]) * widest * 2 > budget
            and widths[row] < widest * _SPREAD
        )
        if full or waste:
            passes.append([])
            widest = widths[row]
        passes[-1].append(row)
    return passes
