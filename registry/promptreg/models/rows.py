"""Rows of token ids: several lengths in one batch, and what a decoder starts with.

B is the rows of a batch, T their tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from promptreg.errors import AttachError

if TYPE_CHECKING:
    from promptreg.models.prompted import PromptedModel

__all__ = ["decoder_start", "last_columns", "padded"]


def padded(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` [B, T] of rows of several lengths."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[at, place] = torch.tensor(row)
        mask[at, place] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def last_columns(accepts: frozenset[str], first: int, last: int) -> dict[str, Tensor]:
    """Return the argument for logits of the columns ``first`` to ``last`` alone, -1 being the last of all.

    As a tensor: a number makes transformers cut a slice, whose rows lie apart in memory, and a head over a
    large vocabulary is then read once for each row of the batch (8 rows of 2 take four times as long).

    Args:
        accepts: What the model's forward pass names; nothing is returned if it computes all logits anyway.
        first: The first column.
        last: The last column.
    """
    if "logits_to_keep" not in accepts:
        return {}
    # On the CPU: to look at it need not wait for a device.
    return {"logits_to_keep": torch.arange(first, last + 1)}


def decoder_start(prompted: "PromptedModel") -> int:
    """Return the token that an encoder-decoder's decoder starts with.

    Raises:
        AttachError: The base model does not say.
    """
    for config in (prompted.generation_config, prompted.config):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return int(start)
    raise AttachError(
        f"a {type(prompted.model).__name__} does not say which token its decoder starts with",
        "set model.generation_config.decoder_start_token_id",
    )
