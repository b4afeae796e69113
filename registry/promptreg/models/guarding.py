"""Noticing that a row gets no numbers, while the other rows of its batch go on."""

import torch
from torch import Tensor
from transformers import LogitsProcessor

__all__ = ["FiniteGuard"]


class FiniteGuard(LogitsProcessor):
    """Marks the rows whose scores are not numbers, and gives them scores that are.

    So sampling, which stops at the first such score for all rows, goes on. The marks stay on the device until
    they are asked for: to look at each step would wait for each step.
    """

    def __init__(self) -> None:
        self._failed: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """Return [B * N, V] ``scores``, with zeros in the rows that hold no numbers."""
        # Other processors put -inf where a token may not stand, and that is no failure.
        failed = ~(scores.amax(dim=-1) < torch.inf)
        self._failed = failed if self._failed is None else self._failed | failed
        if scores.device.type == "cpu" and not failed.any():
            return scores  # to look is free here, and a copy over a large vocabulary is not
        return torch.where(failed[:, None], 0.0, scores)

    def failed_rows(self, rows: int) -> list[int]:
        """Return which of the ``rows`` were marked, in any of their beams."""
        if self._failed is None:
            return []
        marks: list[bool] = self._failed.reshape(rows, -1).any(dim=1).tolist()
        return [row for row, failed in enumerate(marks) if failed]
